//! Clients that mean harm: each is told why and gone at once, the node's memory does not notice, and no
//! page comes in that was not listed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::harness::{Certificates, Client, Io, Node, connect_tls, eventually, exchange};

/// Large beside what an allocator and a few sockets take by the way.
const MAX_MESSAGE: usize = 4 << 20;
/// What the kernel keeps for both ends of a stream, with room for what the node reads before it closes.
const IN_BUFFERS: usize = 16 << 20;
const DEADLINE: Duration = Duration::from_secs(30);

const HEAD: &str = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n";

const CLOSE: u8 = 0x88;
const PING: &[u8] = &[0x89, 0x80, 0, 0, 0, 0];
const EMPTY_START: &[u8] = &[0x02, 0x80, 0, 0, 0, 0];
const EMPTY_CONTINUATION: &[u8] = &[0x00, 0x80, 0, 0, 0, 0];

/// A node with both doors.
struct Target {
    node: Node,
    certificates: Certificates,
}

/// What became of an attack.
#[derive(Debug)]
struct Told {
    /// Bytes that the node or the kernel took.
    taken: usize,
    /// All that the node said.
    said: Vec<u8>,
    /// From the first byte to the end of the stream.
    after: Duration,
}

impl Target {
    fn new() -> Self {
        let certificates = Certificates::new();
        certificates.issue("server", "localhost");
        let listeners =
            format!("{}\nplain: {{address: '127.0.0.1:0'}}", certificates.listener("server", ""));
        let route =
            "routes:\n- {path: /ws, auth: none, backend: {echo: true}, max_message: 4MiB}\n";
        Self { node: Node::with_listeners(&listeners, route), certificates }
    }

    async fn tls(&self) -> TlsStream<TcpStream> {
        connect_tls(self.node.wss(), "localhost", self.certificates.client(None)).await.unwrap()
    }

    /// A stream to a door.
    async fn open(&self, door: &str) -> Box<dyn Io> {
        if door == "plain" {
            let tcp = TcpStream::connect(self.node.ws()).await.unwrap();
            tcp.set_nodelay(true).unwrap();
            return Box::new(tcp);
        }
        let tls = self.tls().await;
        tls.get_ref().0.set_nodelay(true).unwrap();
        Box::new(tls)
    }

    /// Attacks both doors. The node's memory must never, not even for a moment, grow by two messages,
    /// of which its first steps, as the first TLS handshake, take a small part.
    async fn attack<F>(&self, name: &str, how: F)
    where
        F: AsyncFn(Box<dyn Io>) -> Told,
    {
        let before = self.memory("VmRSS:");
        std::fs::write(self.process("clear_refs"), "5").unwrap();
        for door in ["plain", "TLS"] {
            let told = how(self.open(door).await).await;
            let (taken, after) = (told.taken, told.after);
            eprintln!("{name} over {door}: {taken} bytes taken, the end after {after:?}");
        }
        let grown = self.memory("VmHWM:").saturating_sub(before);
        eprintln!("{name}: {} KiB at the peak", grown >> 10);
        assert!(grown < 2 * MAX_MESSAGE, "{name}: memory grew by {grown} bytes");
        let mut honest = Client::connect(self.node.ws()).await;
        assert_eq!(honest.ask("still here").await, "still here");
        honest.close().await;
        assert_eq!(self.node.metric("moorline_panics_total", &[]).await, 0.0);
    }

    /// A line of the process's status: what it has now, or had at the most since its peak was reset.
    fn memory(&self, line: &str) -> usize {
        let status = std::fs::read_to_string(self.process("status")).unwrap();
        let line = status.lines().find_map(|found| found.strip_prefix(line)).unwrap();
        line.split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
    }

    fn process(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.node.pid()))
    }
}

/// Sends pieces until there are no more or the node takes none, and hears what it says until it ends
/// the stream.
async fn send<'a>(io: Box<dyn Io>, pieces: impl Iterator<Item = &'a [u8]>) -> Told {
    let started = Instant::now();
    let (mut from, mut to) = split(io);
    let sending = async {
        let mut taken = 0;
        for piece in pieces {
            if to.write_all(piece).await.is_err() || to.flush().await.is_err() {
                break;
            }
            taken += piece.len();
        }
        taken
    };
    let hearing = async {
        let mut said = Vec::new();
        // A reset is an end, too: what came before it is there.
        let _ = from.read_to_end(&mut said).await;
        said
    };
    let both = async { tokio::join!(sending, hearing) };
    let (taken, said) = timeout(DEADLINE, both).await.expect("an end in time");
    Told { taken, said, after: started.elapsed() }
}

