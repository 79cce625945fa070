//! Nodes of a fleet on a real JetStream.

use std::time::{Duration, SystemTime};

use futures_util::StreamExt;

use super::*;
use crate::close::{Cause, Close};
use crate::config::{AuthMode, Backend, Limits, Route};
use crate::event::{Ended, Event, EventBody, Trace};
use crate::limits::Permits;
use crate::nats::testing::{NatsServer, until, within};
use crate::nats::{Key, Nats, Record, Revision};
use crate::relay::{Gates, Hold, Relay};

/// One node, without its doors.
pub(super) struct Node {
    metrics: Metrics,
    pub(super) cluster: Cluster,
    roster: Roster,
    relay: Relay,
    farewells: Farewells,
    pub(super) tasks: Tasks,
    id: NodeId,
    pub(super) store: Store,
    /// The connections last as long as this.
    _nats: Nats,
}

impl Node {
    pub(super) async fn start(server: &NatsServer) -> Self {
        let (metrics, tasks) = (Metrics::new(), Tasks::new());
        let nats = server.nats(&metrics).await;
        let table = Table::new(&Limits::default(), &metrics);
        let store = Store::open(&nats, 1, &tasks, &metrics).await;
        let roster = Roster::default();
        let cluster = start(&store, JetStream::Required, &table, &roster, &tasks, &metrics);
        let hold = Hold::new(1 << 20);
        let relay = Relay::new(
            &route(),
            Some(&nats),
            &Gates::new(&tasks),
            &hold,
            cluster.fence(),
            &metrics,
        )
        .unwrap();
        cluster.set_ways([(Arc::new(route()), relay.clone())]);
        timeout_at(within(10), cluster.up()).await.unwrap();
        let farewells = Farewells { tasks: Tasks::new(), places: Permits::new(10) };
        let id = cluster.0.node;
        Self { metrics, cluster, roster, relay, farewells, tasks, id, store, _nats: nats }
    }

    /// A client of this node, whose entry is stored.
    async fn client(&self, user: &str) -> (Arc<Peer>, Entry) {
        let mut peer = Arc::into_inner(Peer::on(route(), Some(user))).unwrap();
        peer.id = crate::id::ConnectionId::random(self.id);
        let peer = Arc::new(peer);
        let entry = self.cluster.enter(&peer).unwrap();
        assert!(entry.is_stored(within(10)).await);
        (peer, entry)
    }

    /// All entries of the fleet.
    async fn entries(&self) -> Vec<Record> {
        self.store.bucket("connections").all(None, within(10)).await.unwrap()
    }
}

fn start(
    store: &Store,
    jetstream: JetStream,
    table: &Table,
    roster: &Roster,
    tasks: &Tasks,
    metrics: &Metrics,
) -> Cluster {
    let (node, fleet) = (NodeId::random(), &Fleet::solo(table.clone()));
    Cluster::start(&Parts { node, store, jetstream, table, fleet, roster, tasks, metrics })
}

pub(super) fn route() -> Route {
    let mut route = Route::new("/ws", AuthMode::None);
    route.backend = Backend::Nats(String::new());
    route.events = vec![EventKind::Message, EventKind::Disconnected];
    route.hold = crate::config::Period::secs(0);
    route
}

pub(super) fn jetstream() -> (tempfile::TempDir, NatsServer) {
    let folder = tempfile::tempdir().unwrap();
    let config = format!("jetstream {{ store_dir: {:?} }}", folder.path());
    let server = NatsServer::with_config(&config);
    (folder, server)
}

fn disconnected(peer: &Arc<Peer>, close: Close) -> Event {
    let ended = Ended { close, duration: Duration::from_secs(1) };
    Event {
        peer: Arc::clone(peer),
        sequence: 2,
        time: SystemTime::now(),
        state: None,
        trace: Trace::start(),
        written: None,
        body: EventBody::Disconnected(Box::new(ended)),
    }
}

