//! A service that does wrong in every way it can: each has one outcome, in bounded memory, and clients
//! of another service do not notice.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{FAILURE, echo, outcomes};
use crate::harness::{Node, Request, Service, free_port};

/// What a path of the service does, and the outcome of a message that it is asked with.
const TROUBLE: [(&str, &str); 11] = [
    ("down", "unavailable"),
    ("silent", "unknown"),
    ("resets", "unknown"),
    ("ends", "unknown"),
    ("short", "unknown"),
    ("garbage", "refused"),
    ("endless", "refused"),
    ("gigabyte", "refused"),
    ("lengths", "refused"),
    ("switches", "refused"),
    ("redirects", "refused"),
];
/// Times that each is asked.
const ROUNDS: usize = 3;
/// What the node's memory may grow by, in bytes; a single answer of a gigabyte is far more.
const GROWTH: usize = 16 << 20;

/// Where requests went.
type Targets = Arc<Mutex<Vec<String>>>;

/// Does what the path says with each request.
async fn misbehave(stream: TcpStream, targets: Targets) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut target, mut length) = (String::new(), 0);
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 2 {
            if target.is_empty() {
                target = line.split(' ').nth(1).unwrap().to_owned();
            } else if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        if target.is_empty() {
            return Ok(());
        }
        stream.read_exact(&mut vec![0; length]).await?;
        let does = target.trim_start_matches('/').to_owned();
        targets.lock().unwrap().push(target);
        let says = match &*does {
            "silent" => {
                // Until the other side has had enough.
                stream.read_u8().await?;
                return Ok(());
            }
            "resets" => {
                stream.get_ref().set_zero_linger()?;
                return Ok(());
            }
            "ends" => return Ok(()),
            "short" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await?;
                return Ok(());
            }
            "garbage" => "SSH-2.0-OpenSSH_9.6\r\n\r\n",
            "endless" => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "gigabyte" => "HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n",
            "lengths" => "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
            "switches" => {
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"
            }
            "redirects" => {
                "HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n"
            }
            _ => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        };
        stream.write_all(says.as_bytes()).await?;
        if matches!(&*does, "endless" | "gigabyte") {
            let piece = [b"10000\r\n", &[b'x'; 0x10000][..], b"\r\n"].concat();
            for _ in 0..1 << 14 {
                stream.write_all(&piece).await?;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_trouble_has_one_outcome_and_nobody_else_notices() {
    let good = Service::start(echo).await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (port, targets) = (listener.local_addr().unwrap().port(), Targets::default());
    let mut serving = JoinSet::new();
    serving.spawn({
        let targets = Arc::clone(&targets);
        async move {
            let mut streams = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                streams.spawn(misbehave(stream, Arc::clone(&targets)));
            }
        }
    });
    let nobody = free_port();
    let routes = TROUBLE.map(|(does, _)| {
        let port = if does == "down" { nobody } else { port };
        format!(
            "- {{path: /{does}, auth: none, hold: 0s, request_timeout: 1s, {FAILURE}, \
             backend: {{http: 'http://127.0.0.1:{port}/{does}'}}}}\n"
        )
    });
    let node = Node::start(&format!(
        "routes:\n- {{path: /good, auth: none, {FAILURE}, backend: {{http: '{}'}}}}\n{}",
        good.url(),
        routes.concat()
    ));
    let mut other = Request::new("/good").connect(node.ws()).await.expect("accepted");
    assert_eq!(other.ask("warm").await, "warm");

    let grown = node
        .growth(async {
            for round in 1..=ROUNDS {
                let mut asking = JoinSet::new();
                for (does, outcome) in TROUBLE {
                    let to = node.ws();
                    asking.spawn(async move {
                        let path = format!("/{does}");
                        let mut client = Request::new(&path).connect(to).await.expect("accepted");
                        assert_eq!(client.ask("x").await, format!("{outcome} 1"), "{does}");
                    });
                }
                while !asking.is_empty() {
                    let text = format!("{round} {}", asking.len());
                    assert_eq!(other.ask(&text).await, text);
                    while let Some(asked) = asking.try_join_next() {
                        asked.unwrap();
                    }
                }
            }
        })
        .await;
    eprintln!("{} KiB of growth", grown >> 10);
    assert!(grown < GROWTH, "memory grew by {grown} bytes");
    for outcome in ["unavailable", "unknown", "refused"] {
        let count = TROUBLE.iter().filter(|(_, of)| *of == outcome).count() * ROUNDS;
        assert_eq!(outcomes(&node, outcome).await, count as f64, "{outcome}");
    }
    let targets = targets.lock().unwrap();
    assert_eq!(targets.len(), (TROUBLE.len() - 1) * ROUNDS, "each was asked once: {targets:?}");
    assert!(!targets.iter().any(|target| target == "/elsewhere"), "a redirect was followed");
}
