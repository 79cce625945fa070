//! Whose address a client has: what a trusted proxy says it is, and never what the client says.

use std::net::SocketAddr;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::harness::{
    Answer, Certificates, Client, DEADLINE, NatsServer, Node, Request, Worker, eventually,
};

const ECHO: &str = "routes:\n- {path: /ws, auth: none, backend: {echo: true}}\n";
/// The sources that nodes here trust, and one that they do not.
const PROXY: &str = "127.0.0.1";
const STRANGER: &str = "127.0.0.2";

/// A connection from a source of the test's choice.
async fn connect_from(source: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
    socket.connect(to).await.unwrap()
}

/// A connection that begins with these bytes.
async fn connect_with(header: &[u8], to: SocketAddr) -> TcpStream {
    let mut tcp = connect_from(PROXY, to).await;
    tcp.write_all(header).await.unwrap();
    tcp
}

/// A header of version 2 with a source, for TCP over IPv4, and additional values.
fn binary(source: [u8; 4], port: u16) -> Vec<u8> {
    let values = [0x04, 0, 3, 0, 0, 0];
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x12".to_vec();
    header.extend(source);
    header.extend([10, 0, 0, 1]);
    header.extend(port.to_be_bytes());
    header.extend(443_u16.to_be_bytes());
    header.extend(values);
    header
}

/// Whether the node ends the stream without a word.
async fn is_closed(mut tcp: TcpStream) -> bool {
    let mut answer = Vec::new();
    let _ = timeout(DEADLINE, tcp.read_to_end(&mut answer)).await.expect("an end in time");
    answer.is_empty()
}

async fn results(node: &Node, result: &str) -> f64 {
    let label = format!("result=\"{result}\"");
    node.metric("moorline_proxy_protocol_total", &[&label]).await
}

/// The address in the line that the node logs of the connection, which is closed by this.
async fn remote_in_the_log(node: &Node, client: Client) -> String {
    let id = client.headers["moorline-connection-id"].to_str().unwrap().to_owned();
    client.close().await;
    let line = node.wait_for("connection ended", |line| line["connection"] == id.as_str());
    line["remote"].as_str().unwrap().to_owned()
}

fn proxied_plain(more: &str) -> Node {
    let listener = format!(
        "plain: {{address: '127.0.0.1:0', proxy_protocol: {{trusted: [{PROXY}/32]{more}}}}}"
    );
    Node::with_listeners(&listener, ECHO)
}

#[tokio::test]
async fn a_proxy_header_before_plain_http_names_the_client() {
    let node = proxied_plain("");
    let (v1, v2) = (
        b"PROXY TCP4 203.0.113.7 10.0.0.1 51000 443\r\n".to_vec(),
        binary([203, 0, 113, 8], 52000),
    );
    let v6 = b"PROXY TCP6 2001:db8::7 ::1 51000 443\r\n".to_vec();
    let mapped = b"PROXY TCP6 ::ffff:203.0.113.9 ::1 51000 443\r\n".to_vec();
    for (header, expected) in [
        (v1, "203.0.113.7:51000"),
        (v2, "203.0.113.8:52000"),
        (v6, "[2001:db8::7]:51000"),
        (mapped, "203.0.113.9:51000"),
    ] {
        let tcp = connect_with(&header, node.ws()).await;
        let mut client = Request::new("/ws").over(Box::new(tcp)).await.unwrap();
        assert_eq!(client.ask("hi").await, "hi");
        assert_eq!(remote_in_the_log(&node, client).await, expected);
    }
    assert_eq!(results(&node, "ok").await, 4.0);
    for header in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"] {
        let tcp = connect_with(header, node.ws()).await;
        let own = tcp.local_addr().unwrap().to_string();
        let client = Request::new("/ws").over(Box::new(tcp)).await.unwrap();
        assert_eq!(remote_in_the_log(&node, client).await, own);
    }
    assert_eq!(results(&node, "local").await, 2.0);
}

