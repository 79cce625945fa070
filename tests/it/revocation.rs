//! Tokens that are revoked: at the door, on open connections, on every node, whatever becomes of NATS.

use async_nats::jetstream;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::harness::{
    Client, DEADLINE, NatsServer, Node, Request, eventually, exchange, exchange_raw,
};
use crate::tokens::{SECRET, now, token};

/// Nodes that share a NATS server and the secret of their tokens.
struct Fleet {
    nats: NatsServer,
    folder: TempDir,
}

impl Fleet {
    async fn start() -> Self {
        Self::on(NatsServer::start().await)
    }

    fn on(nats: NatsServer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), SECRET).unwrap();
        Self { nats, folder }
    }

    /// A node that takes tokens.
    fn node_with(&self, jetstream: &str) -> Node {
        Node::start(&format!(
            "nats: {{servers: ['{}'], jetstream: {jetstream}}}\n\
             jwt: {{keys: [{{algorithms: [HS256], secret: {}}}]}}\n\
             routes:\n\
             - {{path: /ws, auth: jwt, backend: {{echo: true}}}}\n\
             - {{path: /told, auth: jwt, backend: {{echo: true}}, refuse: close}}\n\
             - {{path: /open, auth: none, backend: {{echo: true}}}}\n",
            self.nats.url(),
            self.folder.path().join("secret").display()
        ))
    }

    /// A node that is ready.
    async fn node(&self) -> Node {
        let node = self.node_with("required");
        eventually("readiness", async || (ready(&node).await.0 == 200).then_some(())).await;
        node
    }

    /// What so many nodes answer to a command.
    async fn command(&self, subject: &str, command: &Value, nodes: usize) -> Vec<Value> {
        let client = self.nats.client().await;
        let inbox = client.new_inbox();
        let mut replies = client.subscribe(inbox.clone()).await.unwrap();
        let (subject, payload) = (format!("moorline.default.ctl.{subject}"), command.to_string());
        client.publish_with_reply(subject, inbox, payload.into()).await.unwrap();
        let mut answers = Vec::new();
        while answers.len() < nodes {
            let reply = timeout(DEADLINE, replies.next()).await.expect("an answer").unwrap();
            assert_eq!(reply.status, None, "somebody listens");
            answers.push(serde_json::from_slice(&reply.payload).unwrap());
        }
        answers
    }

    /// Has tokens revoked; how many connections were closed by it on so many nodes.
    async fn revoke(&self, subject: &str, what: &Value, nodes: usize) -> u64 {
        let mut command = json!({"command": "revoke", "until": now() + 300});
        command.as_object_mut().unwrap().extend(what.as_object().unwrap().clone());
        let answers = self.command(subject, &command, nodes).await;
        let closed = |answer: &Value| {
            assert_eq!(answer["refused"], Value::Null, "{answer}");
            answer["changed"].as_u64().unwrap()
        };
        answers.iter().map(closed).sum()
    }
}

/// A token of `user` that was made a minute ago, with claims over its own.
fn token_of(user: &str, claims: &Value) -> String {
    let mut all = json!({"sub": user, "iat": now() - 60, "exp": now() + 300});
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    token(json!({"alg": "HS256"}), &all)
}

async fn connect(node: &Node, token: &str) -> Client {
    Request::new("/ws").bearer(token).connect(node.ws()).await.expect("to be let in")
}

