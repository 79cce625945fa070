//! Pushes over NATS: whom they reach, whom they do not, and what becomes of them when NATS goes away.

mod fleet;
mod names;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::{HeaderMap, RequestErrorKind};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{
    Answer, Client, NatsServer, Node, Request, Tool, Worker, eventually, finish, have, header,
    python,
};

const SECRET: &[u8] = b"a secret of thirty-two bytes....";
/// What is pushed to see whether somebody gets it; readers pass over it.
const PROBE: &str = "probe";

/// A nats-server and a worker that joins and leaves as it is told: a message `join a,b` or `leave a`,
/// a query `user` or `user=group`.
struct Stage {
    nats: NatsServer,
    publisher: async_nats::Client,
    /// Read again by each reload.
    secret: tempfile::NamedTempFile,
    _worker: Worker,
}

impl Stage {
    async fn new() -> Self {
        Self::on(NatsServer::start().await).await
    }

    async fn on(nats: NatsServer) -> Self {
        let worker = Worker::start(&nats, "moorline.default.in.*", |message| {
            let payload = String::from_utf8(message.payload.to_vec()).unwrap();
            if header(message, "ce-type").unwrap() == "moorline.connect" {
                let offer: Value = serde_json::from_str(&payload).unwrap();
                let query = offer["query"].as_str().unwrap();
                let (user, group) = query.split_once('=').unwrap_or((query, ""));
                let groups: Vec<&str> = Some(group).filter(|g| !g.is_empty()).into_iter().collect();
                return Answer::payload(json!({"user_id": user, "groups": groups}).to_string());
            }
            let (word, groups) = payload.split_once(' ').unwrap();
            Answer::payload("done").header(&format!("moorline-{word}"), groups)
        })
        .await;
        let publisher = nats.client().await;
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(secret.path(), SECRET).unwrap();
        Self { nats, publisher, secret, _worker: worker }
    }

    async fn node(&self) -> Node {
        self.node_with("").await
    }

    async fn node_with(&self, more: &str) -> Node {
        let node = Node::start(&self.config(more));
        node.reaches_nats().await;
        node
    }

    fn config(&self, more: &str) -> String {
        format!(
            "nats: {{servers: ['{}']}}\n\
             jwt: {{audience: [moorline], keys: [{{algorithms: [HS256], secret: {}}}]}}\n\
             routes:\n- {{path: /ws, auth: connect}}\n\
             - {{path: '/rooms/{{room}}', auth: connect, groups: ['room-{{room}}']}}\n\
             - {{path: /token, auth: jwt}}\n\
             - {{path: /deaf, auth: none, outbox: {{max_bytes: 64MiB}}}}\n\
             - {{path: /other, auth: none, hub: other, backend: {{echo: true}}}}\n{more}",
            self.nats.url(),
            self.secret.path().display(),
        )
    }

    /// Pushes, and waits for one node's answer: how many took it.
    async fn push(&self, target: &str, payload: &str) -> Option<u64> {
        self.push_with(target, &[], payload.as_bytes()).await
    }

    async fn push_with(
        &self,
        target: &str,
        headers: &[(&str, &str)],
        payload: &[u8],
    ) -> Option<u64> {
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| map.append(*name, *value));
        let subject = format!("moorline.default.out.{target}");
        let payload = payload.to_vec().into();
        match self.publisher.request_with_headers(subject, map, payload).await {
            Ok(answer) => Some(deliveries(&answer.payload)),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => None,
            Err(error) => panic!("{target}: {error}"),
        }
    }

    /// Waits until a push to `target` is taken by so many connections of a node.
    async fn reaches(&self, target: &str, deliveries: u64) {
        eventually(&format!("a push to {target} reaches {deliveries}"), async || {
            (self.push(target, PROBE).await == Some(deliveries)).then_some(())
        })
        .await;
    }

    /// All that was pushed to a client so far.
    async fn read(&self, client: &mut Client) -> Vec<String> {
        self.reaches(&format!("conn.{}", id(client)), 1).await;
        let conn = format!("conn.{}", id(client));
        assert_eq!(self.push(&conn, "the end").await, Some(1));
        let mut texts = Vec::new();
        loop {
            match client.next_text().await {
                text if text == "the end" => return texts,
                text if text == PROBE => {}
                text => texts.push(text),
            }
        }
    }
}

