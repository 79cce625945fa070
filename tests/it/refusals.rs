//! Clients that are not let in: none of them is invisible, none gets around a bound, and a backend that
//! let one in hears when it never came.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::{
    Answer, NatsServer, Node, Request, Worker, eventually, exchange, exchange_raw, header,
};

const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

async fn node(nats: &NatsServer, rest: &str) -> Node {
    let node = Node::start(&format!("nats: {{servers: ['{}']}}\n{rest}", nats.url()));
    node.reaches_nats().await;
    node
}

async fn results(node: &Node, result: &str) -> f64 {
    let label = format!("result=\"{result}\"");
    node.metric("moorline_handshakes_total", &[&label]).await
}

#[tokio::test]
async fn a_head_that_cannot_be_read_is_counted_and_logged() {
    let echo = "routes:\n- {path: /ws, auth: none, backend: {echo: true}}\n";
    let node = Node::start(&format!("limits: {{head_timeout: 1s}}\n{echo}"));
    assert!(node.metrics().await.contains("handshakes_total{result=\"bad-head\"} 0"));
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(20_000));
    for (bytes, result, status) in [
        ("GET /ws HTTP/1.1\r\nX-A : b\r\n\r\n", "bad-head", 400),
        (&long, "head-too-large", 431),
        ("GET /ws HT", "head-timeout", 408),
    ] {
        let (got, _) = exchange(node.ws(), bytes.as_bytes()).await;
        assert_eq!(got, status, "{result}");
        let line = node.wait_for("handshake refused", |line| line["result"] == result);
        assert_eq!(line["status"], status, "{line}");
        assert!(line["remote"].as_str().unwrap().starts_with("127.0.0.1:"));
        assert_eq!(results(&node, result).await, 1.0);
    }
    drop(TcpStream::connect(node.ws()).await.unwrap());
    exchange(node.ws(), b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n").await;
    node.wait_for("handshake refused", |line| line["result"] == "not-found");
    assert_eq!(
        node.lines("handshake refused").len(),
        4,
        "a probe that asks nothing is no handshake"
    );
}

#[tokio::test]
async fn a_refusal_says_all_that_is_known() {
    let nats = NatsServer::start().await;
    let node =
        node(&nats, "routes:\n- {path: /ws, name: rooms, hub: chat, auth: connect, hold: 100ms}\n")
            .await;
    assert_eq!(Request::new("/ws").connect(node.ws()).await.err().unwrap().0, 503);
    let line = node.wait_for("handshake refused", |_| true);
    assert_eq!((line["hub"].as_str(), line["route"].as_str()), (Some("chat"), Some("rooms")));
    assert!(line["duration_ms"].as_u64().unwrap() >= 100, "the time held: {line}");
    assert_eq!((line["path"].as_str(), line["status"].as_u64()), (Some("/ws"), Some(503)));
}

#[tokio::test]
async fn a_client_that_left_before_its_101_is_ended_at_the_backend() {
    let nats = NatsServer::start().await;
    let node = node(
        &nats,
        "routes:\n- {path: /ws, auth: connect, events: [connect, connected, disconnected]}\n",
    )
    .await;
    let worker = Worker::start(&nats, "moorline.default.in.*", |message| {
        let answer = Answer::payload(r#"{"user_id":"alice"}"#);
        match &*message.subject {
            "moorline.default.in.connect" => answer.after(std::time::Duration::from_secs(1)),
            _ => Answer::payload(""),
        }
    })
    .await;
    let mut tcp = TcpStream::connect(node.ws()).await.unwrap();
    tcp.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    eventually("the worker is asked", async || (worker.texts().len() == 1).then_some(())).await;
    drop(tcp);
    let ended = eventually("disconnected", async || worker.requests().get(1).cloned()).await;
    let line = node.wait_for("connection ended", |_| true);
    assert_eq!((line["code"].as_u64(), line["cause"].as_str()), (Some(1006), Some("vanished")));
    assert_eq!(line["user"], "alice");
    assert_eq!(&*ended.subject, "moorline.default.in.disconnected");
    assert_eq!(header(&ended, "ce-userid").as_deref(), Some("alice"));
    let connection = header(&ended, "ce-connectionid").unwrap();
    assert_eq!(header(&ended, "ce-id"), Some(format!("{connection}-end")));
    assert_eq!(line["connection"], connection.as_str());
    assert_eq!(results(&node, "vanished").await, 1.0);
    assert_eq!(node.lines("connection ended").len(), 1);
    assert_eq!(node.metric("moorline_connections_opened_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_refusal_that_is_a_close_takes_a_place_until_it_has_ended() {
    let nats = NatsServer::start().await;
    let node = node(
        &nats,
        "limits: {max_connections: 1}\nheartbeat: {close_timeout: 1m}\n\
         routes:\n- {path: /ws, auth: connect, refuse: close}\n",
    )
    .await;
    let _worker = Worker::start(&nats, "moorline.default.in.connect", |_| {
        Answer::payload("no").header("moorline-status", "403")
    })
    .await;
    // It neither reads its close frame nor ends its stream.
    let mut mute = TcpStream::connect(node.ws()).await.unwrap();
    mute.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    eventually("it is refused", async || node.lines("handshake refused").pop()).await;
    let mut next = Request::new("/ws").connect(node.ws()).await.expect("a 101");
    assert_eq!(next.closed().await, Some((1013, "full".to_owned())));
    drop(mute);
    eventually("the place is free", async || {
        let mut next = Request::new("/ws").connect(node.ws()).await.expect("a 101");
        (next.closed().await == Some((4403, "backend-refused".to_owned()))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_finds_no_place_even_to_wait_is_dropped_and_counted() {
    let node = Node::start(
        "limits: {max_connections: 1}\nroutes:\n- {path: /ws, auth: none, backend: {echo: true}}\n",
    );
    let mut crowd = Vec::new();
    for _ in 0..300 {
        crowd.push(TcpStream::connect(node.ws()).await.unwrap());
    }
    eventually("the rest is dropped", async || {
        (results(&node, "dropped").await == 43.0).then_some(())
    })
    .await;
    assert_eq!(exchange_raw(node.ws(), b"").await, "");
}

#[tokio::test]
async fn when_nats_dies_under_a_connect_event_the_client_gets_503() {
    let mut nats = NatsServer::start().await;
    let node = node(&nats, "routes:\n- {path: /ws, auth: connect}\n").await;
    let worker = Worker::start(&nats, "moorline.default.in.connect", |_| Answer::never()).await;
    let address = node.ws();
    let asked = tokio::spawn(async move { exchange_raw(address, HANDSHAKE.as_bytes()).await });
    eventually("the worker is asked", async || (worker.texts().len() == 1).then_some(())).await;
    nats.kill();
    let answer = asked.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("retry-after: "), "{answer}");
}
