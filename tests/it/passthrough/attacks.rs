//! Requests that two servers would read in two ways, or that say what only moorline may say: a server
//! that records what it sees must see nothing of them.

use super::talk::Talk;
use super::upstream::{Act, Raw, Upstream};
use super::{before, get};
use crate::harness::{Node, eventually, exchange_raw};

/// What would be another request, if the one before were read in another way.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: example.com\r\n\r\n";
const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn post(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: example.com\r\n{fields}\r\n\r\n")
}

/// Attacks, and the statuses that may answer them.
fn refused() -> Vec<(String, &'static [u16])> {
    let bad: &[u16] = &[400];
    let mut all: Vec<(String, &[u16])> = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
        "Content-Length: 0\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: -1",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length:",
        "Content-Length: 18446744073709551616",
        "Content-Length : 5",
        " Content-Length: 5",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\u{b}: chunked",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding:\r\n chunked",
        "X: a\r\n Transfer-Encoding: chunked",
        "X: a\nTransfer-Encoding: chunked",
        "X: a\rTransfer-Encoding: chunked",
        "X: a\0b",
        "X\0: a",
        "X a: b",
        ": a",
        "X",
    ]
    .iter()
    .map(|fields| (post(fields), bad))
    .collect();
    let line = |line: &str| format!("{line}\r\nHost: example.com\r\n\r\n");
    all.extend([
        ("GET / HTTP/1.1\nHost: example.com\n\n".to_owned(), bad),
        ("GET / HTTP/1.1\r\nHost: example.com\r\n\n".to_owned(), bad),
        (line("G@T / HTTP/1.1\u{7f}"), bad),
        (line("GET / HTTP/1.1 x"), bad),
        (line("GET /a b HTTP/1.1"), bad),
        (line("GET  HTTP/1.1"), bad),
        (line("GET nowhere HTTP/1.1"), bad),
        (line("OPTIONS * HTTP/1.1"), bad),
        (line("GET / HTTP/1.0"), &[505]),
        (line("POST / HTTP/1.0\r\nTransfer-Encoding: chunked"), bad),
        (line("GET / HTTP/2.0"), bad),
        (line("GET / HTTP/0.9"), bad),
        (line("GET /"), bad),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), &[0, 400]),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), bad),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n".to_owned(), bad),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), bad),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n".to_owned(), bad),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".to_owned(), bad),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(), bad),
        (line("GET http://other/ HTTP/1.1"), bad),
        (line("GET http://user@example.com/ HTTP/1.1"), bad),
        (line("GET http://169.254.169.254/ HTTP/1.1"), bad),
        (line("CONNECT example.com:443 HTTP/1.1"), &[400, 404, 405]),
        ("CONNECT example.com HTTP/1.1\r\nHost: example.com\r\n\r\n".to_owned(), &[400, 404, 405]),
        (get("/nowhere", UPGRADE), &[404]),
        (get("/nowhere", "Upgrade: WebSocket\r\n"), &[404]),
        (get("/nowhere", "Upgrade: h2c, websocket\r\nConnection: upgrade\r\n"), &[404]),
        (get("/nowhere", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), &[404]),
        (get("/ws", "Upgrade: websocket\r\nConnection: upgrade\r\n"), &[426]),
        (post("Upgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 0"), &[404]),
        (get("/", "Content-Type: application/websocket-events\r\n"), &[415]),
        (post("Content-Type: Application/WebSocket-Events; a=b\r\nContent-Length: 0"), &[415]),
        (post("Content_Type: application/websocket-events\r\nContent-Length: 0"), &[415]),
        (post("Content-Type: application/cloudevents+json\r\nContent-Length: 0"), &[415]),
        (get("/", "Expect: 200-ok\r\n"), &[417]),
        (get("/", &format!("X: {}\r\n", "a".repeat(20_000))), &[431]),
        (get("/", &"X: a\r\n".repeat(100)), &[431]),
    ]);
    all
}

