//! The chat across two nodes, by clients of its own and in a browser, and the lines that send a
//! notification.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::line_of;
use crate::harness::{
    self, Client, NatsServer, Node, Process, Request, Tool, eventually, finish, free_port, have,
    node_program, python, root, tool,
};

/// Two nodes by the config of the example, and its worker.
struct Chat {
    nodes: [Node; 2],
    nats: String,
    _worker: Process,
    _server: Process,
    _streams: TempDir,
}

/// Where the chat is told and explained.
const PAGE: &str = "examples/chat/README.md";

impl Chat {
    async fn start() -> Self {
        let (port, streams) = (free_port(), tempfile::tempdir().unwrap());
        let (program, folder) = (tool(Tool::NatsServer), streams.path().display());
        let server = format!("{} -a 127.0.0.1 -p {port} -sd {folder}", program.display());
        let mut server = line_of(PAGE, "nats-server ", &[("nats-server", &server)]);
        server.stderr(Stdio::null());
        let server = Process::start(server);
        eventually("nats-server listening", async || {
            TcpStream::connect(("127.0.0.1", port)).await.ok().map(drop)
        })
        .await;
        let nats = format!("nats://127.0.0.1:{port}");
        let mut worker = python("examples/chat/worker.py");
        worker.env("NATS_URL", &nats);
        let worker = Process::start(worker);
        let servers = format!("['{nats}']");
        let nodes = [(); 2].map(|()| {
            Node::of_file(
                "examples/chat/moorline.yaml",
                // Until the worker is there.
                &[
                    ("MOORLINE_NATS__SERVERS", servers.as_str()),
                    ("MOORLINE_ROUTES__0__HOLD", "20s"),
                ],
            )
        });
        for node in &nodes {
            node.reaches_nats().await;
        }
        Self { nodes, nats, _worker: worker, _server: server, _streams: streams }
    }

    async fn enter(&self, node: usize, room: &str, name: &str) -> Client {
        let path = format!("/chat/{room}?name={name}");
        Request::new(&path).connect(self.nodes[node].ws()).await.expect("accepted")
    }
}

/// The next thing that is said, but for that somebody has come.
async fn said(client: &mut Client) -> Value {
    loop {
        let said: Value = serde_json::from_str(&client.next_text().await).unwrap();
        if said["kind"] != "connected" {
            return said;
        }
    }
}

fn message(from: &str, text: &str) -> Value {
    json!({"kind": "message", "from": from, "text": text})
}

/// Waits until the node of `to` takes part: what `from` says before may pass it by.
async fn meet(from: &mut Client, to: &mut Client) {
    eventually("they hear each other", async || {
        from.send("hello?").await;
        let heard = async { while said(to).await["text"] != "hello?" {} };
        timeout(Duration::from_millis(500), heard).await.ok()
    })
    .await;
}

/// What is said next that is no "hello?".
async fn said_then(client: &mut Client) -> Value {
    loop {
        let said = said(client).await;
        if said["text"] != "hello?" {
            return said;
        }
    }
}

#[tokio::test]
async fn people_in_a_room_hear_each_other_across_nodes_and_nobody_else_does() {
    if !have("people_in_a_room_hear_each_other_across_nodes_and_nobody_else_does", &[Tool::Python])
    {
        return;
    }
    let chat = Chat::start().await;
    let mut ann = chat.enter(0, "caf%C3%A9%20%2A", "ann").await;
    let mut bob = chat.enter(1, "caf%C3%A9%20%2A", "bob%20b.").await;
    let mut eve = chat.enter(1, "attic", "eve").await;
    meet(&mut ann, &mut bob).await;
    meet(&mut bob, &mut ann).await;
    ann.send("Grüße, <b>bob</b>").await;
    for client in [&mut ann, &mut bob] {
        assert_eq!(said_then(client).await, message("ann", "Grüße, <b>bob</b>"));
    }
    bob.send("bye").await;
    assert_eq!(said_then(&mut ann).await, message("bob b.", "bye"));
    bob.close().await;
    assert_eq!(said(&mut ann).await, json!({"kind": "disconnected", "from": "bob b."}));
    eve.send("is anybody here?").await;
    assert_eq!(said(&mut eve).await, message("eve", "is anybody here?"));

    let nameless = Request::new("/chat/attic").connect(chat.nodes[0].ws()).await.err().unwrap();
    assert_eq!(nameless, (400, "say your name: ?name=...".to_owned()));

    // The ends of clients of a node that died, and of one that was never let in.
    let client = async_nats::connect(&chat.nats).await.unwrap();
    for user in [Some("zoë"), None] {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("ce-type", "moorline.disconnected");
        headers.insert("ce-subject", "/chat/caf%25C3%25A9%2520%252A");
        if user.is_some() {
            headers.insert("ce-userid", "zo%C3%AB");
        }
        let subject = "moorline.chat.in.disconnected";
        let asked = client.request_with_headers(subject, headers, "{}".into());
        let reply = timeout(Duration::from_secs(10), asked).await.unwrap().unwrap();
        assert!(reply.payload.is_empty() && reply.headers.is_none());
        if let Some(user) = user {
            assert_eq!(said(&mut ann).await, json!({"kind": "disconnected", "from": user}));
        }
    }
}

