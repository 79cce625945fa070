//! Slots of users: on a real JetStream, without one, and on a node by itself.

use std::task::{Context, Waker};

use super::returned::Work;
use super::*;
use crate::cluster::lease::Lease;
use crate::cluster::tests::{Node, jetstream, route};
use crate::config::{Limits, WhenUserFull};
use crate::hub::{Mailbox, Wish};
use crate::id::NodeId;
use crate::metrics::Metrics;
use crate::nats::testing::{NatsServer, until, within};
use crate::nats::{Key, Revision};

const TWO: UserQuota = UserQuota { max: 2, when_full: WhenUserFull::RejectNew };
const OLDEST: UserQuota = UserQuota { max: 2, when_full: WhenUserFull::EvictOldest };

fn peer(user: Option<&str>) -> Arc<Peer> {
    Peer::on(route(), user)
}

async fn take(node: &Node, quota: UserQuota) -> Result<Option<Box<Slot>>, UserFull> {
    node.cluster.seat(&peer(Some("alice")), quota).await
}

/// How many slots are held.
async fn held(node: &Node) -> usize {
    node.store.bucket("users").all(None, within(10)).await.unwrap().len()
}

async fn becomes(node: &Node, count: usize) {
    let deadline = within(10);
    while held(node).await != count {
        assert!(Instant::now() < deadline, "{} slots are held", held(node).await);
        sleep(Duration::from_millis(5)).await;
    }
}

/// Has the bucket keep what is written, and say so or not.
async fn acknowledge(server: &NatsServer, answers: bool) {
    let jetstream = async_nats::jetstream::new(server.client().await);
    let mut users = jetstream.get_stream("KV_moorline_users").await.unwrap();
    let mut config = users.info().await.unwrap().config.clone();
    config.no_ack = !answers;
    Box::pin(jetstream.update_stream(config)).await.unwrap();
}

fn slots(node: &Node) -> &Slots {
    quotas(node).0.slots.as_ref().unwrap()
}

fn quotas(node: &Node) -> &Quotas {
    &node.cluster.0.quotas
}

/// What somebody wants of the connection.
async fn wish(mailbox: &mut Mailbox) -> Wish {
    let wished = std::future::poll_fn(|cx| mailbox.poll_wish(cx));
    timeout_at(within(20), wished).await.unwrap()
}

#[tokio::test]
async fn a_user_has_so_many_connections_on_all_nodes_and_no_more() {
    let (_folder, server) = jetstream();
    let (one, two) = (Node::start(&server).await, Node::start(&server).await);
    let first = take(&one, TWO).await.unwrap().unwrap();
    let second = take(&two, TWO).await.unwrap().unwrap();
    assert_eq!(take(&one, TWO).await.unwrap_err(), UserFull);
    assert_eq!(take(&two, TWO).await.unwrap_err(), UserFull);
    assert!(one.cluster.seat(&peer(Some("bob")), TWO).await.unwrap().is_some());
    assert!(one.cluster.seat(&peer(None), TWO).await.unwrap().is_none(), "nobody is not counted");
    becomes(&one, 2).await;
    drop(first);
    becomes(&one, 1).await;
    let third = take(&two, TWO).await.unwrap();
    assert_eq!(take(&one, TWO).await.unwrap_err(), UserFull);
    drop((second, third));
    becomes(&one, 0).await;
    let (a, b) = tokio::join!(take(&one, TWO), take(&two, TWO));
    let (a, b) = (a.unwrap(), b.unwrap());
    let (c, d) = tokio::join!(take(&one, TWO), take(&two, TWO));
    assert!(c.is_err() && d.is_err());
    drop((a, b));
    one.tasks.stop();
    two.tasks.stop();
}

#[tokio::test]
async fn the_slots_of_a_node_that_is_no_more_are_free() {
    let (_folder, server) = jetstream();
    let (one, two) = (Node::start(&server).await, Node::start(&server).await);
    let lost = [take(&one, TWO).await.unwrap(), take(&one, TWO).await.unwrap()];
    std::mem::forget(lost);
    assert!(one.cluster.release(within(10)).await);
    one.tasks.stop();
    let deadline = within(10);
    while take(&two, TWO).await.is_err() {
        assert!(Instant::now() < deadline);
    }
    two.tasks.stop();
}

#[tokio::test]
async fn while_nats_is_away_each_node_counts_its_own() {
    let (_folder, mut server) = jetstream();
    let node = Node::start(&server).await;
    let first = take(&node, TWO).await.unwrap();
    server.kill();
    until("NATS is away", || !node.store.is_up()).await;
    let second = take(&node, TWO).await.unwrap();
    assert_eq!(take(&node, TWO).await.unwrap_err(), UserFull);
    server.restart();
    timeout_at(within(10), node.store.up()).await.unwrap();
    // Both of this node, one with a slot, one without.
    drop((first, second));
    becomes(&node, 0).await;
    node.tasks.stop();
}

#[tokio::test]
async fn on_a_node_by_itself_the_oldest_makes_room() {
    let (metrics, tasks) = (Metrics::new(), Tasks::new());
    let table = Table::new(&Limits::default(), &metrics);
    let quotas = Quotas::solo(&table, &Fleet::solo(table.clone()), &tasks);
    let mut clients = Vec::new();
    let connect = async || {
        let peer = peer(Some("alice"));
        let slot = quotas.take(&peer, OLDEST).await.unwrap();
        (table.register(&peer), slot)
    };
    for _ in 0..3 {
        clients.push(connect().await);
        sleep(Duration::from_millis(2)).await;
    }
    let is_evicted = |mailbox: &mut Mailbox| {
        mailbox.poll_wish(&mut Context::from_waker(Waker::noop())).is_ready()
    };
    let evicted: Vec<_> = clients.iter_mut().map(|((_, mailbox), _)| is_evicted(mailbox)).collect();
    assert_eq!(evicted, [true, false, false]);
}

