//! How many connections a user may have, on all nodes together.

use async_nats::Message;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::{Answer, Client, DEADLINE, NatsServer, Node, Request, Worker, eventually};
use crate::tokens::{SECRET, now, token};

/// Lets everybody in as the user that the query names.
fn let_in(message: &Message) -> Answer {
    let offer: Value = serde_json::from_slice(&message.payload).unwrap();
    Answer::payload(json!({"user_id": offer["query"]}).to_string())
}

async fn node(nats: &NatsServer, when_full: &str) -> Node {
    let node = Node::start(&format!(
        "nats: {{servers: ['{}']}}\n\
         limits: {{max_connections_per_user: 2, when_user_full: {when_full}}}\n\
         routes:\n- {{path: /ws, auth: connect, events: [connect]}}\n",
        nats.url()
    ));
    node.reaches_nats().await;
    node
}

async fn connect(node: &Node, user: &str) -> Result<Client, (u16, String)> {
    Request::new(&format!("/ws?{user}")).connect(node.ws()).await
}

#[tokio::test]
async fn one_more_is_refused_until_another_leaves() {
    let nats = NatsServer::start().await;
    let _worker = Worker::start(&nats, "moorline.default.in.connect", let_in).await;
    let (one, two) = (node(&nats, "reject-new").await, node(&nats, "reject-new").await);
    let first = connect(&one, "alice").await.unwrap();
    let _second = connect(&two, "alice").await.unwrap();
    for node in [&one, &two] {
        let (status, body) = connect(node, "alice").await.err().expect("a refusal");
        assert_eq!(status, 429, "{body}");
        assert!(body.contains("\"user-full\""), "{body}");
        connect(node, "bob").await.unwrap().close().await;
    }
    first.close().await;
    eventually("there is room again", async || connect(&two, "alice").await.ok()).await;
}

#[tokio::test]
async fn the_oldest_makes_room_on_whichever_node_it_is() {
    let nats = NatsServer::start().await;
    let _worker = Worker::start(&nats, "moorline.default.in.connect", let_in).await;
    let (one, two) = (node(&nats, "evict-oldest").await, node(&nats, "evict-oldest").await);
    let mut first = connect(&one, "alice").await.unwrap();
    let mut second = connect(&two, "alice").await.unwrap();
    let _third = connect(&two, "alice").await.unwrap();
    assert_eq!(first.closed().await, Some((4409, "evicted".to_owned())));
    let _fourth = connect(&one, "alice").await.unwrap();
    assert_eq!(second.closed().await, Some((4409, "evicted".to_owned())));
    two.metric_becomes("moorline_connections_closed_total", &["evicted"], 1.0).await;
}

/// A node that dies gives nothing back, and its users come to the others.
#[tokio::test]
async fn the_places_of_a_dead_node_are_free_again() {
    let nats = NatsServer::start().await;
    let _worker = Worker::start(&nats, "moorline.default.in.connect", let_in).await;
    let (dead, other) = (node(&nats, "reject-new").await, node(&nats, "reject-new").await);
    let _lost = [connect(&dead, "alice").await.unwrap(), connect(&dead, "alice").await.unwrap()];
    assert!(connect(&other, "alice").await.is_err());
    dead.signal("KILL");
    other.wait_for("took over a node's connections", |_| true);
    let _one = eventually("a place is free", async || connect(&other, "alice").await.ok()).await;
    let _two = connect(&other, "alice").await.unwrap();
    assert!(connect(&other, "alice").await.is_err());
}

/// Whatever becomes of the node, others know of a connection that has a place.
#[tokio::test]
async fn who_has_a_place_is_in_the_registry_before() {
    let nats = NatsServer::start().await;
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), SECRET).unwrap();
    let node = Node::start(&format!(
        "nats: {{servers: ['{}']}}\n\
         limits: {{max_connections_per_user: 2}}\n\
         jwt: {{keys: [{{algorithms: [HS256], secret: {}}}]}}\n\
         routes:\n- {{path: /ws, auth: jwt, events: [message, disconnected]}}\n",
        nats.url(),
        secret.path().display()
    ));
    node.reaches_nats().await;
    node.wait_for("lease taken", |_| true);
    let watch = nats.client().await;
    let mut writes = watch.subscribe("$KV.>").await.unwrap();
    watch.flush().await.unwrap();
    let alice = token(json!({"alg": "HS256"}), &json!({"sub": "alice", "exp": now() + 300}));
    let client = eventually("revocations are known", async || {
        Request::new("/ws").bearer(&alice).connect(node.ws()).await.ok()
    })
    .await;
    let mut buckets = Vec::new();
    while !buckets.contains(&"moorline_users".to_owned()) {
        let write = timeout(DEADLINE, writes.next()).await.expect("a write").unwrap();
        buckets.push(write.subject.split('.').nth(1).unwrap().to_owned());
    }
    buckets.retain(|bucket| bucket != "moorline_nodes");
    assert_eq!(buckets.first().map(String::as_str), Some("moorline_connections"), "{buckets:?}");
    client.close().await;
}
