//! The opening handshake: what is let in, and each refusal by its exact status, with nothing
//! forwarded.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Answer, Client, NatsServer, Node, Request, Worker, exchange, header};

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";

/// A good handshake's lines; `edit` replaces, removes or adds some.
fn handshake(edits: &[(&str, &str)]) -> Vec<u8> {
    let mut lines: Vec<String> = [
        "GET /ws HTTP/1.1",
        "Host: example.com",
        "Upgrade: websocket",
        "Connection: Upgrade",
        KEY,
        "Sec-WebSocket-Version: 13",
    ]
    .map(str::to_owned)
    .into();
    for (old, new) in edits {
        match lines.iter().position(|line| !old.is_empty() && line.starts_with(old)) {
            Some(at) if new.is_empty() => drop(lines.remove(at)),
            Some(at) => lines[at] = (*new).to_owned(),
            None => lines.push((*new).to_owned()),
        }
    }
    format!("{}\r\n\r\n", lines.join("\r\n")).into_bytes()
}

/// A node whose workers see whatever it forwards.
async fn watched() -> (NatsServer, Node, Worker) {
    let nats = NatsServer::start().await;
    let node = Node::start(&format!(
        "nats: {{servers: ['{}']}}\n\
         limits: {{head_timeout: 2s}}\n\
         routes:\n\
         - {{path: /ws, auth: connect, events: [connect, message], origins: ['https://good.com']}}\n\
         - {{path: '/rooms/{{room}}', auth: connect}}\n",
        nats.url()
    ));
    node.reaches_nats().await;
    let worker = Worker::start(&nats, "moorline.>", |message| match &*message.subject {
        subject if subject.ends_with("connect") => Answer::payload(r#"{"user_id":"alice"}"#),
        _ => Answer::payload(message.payload.clone()),
    })
    .await;
    (nats, node, worker)
}

#[tokio::test]
async fn hostile_handshakes_are_refused_by_their_exact_status() {
    let (_nats, node, worker) = watched().await;
    let many = |n: usize| (0..n).map(|i| format!("X-{i}: y\r\n")).collect::<String>();
    let with_headers = |more: &str| {
        let text = String::from_utf8(handshake(&[])).unwrap();
        text.replace("\r\n\r\n", &format!("\r\n{more}\r\n")).into_bytes()
    };
    let long = "a".repeat(20_000);
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        // Method, version, target.
        ("POST", handshake(&[("GET", "POST /ws HTTP/1.1")]), 405),
        ("PUT", handshake(&[("GET", "PUT /ws HTTP/1.1")]), 405),
        ("HEAD", handshake(&[("GET", "HEAD /ws HTTP/1.1")]), 405),
        ("OPTIONS", handshake(&[("GET", "OPTIONS /ws HTTP/1.1")]), 405),
        ("lower-case method", handshake(&[("GET", "get /ws HTTP/1.1")]), 405),
        ("HTTP/1.0", handshake(&[("GET", "GET /ws HTTP/1.0")]), 505),
        ("HTTP/0.9", b"GET /ws\r\n\r\n".to_vec(), 400),
        ("HTTP/1.2", handshake(&[("GET", "GET /ws HTTP/1.2")]), 400),
        ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 0),
        ("no version", handshake(&[("GET", "GET /ws")]), 400),
        ("space in the target", handshake(&[("GET", "GET /w s HTTP/1.1")]), 400),
        ("NUL in the target", handshake(&[("GET", "GET /w\0s HTTP/1.1")]), 400),
        ("no route", handshake(&[("GET", "GET /nowhere HTTP/1.1")]), 404),
        ("case of the path", handshake(&[("GET", "GET /WS HTTP/1.1")]), 404),
        ("slash at the end", handshake(&[("GET", "GET /ws/ HTTP/1.1")]), 404),
        ("double slash", handshake(&[("GET", "GET //ws HTTP/1.1")]), 404),
        ("dot segment", handshake(&[("GET", "GET /rooms/../ws HTTP/1.1")]), 400),
        ("encoded dot segment", handshake(&[("GET", "GET /rooms/%2e%2e HTTP/1.1")]), 400),
        ("NUL in the path", handshake(&[("GET", "GET /rooms/%00 HTTP/1.1")]), 400),
        ("CR LF in the path", handshake(&[("GET", "GET /rooms/a%0d%0ab HTTP/1.1")]), 400),
        ("bad escape", handshake(&[("GET", "GET /rooms/%zz HTTP/1.1")]), 400),
        ("not UTF-8", handshake(&[("GET", "GET /rooms/%ff HTTP/1.1")]), 400),
        ("no room", handshake(&[("GET", "GET /rooms/ HTTP/1.1")]), 404),
        ("asterisk", handshake(&[("GET", "GET * HTTP/1.1")]), 404),
        ("other authority", handshake(&[("GET", "GET http://evil.com/ws HTTP/1.1")]), 400),
        ("CONNECT", handshake(&[("GET", "CONNECT example.com:443 HTTP/1.1")]), 400),
        // Host.
        ("no Host", handshake(&[("Host", "")]), 400),
        ("two Hosts", handshake(&[("", "Host: example.com")]), 400),
        ("two other Hosts", handshake(&[("", "Host: evil.com")]), 400),
        ("empty Host", handshake(&[("Host", "Host:")]), 400),
        ("Host with a space", handshake(&[("Host", "Host: a b")]), 400),
        ("Host with userinfo", handshake(&[("Host", "Host: good.com@evil.com")]), 400),
        ("Host with a path", handshake(&[("Host", "Host: example.com/ws")]), 400),
        // Upgrade and Connection.
        ("no Upgrade", handshake(&[("Upgrade", "")]), 426),
        ("other Upgrade", handshake(&[("Upgrade", "Upgrade: h2c")]), 426),
        ("almost Upgrade", handshake(&[("Upgrade", "Upgrade: websocket2")]), 426),
        ("no Connection", handshake(&[("Connection", "")]), 426),
        ("other Connection", handshake(&[("Connection", "Connection: keep-alive")]), 426),
        ("no upgrade at all", handshake(&[("Upgrade", ""), ("Connection", "")]), 426),
        // Version.
        ("no version", handshake(&[("Sec-WebSocket-Version", "")]), 426),
        ("version 8", handshake(&[("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8")]), 426),
        ("version 0", handshake(&[("Sec-WebSocket-Version", "Sec-WebSocket-Version: 0")]), 426),
        ("version 14", handshake(&[("Sec-WebSocket-Version", "Sec-WebSocket-Version: 14")]), 426),
        ("two versions", handshake(&[("", "Sec-WebSocket-Version: 8")]), 426),
        (
            "a list of versions",
            { handshake(&[("Sec-WebSocket-Version", "Sec-WebSocket-Version: 13, 8")]) },
            426,
        ),
        // Key.
        ("no key", handshake(&[("Sec-WebSocket-Key", "")]), 400),
        ("empty key", handshake(&[("Sec-WebSocket-Key", "Sec-WebSocket-Key:")]), 400),
        ("two keys", handshake(&[("", KEY)]), 400),
        (
            "15 bytes",
            { handshake(&[("Sec-WebSocket-Key", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA")]) },
            400,
        ),
        (
            "17 bytes",
            { handshake(&[("Sec-WebSocket-Key", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAA=")]) },
            400,
        ),
        (
            "bad base64",
            { handshake(&[("Sec-WebSocket-Key", "Sec-WebSocket-Key: !!!!IHNhbXBsZSBub25jZQ==")]) },
            400,
        ),
        (
            "no padding",
            { handshake(&[("Sec-WebSocket-Key", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ")]) },
            400,
        ),
        // Subprotocols.
        ("empty subprotocol", handshake(&[("", "Sec-WebSocket-Protocol: ,")]), 400),
        ("subprotocol with a space", handshake(&[("", "Sec-WebSocket-Protocol: a b")]), 400),
        ("subprotocol twice", handshake(&[("", "Sec-WebSocket-Protocol: a, a")]), 400),
        (
            "subprotocol twice in two headers",
            { handshake(&[("", "Sec-WebSocket-Protocol: a"), ("", "Sec-WebSocket-Protocol: a")]) },
            400,
        ),
        ("subprotocol not a token", handshake(&[("", "Sec-WebSocket-Protocol: a(b)")]), 400),
        // Body and framing (RFC 9112 sections 6.1 and 6.3).
        ("a body", handshake(&[("", "Content-Length: 5")]), 413),
        ("chunked", handshake(&[("", "Transfer-Encoding: chunked")]), 413),
        (
            "both lengths",
            { handshake(&[("", "Content-Length: 5"), ("", "Transfer-Encoding: chunked")]) },
            413,
        ),
        (
            "two lengths",
            { handshake(&[("", "Content-Length: 5"), ("", "Content-Length: 6")]) },
            400,
        ),
        ("bad length", handshake(&[("", "Content-Length: -1")]), 400),
        ("length of a plus", handshake(&[("", "Content-Length: +5")]), 400),
        ("not chunked at the end", { handshake(&[("", "Transfer-Encoding: chunked, gzip")]) }, 400),
        ("space before the colon", handshake(&[("", "X-A : b")]), 400),
        ("folded header", handshake(&[("", "X-A: b\r\n c")]), 400),
        ("header without a name", handshake(&[("", ": b")]), 400),
        ("header without a colon", handshake(&[("", "nothing")]), 400),
        ("NUL in a header", handshake(&[("", "X-A: b\0c")]), 400),
        ("bare CR in a header", handshake(&[("", "X-A: b\rc")]), 400),
        ("rubbish", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), 400),
        // Size.
        ("65 headers", with_headers(&many(60)), 431),
        ("2,000 headers", with_headers(&many(2000)), 431),
        ("long header", with_headers(&format!("X-A: {long}\r\n")), 431),
        ("long target", handshake(&[("GET", &format!("GET /{long} HTTP/1.1"))]), 431),
        // Origin.
        ("other origin", handshake(&[("", "Origin: https://evil.com")]), 403),
        ("origin null", handshake(&[("", "Origin: null")]), 403),
        ("origin suffix", handshake(&[("", "Origin: https://good.com.evil.com")]), 403),
        ("origin http", handshake(&[("", "Origin: http://good.com")]), 403),
        ("origin port", handshake(&[("", "Origin: https://good.com:8443")]), 403),
        ("origin userinfo", handshake(&[("", "Origin: https://good.com@evil.com")]), 403),
        (
            "two origins",
            { handshake(&[("", "Origin: https://good.com"), ("", "Origin: https://evil.com")]) },
            403,
        ),
    ];
    assert!(cases.len() >= 60, "{}", cases.len());
    let mut wrong = Vec::new();
    for (name, bytes, status) in &cases {
        let (got, body) = exchange(node.ws(), bytes).await;
        if got != *status {
            wrong.push(format!("{name}: {got} instead of {status} {body}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(worker.texts().len(), 0, "nothing was forwarded");
    assert_eq!(node.metric("moorline_connections", &[]).await, 0.0);
}

#[tokio::test]
async fn a_good_handshake_is_answered_to_the_letter() {
    let (_nats, node, _worker) = watched().await;
    let mut tcp = TcpStream::connect(node.ws()).await.unwrap();
    let request = handshake(&[
        ("Connection", "connection: keep-alive, uPgRaDe"),
        ("Upgrade", "UPGRADE: WebSocket"),
        ("", "Sec-WebSocket-Protocol: chat, other"),
        ("", "Sec-WebSocket-Extensions: permessage-deflate, x-unknown"),
        ("", "Origin: https://good.com"),
    ]);
    tcp.write_all(&request).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    // The example of RFC 6455 section 1.3.
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    assert!(head.contains("sec-websocket-protocol: chat\r\n"), "{head}");
    assert!(head.contains("moorline-connection-id: "), "{head}");
    assert!(!head.contains("sec-websocket-extensions"), "{head}");
}

#[tokio::test]
async fn frames_that_follow_the_head_at_once_are_not_lost() {
    let (_nats, node, _worker) = watched().await;
    let mut bytes = handshake(&[]);
    // "hi" with a mask of zeros, and a close frame.
    bytes.extend([0x81, 0x82, 0, 0, 0, 0, b'h', b'i', 0x88, 0x80, 0, 0, 0, 0]);
    let mut tcp = TcpStream::connect(node.ws()).await.unwrap();
    tcp.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), tcp.read_to_end(&mut answer))
        .await
        .expect("the end of the stream")
        .unwrap();
    let after = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(answer[after..], [0x81, 0x02, b'h', b'i', 0x88, 0x00]);
}

#[tokio::test]
async fn a_head_that_does_not_come_is_answered_408() {
    let (_nats, node, _worker) = watched().await;
    for start in ["", "GET /ws HTTP/1.1\r\nHost: exam"] {
        let started = std::time::Instant::now();
        let (status, _) = exchange(node.ws(), start.as_bytes()).await;
        assert_eq!(status, 408, "after {start:?}");
        assert!(started.elapsed() < Duration::from_secs(6));
    }
}

#[tokio::test]
async fn a_head_byte_by_byte_is_still_bounded() {
    let (_nats, node, _worker) = watched().await;
    let mut tcp = TcpStream::connect(node.ws()).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let started = std::time::Instant::now();
    let mut sent = 0;
    while tcp.write_all(b"G").await.is_ok() && started.elapsed() < Duration::from_secs(20) {
        sent += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(started.elapsed() < Duration::from_secs(8), "{sent} bytes were taken");
}

#[tokio::test]
async fn refusals_carry_what_their_status_demands() {
    let (_nats, node, _worker) = watched().await;
    let answer = crate::harness::exchange_raw(node.ws(), &handshake(&[("Upgrade", "")])).await;
    let answer = answer.to_ascii_lowercase();
    assert!(answer.contains("upgrade: websocket\r\n"), "RFC 9110 15.5.22: {answer}");
    assert!(answer.contains("sec-websocket-version: 13\r\n"), "{answer}");
    let answer =
        crate::harness::exchange_raw(node.ws(), &handshake(&[("GET", "POST /ws HTTP/1.1")])).await;
    assert!(answer.to_ascii_lowercase().contains("allow: get\r\n"), "{answer}");
    let (_, body) = exchange(node.ws(), &handshake(&[("", "Origin: https://evil.com")])).await;
    let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (problem["status"].as_u64(), problem["error"].as_str()),
        (Some(403), Some("origin"))
    );
    let id = problem["connection"].as_str().unwrap();
    let line = node.wait_for("handshake refused", |line| line["connection"] == id);
    assert_eq!((line["result"].as_str(), line["status"].as_u64()), (Some("origin"), Some(403)));
    assert!(!line.to_string().contains("evil.com"), "what a client says is not logged");
}

#[tokio::test]
async fn the_backend_decides_who_comes_in() {
    let nats = NatsServer::start().await;
    let node = Node::start(&format!(
        "nats: {{servers: ['{}']}}\n\
         routes:\n\
         - path: '/rooms/{{room}}'\n  auth: connect\n  events: [connect, message]\n\
         \x20 forward_headers: [X-Key]\n",
        nats.url()
    ));
    node.reaches_nats().await;
    let worker = Worker::start(&nats, "moorline.default.in.*", |message| {
        if &*message.subject == "moorline.default.in.message" {
            let user = header(message, "ce-userid").unwrap_or_default();
            let state = header(message, "ce-state").unwrap_or_default();
            return Answer::payload(format!("{user} {state}"));
        }
        let offer: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        match offer["query"].as_str().unwrap() {
            "403" => Answer::payload("not you").header("moorline-status", "403"),
            "401" => Answer::payload("").header("moorline-status", "401"),
            "500" => Answer::payload("secret stack trace").header("Nats-Service-Error-Code", "500"),
            "rubbish" => Answer::payload("{not json"),
            "slow" => Answer::never(),
            "chat" => Answer::payload(r#"{"subprotocol":"chat"}"#),
            "evil" => Answer::payload(r#"{"subprotocol":"not-offered"}"#),
            _ => Answer::payload(
                r#"{"user_id":"bob@example.com","state":"s1","headers":{"X-Hello":"there"}}"#,
            ),
        }
    })
    .await;
    let connect = |query: &str| {
        Request::new(&format!("/rooms/a%20b?{query}"))
            .header("x-key", "k1")
            .header("sec-websocket-protocol", "v1, chat")
            .connect(node.ws())
    };
    let mut client = connect("in").await.expect("accepted");
    assert_eq!(client.headers["x-hello"], "there");
    assert_eq!(client.headers["sec-websocket-protocol"], "v1");
    assert_eq!(client.ask("hi").await, "bob@example.com s1");
    client.close().await;
    let offer: serde_json::Value =
        serde_json::from_slice(&worker.requests().first().unwrap().payload).unwrap();
    assert_eq!(offer["params"]["room"], "a b");
    assert_eq!(offer["headers"]["x-key"][0], "k1");
    assert_eq!(offer["subprotocols"], serde_json::json!(["v1", "chat"]));
    assert!(offer["remote_address"].as_str().unwrap().starts_with("127.0.0.1:"));

    assert_eq!(connect("chat").await.unwrap().headers["sec-websocket-protocol"], "chat");
    let refused = async |query| connect(query).await.err().expect("a refusal");
    assert_eq!(refused("403").await, (403, "not you".to_owned()));
    assert_eq!(refused("401").await.0, 401);
    let (status, body) = refused("500").await;
    assert_eq!(status, 500);
    assert!(!body.contains("stack trace"), "the backend did not mean this for the client: {body}");
    assert_eq!(refused("evil").await.0, 502);
    assert_eq!(refused("rubbish").await.0, 502);
}

#[tokio::test]
async fn without_a_backend_a_handshake_that_needs_one_gets_503() {
    let nats = NatsServer::start().await;
    let node = Node::start(&format!(
        "nats: {{servers: ['{}']}}\nroutes:\n- {{path: /ws, auth: connect, hold: 200ms}}\n",
        nats.url()
    ));
    node.reaches_nats().await;
    let answer = crate::harness::exchange_raw(node.ws(), &handshake(&[])).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("retry-after: "), "{answer}");
}

#[tokio::test]
async fn a_browser_can_read_a_refusal_that_is_a_close() {
    let nats = NatsServer::start().await;
    let node = Node::start(&format!(
        "nats: {{servers: ['{}']}}\nroutes:\n- {{path: /ws, auth: connect, refuse: close}}\n",
        nats.url()
    ));
    node.reaches_nats().await;
    let _worker = Worker::start(&nats, "moorline.default.in.connect", |_| {
        Answer::payload("no").header("moorline-status", "403")
    })
    .await;
    let mut client = Request::new("/ws")
        .header("sec-websocket-protocol", "chat")
        .connect(node.ws())
        .await
        .expect("a 101");
    assert_eq!(client.headers["sec-websocket-protocol"], "chat");
    assert_eq!(client.closed().await, Some((4403, "backend-refused".to_owned())));
    assert_eq!(node.metric("moorline_connections_opened_total", &[]).await, 0.0);
}

#[tokio::test]
async fn over_the_cap_a_newcomer_gets_503_and_the_others_stay() {
    let node = Node::start(
        "limits: {max_connections: 3}\nroutes:\n- {path: /ws, auth: none, backend: {echo: true}}\n",
    );
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::connect(node.ws()).await);
    }
    let refused = Request::new("/ws").connect(node.ws()).await.err().expect("a refusal");
    assert_eq!(refused.0, 503);
    assert_eq!(clients[0].ask("still here").await, "still here");
    clients.pop().unwrap().close().await;
    crate::harness::eventually("a place is free", async || {
        Request::new("/ws").connect(node.ws()).await.ok()
    })
    .await;
}