/// The same on an open connection; what the node says begins after its 101.
async fn send_frames<'a>(mut io: Box<dyn Io>, frames: impl Iterator<Item = &'a [u8]>) -> Told {
    io.write_all(format!("{HEAD}\r\n").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", head.escape_ascii());
    send(io, frames).await
}

/// The code of the close frame at the end of what was said.
fn close_code(said: &[u8]) -> u16 {
    let mut rest = said;
    loop {
        let [flags, len, tail @ ..] = rest else { panic!("no close frame in {rest:?}") };
        let (payload, tail) = tail.split_at(usize::from(*len));
        if *flags == CLOSE {
            assert!(tail.is_empty(), "something comes after the close frame");
            return u16::from_be_bytes([payload[0], payload[1]]);
        }
        rest = tail;
    }
}

#[tokio::test]
async fn a_frame_that_announces_the_impossible_is_refused_by_its_header() {
    let target = Target::new();
    for (name, announced, code) in [
        ("2^62 bytes", 1_u64 << 62, 1009),
        ("the top bit set", 1 << 63 | 1, 1002),
        ("all bits set", u64::MAX, 1002),
        ("one byte too many", MAX_MESSAGE as u64 + 1, 1009),
    ] {
        let header = [&[0x82, 0xff][..], &announced.to_be_bytes()].concat();
        target
            .attack(name, async |io| {
                // Not even a mask: who waits for more than the length waits for ever.
                let told = send_frames(io, [header.as_slice()].into_iter()).await;
                assert_eq!(close_code(&told.said), code, "{name}");
                told
            })
            .await;
    }
}

#[tokio::test]
async fn a_message_of_a_million_pieces_is_closed_after_some_thousand() {
    let target = Target::new();
    let thousand = EMPTY_CONTINUATION.repeat(1000);
    target
        .attack("empty continuations", async |io| {
            let pieces = (0..10_000).map(|_| thousand.as_slice());
            let told = send_frames(io, std::iter::once(EMPTY_START).chain(pieces)).await;
            assert_eq!(close_code(&told.said), 1002);
            assert!(told.taken < IN_BUFFERS, "{} bytes were taken", told.taken);
            told
        })
        .await;
}

#[tokio::test]
async fn a_million_pings_are_over_the_limit_after_some_thousand() {
    let target = Target::new();
    let thousand = PING.repeat(1000);
    target
        .attack("pings", async |io| {
            // More than a million, or the buffers on the way would take them all.
            let told = send_frames(io, (0..10_000).map(|_| thousand.as_slice())).await;
            let code = close_code(&told.said);
            assert_eq!(code, 4429);
            assert!(told.taken < IN_BUFFERS, "{} bytes were taken", told.taken);
            told
        })
        .await;
}

#[tokio::test]
async fn a_head_of_20_mb_is_refused_however_small_its_pieces_are() {
    let target = Target::new();
    for size in [1, 1024] {
        let piece = vec![b'a'; size];
        target
            .attack(&format!("head in pieces of {size}"), async |io| {
                let pieces = (0..(20 << 20) / size).map(|_| piece.as_slice());
                let start = [HEAD.as_bytes(), b"X-A: "];
                let told = send(io, start.into_iter().chain(pieces)).await;
                assert!(told.said.starts_with(b"HTTP/1.1 431 "), "{}", told.said.escape_ascii());
                assert!(told.taken < IN_BUFFERS, "{} bytes were taken", told.taken);
                told
            })
            .await;
    }
}

#[tokio::test]
async fn a_head_of_2000_fields_is_refused() {
    let target = Target::new();
    let fields: String = (0..2000).map(|n| format!("X-{n}: y\r\n")).collect();
    let head = format!("{HEAD}{fields}\r\n");
    target
        .attack("2,000 fields", async |io| {
            let told = send(io, [head.as_bytes()].into_iter()).await;
            assert!(told.said.starts_with(b"HTTP/1.1 431 "), "{}", told.said.escape_ascii());
            told
        })
        .await;
}

#[tokio::test]
async fn streams_that_end_in_the_middle_of_tls_cost_no_time() {
    let target = Target::new();
    let mut kept = Vec::new();
    for place in 0..30 {
        let mut tls = target.tls().await;
        match place % 3 {
            // Nothing, half a head, or a whole one and half a frame before it.
            0 => {}
            1 => tls.write_all(&HEAD.as_bytes()[..40]).await.unwrap(),
            _ => {
                tls.write_all(format!("{HEAD}\r\n").as_bytes()).await.unwrap();
                assert_eq!(tls.read_u8().await.unwrap(), b'H');
                tls.write_all(&[0x82, 0xfe, 0x10]).await.unwrap();
            }
        }
        // The end of TLS, with the beginning of a record and then a whole one behind it, unread.
        tls.get_mut().1.send_close_notify();
        tls.flush().await.unwrap();
        let _ = tls.get_mut().0.write_all(&[0x17, 3, 3, 0, 32]).await;
        let _ = tls.get_mut().0.write_all(&[7; 64]).await;
        kept.push(tls);
    }
    let before = target.node.cpu_ticks();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let busy = target.node.cpu_ticks() - before;
    eprintln!("30 streams behind the end of TLS: {busy} ticks of CPU in 2 s");
    assert!(busy < 20, "the node spins: {busy} ticks of CPU in 2 s");
    drop(kept);
    target.node.metric_becomes("moorline_connections", &[], 0.0).await;
}

#[tokio::test]
async fn only_listed_pages_come_in() {
    let node = Node::start(
        "routes:\n- path: /ws\n  auth: none\n  backend: {echo: true}\n\
         \x20 origins: ['https://good.com', 'http://localhost:8080', 'https://xn--bcher-kva.example']\n",
    );
    let bad: &[&[u8]] = &[
        b"https://evil.com",
        b"http://good.com",
        b"wss://good.com",
        b"ws://good.com",
        b"ftp://good.com",
        b"https:good.com",
        b"https:/good.com",
        b"https:///good.com",
        b"//good.com",
        b"good.com",
        b"https://good.com:8443",
        b"https://good.com:80",
        b"https://good.com:0443",
        b"https://good.com:443:443",
        b"https://good.com:",
        b"https://good.com:443.evil.com",
        b"https://good.com.evil.com",
        b"https://good.comevil.com",
        b"https://evil-good.com",
        b"https://evilgood.com",
        b"https://www.good.com",
        b"https://good.co",
        b"https://good.com.",
        b"https://good.com/",
        b"https://good.com/https://evil.com",
        b"https://good.com?evil.com",
        b"https://good.com#evil.com",
        b"https://good.com\\evil.com",
        b"https://good.com@evil.com",
        b"https://good.com%40evil.com",
        b"https://user@good.com",
        b"https://user:password@good.com",
        b"https://GOOD.com",
        b"HTTPS://good.com",
        b"https://good.com https://evil.com",
        b"https://evil.com https://good.com",
        b"https://good.com,https://good.com",
        b"https://evil.com, https://good.com",
        b"null",
        b"NULL",
        b"*",
        b"",
        b"file://",
        b"about:blank",
        b"chrome-extension://good.com",
        b"http://localhost",
        b"http://localhost:80",
        b"http://localhost:8081",
        b"https://localhost:8080",
        b"http://LOCALHOST:8080",
        b"http://127.0.0.1:8080",
        b"http://[::1]:8080",
        "https://bücher.example".as_bytes(),
        "https://g\u{43e}od.com".as_bytes(),
        "https://good\u{3002}com".as_bytes(),
        b"https://xn--god-6cd.com",
        b"https://good.com\xff",
        b"\xffhttps://good.com",
        b"https://good.com\tx",
    ];
    assert!(bad.len() >= 41, "{}", bad.len());
    let field = |origin: &[u8]| [b"Origin: ", origin, b"\r\n"].concat();
    let mut cases: Vec<Vec<u8>> = bad.iter().map(|origin| field(origin)).collect();
    let two = |a: &[u8], b: &[u8]| [field(a), field(b)].concat();
    cases.push(two(b"https://good.com", b"https://evil.com"));
    cases.push(two(b"https://evil.com", b"https://good.com"));
    cases.push(two(b"https://good.com", b"https://good.com"));
    for case in &cases {
        let request = [HEAD.as_bytes(), case, b"\r\n"].concat();
        let (status, _) = exchange(node.ws(), &request).await;
        assert_eq!(status, 403, "{}", case.escape_ascii());
    }
    let refused = node.metric("moorline_handshakes_total", &["result=\"origin\""]).await;
    assert_eq!(refused, cases.len() as f64);
    assert_eq!(node.metric("moorline_connections_opened_total", &[]).await, 0.0);
    for good in [
        &b"Origin: https://good.com\r\n"[..],
        b"Origin: https://good.com:443\r\n",
        b"Origin:https://good.com \r\n",
        b"origin: http://localhost:8080\r\n",
        b"Origin: https://xn--bcher-kva.example\r\n",
        b"",
    ] {
        // The client's close frame follows at once.
        let close = &[0x88, 0x80, 0, 0, 0, 0][..];
        let request = [HEAD.as_bytes(), good, b"\r\n", close].concat();
        let (status, _) = exchange(node.ws(), &request).await;
        assert_eq!(status, 101, "{}", good.escape_ascii());
    }
    eventually("all are counted", async || {
        (node.metric("moorline_handshakes_total", &["result=\"accepted\""]).await == 6.0)
            .then_some(())
    })
    .await;
}