fn id(client: &Client) -> String {
    client.headers["moorline-connection-id"].to_str().unwrap().to_owned()
}

async fn connect(node: &Node, path: &str) -> Client {
    Request::new(path).connect(node.ws()).await.expect("accepted")
}

/// How many took a push, by the answer of one node.
fn deliveries(answer: &[u8]) -> u64 {
    let answer: Value = serde_json::from_slice(answer).unwrap();
    answer["deliveries"].as_u64().unwrap()
}

/// Sends a wish to the worker, and waits for its answer.
async fn wish(client: &mut Client, wish: &str) {
    client.send(wish).await;
    while client.next_text().await != "done" {}
}

fn token(groups: &Value) -> String {
    token_of("carol", groups)
}

fn token_of(user: &str, groups: &Value) -> String {
    let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 300;
    let claims = json!({"sub": user, "aud": "moorline", "exp": end, "groups": groups});
    let header = json!({"alg": "HS256", "typ": "JWT"});
    let signed =
        format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    format!("{signed}.{}", BASE64.encode(hmac::sign(&key, signed.as_bytes())))
}

#[tokio::test]
async fn a_push_reaches_a_connection_a_user_and_all() {
    let stage = Stage::new().await;
    let node = stage.node().await;
    let mut ann = connect(&node, "/ws?ann@example.com").await;
    let mut ann_too = connect(&node, "/ws?ann@example.com").await;
    let mut bob = connect(&node, "/ws?bob").await;
    let mut other = connect(&node, "/other").await;
    stage.reaches("all", 3).await;
    assert_eq!(stage.push("user.ann=40example=2Ecom", "to ann").await, Some(2));
    assert_eq!(stage.push("user.nobody", "to nobody").await, Some(0));
    assert_eq!(stage.push(&format!("conn.{}", id(&bob)), "to bob's").await, Some(1));
    assert_eq!(stage.push("all", "to all").await, Some(3));
    let ann_id = id(&ann);
    let exclude = [("moorline-exclude", format!("nobody, {ann_id},"))];
    let exclude = exclude.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(stage.push_with("all", &exclude, b"not to ann's first").await, Some(2));
    assert_eq!(stage.read(&mut ann).await, ["to ann", "to all"]);
    assert_eq!(stage.read(&mut ann_too).await, ["to ann", "to all", "not to ann's first"]);
    assert_eq!(stage.read(&mut bob).await, ["to bob's", "to all", "not to ann's first"]);
    assert_eq!(other.ask("another hub hears nothing").await, "another hub hears nothing");

    let gone = format!("conn.{}", id(&bob));
    bob.close().await;
    eventually("the connection is gone", async || {
        (stage.push(&gone, PROBE).await == Some(0)).then_some(())
    })
    .await;
    let user = ["target=\"user\""];
    assert_eq!(node.metric("moorline_pushes_total", &user).await, 2.0);
    assert_eq!(node.metric("moorline_push_deliveries_total", &user).await, 2.0);
}

