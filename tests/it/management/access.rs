//! Who may manage: keys, tokens signed with them, certificates; and how that changes while it runs.

use std::sync::Arc;

use moorline::config::JwtAlgorithm;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{KEY, Stage, ask, authorization, now, parse};
use crate::harness::{Certificates, Client, DEADLINE, Node, connect_tls, eventually};

const COUNT: &str = "/api/hubs/default/:count";

/// A token as the SDKs make them, for this URL.
fn signed(key: &str, claims: &Value) -> String {
    let claims = claims.as_object().unwrap();
    moorline::auth::mint(JwtAlgorithm::HS256, key.as_bytes(), None, claims).unwrap()
}

#[tokio::test]
async fn only_a_key_or_a_token_of_it_for_that_url_lets_in() {
    let stage = Stage::new();
    let status = async |headers: &[&str]| stage.ask_with("GET", COUNT, headers, "").await.status;
    let url = format!("http://{}{COUNT}?api-version=2024-12-01", stage.node.management());
    let of = |key: &str, claims: Value| authorization(&signed(key, &claims));
    let good = of(KEY, json!({"aud": url, "exp": now() + 60}));
    assert_eq!(status(&[&authorization(KEY)]).await, 200);
    assert_eq!(status(&[&good]).await, 200);
    let other_url = url.replace(":count", ":send");
    for (headers, expected) in [
        (vec![], 401),
        (vec!["authorization: Basic YTpi".to_owned()], 401),
        (vec![authorization("another-key-of-more-than-32-bytes")], 401),
        (vec![authorization(&format!("{KEY}x"))], 401),
        (vec![authorization("a.b.c")], 401),
        (
            vec![of("another-key-of-more-than-32-bytes", json!({"aud": url, "exp": now() + 60}))],
            401,
        ),
        (vec![of(KEY, json!({"aud": other_url, "exp": now() + 60}))], 401),
        (vec![of(KEY, json!({"aud": url, "exp": now() - 60}))], 401),
        (vec![of(KEY, json!({"aud": url}))], 401),
        (vec![of(KEY, json!({"exp": now() + 60}))], 401),
        (vec![authorization(KEY), authorization(KEY)], 400),
        (vec![authorization("")], 400),
        (vec![authorization(KEY), "origin: http://localhost".to_owned()], 403),
    ] {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        assert_eq!(status(&headers).await, expected, "{headers:?}");
    }
    let denied = stage.ask_with("GET", COUNT, &[&authorization("x")], "").await;
    assert_eq!(denied.code(), "Unauthorized");
    assert_eq!(denied.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
    stage.node.wait_for("a backend was not let in", |_| true);
    assert!(!stage.node.whole_log().contains(KEY), "{}", stage.node.whole_log());
    assert_eq!(stage.ask_with("HEAD", "/api/health", &[], "").await.status, 200);
    let document = stage.ask_with("GET", "/openapi.json", &[], "").await;
    assert_eq!((document.status, &document.body["openapi"]), (200, &json!("3.1.0")));
    for (result, least) in [("ok", 2.0), ("denied", 10.0)] {
        let result = format!("result=\"{result}\"");
        let counted = stage.node.metric("moorline_management_requests_total", &[&result]).await;
        assert!(counted >= least, "{result} {counted}");
    }
}

#[tokio::test]
async fn keys_change_by_a_reload_for_open_streams_too() {
    let stage = Stage::new();
    let stream = tokio::net::TcpStream::connect(stage.node.management()).await.unwrap();
    let mut stream = Box::new(stream);
    let request = format!("GET {COUNT} HTTP/1.1\r\nhost: x\r\n{}\r\n\r\n", authorization(KEY));
    let mut asked = async || {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let read = stream.read(&mut answer).await.unwrap();
        parse(&String::from_utf8_lossy(&answer[..read])).status
    };
    assert_eq!((asked().await, asked().await), (200, 200));
    let next = "the-next-key-of-backends-that-is-long-enough";
    std::fs::write(stage._files.path().join("key"), next).unwrap();
    stage.node.signal("HUP");
    stage.node.wait_for("config reloaded; all files were read again", |_| true);
    assert_eq!(asked().await, 401);
    assert_eq!(stage.ask_with("GET", COUNT, &[&authorization(next)], "").await.status, 200);
    // A bad key is refused, and the good one stays.
    std::fs::write(stage._files.path().join("key"), "short").unwrap();
    stage.node.signal("HUP");
    let line = stage.node.wait_for("config not reloaded; the old one stays", |_| true);
    let said = line["error"].as_str().unwrap();
    assert!(
        said.starts_with("listeners.management.key_files[0]: the secret has 5 bytes"),
        "{said}"
    );
    assert_eq!(stage.ask_with("GET", COUNT, &[&authorization(next)], "").await.status, 200);
}

/// A request over TLS; none when the handshake fails.
async fn over_tls(node: &Node, config: Arc<rustls::ClientConfig>, headers: &str) -> Option<u16> {
    let mut stream = connect_tls(node.management(), "localhost", config).await.ok()?;
    let request = format!("GET {COUNT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let status = parse(&String::from_utf8_lossy(&answer)).status;
    (status > 0).then_some(status)
}

#[tokio::test]
async fn a_certificate_lets_in_without_a_key() {
    let certificates = Certificates::new();
    certificates.issue("server", "localhost");
    let strangers = Certificates::new();
    let path = |name: &str| certificates.path(name).display().to_string();
    let key = format!("{}\r\n", authorization(KEY));
    std::fs::write(certificates.path("key"), KEY).unwrap();
    for (asked, keys, without) in
        [("optional", true, Some(401)), ("optional", false, Some(401)), ("required", false, None)]
    {
        let keys_listed = if keys { path("key") } else { String::new() };
        let listeners = format!(
            "plain: {{address: '127.0.0.1:0'}}\n\
             management: {{address: '127.0.0.1:0', key_files: [{keys_listed}], tls: {{certificate: {}, \
             key: {}, client_ca: {}, client_certificate: {asked}}}}}",
            path("server.pem"),
            path("server-key.pem"),
            path("ca.pem"),
        );
        let route = "routes: [{path: /ws, auth: none, backend: {echo: true}}]";
        let node = Node::with_listeners(&listeners, route);
        let known = certificates.client(Some("backend"));
        assert_eq!(over_tls(&node, known, "").await, Some(200), "{asked}");
        let nobody = certificates.client(None);
        assert_eq!(over_tls(&node, Arc::clone(&nobody), "").await, without, "{asked}");
        let by_key = over_tls(&node, nobody, &key).await;
        assert_eq!(by_key, if keys { Some(200) } else { without }, "{asked} {keys}");
        // One by another authority does not get through the handshake, key or not.
        let stranger = strangers.client(Some("stranger"));
        let mut config = certificates.client(None).as_ref().clone();
        config.client_auth_cert_resolver = Arc::clone(&stranger.client_auth_cert_resolver);
        assert_eq!(over_tls(&node, Arc::new(config), &key).await, None, "{asked}");
        let expiry = "certificate=\"listeners.management.tls\"";
        let ends =
            node.metric("moorline_tls_certificate_expiry_timestamp_seconds", &[expiry]).await;
        assert!(ends > 4e9, "{ends}");
        // What is known by a certificate does not outlive the config that took it.
        let known = certificates.client(Some("backend"));
        let mut kept = connect_tls(node.management(), "localhost", known).await.unwrap();
        kept.write_all(format!("GET {COUNT} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = vec![0; 4096];
        let read = kept.read(&mut answer).await.unwrap();
        assert_eq!(parse(&String::from_utf8_lossy(&answer[..read])).status, 200);
        node.signal("HUP");
        let ended = timeout(DEADLINE, kept.read_to_end(&mut answer)).await;
        ended.expect("the end of the stream").unwrap();
    }
}

#[tokio::test]
async fn backends_talk_to_clients_until_the_last_has_left() {
    let stage = Stage::new();
    stage.node.rewrite(|text| text.replace("drain: 1s", "drain: 10m"));
    stage.node.signal("HUP");
    stage.node.wait_for("config reloaded; all files were read again", |_| true);
    // Evenly over ten minutes: the first leaves at once, the second does not.
    let mut clients = [stage.client("ann").await.0, stage.client("bob").await.0];
    stage.node.signal("TERM");
    eventually("one has left", async || {
        let count = stage.ask("GET", "/:count", "").await;
        assert_eq!(count.status, 200);
        (count.body["connections"] == 1).then_some(())
    })
    .await;
    assert_eq!(stage.send("", "goodbye").await, 1);
    assert_eq!(stage.ask("POST", "/:closeConnections?code=1012", "").await.status, 204);
    for client in &mut clients {
        let _: &mut Client = client;
        assert_eq!(client.closed().await.unwrap().0, 1012);
    }
    let mut node = stage.node;
    assert!(node.ended().success());
    assert_eq!(node.lines("task panicked").len(), 0);
}

#[tokio::test]
async fn an_idle_stream_does_not_hold_up_the_stop() {
    let stage = Stage::new();
    let to = stage.node.management();
    let silent = tokio::net::TcpStream::connect(to).await.unwrap();
    let mut idle = tokio::net::TcpStream::connect(to).await.unwrap();
    idle.write_all(b"GET /api/health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(idle.read(&mut [0; 1024]).await.unwrap() > 0);
    assert_eq!(ask(to, "GET", "/api/health", &[], b"").await.status, 200);
    let mut node = stage.node;
    node.signal("TERM");
    assert!(node.ended().success());
    assert_eq!(idle.read(&mut [0; 1024]).await.unwrap_or(0), 0);
    drop(silent);
}