#[tokio::test]
async fn nothing_of_a_doubtful_request_reaches_the_upstream() {
    let raw = Raw::start(Act::say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")).await;
    let node = before(&raw.url(), "");
    let attacks = refused();
    assert!(attacks.len() >= 60, "{}", attacks.len());
    for (attack, statuses) in &attacks {
        // As the first request, and behind an honest one.
        for honest in ["", "GET /honest HTTP/1.1\r\nHost: a\r\n\r\n"] {
            let said =
                exchange_raw(node.ws(), format!("{honest}{attack}{SMUGGLED}").as_bytes()).await;
            let answers: Vec<u16> = said
                .split("HTTP/1.")
                .skip(1)
                // Bodies name the version, too.
                .filter_map(|answer| answer.get(2..5)?.parse().ok())
                .collect();
            let attack = attack.escape_debug();
            let (first, last) = (answers.first(), answers.last().copied().unwrap_or(0));
            if honest.is_empty() {
                assert!(answers.len() <= 1 && statuses.contains(&last), "{attack}: {answers:?}");
            } else {
                assert_eq!(first, Some(&200), "{attack}");
                let rest = answers.get(1).copied().unwrap_or(0);
                assert!(answers.len() <= 2, "{attack}: {answers:?}");
                assert!(statuses.contains(&rest), "{attack}: {answers:?}");
            }
        }
    }
    let heard = raw.heard().concat();
    let honest = heard.matches("GET /honest HTTP/1.1\r\n").count();
    assert_eq!(
        (heard.matches("via: 1.1 moorline").count(), honest),
        (attacks.len(), attacks.len())
    );
    assert!(!heard.contains("smuggled"), "{heard}");
    assert_eq!(node.metric("moorline_task_panics_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_body_is_never_taken_for_a_request() {
    let upstream = Upstream::start().await;
    let node = before(&upstream.url(), "");
    let length = SMUGGLED.len();
    let bodies = [
        (format!("Content-Length: {length}\r\n\r\n{SMUGGLED}"), length),
        (
            format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{SMUGGLED}\r\n0\r\n\r\n"),
            length,
        ),
        // Trailers do not become headers.
        (
            "Transfer-Encoding: chunked\r\nTrailer: Moorline-Secret\r\n\r\n1\r\na\r\n0\r\n\
          Moorline-Secret: s\r\nHost: b\r\n\r\n"
                .to_owned(),
            1,
        ),
        // What upgrades nothing is a request like others.
        (
            "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nConnection: Upgrade, HTTP2-Settings\r\n\
          Content-Length: 2\r\n\r\nhi"
                .to_owned(),
            2,
        ),
        (
            "Connection: close, Host, Content-Length, Via\r\nContent-Length: 2\r\n\r\nhi"
                .to_owned(),
            2,
        ),
    ];
    for (number, (body, length)) in bodies.iter().enumerate() {
        let mut talk = Talk::open(node.ws()).await;
        talk.send(format!("POST /echo HTTP/1.1\r\nHost: example.com\r\n{body}")).await;
        let answer = talk.answer().await;
        assert_eq!((answer.status, answer.body.len()), (200, *length), "{body:?}");
        let seen = upstream.all();
        assert_eq!(seen.len(), number + 1, "{body:?}");
        for gone in ["upgrade", "http2-settings", "trailer", "moorline-secret", "connection"] {
            assert_eq!(seen[number].field(gone), None, "{body:?}");
        }
        assert_eq!(seen[number].field("host"), Some("example.com"));
    }
}

#[tokio::test]
async fn broken_chunks_end_the_request_at_the_upstream() {
    let raw = Raw::start(Act::Say(Vec::new())).await;
    let node = before(&raw.url(), "");
    for (number, chunks) in [
        "zz\r\nhello\r\n0\r\n\r\n",
        "-1\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5;\nhello\r\n0\r\n\r\n",
    ]
    .iter()
    .enumerate()
    {
        let attack = format!(
            "POST /{number} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{SMUGGLED}"
        );
        let said = exchange_raw(node.ws(), attack.as_bytes()).await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 400 "), "{chunks:?}: {said}");
    }
    let heard = raw.heard().concat();
    assert!(!heard.contains("smuggled") && !heard.contains("\r\n0\r\n\r\n"), "{heard}");
    node.metric_becomes("moorline_passthrough_in_flight", &[], 0.0).await;
}

#[tokio::test]
async fn too_many_requests_of_an_address_are_refused() {
    let upstream = Upstream::start().await;
    let config = format!(
        "upstream: '{}'\nlimits: {{handshakes_per_ip: {{per_second: 1, burst: 5}}}}\n{}",
        upstream.url(),
        super::ROUTES
    );
    let node = Node::start(&config);
    let mut refused = 0;
    let mut talk = Talk::open(node.ws()).await;
    for _ in 0..20 {
        talk.send(get("/", "")).await;
        let answer = talk.answer().await;
        if answer.status == 429 {
            assert!(answer.field("retry-after").is_some());
            refused += 1;
            talk.ended().await;
            break;
        }
    }
    assert_eq!(refused, 1);
    assert!(upstream.count() < 20);
    eventually("it is counted", async || {
        let count = node.metric("moorline_passthrough_requests_total", &["address-rate"]).await;
        (count == 1.0).then_some(())
    })
    .await;
}