#[tokio::test]
async fn a_proxy_header_stands_before_tls() {
    let certificates = Certificates::new();
    certificates.issue("server", "localhost");
    let listener = certificates.listener("server", "");
    let listener = listener.strip_suffix("}").unwrap();
    let listener = format!("{listener}, proxy_protocol: {{trusted: [{PROXY}]}}}}");
    let node = Node::with_listeners(&listener, ECHO);
    for (header, expected) in [
        (b"PROXY TCP4 203.0.113.7 10.0.0.1 51000 443\r\n".to_vec(), "203.0.113.7:51000"),
        (binary([203, 0, 113, 8], 52000), "203.0.113.8:52000"),
    ] {
        let tcp = connect_with(&header, node.wss()).await;
        let connector = TlsConnector::from(certificates.client(None));
        let tls = connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await;
        let client = Request::new("/ws").over(Box::new(tls.unwrap())).await.unwrap();
        assert_eq!(remote_in_the_log(&node, client).await, expected);
    }
    // TLS at once is no PROXY header.
    let tcp = connect_from(PROXY, node.wss()).await;
    let connector = TlsConnector::from(certificates.client(None));
    let name = ServerName::try_from("localhost").unwrap();
    assert!(connector.connect(name, tcp).await.is_err());
    assert_eq!(results(&node, "malformed").await, 1.0);
}

