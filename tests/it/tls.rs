//! TLS at the public door: certificates by name, change of files under way, client certificates.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{
    Answer, Certificates, Client, NatsServer, Node, Request, Worker, connect_tls, eventually,
    header,
};

const ECHO: &str = "routes:\n- {path: /ws, auth: none, backend: {echo: true}}\n";

async fn client(node: &Node, certificates: &Certificates, name: &str) -> Client {
    let io = connect_tls(node.wss(), name, certificates.client(None)).await.unwrap();
    Request::new("/ws").over(Box::new(io)).await.unwrap()
}

#[tokio::test]
async fn each_name_has_its_certificate() {
    let certificates = Certificates::new();
    certificates.issue("first", "localhost");
    let (certificate, key) = certificates.issue("second", "chat.example");
    let more = format!(
        ", additional: [{{certificate: {}, key: {}}}]",
        certificate.display(),
        key.display()
    );
    let node = Node::with_listeners(&certificates.listener("first", &more), ECHO);
    for name in ["localhost", "chat.example"] {
        assert_eq!(client(&node, &certificates, name).await.ask("hi").await, "hi");
    }
    let unknown = connect_tls(node.wss(), "other.example", certificates.client(None)).await;
    assert!(unknown.is_err(), "the first certificate does not fit this name");
    assert!(node.metric("moorline_tls_handshakes_total", &["result=\"ok\""]).await >= 2.0);
    let expiry = node.metric("moorline_tls_certificate_expiry_timestamp_seconds", &[]).await;
    assert!(expiry > 4e9, "{expiry}");
}

#[tokio::test]
async fn a_new_certificate_is_taken_over_and_open_connections_stay() {
    let certificates = Certificates::new();
    certificates.issue("server", "localhost");
    let listener = certificates.listener("server", ", reload_interval: 1s");
    let node = Node::with_listeners(&listener, ECHO);
    let mut open = client(&node, &certificates, "localhost").await;
    assert_eq!(open.ask("before").await, "before");
    let reloads = async |result: &str| {
        node.metric("moorline_config_reloads_total", &[&format!("result=\"{result}\"")]).await
    };

    certificates.issue("server", "renamed.example");
    eventually("the new name is served", async || {
        connect_tls(node.wss(), "renamed.example", certificates.client(None)).await.ok().map(drop)
    })
    .await;
    assert_eq!(open.ask("after").await, "after");
    assert!(reloads("ok").await >= 1.0);

    std::fs::write(certificates.path("server.pem"), "-----BEGIN CERTIFICATE-----\nhalf").unwrap();
    eventually("the bad file is counted", async || (reloads("failed").await >= 1.0).then_some(()))
        .await;
    client(&node, &certificates, "renamed.example").await.close().await;

    certificates.issue_until("server", "expired.example", 2021);
    eventually("the expired one is counted", async || {
        (reloads("failed").await >= 2.0).then_some(())
    })
    .await;
    client(&node, &certificates, "renamed.example").await.close().await;

    certificates.issue("server", "last.example");
    node.signal("HUP");
    client_eventually(&node, &certificates, "last.example").await;
    assert_eq!(open.ask("still").await, "still");
}

async fn client_eventually(node: &Node, certificates: &Certificates, name: &str) {
    eventually("the certificate is served", async || {
        connect_tls(node.wss(), name, certificates.client(None)).await.ok().map(drop)
    })
    .await;
}

#[tokio::test]
async fn a_client_certificate_says_who_it_is() {
    let certificates = Certificates::new();
    certificates.issue("server", "localhost");
    let nats = NatsServer::start().await;
    let ca = certificates.path("ca.pem");
    let listener = certificates.listener("server", &format!(", client_ca: {}", ca.display()));
    let node = Node::with_listeners(
        &listener,
        &format!(
            "nats: {{servers: ['{}']}}\nroutes:\n- {{path: /ws, auth: certificate}}\n",
            nats.url()
        ),
    );
    node.reaches_nats().await;
    let _worker = Worker::start(&nats, "moorline.default.in.message", |message| {
        Answer::payload(header(message, "ce-userid").unwrap_or_default())
    })
    .await;
    let config = certificates.client(Some("device-7.example"));
    let io = connect_tls(node.wss(), "localhost", config).await.unwrap();
    let mut device = Request::new("/ws").over(Box::new(io)).await.unwrap();
    assert_eq!(device.ask("who am I?").await, "device-7.example");
    // A browser shows its user's certificate on any page's behalf.
    let config = certificates.client(Some("device-7.example"));
    let io = connect_tls(node.wss(), "localhost", config).await.unwrap();
    let page = Request::new("/ws").header("origin", "https://evil.example");
    assert_eq!(page.over(Box::new(io)).await.err().expect("a refusal").0, 403);
    let io = connect_tls(node.wss(), "localhost", certificates.client(None)).await.unwrap();
    let refused = Request::new("/ws").over(Box::new(io)).await.err().expect("a refusal");
    assert_eq!(refused.0, 401);
}

#[tokio::test]
async fn a_large_message_goes_both_ways_over_tls_and_the_next_ones_too() {
    let certificates = Certificates::new();
    certificates.issue("server", "localhost");
    let config = "routes:\n- {path: /ws, auth: none, backend: {echo: true}, max_message: 8MiB}\n";
    let node = Node::with_listeners(&certificates.listener("server", ""), config);
    let mut client = client(&node, &certificates, "localhost").await;
    for size in [10, 70_000, 8 << 20, 5, 16_385, 1 << 20, 0] {
        let message = Message::binary(vec![size as u8; size]);
        client.send(message.clone()).await;
        assert!(client.next().await.unwrap() == message, "{size} bytes");
    }
}

#[tokio::test]
async fn a_silent_client_is_dropped_at_the_tls_deadline() {
    let certificates = Certificates::new();
    certificates.issue("server", "localhost");
    let listener = certificates.listener("server", "");
    let node = Node::with_listeners(&listener, &format!("limits: {{tls_timeout: 1s}}\n{ECHO}"));
    let mut silent = TcpStream::connect(node.wss()).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(10), silent.read_u8()).await;
    assert!(end.expect("the end in time").is_err());
    node.metric_becomes("moorline_tls_handshakes_total", &["result=\"timeout\""], 1.0).await;
}
