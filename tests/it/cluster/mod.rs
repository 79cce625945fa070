//! What becomes of a node's clients when the node dies, freezes, or loses NATS: backends hear of each
//! end, once, and nobody is taken over who lives.

mod quota;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use async_nats::jetstream::kv;
use futures_util::{StreamExt, TryStreamExt};
use serde_json::Value;

use crate::harness::{Answer, Client, NatsServer, Node, Request, Worker, eventually, header};

/// Longer than the harness waits for anything: a node counts as dead after fifteen seconds.
const PATIENCE: Duration = Duration::from_secs(90);

/// Nodes on one nats-server, and a worker that accepts everything.
struct Fleet {
    nats: NatsServer,
    worker: Worker,
}

impl Fleet {
    async fn new() -> Self {
        let nats = NatsServer::start().await;
        let worker = Worker::start(&nats, "moorline.default.in.*", |message| {
            Answer::payload(message.payload.clone())
        })
        .await;
        Self { nats, worker }
    }

    async fn node(&self) -> Node {
        let node = Node::start(&format!(
            "nats: {{servers: ['{}']}}\n\
             limits: {{handshakes_per_ip: {{per_second: 0}}}}\n\
             heartbeat: {{ping_interval: 5m}}\n\
             routes:\n- {{path: '/as/{{user}}', auth: none, events: [message, disconnected]}}\n",
            self.nats.url()
        ));
        node.reaches_nats().await;
        node.wait_for("lease taken", |_| true);
        node
    }

    /// The causes that were told of each end, by event.
    fn ends(&self) -> HashMap<String, Vec<String>> {
        let mut ends: HashMap<_, Vec<_>> = HashMap::new();
        for event in self.worker.requests() {
            if header(&event, "ce-type").as_deref() == Some("moorline.disconnected") {
                let data: Value = serde_json::from_slice(&event.payload).unwrap();
                let cause = data["cause"].as_str().unwrap().to_owned();
                ends.entry(header(&event, "ce-id").unwrap()).or_default().push(cause);
            }
        }
        ends
    }

