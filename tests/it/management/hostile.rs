//! What no backend should send, and what names must not do.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{KEY, Response, Stage, authorization, parse};
use crate::harness::{DEADLINE, exchange_raw};

/// Sends the head and these bytes, and reads all that comes back.
async fn raw(stage: &Stage, head: &str, body: &[u8]) -> Response {
    let head = format!("{head}\r\nhost: x\r\n{}\r\n\r\n", authorization(KEY));
    parse(&exchange_raw(stage.node.management(), &[head.as_bytes(), body].concat()).await)
}

#[tokio::test]
async fn names_stay_names() {
    let stage = Stage::new();
    let (mut ann, first) = stage.client("ann").await;
    let names = [
        "*",
        ">",
        "a.*",
        ".",
        "..",
        "a..b",
        " ",
        "a b",
        "=2A",
        "%2A",
        "é",
        "\u{202e}",
        ":send",
        ":count",
        "../../api/health",
        "?x",
        "#x",
        "a&b=c",
        "a+b",
        "\\",
        "\"",
        "moorline.other.out.all",
        "a\r\nPUB x 0\r\n",
        "a\0b",
        "\u{7f}",
        "",
    ];
    let mut all: Vec<String> = names.map(str::to_owned).to_vec();
    all.extend(["x".repeat(200), "x".repeat(201), "ü".repeat(34), "x".repeat(10_000)]);
    let mut joined = 0;
    for name in &all {
        let escaped: String = name.bytes().map(|b| format!("%{b:02X}")).collect();
        let path = format!("/groups/{escaped}/connections/{first}");
        let answer = stage.ask("PUT", &path, "").await;
        // What cannot be a name is no group, and what can is one group of that name and no other.
        let is_name = !name.is_empty()
            && !name.chars().any(char::is_control)
            && moorline::id::GroupName::new(name).is_ok();
        let expected = match (is_name, name.len() > 3_000) {
            (true, _) => 200,
            (false, false) => 400,
            // hyper's bound of a head comes first.
            (false, true) => 431,
        };
        assert_eq!(answer.status, expected, "{name:?} {}", answer.body);
        if is_name {
            joined += 1;
            assert_eq!(stage.send(&format!("/groups/{escaped}"), name).await, 1, "{name:?}");
            assert_eq!(ann.next_text().await, *name);
        }
        for path in [format!("/users/{escaped}/:send"), format!("/connections/{escaped}/:send")] {
            let answer = stage.ask("POST", &path, "x").await;
            assert!([202, 400, 404, 431].contains(&answer.status), "{path}: {}", answer.status);
        }
        let hub = format!("/api/hubs/{escaped}/:count");
        let answer = stage.ask_with("GET", &hub, &[&authorization(KEY)], "").await;
        assert!([400, 404, 431].contains(&answer.status), "{hub}: {}", answer.status);
    }
    let one = stage.ask("GET", &format!("/connections/{first}"), "").await.body;
    assert_eq!(one["groups"].as_array().unwrap().len(), joined);
    assert!(joined > 20);
    assert_eq!(stage.node.metric("moorline_task_panics_total", &[]).await, 0.0);
}

#[tokio::test]
async fn bodies_are_bounded_and_must_come_whole() {
    let stage = Stage::with(", max_body: 1KiB");
    let (mut ann, _) = stage.client("ann").await;
    let text = "content-type: text/plain\r\nconnection: close";
    let send = format!("POST /api/hubs/default/:send HTTP/1.1\r\n{text}");
    let of = |length: usize| format!("{send}\r\ncontent-length: {length}");
    assert_eq!(raw(&stage, &of(1024), &[b'x'; 1024]).await.status, 202);
    assert_eq!(ann.next_text().await.len(), 1024);
    let refused = raw(&stage, &of(1025), &[b'x'; 1025]).await;
    assert_eq!((refused.status, refused.code()), (413, "TooLarge"));
    // A length that no body could have is refused before any of it came.
    assert_eq!(raw(&stage, &of(1 << 40), b"").await.status, 413);
    let chunked = format!("{send}\r\ntransfer-encoding: chunked");
    assert_eq!(raw(&stage, &chunked, b"5\r\nhello\r\n0\r\n\r\n").await.status, 202);
    assert_eq!(ann.next_text().await, "hello");
    let large = [b"401\r\n".as_slice(), &[b'x'; 1025], b"\r\n0\r\n\r\n"].concat();
    assert_eq!(raw(&stage, &chunked, &large).await.status, 413);
    assert_eq!(raw(&stage, &chunked, b"x\r\nhello\r\n").await.status, 400);
    for length in ["-1", "1x", "1, 2", "99999999999999999999999"] {
        let head = format!("{send}\r\ncontent-length: {length}");
        assert_eq!(raw(&stage, &head, b"x").await.status, 400, "{length}");
    }
    // A body that breaks off is no message.
    let mut cut = TcpStream::connect(stage.node.management()).await.unwrap();
    let head = format!("{}\r\nhost: x\r\n{}\r\n\r\nhello", of(10), authorization(KEY));
    cut.write_all(head.as_bytes()).await.unwrap();
    cut.shutdown().await.unwrap();
    let _ = timeout(DEADLINE, cut.read_to_end(&mut Vec::new())).await.unwrap();
    assert_eq!(stage.send("", "the end").await, 1);
    assert_eq!(ann.next_text().await, "the end");
    // Whoever asks whether to go on with a body that is too large is not told to.
    let expects = format!("{}\r\nexpect: 100-continue", of(2000));
    let refused = raw(&stage, &expects, b"").await;
    assert_eq!(refused.status, 413, "{}", refused.head);
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_ends() {
    let stage = Stage::new();
    let to = stage.node.management();
    for (bytes, expected) in [
        ("GET /\r\n\r\n", 400),
        ("GET / HTTP/3.0\r\n\r\n", 400),
        ("GET /a b HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nbad header: x\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00", 400),
        ("CONNECT api:1 HTTP/1.1\r\nhost: x\r\n\r\n", 401),
        ("OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 401),
        ("GET http://x/nowhere HTTP/1.1\r\nhost: y\r\n\r\n", 401),
    ] {
        let answer = exchange_raw(to, bytes.as_bytes()).await;
        assert_eq!(parse(&answer).status, expected, "{bytes:?}: {answer}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(40_000));
    let status = parse(&exchange_raw(to, long.as_bytes()).await).status;
    assert!([414, 431].contains(&status), "{status}");
    let many: String = (0..100).map(|n| format!("x{n}: y\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n");
    assert_eq!(parse(&exchange_raw(to, many.as_bytes()).await).status, 431);
    // A client that never ends its head is dropped.
    let config = "limits: {head_timeout: 100ms}\n";
    stage.node.rewrite(|text| format!("{text}{config}"));
    stage.node.signal("HUP");
    stage.node.wait_for("config reloaded; all files were read again", |_| true);
    assert_eq!(exchange_raw(to, b"GET / HTTP/1.1\r\nhost:").await, "");
    let refused = stage.ask("GET", "/connections/:count", "").await;
    assert_eq!((refused.status, refused.code()), (404, "ConnectionNotFound"));
    assert_eq!(stage.ask("PUT", "/:send", "").await.header("allow"), Some("POST"));
    assert_eq!(
        stage.ask("GET", "/:count", "").await.body,
        json!({"connections": 0, "partial": false})
    );
}