#[tokio::test]
async fn a_group_is_joined_by_reply_answer_token_and_route() {
    let stage = Stage::new().await;
    let node = stage.node().await;
    let mut by_reply = connect(&node, "/ws?ann").await;
    let mut by_answer = connect(&node, "/ws?bob=red").await;
    let bearer = token(&json!(["red"]));
    let mut by_token = Request::new("/token").bearer(&bearer).connect(node.ws()).await.unwrap();
    let mut by_route = connect(&node, "/rooms/7?eve").await;
    wish(&mut by_reply, "join red,room-7").await;
    stage.reaches("group.red", 3).await;
    stage.reaches("group.room-7", 2).await;
    assert_eq!(stage.push("group.red", "to red").await, Some(3));
    assert_eq!(stage.push("group.room-7", "to the room").await, Some(2));
    wish(&mut by_reply, "leave red").await;
    stage.reaches("group.red", 2).await;
    assert_eq!(stage.push("group.red", "to those that stayed").await, Some(2));
    // Its wishes were answered after the first two pushes, so it has read those already.
    assert_eq!(stage.read(&mut by_reply).await, [""; 0]);
    assert_eq!(stage.read(&mut by_answer).await, ["to red", "to those that stayed"]);
    assert_eq!(stage.read(&mut by_token).await, ["to red", "to those that stayed"]);
    assert_eq!(stage.read(&mut by_route).await, ["to the room"]);
    assert_eq!(stage.push("group.blue", "to nobody").await, None, "nobody listens");
    node.metric_becomes("moorline_groups", &[], 2.0).await;
}

#[tokio::test]
async fn the_content_type_says_text_or_binary_and_a_bad_push_is_refused() {
    let stage = Stage::new().await;
    let node = stage.node().await;
    let mut ann = connect(&node, "/ws?ann").await;
    stage.reaches("all", 1).await;
    let binary = [("content-type", "application/octet-stream")];
    assert_eq!(stage.push_with("user.ann", &binary, b"bytes").await, Some(1));
    assert_eq!(stage.push_with("user.ann", &[], &[0xff, 0xfe]).await, Some(1));
    assert_eq!(stage.push("user.ann", "Grüße").await, Some(1));
    let mut messages = Vec::new();
    while messages.len() < 3 {
        let message = ann.next().await.unwrap();
        messages.extend(Some(message).filter(|m| *m != Message::text(PROBE)));
    }
    let expected = [
        Message::binary(&b"bytes"[..]),
        Message::binary(&[0xff, 0xfe][..]),
        Message::text("Grüße"),
    ];
    assert_eq!(messages, expected);

    let client = &stage.publisher;
    let mut headers = HeaderMap::new();
    headers.append("moorline-ttl", "soon");
    let user = "moorline.default.out.user.ann";
    client.publish_with_headers(user, headers, "x".into()).await.unwrap();
    client.publish("moorline.default.out.user.a=2e", "x".into()).await.unwrap();
    let inside = "moorline.other.in.message";
    client.publish_with_reply(user, inside, "x".into()).await.unwrap();
    for reason in ["ttl", "name", "reply"] {
        let label = format!("reason=\"{reason}\"");
        node.metric_becomes("moorline_pushes_refused_total", &[&label], 1.0).await;
    }
    assert_eq!(stage.read(&mut ann).await, [""; 0]);
}

#[tokio::test]
async fn a_push_is_of_no_use_after_its_time_to_live() {
    let stage = Stage::new().await;
    let node = stage.node().await;
    let mut deaf = connect(&node, "/deaf").await;
    let conn = format!("conn.{}", id(&deaf));
    stage.reaches(&conn, 1).await;
    let large = vec![b'x'; 256 * 1024];
    let mut sent = 0;
    eventually("the client's buffers are full", async || {
        assert_eq!(stage.push_with(&conn, &[], &large).await, Some(1));
        sent += 1;
        (node.metric("moorline_outbox_bytes", &[]).await > 4e6).then_some(())
    })
    .await;
    let ttl = |ttl| [("moorline-ttl", ttl)];
    assert_eq!(stage.push_with(&conn, &ttl("1ms"), b"too late").await, Some(1));
    assert_eq!(stage.push_with(&conn, &ttl("600"), b"in time").await, Some(1));
    for _ in 0..sent {
        while deaf.next_text().await.len() < large.len() {}
    }
    assert_eq!(deaf.next_text().await, "in time");
    node.metric_becomes("moorline_outbox_expired_total", &[], 1.0).await;
}

