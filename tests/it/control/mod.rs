//! Commands over NATS: each does what it says to those it is for, on every node, and its answer can be
//! relied on.

mod confirmed;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::{
    Answer, Client, NatsServer, Node, Request, Tool, Worker, eventually, exchange, finish,
    free_port, have, header, python,
};

/// Nodes on one nats-server, and a publisher who may do everything. The user of a client is its query.
struct Stage {
    nats: NatsServer,
    /// Where the server tells about itself.
    monitor: SocketAddr,
    publisher: async_nats::Client,
    nodes: Vec<Node>,
    _worker: Worker,
}

impl Stage {
    async fn new(count: usize) -> Self {
        let monitor = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let nats = NatsServer::with_config(&format!("http: '{monitor}'")).await;
        let worker = Worker::start(&nats, "moorline.default.in.*", |message| {
            if header(message, "ce-type").unwrap() != "moorline.connect" {
                return Answer::payload(message.payload.clone());
            }
            let offer: Value = serde_json::from_slice(&message.payload).unwrap();
            Answer::payload(json!({"user_id": offer["query"]}).to_string())
        })
        .await;
        let publisher = nats.client().await;
        let start = |_| {
            Node::start(&format!(
                "nats: {{servers: ['{}']}}\nlimits: {{max_groups_per_connection: 3}}\n\
                 routes: [{{path: /ws, auth: connect}}]\n",
                nats.url()
            ))
        };
        let nodes: Vec<_> = (0..count).map(start).collect();
        for node in &nodes {
            node.reaches_nats().await;
        }
        let stage = Self { nats, monitor, publisher, nodes, _worker: worker };
        eventually("all nodes listen and know of each other", async || {
            let answers = stage.ask("ctl.all", r#"{"command":"count"}"#).await;
            let know_all = answers.iter().all(|answer| answer["nodes"] == count);
            (answers.len() == count && know_all).then_some(())
        })
        .await;
        stage
    }

    /// What all nodes answer.
    async fn ask(&self, subject: &str, payload: &str) -> Vec<Value> {
        let inbox = self.publisher.new_inbox();
        let mut replies = self.publisher.subscribe(inbox.clone()).await.unwrap();
        let subject = format!("moorline.default.{subject}");
        let payload = payload.to_owned().into();
        self.publisher.publish_with_reply(subject, inbox, payload).await.unwrap();
        let mut answers = Vec::new();
        while answers.len() < self.nodes.len() {
            let Ok(Some(reply)) = timeout(Duration::from_secs(5), replies.next()).await else {
                break;
            };
            if reply.status.is_some() {
                break;
            }
            answers.push(serde_json::from_slice(&reply.payload).unwrap());
        }
        answers
    }

    /// How many connections were meant and how many were changed, on all nodes together.
    async fn command(&self, target: &str, command: Value) -> (u64, u64) {
        let answers = self.ask(&format!("ctl.{target}"), &command.to_string()).await;
        assert_eq!(answers.len(), self.nodes.len(), "every node answers: {answers:?}");
        let sum = |name: &str| answers.iter().map(|answer| answer[name].as_u64().unwrap()).sum();
        (sum("connections"), sum("changed"))
    }

    /// What the node of a connection answers; none when nobody listens.
    async fn command_one(&self, id: &str, payload: &str) -> Option<Value> {
        let subject = format!("moorline.default.ctl.conn.{id}");
        let answer = self.publisher.request(subject, payload.to_owned().into()).await.ok()?;
        Some(serde_json::from_slice(&answer.payload).unwrap())
    }

    /// How often somebody has subscribed to something and unsubscribed, since the server began.
    async fn subscriptions(&self) -> (Value, Value) {
        let request = b"GET /subsz HTTP/1.0\r\n\r\n";
        let (status, page) = exchange(self.monitor, request).await;
        assert_eq!(status, 200);
        let page: Value = serde_json::from_str(&page).unwrap();
        (page["num_inserts"].clone(), page["num_removes"].clone())
    }

    async fn connect(&self, node: usize, user: &str) -> Client {
        let request = Request::new(&format!("/ws?{user}"));
        request.connect(self.nodes[node].ws()).await.expect("accepted")
    }
}

fn id(client: &Client) -> String {
    client.headers["moorline-connection-id"].to_str().unwrap().to_owned()
}

fn in_seconds(seconds: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + seconds
}

#[tokio::test]
async fn a_command_reaches_a_user_on_all_nodes_and_every_node_answers() {
    let stage = Stage::new(3).await;
    let mut clients = Vec::new();
    for node in 0..3 {
        clients.push(stage.connect(node, "ann@example.com").await);
    }
    let mut bob = stage.connect(1, "bob").await;
    let ann = "user.ann=40example=2Ecom";
    assert_eq!(stage.command("all", json!({"command": "count"})).await, (4, 0));
    assert_eq!(stage.command(ann, json!({"command": "count"})).await, (3, 0));
    assert_eq!(stage.command("user.nobody", json!({"command": "count"})).await, (0, 0));
    let join = json!({"command": "join", "groups": ["red", "b.*>"]});
    assert_eq!(stage.command(ann, join).await, (3, 3));
    assert_eq!(stage.command("group.b=2E=2A=3E", json!({"command": "count"})).await, (3, 0));
    let pushed = stage.ask("out.group.red", "to red").await;
    assert_eq!(pushed.iter().map(|answer| answer["deliveries"].as_u64().unwrap()).sum::<u64>(), 3);
    for client in &mut clients {
        assert_eq!(client.next_text().await, "to red");
    }
    let leave = json!({"command": "leave", "groups": ["red"]});
    assert_eq!(stage.command("group.red", leave).await, (3, 3));
    assert_eq!(stage.command("group.red", json!({"command": "count"})).await, (0, 0));
    assert_eq!(stage.command(ann, json!({"command": "leave"})).await, (3, 3));

    let exclude = [id(&clients[2])];
    let close = json!({"command": "close", "code": 4000, "reason": "bye", "exclude": exclude});
    assert_eq!(stage.command(ann, close).await, (2, 2));
    for client in &mut clients[..2] {
        assert_eq!(client.closed().await, Some((4000, "bye".to_owned())));
    }
    assert_eq!(clients[2].ask("still here").await, "still here");
    assert_eq!(bob.ask("never meant").await, "never meant");
    let closed = ["cause=\"backend-closed\""];
    stage.nodes[0].metric_becomes("moorline_connections_closed_total", &closed, 1.0).await;
    stage.nodes[0].metric_becomes("moorline_commands_total", &["\"close\""], 1.0).await;
}

#[tokio::test]
async fn a_connection_is_described_and_is_gone_when_it_is_gone() {
    let stage = Stage::new(2).await;
    let client = stage.connect(0, "ann").await;
    let (id, count) = (id(&client), r#"{"command":"count"}"#);
    let join = stage.command_one(&id, r#"{"command":"join","groups":["a","b","c","d"]}"#).await;
    let join = join.unwrap();
    assert_eq!((&join["connections"], &join["changed"]), (&json!(1), &json!(1)));
    let refused = join["refused"].as_str().unwrap();
    assert!(refused.contains("limits.max_groups_per_connection"), "{refused}");
    let info = stage.command_one(&id, r#"{"command":"info"}"#).await.unwrap();
    let (node, _) = id.split_once('.').unwrap();
    assert_eq!(
        (&info["node"], &info["nodes"], &info["refused"]),
        (&json!(node), &json!(2), &json!(null))
    );
    let described = &info["info"][0];
    assert_eq!(described["id"], id);
    assert_eq!((&described["user"], &described["route"]), (&json!("ann"), &json!("/ws")));
    assert_eq!(described["groups"], json!(["a", "b", "c"]));
    assert_eq!((&described["subprotocol"], &described["outbox_bytes"]), (&json!(null), &json!(0)));
    assert!(described["remote"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(described["since"].as_u64().unwrap().abs_diff(in_seconds(0) * 1000) < 600_000);

    client.close().await;
    eventually("the node says that it is gone", async || {
        let answer = stage.command_one(&id, count).await.unwrap();
        (answer["error"]["code"] == "gone" && answer["node"] == node).then_some(())
    })
    .await;
    let other = stage.connect(1, "ann").await;
    let id = self::id(&other);
    assert_eq!(stage.command_one(&id, count).await.unwrap()["connections"], 1);
    let [first, second]: [Node; 2] = stage.nodes.try_into().ok().unwrap();
    drop(second);
    let subject = format!("moorline.default.ctl.conn.{id}");
    eventually("nobody listens for a connection of a node that is gone", async || {
        let asked = stage.publisher.request(subject.clone(), count.into()).await;
        let error = asked.err()?;
        (error.kind() == async_nats::RequestErrorKind::NoResponders).then_some(())
    })
    .await;
    drop(first);
}

#[tokio::test]
async fn what_is_wrong_with_a_command_is_answered_and_one_without_a_reply_is_obeyed() {
    let stage = Stage::new(1).await;
    let mut client = stage.connect(0, "ann").await;
    let large = format!("{{\"command\":\"count\"{}}}", " ".repeat(64 * 1024));
    for (target, payload, code, message) in [
        ("all", "", "bad-request", "not a command: EOF"),
        ("all", "{\"command\":\"explode\"}", "bad-request", "unknown variant `explode`"),
        ("all", "{\"command\":\"close\",\"cod\":1}", "bad-request", "unknown field `cod`"),
        ("all", "{\"command\":\"close\",\"code\":1006}", "bad-request", "1006 may not be sent"),
        ("user.a=2e", "{\"command\":\"count\"}", "bad-request", "has the name in the subject"),
        ("all", &large, "too-large", "at most 65536 bytes"),
    ] {
        let answers = stage.ask(&format!("ctl.{target}"), payload).await;
        let error = &answers[0]["error"];
        assert_eq!(error["code"], code, "{payload:.40}: {error}");
        assert!(error["message"].as_str().unwrap().contains(message), "{error}");
    }
    let node = &stage.nodes[0];
    let refused = "moorline_commands_refused_total";
    assert_eq!(node.metric(refused, &["bad-request"]).await, 5.0);
    assert_eq!(node.metric(refused, &["too-large"]).await, 1.0);
    let publish = async |reply: &str, command: &str| {
        let subject = "moorline.default.ctl.user.ann";
        let payload = command.to_owned().into();
        stage.publisher.publish_with_reply(subject, reply.to_owned(), payload).await.unwrap();
    };
    publish("moorline.default.out.all", r#"{"command":"close"}"#).await;
    node.metric_becomes(refused, &["reply"], 1.0).await;
    assert_eq!(client.ask("still here").await, "still here");
    let subject = "moorline.default.ctl.user.ann";
    stage.publisher.publish(subject, r#"{"command":"close"}"#.into()).await.unwrap();
    assert_eq!(client.closed().await, Some((1000, String::new())));
}

#[tokio::test]
async fn a_token_is_renewed_or_ends() {
    let stage = Stage::new(1).await;
    let mut client = stage.connect(0, "ann").await;
    let conn = format!("conn.{}", id(&client));
    let refresh =
        |user: &str, expires: u64| json!({"command": "refresh", "user": user, "expires": expires});
    assert_eq!(stage.command(&conn, refresh("bob", 0)).await, (1, 0), "not his");
    assert_eq!(stage.command(&conn, refresh("ann", in_seconds(600))).await, (1, 1));
    assert_eq!(client.ask("still here").await, "still here");
    assert_eq!(stage.command("user.ann", refresh("ann", 0)).await, (1, 1));
    assert_eq!(client.closed().await, Some((4401, "token-expired".to_owned())));
}

#[tokio::test]
async fn a_traced_connection_is_in_the_log_step_by_step_and_no_other_and_no_payload() {
    let stage = Stage::new(1).await;
    let node = &stage.nodes[0];
    let (mut ann, mut bob) = (stage.connect(0, "ann").await, stage.connect(0, "bob").await);
    ann.ask("nobody looks yet").await;
    assert_eq!(stage.command("user.ann", json!({"command": "trace", "seconds": 60})).await, (1, 1));
    ann.ask("a secret").await;
    bob.ask("a secret").await;
    ann.ask("more").await;
    let ann = id(&ann);
    // The log comes by a pipe; this is the last line of it.
    eventually("the last step is logged", async || {
        (node.lines("message to the client").len() >= 2).then_some(())
    })
    .await;
    for (message, times) in [
        ("connection traced", 1),
        ("message from the client", 2),
        ("event sent", 2),
        ("event answered", 2),
        ("message to the client", 2),
    ] {
        let lines = node.lines(message);
        assert_eq!(lines.len(), times, "{message}");
        assert!(lines.iter().all(|line| line["connection"] == ann), "{message}");
    }
    let inbound = &node.lines("message from the client")[0];
    assert_eq!((&inbound["kind"], &inbound["bytes"]), (&json!("text"), &json!(8)));
    let answered = &node.lines("event answered")[1];
    assert_eq!((&answered["sequence"], &answered["outcome"]), (&json!(4), &json!("replied")));
    assert!(!node.whole_log().contains("a secret"));
}

#[tokio::test]
async fn the_python_example_shows_the_answers() {
    if !have("the_python_example_shows_the_answers", &[Tool::Python]) {
        return;
    }
    let stage = Stage::new(2).await;
    let (ann, _too) = (stage.connect(0, "ann@a").await, stage.connect(1, "ann@a").await);
    let control = async |target: &str| {
        let mut command = python("examples/control.py");
        command.args([target, r#"{"command":"count"}"#]).env("NATS_URL", stage.nats.url());
        let (is_ok, lines) = finish(command).await;
        assert!(is_ok, "{lines}");
        let answers = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        answers.map(|answer| answer["connections"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(control("user:ann@a").await, [1, 1]);
    assert_eq!(control(&format!("conn:{}", id(&ann))).await, [1]);
    assert_eq!(control("group:nobody's").await, [0, 0]);
    assert!(control("conn:aaaaaaaaaaaa.x").await.is_empty(), "nobody listens");
}