#[tokio::test]
async fn the_chat_page_works_in_chromium() {
    let tools = [Tool::Python, Tool::Node, Tool::Chromium];
    if !have("the_chat_page_works_in_chromium", &tools) {
        return;
    }
    let chat = Chat::start().await;
    let mut browser = node_program("tests/clients/chat.mjs");
    browser.arg(root().join("examples/chat/index.html"));
    browser.args(chat.nodes.each_ref().map(|node| format!("ws://localhost:{}", node.ws().port())));
    let (ok, text) = finish(browser).await;
    assert!(ok, "{text}");
}

/// A node whose clients are alice's, and she.
async fn alice(nats: &NatsServer, listeners: &str) -> (Node, Client, harness::Worker) {
    let worker = harness::Worker::start(nats, "moorline.default.in.*", |_| {
        harness::Answer::payload(r#"{"user_id": "alice"}"#)
    })
    .await;
    let config = format!("nats: {{servers: ['{}']}}\n", nats.url());
    let config = format!("{config}routes:\n- {{path: /ws, auth: connect}}\n");
    let node = Node::with_listeners(listeners, &config);
    node.reaches_nats().await;
    let client = Client::connect(node.ws()).await;
    (node, client, worker)
}

const NOTIFICATION: &str = "your order is on its way";

#[tokio::test]
async fn one_line_of_python_sends_a_notification() {
    if !have("one_line_of_python_sends_a_notification", &[Tool::Python]) {
        return;
    }
    let nats = NatsServer::start().await;
    let (_node, mut client, _worker) = alice(&nats, "plain: {address: '127.0.0.1:0'}").await;
    let line =
        line_of("examples/README.md", "python -c ", &[("nats://127.0.0.1:4222", &nats.url())]);
    let (ok, text) = finish(line).await;
    assert!(ok, "{text}");
    assert_eq!(client.next_text().await, NOTIFICATION);
}

#[tokio::test]
async fn one_line_of_curl_sends_a_notification() {
    const KEY: &str = "a-key-of-backends-that-is-long-enough";
    let nats = NatsServer::start().await;
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), KEY).unwrap();
    let listeners = format!(
        "plain: {{address: '127.0.0.1:0'}}\n\
         management: {{address: '127.0.0.1:0', key_files: [{}]}}",
        key.path().display()
    );
    let (node, mut client, _worker) = alice(&nats, &listeners).await;
    let door = node.management().to_string();
    let send = async |key: &str| {
        let mut line = line_of("examples/README.md", "curl ", &[("127.0.0.1:8444", &door)]);
        line.env("KEY", key);
        finish(line).await
    };
    let (ok, text) = send(KEY).await;
    assert!(ok, "{text}");
    assert_eq!(client.next_text().await, NOTIFICATION);
    let (ok, text) = send("another").await;
    assert!(!ok && text.contains("Unauthorized"), "{text}");
}

#[test]
fn the_chat_worker_is_about_sixty_lines() {
    let path = root().join("examples/chat/worker.py");
    let lines = std::fs::read_to_string(path).unwrap().lines().count();
    assert!(lines <= 65, "{lines} lines");
}