#[tokio::test]
async fn pushes_of_one_publisher_come_in_order_to_each_member_on_each_node_once() {
    const PUSHES: usize = 500;
    let stage = Stage::new().await;
    let nodes = [stage.node().await, stage.node().await];
    let mut members = Vec::new();
    for n in 0..10 {
        members.push(connect(&nodes[n % 2], "/ws?ann=red").await);
    }
    let mut stranger = connect(&nodes[0], "/ws?bob").await;
    eventually("both nodes take part", async || {
        let inbox = stage.publisher.new_inbox();
        let mut answers = stage.publisher.subscribe(inbox.clone()).await.unwrap();
        let group = "moorline.default.out.group.red";
        stage.publisher.publish_with_reply(group, inbox, PROBE.into()).await.unwrap();
        for _ in 0..2 {
            let answer = tokio::time::timeout(Duration::from_secs(1), answers.next()).await;
            let answer = answer.ok()??;
            assert_eq!(deliveries(&answer.payload), 5);
        }
        Some(())
    })
    .await;
    let texts: Vec<String> = (0..PUSHES).map(|n| n.to_string()).collect();
    for text in &texts {
        let group = "moorline.default.out.group.red";
        stage.publisher.publish(group, text.clone().into()).await.unwrap();
    }
    let last = texts.last().unwrap();
    for member in &mut members {
        let mut got = Vec::new();
        while got.last() != Some(last) {
            got.extend(Some(member.next_text().await).filter(|text| text != PROBE));
        }
        assert_eq!(got, texts);
    }
    assert_eq!(stage.read(&mut stranger).await, [""; 0]);
    for member in &mut members {
        assert_eq!(stage.read(member).await, [""; 0], "nothing comes twice");
    }
}

#[tokio::test]
async fn subscriptions_are_right_again_when_nats_is_back() {
    let mut stage = Stage::new().await;
    let node = stage.node().await;
    let mut ann = connect(&node, "/ws?ann=red").await;
    let mut bob = connect(&node, "/ws?bob=blue").await;
    stage.reaches("group.red", 1).await;
    stage.reaches("group.blue", 1).await;
    stage.nats.kill();
    node.metric_becomes("moorline_nats_connected", &[], 0.0).await;
    // Who comes and goes while NATS is away counts, too.
    let bearer = token(&json!(["green"]));
    let mut carol = Request::new("/token").bearer(&bearer).connect(node.ws()).await.unwrap();
    node.metric_becomes("moorline_groups", &[], 3.0).await;
    stage.nats.resume().await;
    node.reaches_nats().await;
    for (target, text) in [("group.red", "r"), ("group.blue", "b"), ("group.green", "g")] {
        stage.reaches(target, 1).await;
        assert_eq!(stage.push(target, text).await, Some(1));
    }
    assert_eq!(stage.push("all", "all").await, Some(3));
    assert_eq!(stage.read(&mut ann).await, ["r", "all"]);
    assert_eq!(stage.read(&mut bob).await, ["b", "all"]);
    assert_eq!(stage.read(&mut carol).await, ["g", "all"]);
}

#[tokio::test]
async fn a_hub_that_comes_by_a_reload_gets_pushes_from_its_first_client_on() {
    let stage = Stage::new().await;
    let node = stage.node().await;
    node.rewrite(|text| format!("{text}- {{path: /new, auth: none, hub: new}}\n"));
    node.signal("HUP");
    node.wait_for("config reloaded; all files were read again", |_| true);
    let mut client = connect(&node, "/new").await;
    let answer = stage.publisher.request("moorline.new.out.all", "hello".into()).await.unwrap();
    assert_eq!(deliveries(&answer.payload), 1);
    assert_eq!(client.next_text().await, "hello");
}

