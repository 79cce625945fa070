//! Names that clients or backends choose badly, on purpose: they stay within their hub.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use super::{Stage, connect, token_of};
use crate::harness::{
    Answer, Client, NatsServer, Node, Request, Watcher, Worker, eventually, exchange, free_port,
    hostile_names, is_name, percent_encoded, token,
};

const NAMES: usize = 10_000;
/// Clients at the same time.
const LANES: usize = 16;

/// What the node has subscribed to, as the server says.
async fn subscriptions(monitor: SocketAddr) -> BTreeSet<String> {
    let request = "GET /connz?subs=1&limit=100 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let (status, page) = exchange(monitor, request.as_bytes()).await;
    assert_eq!(status, 200);
    let page: Value =
        serde_json::from_str(&page[page.find('{').unwrap()..=page.rfind('}').unwrap()]).unwrap();
    let connections = page["connections"].as_array().unwrap().iter();
    let own =
        connections.filter(|c| c["name"].as_str().is_some_and(|n| n.starts_with("moorline ")));
    let subjects =
        own.flat_map(|c| c["subscriptions_list"].as_array().cloned().unwrap_or_default());
    subjects.map(|subject| subject.as_str().unwrap().to_owned()).collect()
}

impl Stage {
    async fn publish_to_user(&self, client: &async_nats::Client, end: &str) {
        let subject = format!("moorline.default.out.user.{end}");
        let _ = client.publish(subject, "x".into()).await;
    }
}

/// Runs `act` with each name, `LANES` at a time.
async fn each<'a, F: Future<Output = ()>>(names: &'a [String], act: impl Fn(&'a str) -> F) {
    stream::iter(names).for_each_concurrent(LANES, |name| act(name)).await;
}

/// Joins a client to all groups that have a name. A name that is none ends the connection, as every
/// reply does that breaks the contract.
async fn join_by_reply(node: &Node, names: &[String]) -> Client {
    let mut client = connect(node, "/ws?ann").await;
    for name in names.iter().filter(|name| is_name(name)) {
        client.send(format!("join {}", percent_encoded(name))).await;
        assert_eq!(client.next_text().await, "done", "{name:?}");
    }
    for name in names.iter().filter(|name| !is_name(name)) {
        let mut other = connect(node, "/ws?ann").await;
        other.send(format!("join {}", percent_encoded(name))).await;
        assert_eq!(other.closed().await.map(|(code, _)| code), Some(1011), "{name:?}");
    }
    client
}

async fn leave_by_reply(client: &mut Client, names: &[String]) {
    for name in names.iter().filter(|name| is_name(name)) {
        client.send(format!("leave {}", percent_encoded(name))).await;
        assert_eq!(client.next_text().await, "done", "{name:?}");
    }
}

/// Comes in and goes again; the status, 101 if it was let in.
async fn come_in(node: &Node, request: Request) -> u16 {
    match request.connect(node.ws()).await {
        Ok(client) => {
            client.vanish();
            101
        }
        Err((status, _)) => status,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_names_stay_within_their_hub_whichever_door_they_come_by() {
    let port = free_port();
    let config = format!("http: '127.0.0.1:{port}'");
    let monitor = SocketAddr::from(([127, 0, 0, 1], port));
    let stage = Stage::on(NatsServer::with_config(&config).await).await;
    // The user and the group that a client is to be given stand in its own header.
    let _granting = Worker::start(&stage.nats, "moorline.other.in.connect", |message| {
        let offer: Value = serde_json::from_slice(&message.payload).unwrap();
        let name = &offer["headers"]["x-name"][0];
        let name: Vec<u8> = BASE64.decode(name.as_str().unwrap()).unwrap();
        let name = String::from_utf8(name).unwrap();
        Answer::payload(json!({"user_id": name, "groups": [name]}).to_string())
    })
    .await;
    let config = stage.config(
        "- {path: /answer, auth: connect, hub: other, forward_headers: [x-name]}\n\
         - {path: '/path/{name}', auth: none, hub: other, groups: ['{name}']}\n\
         limits: {max_groups_per_connection: 10000, max_connections_per_ip: 5000, max_head: 64KiB, \
         handshakes_per_ip: {per_second: 0}, handshakes: {per_second: 0}}\n",
    );
    let node = Node::with_log("info,moorline::connection=warn,moorline::handshake=warn", &config);
    node.reaches_nats().await;
    let watcher = Watcher::start(&stage.nats, &["moorline.default.", "moorline.other."]).await;
    let before = subscriptions(monitor).await;
    let names = hostile_names(NAMES);
    let good = || names.iter().filter(|name| is_name(name));
    assert!(good().count() > NAMES / 3 && good().count() < NAMES * 2 / 3);

    let parts: Vec<&[String]> = names.chunks(names.len().div_ceil(LANES)).collect();
    let mut clients = join_all(parts.iter().map(|part| join_by_reply(&node, part))).await;
    let groups = good().map(|name| format!("moorline.default.out.group.{}", token(name)));
    let expected: BTreeSet<String> = groups.chain(before).collect();
    eventually("every group is subscribed to, and nothing else", async || {
        (subscriptions(monitor).await == expected).then_some(())
    })
    .await;
    let leaving = clients.iter_mut().zip(&parts).map(|(client, part)| leave_by_reply(client, part));
    join_all(leaving).await;
    node.metric_becomes("moorline_groups", &[], 0.0).await;

    let status = |name: &str, other| if is_name(name) { 101 } else { other };
    each(&names, async |name| {
        let request = Request::new("/answer").header("x-name", BASE64.encode(name));
        assert_eq!(come_in(&node, request).await, status(name, 502), "{name:?}");
    })
    .await;
    each(&names, async |name| {
        let request = Request::new("/token").bearer(&token_of(name, &json!([name])));
        assert_eq!(come_in(&node, request).await, status(name, 401), "{name:?}");
    })
    .await;
    each(&names, async |name| {
        let request = Request::new(&format!("/path/{}", percent_encoded(name)));
        let is_dots = [".", ".."].contains(&name);
        let expected = if is_dots { 400 } else { status(name, 400) };
        assert_eq!(come_in(&node, request).await, expected, "{name:?}");
    })
    .await;

    for name in good() {
        stage.publish_to_user(&stage.publisher, &token(name)).await;
    }
    let user = ["target=\"user\""];
    node.metric_becomes("moorline_pushes_total", &user, good().count() as f64).await;
    // What the library lets through that is no subject, the server drops, or cuts its client off, or
    // the node refuses it.
    let client = stage.nats.client().await;
    for name in &names {
        stage.publish_to_user(&client, name).await;
        stage.publish_to_user(&client, &token(name)).await;
    }
    eventually("what is no name was refused", async || {
        let reason = ["reason=\"name\""];
        (node.metric("moorline_pushes_refused_total", &reason).await > 1000.0).then_some(())
    })
    .await;

    drop(clients);
    watcher.saw_nothing_else().await;
    assert_eq!(node.metric("moorline_panics_total", &[]).await, 0.0);
    assert_eq!(node.metric("moorline_task_panics_total", &[]).await, 0.0);
    assert_eq!(node.metric("moorline_nats_reconnects_total", &[]).await, 0.0);
    // The node's subscriptions still work after all of this.
    node.metric_becomes("moorline_connections", &[], 0.0).await;
    let _ann = connect(&node, "/ws?ann").await;
    assert_eq!(stage.push("all", "fine").await, Some(1));
}
