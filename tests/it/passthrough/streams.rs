//! Bodies are streamed: large ones need no memory, events arrive at once, and a deploy of the upstream
//! costs no request.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use tokio::time::timeout;

use super::talk::Talk;
use super::upstream::Upstream;
use super::{ROUTES, UNLIMITED, before, get};
use crate::harness::{Node, eventually};

const GIB: usize = 1 << 30;
/// What the node's memory may grow by for one body.
const GROWTH: usize = 8 << 20;
/// For a body of that size on a machine that does much else.
const LONG: Duration = Duration::from_secs(300);

async fn grows_little(node: &Node, what: &str, work: impl Future<Output = ()>) {
    let started = Instant::now();
    let work = async { timeout(LONG, work).await.expect("an end in time") };
    let grown = node.growth(work).await;
    eprintln!("{what}: {} KiB of growth, {:?}", grown >> 10, started.elapsed());
    assert!(grown < GROWTH, "{what}: memory grew by {grown} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_each_way_needs_no_memory() {
    let upstream = Upstream::start().await;
    let node = before(&upstream.url(), "");
    let mut talk = Talk::open(node.ws()).await;
    talk.send(get("/", "")).await;
    assert_eq!(talk.answer().await.status, 200);
    grows_little(&node, "upload", async {
        talk.send(format!("PUT /sink HTTP/1.1\r\nHost: a\r\nContent-Length: {GIB}\r\n\r\n")).await;
        let piece = vec![b'x'; 1 << 18];
        for _ in 0..GIB / piece.len() {
            talk.send(&piece).await;
        }
        assert_eq!(talk.answer().await.text(), GIB.to_string());
    })
    .await;
    grows_little(&node, "download", async {
        talk.send(get("/flood/1024", "")).await;
        assert_eq!(talk.answer_to_head().await.status, 200);
        let mut bytes = 0;
        while let Some(chunk) = talk.chunk().await.filter(|chunk| !chunk.is_empty()) {
            bytes += chunk.len();
        }
        assert_eq!(bytes, GIB);
    })
    .await;
    // The same stream goes on.
    talk.send(get("/", "")).await;
    assert_eq!(talk.answer().await.status, 200);
}

#[tokio::test]
async fn a_client_that_reads_nothing_stops_the_upstream_and_not_the_node() {
    let upstream = Upstream::start().await;
    let node = before(&upstream.url(), ", idle_timeout: 1s");
    let mut talk = Talk::open(node.ws()).await;
    grows_little(&node, "a stalled download", async {
        talk.send(get("/flood/256", "")).await;
        assert_eq!(talk.answer_to_head().await.status, 200);
        // It is not waited for any longer than that.
        node.metric_becomes("moorline_passthrough_in_flight", &[], 0.0).await;
    })
    .await;
    assert_eq!(node.metric("moorline_passthrough_requests_total", &["vanished"]).await, 1.0);
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    let upstream = Upstream::start().await;
    let node = before(&upstream.url(), "");
    let mut talk = Talk::open(node.ws()).await;
    talk.send(get("/events", "Accept: text/event-stream\r\n")).await;
    assert_eq!(talk.answer_to_head().await.status, 200);
    for number in 0..100 {
        // The next one is not sent before this one is here.
        assert!(upstream.event(&number.to_string()).await);
        let event = timeout(Duration::from_secs(30), talk.chunk()).await.expect("an event");
        assert_eq!(event.unwrap(), format!("data: {number}\n\n").as_bytes());
    }
}

#[tokio::test]
async fn an_upload_arrives_as_it_is_sent() {
    let upstream = Upstream::start().await;
    let node = before(&upstream.url(), "");
    let mut talk = Talk::open(node.ws()).await;
    talk.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert_eq!(talk.answer_to_head().await.status, 200, "the answer begins before the end");
    for word in ["one", "two", "three"] {
        talk.send(format!("{:x}\r\n{word}\r\n", word.len())).await;
        assert_eq!(talk.chunk().await.unwrap(), word.as_bytes());
    }
    talk.send("0\r\n\r\n").await;
    assert_eq!(talk.chunk().await.unwrap(), b"");
}

/// Asks 10,000 times while the upstream is replaced, each time in this way.
async fn a_restart(request: impl Fn(&str) -> String, retire: impl Fn(&Upstream)) {
    const REQUESTS: usize = 10_000;
    const CLIENTS: usize = 16;
    const RESTARTS: usize = 5;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let mut upstreams = vec![Upstream::unix(&path).await];
    let node =
        Node::with_log("info", &format!("upstream: unix:{}\n{UNLIMITED}{ROUTES}", path.display()));
    let answered = AtomicUsize::new(0);
    let clients = join_all((0..CLIENTS).map(|_| async {
        let mut talk = Talk::open(node.ws()).await;
        for number in 0..REQUESTS / CLIENTS {
            let body = number.to_string();
            talk.send(request(&body)).await;
            let answer = talk.answer().await;
            assert_eq!((answer.status, answer.text()), (200, body));
            answered.fetch_add(1, Ordering::SeqCst);
        }
    }));
    let restarts = async {
        for turn in 1..=RESTARTS {
            eventually("some requests are answered", async || {
                let enough = REQUESTS * turn / (RESTARTS + 1);
                (answered.load(Ordering::SeqCst) >= enough).then_some(())
            })
            .await;
            let next = Upstream::unix(&path).await;
            retire(upstreams.last().unwrap());
            upstreams.push(next);
        }
        upstreams
    };
    let (_, upstreams) = join(clients, restarts).await;
    let counts: Vec<usize> = upstreams.iter().map(Upstream::count).collect();
    eprintln!("{counts:?} requests, by upstream");
    assert_eq!(counts.iter().sum::<usize>(), REQUESTS, "none was answered twice");
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    let connections: usize = upstreams.iter().map(Upstream::connections).sum();
    assert!(connections <= CLIENTS * 4 * (RESTARTS + 1), "{connections} connections");
    let passed = node.metric("moorline_passthrough_requests_total", &["2xx"]).await;
    assert_eq!(passed, REQUESTS as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_restart_of_the_upstream_costs_no_request() {
    let post = |body: &str| {
        let length = body.len();
        format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    a_restart(post, Upstream::retire).await;
}

/// What is written to a connection that is closed at the same moment is asked again, where that may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_closes_idle_connections_costs_no_get() {
    let get = |body: &str| get(&format!("/say/{body}"), "");
    a_restart(get, Upstream::retire_and_close).await;
}