/// Accepts events, and gives out the id, the user and the cause of each.
fn worker(client: async_nats::Client) -> tokio::sync::mpsc::Receiver<[String; 3]> {
    let (tell, told) = tokio::sync::mpsc::channel(100);
    Tasks::new().spawn("worker", async move {
        let mut events = client.subscribe("moorline.default.in.disconnected").await.unwrap();
        while let Some(event) = events.next().await {
            let headers = event.headers.unwrap();
            let header = |name| headers.get(name).map(ToString::to_string).unwrap_or_default();
            let data: serde_json::Value = serde_json::from_slice(&event.payload).unwrap();
            let cause = data["cause"].as_str().unwrap().to_owned();
            client.publish(event.reply.unwrap(), "".into()).await.unwrap();
            tell.send([header("ce-id"), header("ce-userid"), cause]).await.unwrap();
        }
    });
    told
}

#[tokio::test]
async fn an_entry_is_there_from_before_the_first_event_until_the_last_is_accepted() {
    let (_folder, server) = jetstream();
    let node = Node::start(&server).await;
    let (peer, entry) = node.client("alice").await;
    let entries = node.entries().await;
    assert_eq!(entries.len(), 1);
    let (lease, id) = entries[0].key.split_once('.').unwrap();
    assert_eq!((lease, id), (&*format!("{}-1", node.id), &*peer.id.to_string()));
    assert_eq!(node.metrics.registry_entries().get(), 1);
    assert_eq!(*node.roster.nodes().unwrap(), [node.id].into());

    let mut told = worker(server.client().await);
    let event = disconnected(&peer, Close::of(Cause::Client));
    node.farewells.deliver(&node.relay, &event, Some(entry)).await;
    let end = format!("{}-end", peer.id);
    assert_eq!(told.recv().await.unwrap(), [end, "alice".to_owned(), "client".to_owned()]);
    until("the entry is taken out", || node.metrics.registry_entries().get() == 0).await;
    assert!(node.entries().await.is_empty());
    node.tasks.stop();
}

#[tokio::test]
async fn what_a_node_leaves_when_it_stops_another_finishes_at_once() {
    let (_folder, server) = jetstream();
    let (one, two) = (Node::start(&server).await, Node::start(&server).await);
    until("both are known", || one.roster.nodes().is_some_and(|nodes| nodes.len() == 2)).await;
    let (stays, entry) = one.client("alice").await;
    let (_, refused) = one.client("bob").await;
    drop(refused);
    // No worker is there, and the node stops.
    one.farewells.tasks.stop();
    let event = disconnected(&stays, Close::said(Cause::Client, 4001, "bye"));
    one.farewells.deliver(&one.relay, &event, Some(entry)).await;
    assert!(one.cluster.release(within(10)).await);
    one.tasks.stop();

    let mut told = worker(server.client().await);
    let end = format!("{}-end", stays.id);
    let next = timeout_at(within(30), told.recv()).await.unwrap().unwrap();
    assert_eq!(next, [end, "alice".to_owned(), "client".to_owned()]);
    assert_eq!(two.metrics.leases_taken_over().get(), 1);
    let lease = Key::of(&[&format!("{}-1", one.id)]);
    let leases = two.store.bucket("nodes");
    let deadline = within(10);
    loop {
        let lease = leases.get(&lease, within(10)).await.unwrap().unwrap().value.unwrap();
        if lease == lease::Lease::Finished.to_json() {
            break;
        }
        assert!(Instant::now() < deadline, "{lease:?}");
        sleep(Duration::from_millis(10)).await;
    }
    assert!(two.entries().await.is_empty());
    assert!(told.try_recv().is_err(), "told once, and of nobody else");
    two.tasks.stop();
}

#[tokio::test]
async fn a_bucket_that_is_lost_is_made_and_written_again() {
    let (_folder, server) = jetstream();
    let node = Node::start(&server).await;
    let (_, _entry) = node.client("alice").await;
    let jetstream = async_nats::jetstream::new(server.client().await);
    jetstream.delete_stream("KV_moorline_nodes").await.unwrap();
    jetstream.delete_stream("KV_moorline_connections").await.unwrap();
    let (_, _other) = node.client("bob").await;
    let deadline = within(10);
    while node.entries().await.len() < 2 {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(10)).await;
    }
    let leases = node.store.bucket("nodes").all(None, within(10)).await.unwrap();
    assert_eq!(leases.len(), 1);
    assert_eq!(leases[0].key, format!("{}-1", node.id));
    assert!(!node.cluster.fence().is_shut());
    node.tasks.stop();
}

