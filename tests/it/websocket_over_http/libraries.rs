//! Unmodified libraries: django-grip, and serve-grip with Express, each in one conversation.

use std::process::Command;

use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use super::{KEY, keyed};
use crate::harness::{
    Node, Process, Request, Tool, eventually, exchange, free_port, have, node_program, python,
};

/// The conversation with a service that `program` starts on a port.
async fn converse(program: impl Fn() -> Command) {
    let port = free_port();
    let (_files, key, listeners) = keyed();
    let config = format!(
        "routes:\n- {{path: '/ws/{{room}}', auth: none, origins: ['https://a.example'], hold: 30s, \
         backend: {{http: 'http://127.0.0.1:{port}', dialect: websocket-over-http, \
         grip: {{issuer: realm, key_file: '{key}'}}}}}}"
    );
    let node = Node::with_listeners(&listeners, &config);
    let control = format!("http://{}", node.management());
    let start = || {
        let mut command = program();
        command.env("PORT", port.to_string()).env("CONTROL_URI", &control).env("KEY", KEY);
        Process::start(command)
    };
    let mut service = start();
    let ask = |path: &str| {
        let request = Request::new(path).header("origin", "https://a.example");
        request.header("sec-websocket-protocol", "v1, v2").connect(node.ws())
    };
    // The first handshake waits until the service is there.
    let mut ann = ask("/ws/red").await.expect("accepted");
    assert_eq!(ann.headers["sec-websocket-protocol"], "v2");
    assert_eq!(ann.next_text().await, "welcome to red");
    let denied = ask("/ws/red?deny=1").await.err().expect("a refusal");
    assert_eq!(denied, (403, "denied".to_owned()));

    let (mut bob, mut carol) = (ask("/ws/red").await.unwrap(), ask("/ws/blue").await.unwrap());
    assert_eq!(bob.next_text().await, "welcome to red");
    assert_eq!(carol.next_text().await, "welcome to blue");
    assert_eq!(ann.ask("hello").await, "1 HELLO");
    assert_eq!(ann.ask("jürgen €").await, "2 JÜRGEN €");
    assert_eq!(bob.ask("hello").await, "1 HELLO", "each connection has its own");
    ann.send(Message::binary(&b"\x00\x01\xff"[..])).await;
    assert_eq!(ann.next().await.unwrap(), Message::binary(&b"\xff\x01\x00"[..]));

    carol.send("publish to red: news").await;
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.next_text().await, "news");
    }
    assert_eq!(carol.next_text().await, "published");
    assert_eq!(bob.ask("leave").await, "left");
    carol.send("publish to red: more").await;
    assert_eq!(ann.next_text().await, "more");
    assert_eq!(carol.next_text().await, "published");

    service.signal("KILL");
    service.ends().await;
    ann.send("are you there").await;
    node.metric_becomes("moorline_backend_held", &[], 1.0).await;
    service = start();
    assert_eq!(ann.next_text().await, "3 ARE YOU THERE", "what it kept was not in its process");

    assert_eq!(bob.ask("bye").await, "bye");
    assert_eq!(bob.closed().await.map(|(code, _)| code), Some(4001));
    carol.vanish();
    let mut socket = ann.into_socket();
    let frame = tokio_tungstenite::tungstenite::protocol::CloseFrame {
        code: 4002.into(),
        reason: "enough".into(),
    };
    socket.close(Some(frame)).await.unwrap();
    let request =
        format!("GET /ended HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n");
    eventually("all ends are told", async || {
        let (status, body) = exchange(([127, 0, 0, 1], port).into(), request.as_bytes()).await;
        assert_eq!(status, 200);
        let mut ended: Vec<String> = serde_json::from_str(body.trim()).unwrap();
        ended.sort();
        (ended == ["closed 4002", "gone", "gone"]).then_some(())
    })
    .await;
    drop(service);
    let broken = |line: &Value| line["broken"].clone();
    let broken: Vec<_> = node.lines("backend broke the contract").iter().map(broken).collect();
    assert!(broken.is_empty(), "{broken:?}");
}

#[tokio::test]
async fn django_grip_runs_unmodified() {
    if have("django_grip_runs_unmodified", &[Tool::Python]) {
        converse(|| python("tests/services/django_grip_service.py")).await;
    }
}

#[tokio::test]
async fn serve_grip_with_express_runs_unmodified() {
    if have("serve_grip_with_express_runs_unmodified", &[Tool::Node]) {
        converse(|| node_program("tests/services/serve_grip.mjs")).await;
    }
}
