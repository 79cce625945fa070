//! Clients that are not let in: none of them is invisible, none gets around a bound, and a backend that
//! let one in hears when it never came.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{
    Answer, Client, DEADLINE, NatsServer, Node, Request, Worker, eventually, exchange,
    exchange_raw, header,
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
async fn a_client_that_a_backend_may_have_let_in_is_ended_there() {
    let nats = NatsServer::start().await;
    let node = node(
        &nats,
        "routes:\n- {path: /ws, auth: connect, request_timeout: 500ms, \
         events: [connect, disconnected]}\n\
         - {path: /silent, auth: connect, request_timeout: 500ms}\n",
    )
    .await;
    let worker = Worker::start(&nats, "moorline.default.in.*", |message| match &*message.subject {
        "moorline.default.in.connect" => Answer::never(),
        _ => Answer::payload(""),
    })
    .await;
    for path in ["/silent", "/ws"] {
        let (status, body) = Request::new(path).connect(node.ws()).await.err().expect("a refusal");
        assert!(status == 504 && body.contains("backend-timeout"), "{status} {body}");
    }
    let asked = worker.requests();
    let ended = eventually("disconnected", async || worker.requests().get(2).cloned()).await;
    assert_eq!(&*ended.subject, "moorline.default.in.disconnected");
    let connection = header(&asked[1], "ce-connectionid").unwrap();
    assert_eq!(header(&ended, "ce-id"), Some(format!("{connection}-end")), "the first is not told");
    assert_eq!(header(&ended, "ce-sequence").as_deref(), Some("2"));
    let data: serde_json::Value = serde_json::from_slice(&ended.payload).unwrap();
    assert_eq!(
        (data["code"].as_u64(), data["cause"].as_str()),
        (Some(1006), Some("backend-failed"))
    );
    node.metric_becomes("moorline_disconnect_events_total", &["accepted"], 1.0).await;
    node.metric_becomes("moorline_registry_entries", &[], 0.0).await;
}

#[tokio::test]
async fn a_refusal_that_is_a_close_keeps_no_place_and_ends_soon() {
    let nats = NatsServer::start().await;
    let node = node(
        &nats,
        "limits: {max_connections: 1, max_connections_per_ip: 1}\n\
         heartbeat: {close_timeout: 1m}\n\
         routes:\n- {path: /ws, auth: connect, refuse: close}\n",
    )
    .await;
    let _worker = Worker::start(&nats, "moorline.default.in.connect", |_| {
        Answer::payload("no").header("moorline-status", "403")
    })
    .await;
    // None of them reads its close frame or ends its stream.
    let mut mute = Vec::new();
    for n in 1..=3 {
        let mut tcp = TcpStream::connect(node.ws()).await.unwrap();
        tcp.write_all(HANDSHAKE.as_bytes()).await.unwrap();
        node.metric_becomes("moorline_handshakes_total", &["backend-refused"], f64::from(n)).await;
        mute.push(tcp);
    }
    for tcp in &mut mute {
        let mut all = Vec::new();
        let ended = timeout(DEADLINE, tcp.read_to_end(&mut all)).await;
        ended.expect("well before close_timeout").unwrap();
        assert!(all.starts_with(b"HTTP/1.1 101 ") && all.ends_with(b"backend-refused"));
    }
}

#[tokio::test]
async fn a_node_at_a_limit_refuses_by_status_whatever_the_route_says() {
    let echo = "routes:\n- {path: /ws, auth: none, backend: {echo: true}, refuse: close}\n";
    for (limits, word) in [
        ("max_connections: 1", "full"),
        ("handshakes: {per_second: 1, burst: 1}", "handshake-rate"),
        ("memory: {max: 1MiB}", "memory"),
    ] {
        let node = Node::start(&format!("limits: {{{limits}}}\n{echo}"));
        let mut open = Vec::new();
        let refused = eventually("a refusal", async || {
            match Request::new("/ws").connect(node.ws()).await {
                Ok(client) => open.push(client),
                Err(refused) => return Some(refused),
            }
            None
        });
        let (status, body) = refused.await;
        assert!(status == 503 && body.contains(word), "{status} {body}");
        for client in &mut open {
            assert_eq!(client.ask("let in").await, "let in");
        }
    }
}