#[tokio::test]
async fn a_slot_whose_write_had_no_answer_does_not_stay() {
    let (_folder, server) = jetstream();
    let node = Node::start(&server).await;
    let first = take(&node, TWO).await.unwrap();
    Box::pin(acknowledge(&server, false)).await;
    let second = take(&node, TWO).await.unwrap();
    assert!(second.is_some_and(|slot| slot.held.is_none()), "it is counted here");
    let written = Key::of(&["default", "alice", "1"]);
    let written = node.store.bucket("users").get(&written, within(10)).await.unwrap();
    assert!(written.is_some(), "it is written all the same");
    Box::pin(acknowledge(&server, true)).await;
    becomes(&node, 1).await;
    drop(first);
    becomes(&node, 0).await;
    node.tasks.stop();
}

#[tokio::test]
async fn a_handshake_that_is_given_up_at_any_time_leaves_no_slot() {
    let (_folder, server) = jetstream();
    let node = Node::start(&server).await;
    drop(take(&node, TWO).await.unwrap());
    for tenths in 0..60 {
        let given_up = Duration::from_micros(100 * tenths);
        let _ = tokio::time::timeout(given_up, take(&node, TWO)).await;
    }
    let deadline = within(20);
    while !quotas(&node).is_idle() {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(held(&node).await, 0);
    node.tasks.stop();
}

#[tokio::test]
async fn a_node_that_stops_leaves_no_slot() {
    let (_folder, server) = jetstream();
    let (one, two) = (Node::start(&server).await, Node::start(&server).await);
    let everybody = UserQuota { max: 100, ..TWO };
    let mut taken = Vec::new();
    for _ in 0..100 {
        taken.push(take(&one, everybody).await.unwrap());
    }
    let peer = peer(Some("alice"));
    let doubt = slots(&one).claim(&peer).unwrap();
    let key = Key::of(&["default", "alice", "100"]);
    let value = serde_json::to_vec(&doubt.holder).unwrap();
    two.store.bucket("users").put(&key, value.into(), within(10)).await.unwrap();
    slots(&one).0.returned.put(Work::Look(key, peer.id));
    drop((taken, doubt));
    assert!(one.cluster.release(within(10)).await);
    assert_eq!(held(&two).await, 0);
    one.tasks.stop();
    two.tasks.stop();
}

#[tokio::test]
async fn what_is_looked_for_is_what_no_connection_has() {
    let (_folder, server) = jetstream();
    let (one, two) = (Node::start(&server).await, Node::start(&server).await);
    let _kept = [take(&one, TWO).await.unwrap(), take(&two, TWO).await.unwrap()];
    let claim = slots(&one).claim(&peer(Some("bob"))).unwrap();
    let bob = Key::of(&["default", "bob", "0"]);
    let value = serde_json::to_vec(&claim.holder).unwrap();
    one.store.bucket("users").put(&bob, value.into(), within(10)).await.unwrap();
    slots(&one).forget(&Work::Sweep).await.unwrap();
    assert_eq!(held(&one).await, 3, "somebody asks for it");
    drop(claim);
    slots(&one).forget(&Work::Look(bob.clone(), peer(None).id)).await.unwrap();
    slots(&one).forget(&Work::Forget(bob, Revision::test(1))).await.unwrap();
    assert_eq!(held(&one).await, 3, "it is another's");
    slots(&two).forget(&Work::Sweep).await.unwrap();
    assert_eq!(held(&one).await, 3, "it is another node's");
    slots(&one).forget(&Work::Sweep).await.unwrap();
    assert_eq!(held(&one).await, 2);
    one.tasks.stop();
    two.tasks.stop();
}

#[tokio::test]
async fn who_loses_its_slot_is_closed_when_it_is_there_at_the_second_look() {
    let (_folder, server) = jetstream();
    let node = Node::start(&server).await;
    let (quota, table) = (UserQuota { max: 1, ..OLDEST }, &node.cluster.0.table);
    let loser = peer(Some("alice"));
    let _lost = node.cluster.seat(&loser, quota).await.unwrap();
    let _taken = take(&node, quota).await.unwrap();
    // The first look comes before this task goes on.
    tokio::task::yield_now().await;
    let (_registered, mut mailbox) = table.register(&loser);
    assert_eq!(wish(&mut mailbox).await, Wish::Cut(Close::of(Cause::Evicted)));
    node.tasks.stop();
}

#[tokio::test]
async fn the_connections_that_have_slots_end_with_the_lease() {
    let (_folder, server) = jetstream();
    let node = Node::start(&server).await;
    let (alice, nobody) = (peer(Some("alice")), peer(None));
    let slot = node.cluster.seat(&alice, TWO).await.unwrap().unwrap();
    let (_registered, mut mailbox) = node.cluster.0.table.register(&alice);
    let (_others, mut other) = node.cluster.0.table.register(&nobody);
    assert!(!slot.is_lost());
    let lease = node.cluster.0.registry.lease().unwrap();
    let taken = Lease::Taken { by: LeaseId { node: NodeId::random(), number: 1 } };
    let leases = node.store.bucket("nodes");
    leases.put(&lease.key(), taken.to_json(), within(10)).await.unwrap();
    let lost = Close::with_code(Cause::NodeLost, 4409);
    assert_eq!(wish(&mut mailbox).await, Wish::Cut(lost));
    assert!(slot.is_lost(), "for one that opens only now");
    assert!(other.poll_wish(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(slot);
    until("another lease", || node.cluster.0.registry.lease().is_some()).await;
    assert!(!take(&node, TWO).await.unwrap().unwrap().is_lost());
    node.tasks.stop();
}
