//! Services that speak WebSocket-over-HTTP with GRIP: the protocol byte by byte, and libraries that others
//! wrote for it.

mod libraries;
mod publishing;
mod pushpin;
mod trouble;

use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Asked, Client, Node, Request, Service, ServiceAnswer as Answer, eventually};

const TYPE: &str = "content-type: application/websocket-events";
const KEY: &str = "a-key-of-publishers-that-is-long-enough";

/// One event of a body.
fn event(name: &str, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let head = format!("{name} {:x}\r\n", content.len());
    [head.as_bytes(), content, b"\r\n"].concat()
}

fn text(content: &str) -> Vec<u8> {
    event("TEXT", content)
}

fn events(events: &[&[u8]]) -> Answer {
    Answer::ok(events.concat()).header(TYPE)
}

const OPEN: &[u8] = b"OPEN\r\n";

/// What a text message of a request says.
fn said(asked: &Asked) -> Option<&str> {
    asked.body.strip_prefix("TEXT ")?.split_once("\r\n")?.1.strip_suffix("\r\n")
}

/// A node with a route to the service, with more of the route and of the backend.
fn node(service: &Service, keys: &str, backend: &str) -> Node {
    Node::with_variable(
        ("GRIP_KEY", KEY),
        &format!(
            "routes:\n- {{path: '/ws/{{*rest}}', auth: none, forward_headers: [], {keys} \
             backend: {{http: '{}', dialect: websocket-over-http{backend}}}}}",
            service.origin()
        ),
    )
}

/// A file with the key, its path, and listeners of which one lets in who has it. The file is gone with
/// its folder.
fn keyed() -> (TempDir, String, String) {
    let files = tempfile::tempdir().unwrap();
    let key = files.path().join("key");
    std::fs::write(&key, KEY).unwrap();
    let key = key.display().to_string();
    let listeners = format!(
        "plain: {{address: '127.0.0.1:0'}}\n\
         management: {{address: '127.0.0.1:0', key_files: ['{key}']}}"
    );
    (files, key, listeners)
}

async fn connect(node: &Node) -> Client {
    Request::new("/ws/a").connect(node.ws()).await.expect("accepted")
}

/// The bodies of all requests, once there are so many.
async fn bodies(service: &Service, count: usize) -> Vec<String> {
    let all = eventually("all requests", async || {
        let asked = service.asked();
        (asked.len() >= count).then_some(asked)
    });
    all.await.into_iter().map(|asked| asked.body).collect()
}

fn broken(node: &Node, part: &str) {
    let line = node.wait_for("backend broke the contract", |_| true);
    assert!(line["broken"].as_str().unwrap().contains(part), "{line}");
}