#[tokio::test]
async fn a_bucket_that_another_node_has_made_anew_is_written_again() {
    let (_folder, server) = jetstream();
    let node = Node::start(&server).await;
    let (_, _entry) = node.client("alice").await;
    let jetstream = async_nats::jetstream::new(server.client().await);
    jetstream.delete_stream("KV_moorline_connections").await.unwrap();
    node.store.bucket("connections").ensure(within(10)).await.unwrap();
    let deadline = within(30);
    while node.entries().await.is_empty() {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(10)).await;
    }
    assert!(!node.cluster.fence().is_shut());
    node.tasks.stop();
}

#[tokio::test]
async fn a_lease_of_before_is_renewed_like_any() {
    let (_folder, server) = jetstream();
    let (one, two) = (Node::start(&server).await, Node::start(&server).await);
    let (_, entry) = one.client("alice").await;
    // The revisions are far on, and then those of a younger bucket.
    let lease = Key::of(&[&format!("{}-1", one.id)]);
    let leases = one.store.bucket("nodes");
    let filler = Key::of(&["filler"]);
    for _ in 0..100 {
        leases.put(&filler, "".into(), within(10)).await.unwrap();
    }
    let newest = async |least: Revision| {
        let deadline = within(20);
        loop {
            let record = leases.get(&lease, within(10)).await;
            if let Ok(Some(record)) = record
                && record.value == Some(lease::Lease::Held.to_json())
                && record.revision > least
            {
                return record.revision;
            }
            assert!(Instant::now() < deadline);
            sleep(Duration::from_millis(10)).await;
        }
    };
    let before = newest(Revision::test(100)).await;
    let jetstream = async_nats::jetstream::new(server.client().await);
    jetstream.delete_stream("KV_moorline_nodes").await.unwrap();
    leases.ensure(within(10)).await.unwrap();
    let held = lease::Lease::Held.to_json();
    let written = leases.put(&lease, held, within(10)).await.unwrap();
    assert!(written < before);
    newest(written).await;
    // The other one sees it renewed, so nobody is dead.
    until("both are known", || two.roster.nodes().is_some_and(|nodes| nodes.len() == 2)).await;
    assert!(!entry.is_lost() && !one.cluster.fence().is_shut());
    assert_eq!(two.metrics.leases_taken_over().get(), 0);
    one.tasks.stop();
    two.tasks.stop();
}

#[tokio::test]
async fn what_was_taken_without_an_answer_is_finished_all_the_same() {
    let (_folder, server) = jetstream();
    let node = Node::start(&server).await;
    // A node that died, and the word that this one takes its connections over.
    let dead = lease::LeaseId { node: NodeId::random(), number: 1 };
    let peer = Peer::on(route(), Some("alice"));
    let id = crate::id::ConnectionId::random(dead.node);
    let text = id.to_string();
    let key = [&dead.to_string(), text.split_once('.').unwrap().0, text.split_once('.').unwrap().1];
    let entry = record::Record::of(&peer, None).to_json();
    node.store.bucket("connections").put(&Key::of(&key), entry, within(10)).await.unwrap();
    let mut told = worker(server.client().await);
    let by = lease::LeaseId { node: node.id, number: 1 };
    let taken = lease::Lease::Taken { by }.to_json();
    node.store.bucket("nodes").put(&dead.key(), taken, within(10)).await.unwrap();
    let next = timeout_at(within(30), told.recv()).await.unwrap().unwrap();
    assert_eq!(next, [format!("{id}-end"), "alice".to_owned(), "node-lost".to_owned()]);
    node.tasks.stop();
}

