//! An HTTP server behind the node: what asks for no WebSocket reaches it, and nothing else does.

mod upstream;
mod talk;
mod attacks;
mod trouble;
mod streams;
mod bounds;

use std::collections::HashSet;

use crate::harness::{
    Certificates, Client, Node, Request, connect_tls, eventually, exchange, free_port,
};
use talk::Talk;
use upstream::Upstream;

/// An echo route, and no rate limit for tests that ask much.
const ROUTES: &str = "routes:\n- {path: /ws, auth: none, backend: {echo: true}}\n";
const UNLIMITED: &str = "limits: {handshakes_per_ip: {per_second: 0}}\n";

/// A node before this upstream; `more` are further keys of the section.
fn before(url: &str, more: &str) -> Node {
    Node::start(&config(url, more))
}

fn config(url: &str, more: &str) -> String {
    format!("upstream: {{url: '{url}'{more}}}\n{UNLIMITED}{ROUTES}")
}

/// A request without a body.
fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: example.com\r\n{fields}\r\n")
}

#[tokio::test]
async fn what_asks_for_no_websocket_passes_and_the_rest_does_not() {
    let upstream = Upstream::start().await;
    let node = before(&upstream.url(), "");
    let mut talk = Talk::open(node.ws()).await;
    for (method, path, body) in [
        ("GET", "/", ""),
        ("POST", "/form?a=b&c=%2F..", "hello"),
        ("PUT", "/a//b/../c", "x"),
        ("DELETE", "/ws", ""),
        ("GET", "/ws?plain", ""),
        ("OPTIONS", "/", ""),
        ("PURGE", "/cache", ""),
    ] {
        let length = body.len();
        talk.send(&format!(
            "{method} {path} HTTP/1.1\r\nHost: example.com\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await;
        let answer = talk.answer().await;
        assert_eq!((answer.status, answer.text()), (200, body.to_owned()), "{method} {path}");
        let seen = upstream.last();
        assert_eq!((seen.method.as_str(), seen.target.as_str()), (method, path));
    }
    let upgrades = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let before = upstream.count();
    for path in ["/", "/nowhere", "/ws/x"] {
        let (status, _) = exchange(node.ws(), get(path, upgrades).as_bytes()).await;
        assert_eq!(status, 404, "{path}");
    }
    assert_eq!(upstream.count(), before, "an upgrade reached the upstream");
    let passed = node.metric("moorline_passthrough_requests_total", &["result=\"2xx\""]).await;
    assert_eq!(passed, 7.0);
    node.wait_for("request passed through", |line| {
        line["path"] == "/form" && line["received"] == 5 && line["sent"] == 5
    });
    assert!(!node.whole_log().contains("a=b&c"), "no query is logged");
}

#[tokio::test]
async fn without_an_upstream_all_is_as_it_was() {
    let node = Node::start(ROUTES);
    assert_eq!(exchange(node.ws(), get("/ws", "").as_bytes()).await.0, 426);
    assert_eq!(exchange(node.ws(), get("/", "").as_bytes()).await.0, 404);
}

#[tokio::test]
async fn a_stream_carries_many_requests_and_then_a_websocket() {
    let upstream = Upstream::start().await;
    let node = before(&upstream.url(), "");
    let mut talk = Talk::open(node.ws()).await;
    for turn in 0..50 {
        talk.send(&get(&format!("/{turn}"), "")).await;
        assert_eq!(talk.answer().await.status, 200);
    }
    assert_eq!(upstream.connections(), 1, "the connection to the upstream is kept");
    // Two at once, and the answers in their order.
    talk.send(&format!("{}{}", get("/status/201", ""), get("/status/404", ""))).await;
    assert_eq!((talk.answer().await.status, talk.answer().await.status), (201, 404));
    let stream = Box::new(talk.into_inner());
    let mut client = Request::new("/ws").over(stream).await.expect("an accepted handshake");
    assert_eq!(client.ask("hello").await, "hello");
    client.close().await;
    let mut other = Client::connect(node.ws()).await;
    assert_eq!(other.ask("hello").await, "hello");
}

#[tokio::test]
async fn the_upstream_is_told_who_the_client_is() {
    let upstream = Upstream::start().await;
    let certificates = Certificates::new();
    certificates.issue("server", "localhost");
    let forwarded = "forwarded: {header: x-forwarded-for, trusted: [127.0.0.1]}";
    let listeners = format!(
        "{}\nplain: {{address: '127.0.0.1:0', {forwarded}}}",
        certificates.listener("server", "")
    );
    let node = Node::with_listeners(&listeners, &config(&upstream.url(), ""));
    let forged = "X-Forwarded-For: 1.1.1.1, 192.0.2.7\r\nX-Forwarded-Proto: ftp, https\r\n\
        X-Forwarded-Host: evil\r\nForwarded: for=1.1.1.1\r\nX_Forwarded_For: 1.1.1.1\r\n\
        Moorline-Secret: s\r\nce-id: 1\r\nGrip-Sig: g\r\nMeta-User: m\r\nConnection-Id: c\r\n\
        X-Real-IP: 1.1.1.1\r\nX-Kept: yes\r\n";
    let mut plain = Talk::open(node.ws()).await;
    plain.send(&get("/", forged)).await;
    assert_eq!(plain.answer().await.status, 200);
    let expected = |client: &str, scheme: &str| {
        let forwarded = format!("for={client};host=\"example.com\";proto={scheme}");
        let fields = [
            ("forwarded", forwarded.as_str()),
            ("host", "example.com"),
            ("via", "1.1 moorline"),
            ("x-forwarded-for", client),
            ("x-forwarded-host", "example.com"),
            ("x-forwarded-proto", scheme),
            ("x-kept", "yes"),
            ("x-real-ip", client),
        ];
        fields.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    };
    assert_eq!(upstream.last().fields, expected("192.0.2.7", "https"));
    let tls = connect_tls(node.wss(), "localhost", certificates.client(None)).await.unwrap();
    let mut tls = Talk::over(tls);
    tls.send(&get("/", forged)).await;
    assert_eq!(tls.answer().await.status, 200);
    assert_eq!(upstream.last().fields, expected("127.0.0.1", "https"), "nobody is believed there");
}

#[tokio::test]
async fn an_upstream_may_be_a_unix_socket_or_speak_tls() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let unix = Upstream::unix(&path).await;
    let node = Node::start(&format!("upstream: unix:{}\n{ROUTES}", path.display()));
    let mut talk = Talk::open(node.ws()).await;
    talk.send(
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    )
    .await;
    assert_eq!(talk.answer().await.text(), "abc");
    assert_eq!(unix.last().field("transfer-encoding"), Some("chunked"));

    let certificates = Certificates::new();
    certificates.issue("app", "localhost");
    let secure = Upstream::tls(&certificates, "app").await;
    let ca = certificates.path("ca.pem");
    let node = before(&secure.url(), &format!(", ca: {}", ca.display()));
    let mut talk = Talk::open(node.ws()).await;
    for _ in 0..3 {
        talk.send(&get("/", "")).await;
        assert_eq!(talk.answer().await.status, 200);
    }
    assert_eq!(secure.connections(), 1);
    let other = Certificates::new();
    other.issue("x", "localhost");
    let ca = other.path("ca.pem");
    let node = before(&secure.url(), &format!(", ca: {}", ca.display()));
    let (status, body) = exchange(node.ws(), get("/", "").as_bytes()).await;
    assert_eq!(status, 502, "{body}");
    node.wait_for("request failed", |line| {
        line["error"].as_str().unwrap().contains("certificate") && line["left_out"] == 0
    });
}

#[tokio::test]
async fn answers_without_a_body_and_interim_ones() {
    let upstream = Upstream::start().await;
    let node = before(&upstream.url(), "");
    let mut talk = Talk::open(node.ws()).await;
    talk.send("HEAD /length/7 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = talk.answer_to_head().await;
    assert_eq!((head.status, head.field("content-length")), (200, Some("7")));
    for status in [204, 304] {
        talk.send(&get(&format!("/status/{status}"), "")).await;
        let answer = talk.answer().await;
        assert_eq!((answer.status, answer.body.len()), (status, 0));
    }
    talk.send(
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
    )
    .await;
    assert_eq!(talk.answer_to_head().await.status, 100);
    talk.send("body").await;
    assert_eq!(talk.answer().await.text(), "body");
    assert_eq!(upstream.last().field("expect"), None);
    // A GET with a body of no known length keeps it.
    talk.send(
        "GET /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    )
    .await;
    assert_eq!(talk.answer().await.text(), "hi");
    talk.ended().await;
}

#[tokio::test]
async fn a_reload_changes_the_upstream_between_two_requests() {
    let (first, second) = (Upstream::start().await, Upstream::start().await);
    let node = before(&first.url(), "");
    assert_eq!(exchange(node.ws(), get("/", "Connection: close\r\n").as_bytes()).await.0, 200);
    node.rewrite(|text| text.replace(&first.url(), &second.url()));
    node.signal("HUP");
    node.wait_for("config reloaded; all files were read again", |line| {
        line["changed"] == "upstream"
    });
    assert_eq!(exchange(node.ws(), get("/", "Connection: close\r\n").as_bytes()).await.0, 200);
    assert_eq!((first.count(), second.count()), (1, 1));
    node.rewrite(|text| text.replace("upstream:", "#upstream:"));
    node.signal("HUP");
    let is_off = async || {
        let (status, _) = exchange(node.ws(), get("/", "Connection: close\r\n").as_bytes()).await;
        (status == 404).then_some(())
    };
    eventually("requests are refused", is_off).await;
}

#[tokio::test]
async fn a_reload_ends_kept_streams_behind_the_answer_under_way() {
    let (first, second) = (Upstream::start().await, Upstream::start().await);
    let node = before(&first.url(), "");
    let kept = async |path: &str| {
        let mut talk = Talk::open(node.ws()).await;
        talk.send(get(path, "")).await;
        assert_eq!(talk.answer_to_head().await.status, 200);
        talk
    };
    let (idle, mut streaming) = (kept("/length/0").await, kept("/events").await);
    // Nothing was asked on this one yet, so it keeps to what it met, for one answer. It came before the
    // next one, whose answer is here.
    let mut new = Talk::open(node.ws()).await;
    let mut asked = kept("/length/0").await;
    asked.send("POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx").await;
    node.metric_becomes("moorline_passthrough_in_flight", &[], 2.0).await;
    node.rewrite(|text| {
        text.replace(&first.url(), &second.url()).replace("path: /ws,", "path: /other,")
    });
    node.signal("HUP");
    idle.ended().await;
    asked.send("x").await;
    let answer = asked.answer().await;
    assert_eq!((answer.text().as_str(), answer.field("connection")), ("2", Some("close")));
    asked.ended().await;
    assert!(first.event("last").await);
    assert_eq!(streaming.chunk().await.unwrap(), b"data: last\n\n");
    streaming.send(get("/ws", "")).await;
    first.end_events();
    assert_eq!(streaming.chunk().await.unwrap(), b"");
    streaming.ended().await;
    new.send(get("/new", "")).await;
    assert_eq!(new.answer().await.field("connection"), Some("close"));
    new.ended().await;
    assert_eq!((first.last().target.as_str(), second.count()), ("/new", 0));
    kept("/length/0").await;
    assert_eq!(second.count(), 1);
}

#[tokio::test]
async fn dev_takes_an_upstream() {
    let upstream = Upstream::start().await;
    let node = Node::dev(&["--upstream", &upstream.url()]);
    let mut talk = Talk::open(node.ws()).await;
    talk.send(&get("/hello", "")).await;
    assert_eq!(talk.answer().await.status, 200);
    talk.send(&get("/_moorline/", "")).await;
    assert!(talk.answer().await.text().contains("<html"), "the console is there");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn an_id_leads_from_an_answer_to_its_line() {
    let node = before(&format!("http://127.0.0.1:{}", free_port()), "");
    let mut ids = HashSet::new();
    for _ in 0..3 {
        let mut talk = Talk::open(node.ws()).await;
        talk.send(&get("/x", "")).await;
        let answer = talk.answer().await;
        let id = answer.field("moorline-connection-id").unwrap().to_owned();
        let body = answer.text();
        assert_eq!(answer.status, 502, "{body}");
        assert!(body.contains(&format!("connection: {id}")), "{body}");
        node.wait_for("request passed through", |line| {
            line["connection"] == id && line["result"] == "unreachable" && line["status"] == 502
        });
        ids.insert(id);
        talk.ended().await;
    }
    assert_eq!(ids.len(), 3);
}