#[tokio::test]
async fn a_proxy_header_may_come_in_pieces_and_with_what_follows() {
    let node = proxied_plain("");
    let handshake = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Version: 13\r\n\r\n";
    let v1 = b"PROXY TCP4 203.0.113.7 10.0.0.1 51000 443\r\n".to_vec();
    for header in [v1, binary([203, 0, 113, 7], 51000)] {
        let sent = [&header, handshake.as_bytes()].concat();
        for piece in [1, 5, sent.len()] {
            let mut tcp = connect_from(PROXY, node.ws()).await;
            tcp.set_nodelay(true).unwrap();
            for piece in sent.chunks(piece) {
                tcp.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            let mut answer = [0; 12];
            timeout(DEADLINE, tcp.read_exact(&mut answer)).await.unwrap().unwrap();
            assert_eq!(&answer, b"HTTP/1.1 101");
        }
    }
    eventually("six connections ended", async || {
        (node.lines("connection ended").len() == 6).then_some(())
    })
    .await;
    for line in node.lines("connection ended") {
        assert_eq!(line["remote"], "203.0.113.7:51000");
    }
}

#[tokio::test]
async fn without_a_proxy_header_that_counts_the_connection_is_closed() {
    let node = proxied_plain(", timeout: 1m");
    let line = b"PROXY TCP4 203.0.113.7 10.0.0.1 51000 443\r\n";
    let get = b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n";

    assert!(is_closed(connect_with(get, node.ws()).await).await);
    assert!(is_closed(connect_with(b"PROXY TCP4 1.2.3.4\r\n", node.ws()).await).await);
    assert!(is_closed(connect_with(&[0; 5000], node.ws()).await).await);
    assert_eq!(results(&node, "malformed").await, 3.0);

    let mut stranger = connect_from(STRANGER, node.ws()).await;
    let _ = stranger.write_all(line).await;
    assert!(is_closed(stranger).await);
    assert_eq!(results(&node, "untrusted").await, 1.0);

    drop(connect_with(b"", node.ws()).await);
    eventually("a closed one", async || (results(&node, "closed").await == 1.0).then_some(()))
        .await;
    assert_eq!(results(&node, "ok").await, 0.0);
    assert!(node.lines("handshake refused").is_empty(), "none of them got as far as HTTP");

    let node = proxied_plain(", timeout: 200ms");
    assert!(is_closed(connect_with(b"", node.ws()).await).await);
    assert!(is_closed(connect_with(b"PROXY TCP4 1.2.3.4 ", node.ws()).await).await);
    assert_eq!(results(&node, "timeout").await, 2.0);
}

#[tokio::test]
async fn a_node_that_stops_does_not_wait_for_a_proxy_header() {
    let mut node = proxied_plain(", timeout: 1m");
    let mute = connect_with(b"PROXY TCP4 ", node.ws()).await;
    let tcp = connect_with(b"PROXY UNKNOWN\r\n", node.ws()).await;
    // Accepted behind the mute one, so that one is being waited for.
    let open = Request::new("/ws").over(Box::new(tcp)).await.unwrap();
    node.signal("TERM");
    assert!(is_closed(mute).await);
    open.close().await;
    assert!(node.ended().success());
}

#[tokio::test]
async fn a_listener_that_wants_no_proxy_header_takes_none() {
    let node = Node::start(ECHO);
    let mut tcp = connect_with(b"PROXY TCP4 203.0.113.7 10.0.0.1 51000 443\r\n", node.ws()).await;
    let _ = tcp.write_all(b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut answer = Vec::new();
    let _ = timeout(DEADLINE, tcp.read_to_end(&mut answer)).await.expect("an end in time");
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
    let line = node.wait_for("handshake refused", |_| true);
    assert!(line["remote"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    assert_eq!(results(&node, "ok").await, 0.0);
}

/// What the connection's own address is in the tables below.
const OWN: &str = "the connection's";

/// Headers that a client or a proxy sent, and the address that the client then has. Trusted are
/// 127.0.0.1, where the connection comes from, 10.0.0.0/8 and fd00::/8.
const X_FORWARDED_FOR: &[(&[(&str, &str)], &str)] = &[
    (&[], OWN),
    // One proxy, and what a client put before its word.
    (&[("x-forwarded-for", "203.0.113.7")], "203.0.113.7:0"),
    (&[("X-Forwarded-For", "203.0.113.7")], "203.0.113.7:0"),
    (&[("x-forwarded-for", "198.51.100.1, 203.0.113.7")], "203.0.113.7:0"),
    (&[("x-forwarded-for", "127.0.0.1, 203.0.113.7")], "203.0.113.7:0"),
    (&[("x-forwarded-for", "10.0.0.1, 203.0.113.7")], "203.0.113.7:0"),
    (&[("x-forwarded-for", "198.51.100.1, 10.0.0.1, 203.0.113.7")], "203.0.113.7:0"),
    (&[("x-forwarded-for", "garbage, 203.0.113.7")], "203.0.113.7:0"),
    (&[("x-forwarded-for", ",,,, 203.0.113.7")], "203.0.113.7:0"),
    (&[("x-forwarded-for", "\"198.51.100.1, 203.0.113.7")], "203.0.113.7:0"),
    (&[("x-forwarded-for", "198.51.100.1"), ("x-forwarded-for", "203.0.113.7")], "203.0.113.7:0"),
    (&[("x-forwarded-for", "10.0.0.1"), ("x-forwarded-for", "203.0.113.7")], "203.0.113.7:0"),
    (&[("x-forwarded-for", ""), ("x-forwarded-for", "203.0.113.7")], "203.0.113.7:0"),
    // Several proxies.
    (&[("x-forwarded-for", "203.0.113.7, 10.0.0.1")], "203.0.113.7:0"),
    (&[("x-forwarded-for", "198.51.100.1, 203.0.113.7, 10.0.0.1")], "203.0.113.7:0"),
    (&[("x-forwarded-for", "203.0.113.7,fd00::1,10.0.0.1")], "203.0.113.7:0"),
    (&[("x-forwarded-for", "203.0.113.7, ::ffff:10.0.0.1")], "203.0.113.7:0"),
    (&[("x-forwarded-for", "203.0.113.7"), ("x-forwarded-for", "10.0.0.1")], "203.0.113.7:0"),
    // A client within the networks of the proxies is still one.
    (&[("x-forwarded-for", "10.0.0.2, 10.0.0.1")], "10.0.0.2:0"),
    (&[("x-forwarded-for", "127.0.0.1")], "127.0.0.1:0"),
    // Forms.
    (&[("x-forwarded-for", "203.0.113.7:8080")], "203.0.113.7:8080"),
    (&[("x-forwarded-for", " \t 203.0.113.7 \t ")], "203.0.113.7:0"),
    (&[("x-forwarded-for", "2001:db8::7")], "[2001:db8::7]:0"),
    (&[("x-forwarded-for", "2001:DB8:0:0:0:0:0:7")], "[2001:db8::7]:0"),
    (&[("x-forwarded-for", "[2001:db8::7]")], "[2001:db8::7]:0"),
    (&[("x-forwarded-for", "[2001:db8::7]:8080")], "[2001:db8::7]:8080"),
    (&[("x-forwarded-for", "::ffff:203.0.113.7")], "203.0.113.7:0"),
    (&[("x-forwarded-for", "[::ffff:203.0.113.7]:8080")], "203.0.113.7:8080"),
    // What is no address ends the walk at the last that was one.
    (&[("x-forwarded-for", "")], OWN),
    (&[("x-forwarded-for", "203.0.113.7,")], OWN),
    (&[("x-forwarded-for", "203.0.113.7, , 10.0.0.1")], "10.0.0.1:0"),
    (&[("x-forwarded-for", "203.0.113.7, unknown")], OWN),
    (&[("x-forwarded-for", "203.0.113.7, unknown, 10.0.0.1")], "10.0.0.1:0"),
    (&[("x-forwarded-for", "203.0.113.7, _secret")], OWN),
    (&[("x-forwarded-for", "203.0.113.7 198.51.100.1")], OWN),
    (&[("x-forwarded-for", "203.0.113.7; 198.51.100.1")], OWN),
    (&[("x-forwarded-for", "203.0.113.07")], OWN),
    (&[("x-forwarded-for", "203.0.113.256")], OWN),
    (&[("x-forwarded-for", "203.0.113")], OWN),
    (&[("x-forwarded-for", "3405803783")], OWN),
    (&[("x-forwarded-for", "0xcb.0.113.7")], OWN),
    (&[("x-forwarded-for", "203.0.113.7:")], OWN),
    (&[("x-forwarded-for", "203.0.113.7:65536")], OWN),
    (&[("x-forwarded-for", "203.0.113.7:-1")], OWN),
    (&[("x-forwarded-for", "[203.0.113.7]")], OWN),
    (&[("x-forwarded-for", "2001:db8::7%eth0")], OWN),
    (&[("x-forwarded-for", "\"203.0.113.7\"")], OWN),
    (&[("x-forwarded-for", "for=203.0.113.7")], OWN),
    (&[("x-forwarded-for", "localhost")], OWN),
    (&[("x-forwarded-for", "203.0.113.7\u{a0}")], OWN),
    // Only the one header that the proxies write.
    (&[("forwarded", "for=198.51.100.1")], OWN),
    (&[("x-real-ip", "198.51.100.1")], OWN),
    (&[("x_forwarded_for", "198.51.100.1")], OWN),
    (&[("x-client-ip", "198.51.100.1")], OWN),
    (&[("x-forwarded-host", "198.51.100.1")], OWN),
    (&[("forwarded", "for=198.51.100.1"), ("x-forwarded-for", "203.0.113.7")], "203.0.113.7:0"),
];

const FORWARDED: &[(&[(&str, &str)], &str)] = &[
    (&[("forwarded", "for=203.0.113.7")], "203.0.113.7:0"),
    (&[("forwarded", "for=198.51.100.1, for=203.0.113.7")], "203.0.113.7:0"),
    (&[("forwarded", "for=\"198.51.100.1, for=203.0.113.7")], "203.0.113.7:0"),
    (&[("forwarded", "for=\"\\, for=203.0.113.7;proto=https")], "203.0.113.7:0"),
    (&[("forwarded", "for=198.51.100.1"), ("forwarded", "for=203.0.113.7")], "203.0.113.7:0"),
    (&[("forwarded", "For=\"[2001:db8::7]:4711\";by=10.0.0.1")], "[2001:db8::7]:4711"),
    (&[("forwarded", "for=203.0.113.7, for=\"[fd00::1]\", for=\"10.0.0.1:80\"")], "203.0.113.7:0"),
    (&[("forwarded", "for=198.51.100.1, for=unknown, for=10.0.0.1")], "10.0.0.1:0"),
    (&[("forwarded", "for=198.51.100.1, for=_hidden")], OWN),
    (&[("forwarded", "for=198.51.100.1, by=10.0.0.1")], OWN),
    (&[("forwarded", "for=198.51.100.1;for=203.0.113.7")], OWN),
    (&[("forwarded", "for=[2001:db8::7]")], OWN),
    (&[("x-forwarded-for", "198.51.100.1")], OWN),
    (&[("x-forwarded-for", "198.51.100.1"), ("forwarded", "for=203.0.113.7")], "203.0.113.7:0"),
];

/// A node whose backend decides on handshakes, and a worker that refuses them all: what it is asked is
/// what a backend sees of a client.
async fn deciding(nats: &NatsServer, keys: &str) -> (Node, Worker) {
    let node = Node::with_listeners(
        &format!("plain: {{address: '127.0.0.1:0', {keys}}}"),
        &format!(
            "nats: {{servers: ['{}']}}\nroutes:\n- {{path: /ws, auth: connect}}\n",
            nats.url()
        ),
    );
    node.reaches_nats().await;
    let worker = Worker::start(nats, "moorline.default.in.connect", |_| {
        Answer::payload("no").header("moorline-status", "403")
    })
    .await;
    (node, worker)
}

/// The address that the backend saw of the client of this handshake, and the connection's own.
async fn remote_at_the_backend(
    worker: &Worker,
    tcp: TcpStream,
    headers: &[(&str, &str)],
) -> (String, String) {
    let own = tcp.local_addr().unwrap().to_string();
    let request = Request::new("/ws");
    let request = headers.iter().fold(request, |r, (name, value)| r.header(name, *value));
    assert_eq!(request.over(Box::new(tcp)).await.err().unwrap().0, 403);
    let asked = worker.texts().pop().unwrap();
    let data: serde_json::Value = serde_json::from_str(&asked).unwrap();
    (data["remote_address"].as_str().unwrap().to_owned(), own)
}

#[tokio::test]
async fn a_forged_header_never_changes_the_address() {
    let nats = NatsServer::start().await;
    for (header, table) in [("x-forwarded-for", X_FORWARDED_FOR), ("forwarded", FORWARDED)] {
        let keys =
            format!("forwarded: {{header: {header}, trusted: [{PROXY}, 10.0.0.0/8, 'fd00::/8']}}");
        let (node, worker) = deciding(&nats, &keys).await;
        for (headers, expected) in table {
            let tcp = connect_from(PROXY, node.ws()).await;
            let (seen, own) = remote_at_the_backend(&worker, tcp, headers).await;
            let expected = if *expected == OWN { &own } else { *expected };
            assert_eq!(seen, expected, "{headers:?}");
            // From elsewhere nothing in a header counts.
            let tcp = connect_from(STRANGER, node.ws()).await;
            let (seen, own) = remote_at_the_backend(&worker, tcp, headers).await;
            assert_eq!(seen, own, "{headers:?} from a stranger");
        }
    }
}

#[tokio::test]
async fn the_log_names_the_client_of_the_header() {
    let listener = format!(
        "plain: {{address: '127.0.0.1:0', forwarded: {{header: forwarded, trusted: [{PROXY}]}}}}"
    );
    let node = Node::with_listeners(&listener, ECHO);
    let request = Request::new("/ws").header("forwarded", "for=\"[2001:db8::7]:4711\"");
    let client = request.connect(node.ws()).await.unwrap();
    assert_eq!(remote_in_the_log(&node, client).await, "[2001:db8::7]:4711");
    let nowhere = Request::new("/nowhere").header("forwarded", "for=203.0.113.7");
    assert_eq!(nowhere.connect(node.ws()).await.err().unwrap().0, 404);
    let line = node.wait_for("handshake refused", |_| true);
    assert_eq!(line["remote"], "203.0.113.7:0");
}

#[tokio::test]
async fn a_list_longer_than_any_chain_of_proxies_is_not_followed() {
    let nats = NatsServer::start().await;
    let (node, worker) =
        deciding(&nats, "forwarded: {header: x-forwarded-for, trusted: [0.0.0.0/0]}").await;
    let long = format!("198.51.100.1{}", ", 10.0.0.1".repeat(1000));
    let tcp = connect_from(PROXY, node.ws()).await;
    let (seen, _) = remote_at_the_backend(&worker, tcp, &[("x-forwarded-for", &long)]).await;
    assert_eq!(seen, "10.0.0.1:0");
    let tcp = connect_from(PROXY, node.ws()).await;
    let headers = [("x-forwarded-for", "198.51.100.1, 203.0.113.7, 10.0.0.1")];
    let (seen, _) = remote_at_the_backend(&worker, tcp, &headers).await;
    assert_eq!(seen, "198.51.100.1:0", "who trusts everybody believes everybody");
}

#[tokio::test]
async fn a_header_counts_when_the_proxy_header_names_a_trusted_proxy() {
    let nats = NatsServer::start().await;
    let keys = format!(
        "proxy_protocol: {{trusted: [{PROXY}]}}, \
         forwarded: {{header: x-forwarded-for, trusted: [10.0.0.0/8]}}"
    );
    let (node, worker) = deciding(&nats, &keys).await;
    for (source, expected) in [("10.0.0.9", "203.0.113.7:0"), ("192.0.2.9", "192.0.2.9:51000")] {
        let line = format!("PROXY TCP4 {source} 10.0.0.1 51000 443\r\n");
        let tcp = connect_with(line.as_bytes(), node.ws()).await;
        let headers = [("x-forwarded-for", "203.0.113.7")];
        let (seen, _) = remote_at_the_backend(&worker, tcp, &headers).await;
        assert_eq!(seen, expected);
    }
}

#[tokio::test]
async fn without_the_setting_no_header_counts() {
    let nats = NatsServer::start().await;
    let (node, worker) = deciding(&nats, "").await;
    for headers in [[("x-forwarded-for", "203.0.113.7")], [("forwarded", "for=203.0.113.7")]] {
        let tcp = connect_from(PROXY, node.ws()).await;
        let (seen, own) = remote_at_the_backend(&worker, tcp, &headers).await;
        assert_eq!(seen, own);
    }
}