#[tokio::test]
async fn entries_that_no_lease_stands_for_are_adopted_though_others_are_alive() {
    let (_folder, server) = jetstream();
    let one = Node::start(&server).await;
    let two = Node::start(&server).await;
    let node = NodeId::random();
    let id = crate::id::ConnectionId::random(node).to_string();
    let (first, second) = id.split_once('.').unwrap();
    let entry = record::Record::of(&Peer::on(route(), Some("alice")), None).to_json();
    let key = Key::of(&[&format!("{node}-1"), first, second]);
    one.store.bucket("connections").put(&key, entry, within(10)).await.unwrap();
    let mut told = worker(server.client().await);
    let next = timeout_at(within(60), told.recv()).await.unwrap().unwrap();
    assert_eq!(next, [format!("{id}-end"), "alice".to_owned(), "node-lost".to_owned()]);
    one.tasks.stop();
    two.tasks.stop();
}

#[tokio::test]
async fn an_end_that_there_is_no_place_for_leaves_no_entry() {
    let (_folder, server) = jetstream();
    let mut node = Node::start(&server).await;
    node.farewells.places = Permits::new(0);
    let (peer, entry) = node.client("alice").await;
    let event = disconnected(&peer, Close::of(Cause::Client));
    node.farewells.deliver(&node.relay, &event, Some(entry)).await;
    until("the entry is taken out", || node.metrics.registry_entries().get() == 0).await;
    assert!(node.entries().await.is_empty());
    node.tasks.stop();
}

#[tokio::test]
async fn a_node_that_may_not_speak_for_its_connections_waits_with_their_ends() {
    let (_folder, server) = jetstream();
    let node = Node::start(&server).await;
    let (peer, entry) = node.client("alice").await;
    let mut told = worker(server.client().await);
    // It cannot renew its lease, so messages have no outcome; nobody takes it over, though.
    let message = || {
        let body = EventBody::Message(crate::message::Message::text("hi"));
        Event { body, ..disconnected(&peer, Close::of(Cause::Client)) }
    };
    node.cluster.fence().close();
    assert_eq!(node.relay.request(message()).await, crate::event::Outcome::Unavailable);
    let event = disconnected(&peer, Close::of(Cause::Client));
    node.farewells.deliver(&node.relay, &event, Some(entry)).await;
    assert!(!node.cluster.fence().is_shut(), "told without a lease");
    assert_eq!(told.recv().await.unwrap()[2], "client");
    node.tasks.stop();
}

#[tokio::test]
async fn without_jetstream_it_is_off_or_unusable_as_configured() {
    let (server, metrics) = (NatsServer::start(), Metrics::new());
    let nats = server.nats(&metrics).await;
    let (table, tasks) = (Table::new(&Limits::default(), &metrics), Tasks::new());
    let store = Store::open(&nats, 1, &tasks, &metrics).await;
    let (roster, optional) = (Roster::default(), JetStream::Optional);
    let cluster = start(&store, optional, &table, &roster, &tasks, &metrics);
    timeout_at(within(10), cluster.up()).await.unwrap();
    assert!(!cluster.fence().is_shut());
    assert!(cluster.enter(&Peer::on(route(), None)).is_none());
    assert!(cluster.release(within(10)).await);
    tasks.stop();
}

#[tokio::test]
async fn a_stream_that_is_not_ours_is_named() {
    let (_folder, server) = jetstream();
    let jetstream = async_nats::jetstream::new(server.client().await);
    let other = async_nats::jetstream::stream::Config {
        name: "KV_moorline_nodes".into(),
        subjects: vec!["$KV.moorline_nodes.>".into()],
        ..Default::default()
    };
    Box::pin(jetstream.create_stream(other)).await.unwrap();
    let metrics = Metrics::new();
    let nats = server.nats(&metrics).await;
    let (table, tasks) = (Table::new(&Limits::default(), &metrics), Tasks::new());
    let store = Store::open(&nats, 1, &tasks, &metrics).await;
    let (roster, required) = (Roster::default(), JetStream::Required);
    let cluster = start(&store, required, &table, &roster, &tasks, &metrics);
    let why = timeout_at(within(10), cluster.unusable()).await.unwrap();
    assert!(why.contains("KV_moorline_nodes") && why.contains("max_msgs_per_subject"), "{why}");
    tasks.stop();
}