/// What the node says of its readiness.
async fn ready(node: &Node) -> (u16, String) {
    exchange(node.admin(), b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await
}

/// The status of a handshake with this token.
async fn knock(node: &Node, token: &str) -> u16 {
    match Request::new("/ws").bearer(token).connect(node.ws()).await {
        Ok(client) => {
            client.close().await;
            101
        }
        Err((status, _)) => status,
    }
}

fn revoked() -> Option<(u16, String)> {
    Some((4403, "revoked".to_owned()))
}

#[tokio::test]
async fn who_came_in_by_a_revoked_token_is_closed_on_every_node_and_refused() {
    let fleet = Fleet::start().await;
    let nodes = [fleet.node().await, fleet.node().await];
    let (lost, other) =
        (token_of("ann", &json!({"jti": "1"})), token_of("ann", &json!({"jti": "2"})));
    let bob = token_of("bob", &json!({"jti": "3"}));
    let mut clients = Vec::new();
    for node in &nodes {
        let (lost, other) = (connect(node, &lost).await, connect(node, &other).await);
        let anybody = Request::new("/open").connect(node.ws()).await.expect("to be let in");
        clients.push((lost, other, connect(node, &bob).await, anybody));
    }
    assert_eq!(fleet.revoke("all", &json!({"jti": "1"}), 2).await, 2);
    for (lost, other, bob, anybody) in &mut clients {
        // It is in the middle of something.
        lost.try_send("a message that may still be answered").await;
        assert_eq!(lost.closed().await, revoked());
        for client in [other, bob, anybody] {
            assert_eq!(client.ask("still here").await, "still here");
        }
    }
    for node in &nodes {
        assert_eq!(knock(node, &lost).await, 401);
        assert_eq!(knock(node, &other).await, 101);
    }
    assert!(fleet.revoke("user.ann", &json!({}), 2).await >= 2);
    for (_, other, bob, anybody) in &mut clients {
        assert_eq!(other.closed().await, revoked());
        for client in [bob, anybody] {
            assert_eq!(client.ask("still here").await, "still here");
        }
    }
    for node in &nodes {
        assert_eq!(knock(node, &other).await, 401);
        let fresh = token_of("ann", &json!({"jti": "4", "iat": now() + 1}));
        assert_eq!(knock(node, &fresh).await, 101, "made after the cutoff");
        let labels = ["cause=\"revoked\"", "code=\"4403\""];
        node.metric_becomes("moorline_connections_closed_total", &labels, 2.0).await;
        let refusals = node.metric("moorline_handshakes_total", &["result=\"revoked\""]).await;
        assert!(refusals >= 2.0, "{refusals}");
    }
    fleet.revoke("all", &json!({"before": now() - 30}), 2).await;
    for (_, _, bob, anybody) in &mut clients {
        assert_eq!(bob.closed().await, revoked());
        assert_eq!(anybody.ask("still here").await, "still here");
    }
}

#[tokio::test]
async fn a_refusal_says_that_the_token_was_revoked_and_nothing_of_it() {
    let fleet = Fleet::start().await;
    let node = fleet.node().await;
    fleet.revoke("all", &json!({"jti": "the-id-of-it"}), 1).await;
    let lost = token_of("ann", &json!({"jti": "the-id-of-it"}));
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Authorization: Bearer {lost}\r\n\r\n"
    );
    let answer = exchange_raw(node.ws(), request.as_bytes()).await;
    assert!(answer.to_lowercase().contains("www-authenticate: bearer error=\"invalid_token\""));
    assert!(answer.contains("the token was revoked"), "{answer}");
    let told = Request::new("/told").bearer(&lost).connect(node.ws()).await;
    assert_eq!(told.expect("a 101").closed().await, revoked());
    assert!(!node.whole_log().contains("the-id-of-it"), "a token's id is not logged");
    assert!(!node.whole_log().contains(&lost));
}

#[tokio::test]
async fn revocations_outlive_nats_and_reach_who_starts_later() {
    let mut fleet = Fleet::start().await;
    let early = fleet.node().await;
    let (first, second) =
        (token_of("ann", &json!({"jti": "1"})), token_of("bob", &json!({"jti": "2"})));
    let mut client = connect(&early, &second).await;
    fleet.revoke("all", &json!({"jti": "1"}), 1).await;
    assert_eq!(knock(&early, &first).await, 401, "at once on the node that has answered");
    fleet.nats.kill();
    early.metric_becomes("moorline_nats_connected", &[], 0.0).await;
    assert_eq!(knock(&early, &first).await, 401, "what is known stays known");
    assert_eq!(client.ask("nobody is closed").await, "nobody is closed");
    fleet.nats.resume().await;
    let late = fleet.node().await;
    assert_eq!(knock(&late, &first).await, 401, "it was known before the node was ready");
    assert_eq!(knock(&late, &second).await, 101);
    fleet.revoke("all", &json!({"jti": "2"}), 2).await;
    assert_eq!(client.closed().await, revoked());
    for node in [&early, &late] {
        assert_eq!(knock(node, &second).await, 401);
    }
}

