//! Who is taken in: bounds by address, on handshakes, on clients that never ask, and by memory.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::harness::{
    Answer, Certificates, Client, DEADLINE, NatsServer, Node, Request, Worker, connect_tls,
    eventually,
};

const ECHO: &str = "routes:\n- {path: /ws, auth: none, backend: {echo: true}";
const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

fn node(limits: &str) -> Node {
    Node::start(&format!("limits: {{{limits}}}\n{ECHO}}}\n"))
}

/// A TCP connection from 127.0.0.`last`.
async fn tcp(to: SocketAddr, last: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

async fn client(to: SocketAddr, last: u8) -> Result<Client, (u16, String)> {
    Request::new("/ws").over(Box::new(tcp(to, last).await)).await
}

/// What comes back for a handshake, up to the end of the head of a 101 or of everything else.
async fn answer(to: SocketAddr, last: u8) -> String {
    let mut tcp = tcp(to, last).await;
    tcp.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    let mut answer = String::new();
    while !(answer.starts_with("HTTP/1.1 101") && answer.ends_with("\r\n\r\n")) {
        let mut bytes = [0; 4096];
        match timeout(DEADLINE, tcp.read(&mut bytes)).await.expect("an answer in time") {
            Ok(0) | Err(_) => break,
            Ok(n) => answer.push_str(&String::from_utf8_lossy(&bytes[..n])),
        }
    }
    answer
}

/// Asserts that an answer is a refusal with this status and word, and says when to come back.
fn assert_refused(answer: &str, status: u16, word: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").expect(answer);
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    let field = |line: &str| line.to_ascii_lowercase().strip_prefix("retry-after: ")?.parse().ok();
    let retry: u32 = head.lines().find_map(field).expect("Retry-After");
    assert!((1..=5).contains(&retry), "{retry}");
    let problem: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!((&problem["error"], &problem["status"]), (&word.into(), &status.into()));
}

/// Shakes hands from that address until it is refused.
async fn until_refused(to: SocketAddr, last: u8) -> String {
    eventually("a refusal", async || {
        Some(answer(to, last).await).filter(|answer| !answer.starts_with("HTTP/1.1 101"))
    })
    .await
}

async fn results(node: &Node, result: &str) -> f64 {
    let label = format!("result=\"{result}\"");
    node.metric("moorline_handshakes_total", &[&label]).await
}

#[tokio::test]
async fn an_address_has_its_places_and_the_others_have_theirs() {
    let node = node("max_connections_per_ip: 2");
    let mut first = client(node.ws(), 2).await.unwrap();
    let _second = client(node.ws(), 2).await.unwrap();
    assert_refused(&answer(node.ws(), 2).await, 429, "address-full");
    assert_eq!(results(&node, "address-full").await, 1.0);
    let _other = client(node.ws(), 3).await.unwrap();
    assert_eq!(first.ask("still here").await, "still here");
    first.close().await;
    eventually("the place is free", async || client(node.ws(), 2).await.ok()).await;
}

#[tokio::test]
async fn a_refused_handshake_keeps_no_place_of_its_address() {
    let node = Node::start(&format!(
        "limits: {{max_connections_per_ip: 1}}\n{ECHO}, origins: ['https://good.com']}}\n"
    ));
    for _ in 0..3 {
        let page = Request::new("/ws").header("origin", "https://evil.com");
        assert_eq!(page.connect(node.ws()).await.err().expect("a refusal").0, 403);
    }
    let page = Request::new("/ws").header("origin", "https://good.com");
    assert!(page.connect(node.ws()).await.is_ok());
}

#[tokio::test]
async fn an_address_that_comes_too_often_is_refused_alone() {
    let node = node("handshakes_per_ip: {per_second: 1, burst: 3}");
    assert_refused(&until_refused(node.ws(), 2).await, 429, "address-rate");
    assert!(answer(node.ws(), 3).await.starts_with("HTTP/1.1 101"));
    assert!(results(&node, "accepted").await >= 4.0);
    assert_eq!(results(&node, "address-rate").await, 1.0);
}

#[tokio::test]
async fn a_browser_that_comes_too_often_sees_4429() {
    let node = Node::start(&format!(
        "limits: {{handshakes_per_ip: {{per_second: 1, burst: 1}}}}\n{ECHO}, refuse: close}}\n"
    ));
    let closed = eventually("a refusal", async || {
        let mut client = client(node.ws(), 2).await.unwrap();
        // One that was let in is answered; one that was not is closed at once.
        client.try_send("hello").await;
        client.next().await.err()
    })
    .await;
    assert_eq!(closed, Some((4429, "address-rate".to_owned())));
}

#[tokio::test]
async fn the_node_bounds_the_handshakes_of_all() {
    let node = node("handshakes: {per_second: 1, burst: 3}");
    assert_refused(&until_refused(node.ws(), 2).await, 503, "handshake-rate");
    assert_refused(&until_refused(node.ws(), 3).await, 503, "handshake-rate");
    assert_eq!(results(&node, "handshake-rate").await, 2.0);
}

#[tokio::test]
async fn clients_that_never_ask_make_room_for_one_that_does() {
    let node = node("max_pending: 20, head_timeout: 1m");
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(TcpStream::connect(node.ws()).await.unwrap());
    }
    let mut honest = Client::connect(node.ws()).await;
    assert_eq!(honest.ask("hello").await, "hello");
    // Half of them made room for the other half, and one for the client that asked.
    for tcp in &mut idle[..21] {
        let mut said = String::new();
        timeout(DEADLINE, tcp.read_to_string(&mut said)).await.expect("an end in time").unwrap();
        assert!(said.starts_with("HTTP/1.1 503 ") && said.contains("retry-after: "), "{said}");
    }
    for tcp in &mut idle[21..] {
        tcp.write_all(HANDSHAKE.as_bytes()).await.unwrap();
        let mut said = [0; 12];
        timeout(DEADLINE, tcp.read_exact(&mut said)).await.expect("an answer in time").unwrap();
        assert_eq!(&said, b"HTTP/1.1 101");
    }
    eventually("they are counted", async || {
        (results(&node, "evicted").await == 21.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn clients_that_never_shake_hands_make_room_for_one_that_does() {
    let certificates = Certificates::new();
    certificates.issue("server", "localhost");
    let limits = "limits: {max_pending: 2, tls_timeout: 1m}\n";
    let listener = certificates.listener("server", "");
    let node = Node::with_listeners(&listener, &format!("{limits}{ECHO}}}\n"));
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(node.wss()).await.unwrap());
    }
    let io = connect_tls(node.wss(), "localhost", certificates.client(None)).await.unwrap();
    let mut honest = Request::new("/ws").over(Box::new(io)).await.unwrap();
    assert_eq!(honest.ask("hello").await, "hello");
    for tcp in &mut silent[..2] {
        let end = timeout(DEADLINE, tcp.read_u8()).await;
        assert!(end.expect("the end in time").is_err());
    }
    node.metric_becomes("moorline_tls_handshakes_total", &["result=\"evicted\""], 2.0).await;
}

#[tokio::test]
async fn one_address_cannot_push_the_others_out_of_the_room() {
    let node = node("max_pending: 8, head_timeout: 1m");
    // Slower than anybody else, but its address takes up little.
    let mut honest = tcp(node.ws(), 3).await;
    let mut greedy = Vec::new();
    for _ in 0..20 {
        greedy.push(tcp(node.ws(), 2).await);
    }
    eventually("the greedy ones make room", async || {
        (results(&node, "evicted").await == 13.0).then_some(())
    })
    .await;
    honest.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    let mut said = [0; 12];
    timeout(DEADLINE, honest.read_exact(&mut said)).await.expect("an answer in time").unwrap();
    assert_eq!(&said, b"HTTP/1.1 101");
}

#[tokio::test]
async fn the_streams_of_an_address_are_bounded_before_tls() {
    let certificates = Certificates::new();
    certificates.issue("server", "localhost");
    let limits = "limits: {handshakes_per_ip: {per_second: 1, burst: 1}}\n";
    let listener = certificates.listener("server", "");
    let node = Node::with_listeners(&listener, &format!("{limits}{ECHO}}}\n"));
    eventually("some are dropped", async || {
        for _ in 0..10 {
            // Each waits for the server's hello, or for its stream to end.
            drop(connect_tls(node.wss(), "localhost", certificates.client(None)).await);
        }
        (results(&node, "dropped").await > 0.0).then_some(())
    })
    .await;
    let done = node.metric("moorline_tls_handshakes_total", &[]).await;
    assert!(done >= 4.0, "{done} got as far as TLS");
    // Another address has its own.
    let (server, config) = (node.wss(), certificates.client(None));
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let connector = tokio_rustls::TlsConnector::from(config);
    let tls = connector.connect(name, tcp(server, 3).await).await.unwrap();
    assert!(Request::new("/ws").over(Box::new(tls)).await.is_ok());
}

#[tokio::test]
async fn a_request_that_is_no_handshake_counts_for_its_address() {
    let node = node("handshakes_per_ip: {per_second: 1, burst: 1}");
    let mut addresses = 10..;
    for (bytes, status) in [
        ("GET /nope HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("GET /ws HTTP/1.1\r\nHost: x\r\n\r\n", 426),
        ("POST /ws HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        ("GET /ws HTTP/1.1\r\nHost: x y\r\n\r\n", 400),
        ("GET /ws HTTP/1.1\r\nX-A : b\r\n\r\n", 400),
    ] {
        // Each time from an address that did nothing else; in case the machine takes its time.
        let refused = eventually("a refusal", async || {
            let last = addresses.next().unwrap();
            let mut tcp = tcp(node.ws(), last).await;
            tcp.write_all(bytes.as_bytes()).await.unwrap();
            let mut said = String::new();
            timeout(DEADLINE, tcp.read_to_string(&mut said)).await.expect("an end").unwrap();
            assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
            Some(answer(node.ws(), last).await).filter(|said| !said.starts_with("HTTP/1.1 101"))
        });
        assert_refused(&refused.await, 429, "address-rate");
    }
}

#[tokio::test]
async fn limits_by_address_count_what_a_trusted_proxy_says_and_nothing_else() {
    let listener = "plain: {address: '127.0.0.1:0', \
        forwarded: {header: x-forwarded-for, trusted: [127.0.0.1]}}";
    let limits = "limits: {max_connections_per_ip: 1}\n";
    let node = Node::with_listeners(listener, &format!("{limits}{ECHO}}}\n"));
    let shake = async |last: u8, forwarded: &str| {
        let request = Request::new("/ws").header("x-forwarded-for", forwarded);
        let client = request.over(Box::new(tcp(node.ws(), last).await)).await;
        client.map_err(|(status, _)| status)
    };
    let _forger = shake(2, "203.0.113.1").await.expect("a place of its own");
    assert_eq!(shake(2, "203.0.113.2").await.err(), Some(429), "a forged one is no other");
    let _first = shake(1, "203.0.113.1").await.expect("the forger took none of its places");
    let _second = shake(1, "203.0.113.2").await.expect("another client of the proxy");
    assert_eq!(shake(1, "203.0.113.1").await.err(), Some(429));
    assert_eq!(shake(1, "198.51.100.9, 203.0.113.1").await.err(), Some(429));
    assert_eq!(shake(1, "127.0.0.2").await.err(), Some(429), "where it has its place");
}

#[tokio::test]
async fn rates_by_address_count_what_a_trusted_proxy_says_and_nothing_else() {
    let listener = "plain: {address: '127.0.0.1:0', \
        forwarded: {header: x-forwarded-for, trusted: [127.0.0.1]}}";
    let limits = "limits: {handshakes_per_ip: {per_second: 1, burst: 1}}\n";
    let node = Node::with_listeners(listener, &format!("{limits}{ECHO}}}\n"));
    // Many at once from the proxy: neither its streams nor its clients are too many.
    for n in 1..100 {
        let request = Request::new("/ws").header("x-forwarded-for", format!("203.0.113.{n}"));
        assert!(request.over(Box::new(tcp(node.ws(), 1).await)).await.is_ok(), "{n}");
    }
    let mut forged = 0..;
    eventually("a forger is dropped", async || {
        let mut crowd = Vec::new();
        for _ in 0..10 {
            let mut tcp = tcp(node.ws(), 2).await;
            let field = format!("X-Forwarded-For: 203.0.113.{}\r\nHost:", forged.next()? % 250);
            let _ = tcp.write_all(HANDSHAKE.replace("Host:", &field).as_bytes()).await;
            crowd.push(tcp);
        }
        (results(&node, "dropped").await > 0.0).then_some(())
    })
    .await;
    assert!(results(&node, "address-rate").await > 0.0, "and refused before");
}

#[tokio::test]
async fn behind_a_proxy_header_the_streams_of_its_address_are_bounded() {
    let listener = "plain: {address: '127.0.0.1:0', proxy_protocol: {trusted: [127.0.0.1]}}";
    let limits = "limits: {handshakes_per_ip: {per_second: 1, burst: 1}}\n";
    let node = Node::with_listeners(listener, &format!("{limits}{ECHO}}}\n"));
    let stream = async |ip: &str| {
        let mut tcp = tcp(node.ws(), 1).await;
        let header = format!("PROXY TCP4 {ip} 10.0.0.1 51000 443\r\n");
        tcp.write_all(header.as_bytes()).await.unwrap();
        tcp
    };
    for n in 1..100 {
        let tcp = stream(&format!("203.0.113.{n}")).await;
        assert!(Request::new("/ws").over(Box::new(tcp)).await.is_ok(), "{n}");
    }
    assert_eq!(results(&node, "dropped").await, 0.0);
    let mut crowd = Vec::new();
    eventually("one address is dropped", async || {
        for _ in 0..10 {
            crowd.push(stream("198.51.100.1").await);
        }
        (results(&node, "dropped").await > 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_short_of_memory_takes_nobody_in_and_says_so_once() {
    let node = node("memory: {max: 1MiB}");
    for _ in 0..3 {
        assert_refused(&answer(node.ws(), 2).await, 503, "memory");
    }
    let limit = node.metric("moorline_memory_limit_bytes", &[]).await;
    assert_eq!(limit, f64::from(1 << 20));
    assert!(node.metric("moorline_memory_used_bytes", &[]).await > limit);
    assert_eq!(results(&node, "memory").await, 3.0);
    let news = "memory is very short; connections with the most unread bytes are closed";
    assert_eq!(node.lines(news).len(), 1, "{}", node.whole_log());
}

#[tokio::test]
async fn memory_is_watched_unless_somebody_says_otherwise() {
    let node = node("");
    let (used, limit) = ("moorline_memory_used_bytes", "moorline_memory_limit_bytes");
    let (used, limit) = (node.metric(used, &[]).await, node.metric(limit, &[]).await);
    assert!(used > 0.0 && used < limit, "{used} of {limit}");
    assert!(answer(node.ws(), 2).await.starts_with("HTTP/1.1 101"));
}

const MIB: f64 = 1024.0 * 1024.0;

/// Three clients ask for 24 MiB each and read none of it.
#[tokio::test]
async fn when_memory_is_very_short_those_who_leave_the_most_unread_go() {
    let nats = NatsServer::start().await;
    let _worker = Worker::start(&nats, "moorline.default.in.message", |message| {
        match message.payload.as_ref() {
            b"much" => Answer::payload(vec![b'x'; 512 * 1024]),
            little => Answer::payload(little.to_vec()),
        }
    })
    .await;
    let node = Node::start(&format!(
        "nats: {{servers: ['{}']}}\nlimits: {{memory: {{max: 4GiB, refuse_above: 80, \
         shed_above: 90}}}}\nheartbeat: {{write_timeout: 5m}}\nroutes:\n\
         - {{path: /ws, auth: none, in_flight: 64, outbox: {{max_bytes: 64MiB}}}}\n",
        nats.url()
    ));
    node.reaches_nats().await;
    let (mut reading, mut owed_little) =
        (Client::connect(node.ws()).await, Client::connect(node.ws()).await);
    let mut deaf = Vec::new();
    for _ in 0..3 {
        deaf.push(Client::connect(node.ws()).await);
    }
    assert_eq!(reading.ask("before").await, "before");
    let used = node.metric("moorline_memory_used_bytes", &[]).await;
    // Connections are closed above 24 MiB more than that.
    let max = ((used / MIB + 24.0) / 0.9).ceil();
    node.rewrite(|text| text.replace("max: 4GiB", &format!("max: {max}MiB")));
    node.signal("HUP");
    node.metric_becomes("moorline_memory_limit_bytes", &[], max * MIB).await;

    owed_little.send("little").await;
    for client in &mut deaf {
        client.send_together(&["much"; 48]).await;
    }
    let closed = ["cause=\"memory\"", "code=\"1013\""];
    let shed = eventually("the first goes", async || {
        let shed = node.metric("moorline_memory_shed_total", &[]).await;
        (shed >= 1.0).then_some(shed)
    })
    .await;
    assert!(shed <= 3.0, "{shed}");
    eventually("it is told as such", async || {
        (node.metric("moorline_connections_closed_total", &closed).await >= shed).then_some(())
    })
    .await;
    node.wait_for(
        "memory is very short; connections with the most unread bytes are closed",
        |_| true,
    );
    assert_eq!(reading.ask("after").await, "after");
    assert_eq!(owed_little.next_text().await, "little");
}
