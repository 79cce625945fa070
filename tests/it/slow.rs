//! Clients that take their time: one byte a second, in each stage that a connection goes through.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};

use crate::harness::{Certificates, DEADLINE, Node, Request, connect_tls};

/// How long each stage may take.
const STAGE: Duration = Duration::from_secs(4);
/// How long after that a slow client must be gone.
const GONE_AFTER: Duration = Duration::from_secs(10);

const HEAD: &[u8] = b"GET /ws HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";
/// The record and handshake headers of a ClientHello of 512 bytes (RFC 8446 section 4.1.2), and zeros.
const HELLO: &[u8] =
    &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// A masked text frame of 100 bytes, begun.
const FRAME: &[u8] =
    &[0x81, 0xe4, 0, 0, 0, 0, b'a', b'a', b'a', b'a', b'a', b'a', b'a', b'a', b'a'];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_slow_clients_go_and_honest_ones_come_in() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let certificates = Certificates::new();
    let (certificate, key) = certificates.issue("server", "localhost");
    let node = Node::with_listeners(
        &format!(
            "public: {{address: '127.0.0.1:0', tls: {{certificate: {}, key: {}}}}}\n\
             plain: {{address: '127.0.0.1:0'}}",
            certificate.display(),
            key.display()
        ),
        "limits: {tls_timeout: 4s, head_timeout: 4s, max_connections_per_ip: 20000, \
         handshakes_per_ip: {per_second: 0}}\n\
         heartbeat: {message_timeout: 4s}\n\
         routes:\n- {path: /ws, auth: none, backend: {echo: true}}\n",
    );
    let mut slow = tokio::task::JoinSet::new();
    for n in 0..5000 {
        slow.spawn(match n % 3 {
            0 => trickle(node.wss(), b"", HELLO),
            1 => trickle(node.ws(), b"", HEAD),
            _ => trickle(node.ws(), HEAD, FRAME),
        });
    }
    let config = certificates.client(None);
    let address = node.wss();
    let honest = tokio::spawn(async move {
        let mut took = Vec::new();
        let mut turn = interval(Duration::from_millis(25));
        while took.len() < 400 {
            turn.tick().await;
            let start = Instant::now();
            let io = connect_tls(address, "localhost", Arc::clone(&config)).await.unwrap();
            let mut client = Request::new("/ws").over(Box::new(io)).await.unwrap();
            took.push(start.elapsed());
            assert_eq!(client.ask("honest").await, "honest");
        }
        took.sort_unstable();
        took
    });
    let mut longest = Duration::ZERO;
    while let Some(lived) = slow.join_next().await {
        longest = longest.max(lived.unwrap());
    }
    let took = honest.await.unwrap();
    println!(
        "slow clients lived {longest:?} at most; honest handshakes took {:?} (p50), {:?} (p99)",
        took[took.len() / 2],
        took[took.len() * 99 / 100]
    );
    node.metric_becomes("moorline_connections", &[], 0.0).await;
    let late = ["moorline_tls_handshakes_total", "moorline_handshakes_total"];
    for (name, result) in late.into_iter().zip(["timeout", "head-timeout"]) {
        assert!(node.metric(name, &[result]).await > 1600.0, "{name}");
    }
    let closed = ["message-timeout", "4408"];
    assert!(node.metric("moorline_connections_closed_total", &closed).await > 1600.0);
    // By the node's clock: this process has 5,000 clients to look after.
    let ended = node.lines("connection ended");
    let of_slow = ended.iter().filter(|line| line["cause"] == "message-timeout");
    let longest = of_slow.map(|line| line["duration_ms"].as_u64().unwrap()).max().unwrap();
    assert!(Duration::from_millis(longest) < STAGE + GONE_AFTER, "{longest} ms");
}

/// Sends `first` at once and then a byte of `rest` each second, until the node ends the stream; how
/// long that took since the first slow byte.
async fn trickle(to: SocketAddr, first: &'static [u8], rest: &'static [u8]) -> Duration {
    let mut tcp = timeout(DEADLINE, TcpStream::connect(to)).await.unwrap().unwrap();
    tcp.write_all(first).await.unwrap();
    if !first.is_empty() {
        let mut answer = [0; 12];
        tcp.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 101");
    }
    let start = Instant::now();
    let (mut read, mut write) = tcp.split();
    let ended = async {
        let mut bytes = [0; 1024];
        while !matches!(read.read(&mut bytes).await, Ok(0) | Err(_)) {}
    };
    let sent = async {
        let mut second = interval(Duration::from_secs(1));
        for byte in rest {
            second.tick().await;
            if write.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let ended = timeout(DEADLINE, async {
        tokio::select! {
            () = ended => {}
            () = sent => {}
        }
    });
    ended.await.expect("the end of the stream");
    start.elapsed()
}