#[tokio::test]
async fn groups_may_be_asked_for_by_wildcard_and_users_by_name() {
    let stage = Stage::new().await;
    let node = Node::start(&format!(
        "nats: {{servers: ['{}'], interest: {{groups: wildcard, users: name}}}}\n\
         routes: [{{path: /ws, auth: connect}}]\n",
        stage.nats.url()
    ));
    node.reaches_nats().await;
    stage.reaches("all", 0).await;
    assert_eq!(stage.push("user.ann", "x").await, None, "nobody listens");
    assert_eq!(stage.push("group.red", "x").await, Some(0));
    let mut ann = connect(&node, "/ws?ann=red").await;
    stage.reaches("user.ann", 1).await;
    assert_eq!(stage.push("group.red", "to red").await, Some(1));
    assert_eq!(stage.read(&mut ann).await, ["to red"]);
}

#[tokio::test]
async fn the_permissions_in_the_contract_suffice() {
    let (nats, secret) = NatsServer::with_users_of_the_contract("secret").await;
    let node = Node::start(&format!(
        "nats: {{servers: ['{}'], user: node, password: {}}}\n\
         routes:\n- {{path: /ws, auth: none, hub: app, groups: [red]}}\n",
        nats.url(),
        secret.path().display(),
    ));
    node.reaches_nats().await;
    let user = async |name: &str| {
        let options =
            async_nats::ConnectOptions::with_user_and_password(name.into(), "secret".into());
        options.connect(nats.url()).await.unwrap()
    };
    let (worker, publisher) = (user("app-worker").await, user("app-publisher").await);
    let controller = user("app-controller").await;
    let mut asked = worker.queue_subscribe("moorline.app.in.*", "workers".into()).await.unwrap();
    worker.flush().await.unwrap();
    let working = tokio::spawn(async move {
        while let Some(request) = asked.next().await {
            worker.publish(request.reply.unwrap(), request.payload).await.unwrap();
        }
    });
    let mut client = connect(&node, "/ws").await;
    assert_eq!(client.ask("hello").await, "hello");
    let conn = format!("conn.{}", id(&client));
    for target in ["all", "group.red", conn.as_str()] {
        let subject = format!("moorline.app.out.{target}");
        eventually(&format!("a push to {target}"), async || {
            let answer = publisher.request(subject.clone(), PROBE.into()).await.ok()?;
            (deliveries(&answer.payload) == 1).then_some(())
        })
        .await;
        assert_eq!(client.next_text().await, PROBE);
        let subject = format!("moorline.app.ctl.{target}");
        let join = r#"{"command":"join","groups":["blue"]}"#;
        let answer = controller.request(subject, join.into()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert_eq!((&answer["connections"], &answer["refused"]), (&json!(1), &json!(null)));
    }
    // A new hub is confirmed, which takes a message from the node to itself.
    node.rewrite(|text| format!("{text}- {{path: /new, auth: none, hub: new}}\n"));
    node.signal("HUP");
    node.wait_for("config reloaded; all files were read again", |_| true);
    for line in
        ["NATS server reported an error", "NATS has not confirmed the subscriptions of a new hub"]
    {
        assert!(node.lines(line).is_empty(), "{}", node.whole_log());
    }
    working.abort();
}

#[tokio::test]
async fn the_python_example_pushes() {
    if !have("the_python_example_pushes", &[Tool::Python]) {
        return;
    }
    let stage = Stage::new().await;
    let node = stage.node().await;
    let mut ann = connect(&node, "/ws?ann@example.com").await;
    stage.reaches("user.ann=40example=2Ecom", 1).await;
    assert_eq!(ann.next_text().await, PROBE);
    let push = async |target: &str| {
        let mut command = python("examples/push.py");
        command.args([target, "hello"]).env("NATS_URL", stage.nats.url());
        finish(command).await.1
    };
    assert!(push("user:ann@example.com").await.starts_with("1 connections"));
    assert_eq!(ann.next_text().await, "hello");
    assert!(push("group:nobody's").await.starts_with("no node"));
}