#[tokio::test]
async fn only_so_many_are_refused_by_a_close_at_the_same_time() {
    let node = Node::start(
        "limits: {handshakes_per_ip: {per_second: 0}, handshakes: {per_second: 0}}\n\
         routes:\n- path: /ws\n  auth: none\n  backend: {echo: true}\n  refuse: close\n  \
         origins: ['https://good.com']\n",
    );
    let forbidden = HANDSHAKE.replace("Host:", "Origin: https://evil.com\r\nHost:");
    eventually("a refusal by status", async || {
        let mut crowd = Vec::new();
        for _ in 0..400 {
            crowd.push(TcpStream::connect(node.ws()).await.unwrap());
        }
        for tcp in &mut crowd {
            tcp.write_all(forbidden.as_bytes()).await.unwrap();
        }
        let mut by_status = 0;
        for tcp in &mut crowd {
            let mut answer = [0; 12];
            timeout(DEADLINE, tcp.read_exact(&mut answer)).await.expect("an answer").unwrap();
            match &answer {
                b"HTTP/1.1 403" => by_status += 1,
                answer => assert_eq!(answer, b"HTTP/1.1 101"),
            }
        }
        (by_status > 0 && by_status < 400).then_some(())
    })
    .await;
    let good = Request::new("/ws").header("origin", "https://good.com");
    assert!(good.connect(node.ws()).await.is_ok(), "they keep no place");
}

#[tokio::test]
async fn slow_clients_take_no_place_from_one_that_asks() {
    let node = Node::start(
        "limits: {max_connections: 1, head_timeout: 1m}\n\
         routes:\n- {path: /ws, auth: none, backend: {echo: true}}\n",
    );
    let mut crowd = Vec::new();
    for _ in 0..300 {
        crowd.push(TcpStream::connect(node.ws()).await.unwrap());
    }
    let mut honest = Client::connect(node.ws()).await;
    assert_eq!(honest.ask("hello").await, "hello");
    assert_eq!(results(&node, "dropped").await, 0.0);
    // None of the crowd had to go either.
    let first = crowd.first_mut().unwrap();
    first.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    timeout(DEADLINE, first.read_exact(&mut answer)).await.expect("an answer").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 503");
    assert_eq!(results(&node, "full").await, 1.0);
}

#[tokio::test]
async fn a_question_to_the_backend_keeps_the_place_of_its_address() {
    let nats = NatsServer::start().await;
    let limits = "limits: {max_connections_per_ip: 1}\n";
    let node = node(&nats, &format!("{limits}routes:\n- {{path: /ws, auth: connect}}\n")).await;
    let worker = Worker::start(&nats, "moorline.default.in.connect", |_| Answer::never()).await;
    let mut tcp = TcpStream::connect(node.ws()).await.unwrap();
    tcp.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    eventually("the worker is asked", async || (worker.texts().len() == 1).then_some(())).await;
    drop(tcp);
    node.metric_becomes("moorline_handshakes_total", &["vanished"], 1.0).await;
    let (status, body) = Request::new("/ws").connect(node.ws()).await.err().expect("a refusal");
    assert!(status == 429 && body.contains("address-full"), "{status} {body}");
    assert_eq!(worker.texts().len(), 1, "who leaves early asks no more than who stays");
}

#[tokio::test]
async fn the_console_page_is_the_last_of_its_stream() {
    let echo = "routes:\n- {path: /ws, auth: none, backend: {echo: true}}\n";
    let listeners = "plain: {address: '127.0.0.1:0'}\nconsole: true";
    let node = Node::with_listeners(listeners, echo);
    let page = exchange_raw(node.ws(), b"GET /_moorline/ HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let (head, body) = page.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && body.contains("</html>"), "{page}");
    assert!(head.lines().any(|line| line == "connection: close"), "{head}");
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