#[tokio::test]
async fn each_request_is_the_handshake_once_more() {
    let service = Service::start(|asked| match said(asked) {
        None if asked.body == "OPEN\r\n" => events(&[OPEN]).header("set-meta-user: ann"),
        Some("forget") => events(&[]).header("Set-Meta-User: "),
        _ => events(&[]).header("Set-Meta-Room: 1"),
    })
    .await;
    let node = Node::with_variable(
        ("GRIP_KEY", KEY),
        &format!(
            "routes:\n- {{path: '/ws/{{*rest}}', auth: none, origins: ['https://a.example'], \
             backend: {{http: '{}', dialect: websocket-over-http, \
             grip: {{issuer: realm, key_file: 'env:GRIP_KEY'}}}}}}",
            service.origin()
        ),
    );
    let mut request = Request::new("/ws/a%20b/c?x=1&y").header("origin", "https://a.example");
    for (name, value) in [
        ("cookie", "session=1"),
        ("authorization", "Bearer a-token"),
        ("accept", "text/html"),
        ("accept-encoding", "gzip"),
        ("keep-alive", "1"),
        ("connection-id", "forged"),
        ("meta-user", "forged"),
        ("Meta_Admin", "forged"),
        ("grip-sig", "forged"),
        ("grip_last", "forged"),
        ("moorline-secret", "forged"),
        ("x-forwarded-for", "1.1.1.1"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ] {
        request = request.header(name, value);
    }
    let mut client = request.connect(node.ws()).await.expect("accepted");
    for said in ["hello", "forget", "again"] {
        client.send(said).await;
    }
    client.send(Message::binary(&b"\x00\x01"[..])).await;
    assert_eq!(
        bodies(&service, 5).await[1..4],
        ["hello", "forget", "again"].map(|s| { String::from_utf8(text(s)).unwrap() })
    );
    let id = client.headers["moorline-connection-id"].to_str().unwrap().to_owned();
    client.close().await;
    let bodies = bodies(&service, 6).await;
    assert_eq!(bodies[4], "BINARY 2\r\n\u{0}\u{1}\r\n");
    assert_eq!(bodies[5], "CLOSE\r\n", "a close frame without a code");

    let asked = service.asked();
    let of = |name: &str| asked.iter().map(|asked| asked.header(name)).collect::<Vec<_>>();
    for (name, expected) in [
        ("accept", "application/websocket-events"),
        ("content-type", "application/websocket-events"),
        ("connection-id", &id),
        ("sec-websocket-extensions", "grip"),
        ("sec-websocket-version", "13"),
        ("host", "localhost"),
        ("origin", "https://a.example"),
        ("cookie", "session=1"),
        ("authorization", "Bearer a-token"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
    ] {
        assert_eq!(of(name), [expected; 6], "{name}");
    }
    for name in ["meta_admin", "grip_last", "moorline-secret", "accept-encoding", "keep-alive"] {
        assert_eq!(of(name), [""; 6], "{name}");
    }
    assert_eq!(of("meta-user"), ["", "ann", "ann", "", "", ""]);
    assert_eq!(of("meta-room"), ["", "", "1", "1", "1", "1"]);
    assert!(
        of("traceparent").iter().all(|trace| trace.contains("0af7651916cd43dd8448eb211c80319c"))
    );
    assert!(of("grip-sig").iter().all(|signature| signature.split('.').count() == 3));
    assert!(asked.iter().all(|asked| asked.target == "/ws/a%20b/c?x=1&y"));
    let log = node.whole_log();
    assert!(!log.contains(KEY) && !log.contains("session=1") && !log.contains("a-token"), "{log}");
}

#[tokio::test]
async fn what_a_route_does_not_forward_is_not_seen() {
    let service = Service::start(|_| events(&[OPEN]).header("sec-websocket-protocol: b")).await;
    let keys = "name: narrow,";
    let node = node(&service, keys, "");
    let request = Request::new("/ws/a").header("cookie", "session=1").header("x-tenant", "t");
    let _client = request.header("sec-websocket-protocol", "a, b").connect(node.ws()).await;
    let asked = service.asked();
    for (name, expected) in [
        ("cookie", ""),
        ("x-tenant", ""),
        ("sec-websocket-protocol", "a, b"),
        ("host", "localhost"),
    ] {
        assert_eq!(asked[0].header(name), expected, "{name}");
    }
    assert_eq!(asked[0].header("grip-sig"), "", "there is no key");
}

#[tokio::test]
async fn the_answer_to_the_handshake_lets_in_or_refuses() {
    let service = Service::start(|asked| match asked.target.as_str() {
        "/ws/v2" => events(&[OPEN, &text("one"), &event("BINARY", [0]), &text("two")])
            .header("sec-websocket-protocol: v2")
            .header("set-cookie: a=1")
            .header("keep-alive-interval: 30"),
        "/ws/charset" => Answer::ok("OPEN\r\n").header(&format!("{TYPE}; charset=utf-8")),
        "/ws/login" => Answer::status("302 Found", "").header("location: /login"),
        "/ws/denied" => Answer::status("403 Forbidden", "<p>no</p>")
            .header("content-type: text/html")
            .header("x-internal: 1"),
        "/ws/busy" => Answer::status("503 Busy", "").header("retry-after: 77"),
        "/ws/foreign" => events(&[OPEN]).header("sec-websocket-protocol: v3"),
        "/ws/page" => Answer::ok("<p>hello</p>").header("content-type: text/html"),
        _ => events(&[&text("no open")]),
    })
    .await;
    let node = node(&service, "", "");
    let ask = async |path: &str| {
        Request::new(path).header("sec-websocket-protocol", "v1, v2").connect(node.ws()).await
    };
    let mut client = ask("/ws/v2").await.expect("accepted");
    assert_eq!(client.headers["sec-websocket-protocol"], "v2");
    assert_eq!(client.headers["set-cookie"], "a=1");
    assert!(!client.headers.contains_key("keep-alive-interval"));
    assert_eq!(client.next_text().await, "one");
    assert_eq!(client.next().await.unwrap(), Message::binary(&[0][..]));
    assert_eq!(client.next_text().await, "two");
    let plain = Request::new("/ws/charset").connect(node.ws()).await.expect("accepted");
    assert!(!plain.headers.contains_key("sec-websocket-protocol"));
    for (path, status, body) in [
        ("/ws/denied", 403, "<p>no</p>"),
        ("/ws/login", 302, "refused"),
        ("/ws/busy", 503, "refused"),
        ("/ws/foreign", 502, "refused"),
        ("/ws/page", 502, "refused"),
        ("/ws/other", 502, "refused"),
    ] {
        let refused = ask(path).await.err().expect("a refusal");
        assert!(refused.0 == status && refused.1.contains(body), "{path}: {refused:?}");
    }
    let raw = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    for (path, line) in [
        ("/ws/login", "location: /login\r\n"),
        ("/ws/denied", "content-type: text/html\r\n"),
        ("/ws/busy", "retry-after: 77\r\n"),
    ] {
        let answer = crate::harness::exchange_raw(node.ws(), raw(path).as_bytes()).await;
        assert!(answer.contains(line) && !answer.contains("x-internal"), "{answer}");
        let name = line.split(':').next().unwrap();
        assert_eq!(answer.matches(name).count(), 1, "{answer}");
    }
}

#[tokio::test]
async fn answers_act_on_the_connection() {
    let service = Service::start(|asked| match said(asked) {
        None => events(&[OPEN]),
        Some("several") => {
            events(&[&text("a"), &event("BINARY", [0, 255]), b"PING\r\n", &text("b")])
        }
        Some("close") => events(&[&text("bye"), &event("CLOSE", b"\x0f\xa0done"), &text("late")]),
        Some("close plainly") => events(&[&event("CLOSE", [0, 0])]),
        Some("cut") => events(&[b"DISCONNECT\r\n"]),
        Some("open") => events(&[OPEN]),
        Some(other) => events(&[&text(other)]),
    })
    .await;
    let node = node(&service, "", "");
    let mut client = connect(&node).await;
    client.send("several").await;
    assert_eq!(client.next_text().await, "a");
    assert_eq!(client.next().await.unwrap(), Message::binary(&[0, 255][..]));
    assert_eq!(client.next_text().await, "b");
    assert_eq!(client.ask("close").await, "bye");
    assert_eq!(client.closed().await, Some((4000, "done".to_owned())));
    let mut count = bodies(&service, 4).await.len();
    assert_eq!(service.asked()[3].body, "DISCONNECT\r\n", "the end was not the client's");
    for (said, closed) in
        [("close plainly", Some((1000, String::new()))), ("cut", None), ("open", None)]
    {
        let mut client = connect(&node).await;
        client.send(said).await;
        assert_eq!(client.closed().await, closed, "{said}");
        count += 3;
        assert_eq!(bodies(&service, count).await[count - 1], "DISCONNECT\r\n", "{said}");
    }
    let mut client = connect(&node).await;
    assert_eq!(client.ask("hello").await, "hello");
    client.vanish();
    assert_eq!(bodies(&service, count + 3).await[count + 2], "DISCONNECT\r\n");
    let ended =
        |line: &serde_json::Value| line["cause"] == "backend-closed" && line["code"] == 1006;
    node.wait_for("connection ended", ended);
}

#[tokio::test]
async fn a_broken_answer_ends_the_connection_and_says_why() {
    let service = Service::start(|asked| match said(asked) {
        None => events(&[OPEN]).header("sec-websocket-extensions: grip"),
        Some("cut") => events(&[b"TEXT 5\r\nhel"]),
        Some("part") => events(&[]).header("content-bytes-accepted: 2"),
        Some("more") => events(&[]).header("content-bytes-accepted: 5"),
        Some("control") => events(&[&text(r#"c:{"type":"explode"}"#)]),
        Some("state") => events(&[]).header(&format!("set-meta-a: {}", "x".repeat(5000))),
        Some("large") => events(&[&text(&"x".repeat(1_000_000))]),
        Some("type") => Answer::ok(""),
        Some(_) => Answer::status("500 No", "trace"),
    })
    .await;
    for (said, part) in [
        ("cut", "shorter than its length"),
        ("part", "Content-Bytes-Accepted is 2 of 4"),
        ("more", "more than were offered"),
        ("control", "an unknown type"),
        ("state", "over 4096 bytes"),
        ("large", "more than 1000000 bytes"),
        ("type", "another type"),
    ] {
        let node = node(&service, "", "");
        let mut client = connect(&node).await;
        client.send(said).await;
        assert_eq!(client.closed().await, Some((1011, "backend-failed".to_owned())), "{said}");
        broken(&node, part);
    }
    let node = node(&service, "on_failure: {message: '{outcome}'},", "");
    let mut client = connect(&node).await;
    assert_eq!(client.ask("fail").await, "refused");
}

#[tokio::test]
async fn a_detached_connection_is_left_to_its_channels() {
    let service = Service::start(|asked| match said(asked) {
        None => events(&[OPEN]).header("sec-websocket-extensions: grip; message-prefix=\">\""),
        Some("detach") => {
            events(&[&text(">gone"), &text(r#"c:{"type":"detach"}"#), &text("no prefix")])
        }
        Some(_) => events(&[&text(">?")]),
    })
    .await;
    let node = node(&service, "", "");
    let mut client = connect(&node).await;
    assert_eq!(client.ask("hello").await, "?");
    assert_eq!(client.ask("detach").await, "gone");
    client.send("is anybody there").await;
    client.close().await;
    node.wait_for("connection ended", |_| true);
    node.metric_becomes("moorline_disconnect_events_total", &["result=\"accepted\""], 1.0).await;
    assert_eq!(service.asked().len(), 3, "nothing was heard after it");
    let replied = ["outcome=\"replied\"", "transport=\"http\""];
    assert_eq!(node.metric("moorline_backend_requests_total", &replied).await, 3.0);
}

#[tokio::test]
async fn a_service_that_restarts_gets_what_it_missed_and_nothing_twice() {
    let mut service = Service::start(|asked| match said(asked) {
        None => events(&[OPEN]).header("set-meta-n: 1"),
        Some(said) => events(&[&text(&format!("{said} {}", asked.header("meta-n")))]),
    })
    .await;
    let node = node(&service, "hold: 30s,", "");
    let mut client = connect(&node).await;
    assert_eq!(client.ask("a").await, "a 1");
    service.kill().await;
    client.send("b").await;
    node.metric_becomes("moorline_backend_held", &[], 1.0).await;
    service.resume().await;
    assert_eq!(client.next_text().await, "b 1");
    assert_eq!(service.asked().len(), 3);
}
