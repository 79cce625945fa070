//! Names that clients or backends choose badly, on purpose: they stay within their hub.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::StreamExt;
use serde_json::{Value, json};

use super::{Stage, connect};
use crate::harness::{
    Answer, DEADLINE, NatsServer, Request, Worker, eventually, exchange, free_port,
};

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

/// Names that would be wildcards, other subjects or other commands if they got through.
fn hostile_names() -> Vec<String> {
    let mut names: Vec<String> = [
        "*",
        ">",
        "a.*",
        "a.>",
        ".",
        "..",
        "a..b",
        " ",
        "a b",
        "a\tb",
        "=",
        "=2E",
        "=2A",
        "a=",
        "%2A",
        "\u{e9}",
        "e\u{301}",
        "\u{1f600}",
        "\u{202e}abc",
        "\u{feff}",
        "moorline.other.out.all",
        "$SYS.>",
        "_INBOX.>",
        "'; DROP",
        "{{x}}",
        "${jndi:x}",
        "../../etc/passwd",
        "\\",
        "\"",
        "a,b",
        "a\r\nPUB x 0\r\n",
        "a\nb",
        "\0",
        "a\0b",
        "\u{7f}",
        "\u{85}",
        "",
    ]
    .map(str::to_owned)
    .to_vec();
    names.push("x".repeat(200));
    names.push("x".repeat(201));
    names.push(".".repeat(66));
    names.push(".".repeat(67));
    names.push("x".repeat(10_000));
    for _ in 0..400 {
        let letters =
            ['*', '>', '.', ' ', '=', 'a', '%', '\u{fc}', '$', '-', '_', '/', '\u{1f600}'];
        let letter = |_| letters[rand::random::<u32>() as usize % letters.len()];
        names.push((0..1 + rand::random::<u32>() % 12).map(letter).collect());
    }
    names
}

#[tokio::test]
async fn hostile_names_stay_within_their_hub() {
    let port = free_port();
    let config = format!("http: '127.0.0.1:{port}'");
    let monitor = SocketAddr::from(([127, 0, 0, 1], port));
    let stage = Stage::on(NatsServer::with_config(&config).await).await;
    let node = stage.node_with("limits: {max_groups_per_connection: 10000}\n").await;
    let names = hostile_names();
    let by_answer = names.clone();
    let asked = AtomicUsize::new(0);
    let _granting = Worker::start(&stage.nats, "moorline.other.in.connect", move |_| {
        let n = asked.fetch_add(1, Ordering::SeqCst);
        let name = &by_answer[n % by_answer.len()];
        Answer::payload(json!({"user_id": name, "groups": [name]}).to_string())
    })
    .await;
    let echoes = "auth: none, hub: other, backend: {echo: true}";
    node.rewrite(|text| text.replace(echoes, "auth: connect, hub: other"));
    node.signal("HUP");
    node.wait_for("config reloaded; all files were read again", |_| true);
    let mut watcher = stage.publisher.subscribe(">").await.unwrap();
    let before = subscriptions(monitor).await;

    let mut client = connect(&node, "/ws?ann").await;
    let mut joined = BTreeSet::new();
    for name in &names {
        let encoded: String = name.bytes().map(|b| format!("%{b:02X}")).collect();
        client.send(format!("join {encoded}")).await;
        // A name that is none ends the connection, as every reply does that breaks the contract.
        match client.next().await {
            Ok(_) => {
                joined.insert(name.clone());
            }
            Err(closed) => {
                assert_eq!(closed.map(|(code, _)| code), Some(1011), "{name:?}");
                client = connect(&node, "/ws?ann").await;
            }
        }
    }
    let mut others = Vec::new();
    for name in &names {
        match Request::new("/other").connect(node.ws()).await {
            Ok(client) => others.push(client),
            Err((status, _)) => assert_eq!(status, 502, "{name:?}"),
        }
    }
    assert!(joined.len() > 300 && others.len() > 300, "{} {}", joined.len(), others.len());

    // Each group's subscription is one literal subject below its hub.
    let token = |name: &str| -> String {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        let encode = |b| if plain(b) { char::from(b).to_string() } else { format!("={b:02X}") };
        name.bytes().map(encode).collect()
    };
    let names = joined.iter().filter(|name| !name.is_empty()).map(|name| token(name));
    let tokens: BTreeSet<String> = names.collect();
    let hubs = ["default", "other"].into_iter();
    let groups = |hub| tokens.iter().map(move |t| format!("moorline.{hub}.out.group.{t}"));
    let expected: BTreeSet<String> = hubs.flat_map(groups).chain(before).collect();
    eventually("every group is subscribed to, and nothing else", async || {
        (subscriptions(monitor).await == expected).then_some(())
    })
    .await;

    // Nothing was published but the events of both hubs, their answers, and what the tests do.
    stage.publisher.publish("harness.end", "".into()).await.unwrap();
    let seen = async {
        while let Some(message) = watcher.next().await {
            let subject = message.subject.as_str();
            if subject == "harness.end" {
                return;
            }
            let is_own = [
                "moorline.default.",
                "moorline.other.",
                "_INBOX",
                "harness.",
                "$JS.API.",
                "$KV.moorline_",
            ];
            assert!(is_own.iter().any(|prefix| subject.starts_with(prefix)), "{subject}");
        }
    };
    tokio::time::timeout(DEADLINE, seen).await.unwrap();
    assert_eq!(node.metric("moorline_task_panics_total", &[]).await, 0.0);
    assert_eq!(node.metric("moorline_nats_reconnects_total", &[]).await, 0.0);
    // The node's subscriptions still work after all of this.
    assert_eq!(stage.push("all", "fine").await, Some(1));
}