    /// Waits until this many ends were told; how long that took.
    async fn told(&self, count: usize) -> Duration {
        let started = Instant::now();
        while self.ends().len() < count {
            assert!(started.elapsed() < PATIENCE, "{} of {count} told", self.ends().len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        started.elapsed()
    }

    /// How many connections there are, by the word of all nodes, of which there are so many.
    async fn present(&self, nodes: usize) -> u64 {
        let client = self.nats.client().await;
        let mut answers = client.subscribe("harness.count").await.unwrap();
        let (asked, count) = ("moorline.default.ctl.all", r#"{"command":"count"}"#);
        client.publish_with_reply(asked, "harness.count", count.into()).await.unwrap();
        let mut sum = 0;
        for _ in 0..nodes {
            let answer = tokio::time::timeout(PATIENCE, answers.next()).await.unwrap().unwrap();
            let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
            assert_eq!(answer["nodes"], nodes, "{answer}");
            sum += answer["connections"].as_u64().unwrap();
        }
        sum
    }

    /// The keys of the registry.
    async fn entries(&self) -> HashSet<String> {
        let store = self.bucket().await;
        store.keys().await.unwrap().try_collect().await.unwrap()
    }

    async fn bucket(&self) -> kv::Store {
        let jetstream = async_nats::jetstream::new(self.nats.client().await);
        jetstream.get_key_value("moorline_connections").await.unwrap()
    }
}

/// Clients of a node, by the id of their last event.
async fn clients(node: &Node, count: usize) -> HashMap<String, Client> {
    let mut clients = HashMap::new();
    for _ in 0..count {
        let client = Request::new("/as/alice").connect(node.ws()).await.unwrap();
        let id = client.headers["moorline-connection-id"].to_str().unwrap();
        clients.insert(format!("{id}-end"), client);
    }
    clients
}

#[tokio::test]
async fn each_end_of_a_dead_nodes_clients_is_told_once() {
    let fleet = Fleet::new().await;
    let (dead, one, two) = (fleet.node().await, fleet.node().await, fleet.node().await);
    let lost = clients(&dead, 1000).await;
    let mut stays = clients(&one, 10).await;
    assert_eq!(dead.metric("moorline_registry_entries", &[]).await, 1000.0);
    assert_eq!(fleet.entries().await.len(), 1010);
    // Others before them have left in good order.
    for client in clients(&dead, 5).await.into_values() {
        client.close().await;
    }
    fleet.told(5).await;
    dead.signal("KILL");
    let took = fleet.told(1005).await;
    println!("1,000 ends of a dead node were told within {took:?}");

    let ends = fleet.ends();
    for id in lost.keys() {
        assert_eq!(ends[id], ["node-lost"]);
    }
    assert_eq!(ends.values().flatten().filter(|cause| *cause == "client").count(), 5);
    eventually("only the living are registered", async || {
        (fleet.entries().await.len() == 10).then_some(())
    })
    .await;
    let mut taken = 0.0;
    for node in [&one, &two] {
        taken += node.metric("moorline_leases_taken_over_total", &[]).await;
    }
    assert_eq!(taken, 1.0);
    for client in stays.values_mut() {
        assert_eq!(client.ask("hello").await, "hello");
    }
    assert_eq!(fleet.ends().len(), 1005);
    assert_eq!(fleet.present(2).await, 10);
}

#[tokio::test]
async fn a_frozen_node_is_taken_over_and_speaks_for_nobody_when_it_wakes() {
    let fleet = Fleet::new().await;
    let (frozen, other) = (fleet.node().await, fleet.node().await);
    let mut lost = clients(&frozen, 20).await;
    frozen.signal("STOP");
    for client in lost.values_mut() {
        client.send("said in vain").await;
    }
    fleet.told(20).await;
    frozen.signal("CONT");
    for client in lost.values_mut() {
        assert_eq!(client.closed().await, Some((4409, "node-lost".to_owned())));
    }
    // It goes on with another lease.
    let mut again = clients(&frozen, 3).await;
    for (id, client) in &mut again {
        assert_eq!(client.ask("hello").await, "hello", "{id}");
    }
    let ends = fleet.ends();
    assert_eq!(ends.len(), 20);
    for id in lost.keys() {
        assert_eq!(ends[id], ["node-lost"]);
    }
    assert!(!fleet.worker.texts().contains(&"said in vain".to_owned()));
    assert_eq!(other.metric("moorline_leases_taken_over_total", &[]).await, 1.0);
    // They have read why, and end their streams when they like.
    frozen.metric_becomes("moorline_disconnect_events_total", &["taken"], 20.0).await;
    frozen.metric_becomes("moorline_registry_entries", &[], 3.0).await;
    for client in again.into_values() {
        client.close().await;
    }
    fleet.told(23).await;
    eventually("nobody is registered", async || fleet.entries().await.is_empty().then_some(()))
        .await;
}

#[tokio::test]
async fn an_outage_of_nats_makes_no_node_dead() {
    let mut fleet = Fleet::new().await;
    let nodes = [fleet.node().await, fleet.node().await, fleet.node().await];
    let mut connected = HashMap::new();
    for node in &nodes {
        connected.extend(clients(node, 20).await);
    }
    for away in [1, 60] {
        fleet.nats.kill();
        tokio::time::sleep(Duration::from_secs(away)).await;
        fleet.nats.resume().await;
        let back = Instant::now();
        for node in &nodes {
            node.reaches_nats().await;
        }
        for client in connected.values_mut() {
            assert_eq!(client.ask("hello").await, "hello");
        }
        println!(
            "after {away} s without NATS all clients were served again in {:?}",
            back.elapsed()
        );
    }
    // Long enough for a node that thinks another is dead.
    tokio::time::sleep(Duration::from_secs(20)).await;
    for node in &nodes {
        assert_eq!(node.metric("moorline_leases_taken_over_total", &[]).await, 0.0);
        assert_eq!(node.metric("moorline_registry_entries", &[]).await, 20.0);
        assert!(node.lines("this node was taken for dead; its connections end").is_empty());
    }
    assert!(fleet.ends().is_empty());
    assert_eq!(fleet.entries().await.len(), 60);
    for client in connected.values_mut() {
        assert_eq!(client.ask("hello").await, "hello");
    }
}

#[tokio::test]
async fn without_jetstream_serve_names_the_key_and_dev_goes_on() {
    let nats = NatsServer::without_jetstream().await;
    let worker = Worker::echo(&nats, "moorline.default.in.message").await;
    let dev = Node::dev(&["--nats", &nats.url()]);
    dev.wait_for("no JetStream: backends are not told when this node dies", |_| true);
    let mut client = Client::connect(dev.ws()).await;
    assert_eq!(client.ask("hello").await, "hello");
    assert_eq!(worker.texts(), ["hello"]);

    let mut serve = Node::start(&format!(
        "nats: {{servers: ['{}']}}\nroutes:\n- {{path: /ws, auth: none}}\n",
        nats.url()
    ));
    assert!(!serve.ended().success());
    let log = serve.whole_log();
    assert!(log.contains("jetstream: optional"), "{log}");
}