#[tokio::test]
async fn a_node_that_does_not_know_what_was_revoked_takes_no_token() {
    let fleet = Fleet::start().await;
    let jetstream = jetstream::new(fleet.nats.client().await);
    let (name, subjects) = ("KV_moorline_revoked".to_owned(), vec!["else".to_owned()]);
    let foreign = jetstream::stream::Config { name, subjects, ..Default::default() };
    jetstream.create_stream(foreign).await.unwrap();
    let node = fleet.node_with("required");
    node.wait_for("revocations cannot be read; trying again", |line| {
        line["error"].as_str().unwrap().contains("KV_moorline_revoked")
    });
    eventually("it says why it is not ready", async || {
        let (status, why) = ready(&node).await;
        (status == 503 && why.contains("revocations were not loaded yet")).then_some(())
    })
    .await;
    let good = token_of("ann", &json!({}));
    let request = Request::new("/ws").bearer(&good).connect(node.ws());
    let (status, body) = request.await.err().expect("a refusal");
    assert_eq!((status, body.contains("no-revocations")), (503, true), "{body}");
    let anybody = Request::new("/open").connect(node.ws()).await.expect("to be let in");
    anybody.close().await;
    jetstream.delete_stream("KV_moorline_revoked").await.unwrap();
    eventually("readiness", async || (ready(&node).await.0 == 200).then_some(())).await;
    assert_eq!(knock(&node, &good).await, 101);
}

#[tokio::test]
async fn where_jetstream_may_be_missing_tokens_are_taken_without() {
    let fleet = Fleet::on(NatsServer::without_jetstream().await);
    let node = fleet.node_with("optional");
    node.wait_for("revocations cannot be read; trying again", |line| {
        line["error"].as_str().unwrap().contains("JetStream")
    });
    eventually("readiness", async || (ready(&node).await.0 == 200).then_some(())).await;
    assert_eq!(knock(&node, &token_of("ann", &json!({}))).await, 101);
}

#[tokio::test]
async fn a_node_that_does_not_serve_the_hub_hears_of_it_from_the_others() {
    let fleet = Fleet::start().await;
    let node = fleet.node().await;
    let other = Node::start(&format!(
        "nats: {{servers: ['{}']}}\n\
         jwt: {{keys: [{{algorithms: [HS256], secret: {}}}]}}\n\
         routes: [{{path: /ws, hub: other, auth: jwt, backend: {{echo: true}}}}]\n",
        fleet.nats.url(),
        fleet.folder.path().join("secret").display()
    ));
    eventually("readiness", async || (ready(&other).await.0 == 200).then_some(())).await;
    let token = token_of("ann", &json!({}));
    let (mut here, mut there) = (connect(&node, &token).await, connect(&other, &token).await);
    assert_eq!(fleet.revoke("user.ann", &json!({}), 1).await, 1);
    for client in [&mut here, &mut there] {
        assert_eq!(client.closed().await, revoked());
    }
    assert_eq!(knock(&other, &token).await, 401);
}

#[tokio::test]
async fn a_command_that_does_not_say_what_to_revoke_is_refused() {
    let fleet = Fleet::start().await;
    let node = fleet.node().await;
    for (subject, what) in [
        ("all", json!({})),
        ("all", json!({"jti": "1", "before": 7})),
        ("all", json!({"user": "ann"})),
        ("user.ann", json!({"jti": "1"})),
        ("user.ann", json!({"before": "now"})),
        ("group.red", json!({"before": 7})),
    ] {
        let mut command = json!({"command": "revoke"});
        command.as_object_mut().unwrap().extend(what.as_object().unwrap().clone());
        let answers = fleet.command(subject, &command, 1).await;
        assert_eq!(answers[0]["error"]["code"], "bad-request", "{subject} {what}");
    }
    for (what, part) in [
        (json!({"command": "revoke", "before": now() * 1000}), "before: "),
        (json!({"command": "revoke", "jti": "1", "until": now() * 1000}), "until: "),
    ] {
        let answers = fleet.command("all", &what, 1).await;
        assert!(answers[0]["refused"].as_str().unwrap().starts_with(part), "{what}");
    }
    assert_eq!(knock(&node, &token_of("ann", &json!({"jti": "1"}))).await, 101);
}
