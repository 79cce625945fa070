//! An upstream that is down, slow, or says what is no answer: the client is told which, or its stream is
//! cut, and no connection is used again of which anything is in doubt.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use super::talk::Talk;
use super::upstream::{Act, Raw, Upstream};
use super::{before, get};
use crate::harness::{DEADLINE, Node, eventually, exchange, free_port};

const SHORT: &str = ", first_byte_timeout: 300ms, idle_timeout: 300ms, connect_timeout: 300ms";
const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood";

async fn results(node: &Node, result: &str) -> f64 {
    let label = format!("result=\"{result}\"");
    node.metric("moorline_passthrough_requests_total", &[&label]).await
}

#[tokio::test]
async fn what_is_no_answer_is_a_502_or_a_504() {
    let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(300_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: a\r\n".repeat(500));
    let switching =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let raw = Raw::start(Act::say("")).await;
    let node = before(&raw.url(), SHORT);
    for (act, status) in [
        (Act::say_and_end(""), 502),
        (Act::Reset, 502),
        (Act::say_and_end("HTTP/1.1 200 OK\r\nContent-"), 502),
        (Act::say("hello\r\n\r\n"), 502),
        (Act::Say(vec![0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5]), 502),
        (Act::say(switching), 502),
        (Act::say("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), 502),
        (Act::say("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), 502),
        (Act::say("HTTP/1.1 200 OK\r\nX\0: a\r\n\r\n"), 502),
        (Act::say("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 502),
        (Act::say(&large), 502),
        (Act::say(&many), 502),
        (Act::say(""), 504),
        (Act::say("HTTP/1.1 200 OK\r\nX: a\r\n"), 504),
        (Act::say("HTTP/1.1 100 Continue\r\n\r\n"), 504),
    ] {
        raw.set(act.clone());
        let (told, body) = exchange(node.ws(), get("/", "").as_bytes()).await;
        assert_eq!(told, status, "{act:?}: {body}");
        assert!(body.contains("connection: "), "{body}");
        raw.set(Act::say(GOOD));
        let mut talk = Talk::open(node.ws()).await;
        talk.send(get("/", "")).await;
        assert_eq!(talk.answer().await.text(), "good", "after {act:?}");
        // No WebSocket grew behind the back of anybody.
        assert_eq!(node.metric("moorline_connections", &[]).await, 0.0);
    }
    assert_eq!((results(&node, "failed").await, results(&node, "timeout").await), (12.0, 3.0));
    assert_eq!(results(&node, "2xx").await, 15.0);
    node.metric_becomes("moorline_passthrough_in_flight", &[], 0.0).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_whole() {
    let raw = Raw::start(Act::say("")).await;
    let node = before(&raw.url(), SHORT);
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    for act in [
        Act::say_and_end("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"),
        // It pauses for too long.
        Act::say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"),
        Act::say_and_end(chunked),
        Act::say(chunked),
        Act::say(&format!("{chunked}zz\r\n")),
    ] {
        raw.set(act.clone());
        let mut talk = Talk::open(node.ws()).await;
        talk.send(get("/", "")).await;
        let answer = talk.answer().await;
        assert!(!answer.is_whole, "{act:?}: {answer:?}");
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{act:?}");
        talk.ended().await;
    }
    eventually("all are counted", async || (results(&node, "broken").await == 5.0).then_some(()))
        .await;
}

#[tokio::test]
async fn odd_answers_that_can_be_read() {
    let raw = Raw::start(Act::say("")).await;
    let node = before(&raw.url(), SHORT);
    for (act, body) in [
        (Act::say_and_end("HTTP/1.0 200 OK\r\n\r\nuntil the end"), "until the end"),
        (Act::say_and_end("HTTP/1.1 200 OK\r\n\r\nuntil the end"), "until the end"),
        (Act::say(&format!("HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n{GOOD}")), "good"),
        // The chunks count, and the length does not get to the client.
        (
            Act::say(
                "HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n\
                 2\r\nhi\r\n0\r\nX: trailer\r\n\r\n",
            ),
            "hi",
        ),
        (Act::say("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"), ""),
    ] {
        raw.set(act.clone());
        let mut talk = Talk::open(node.ws()).await;
        talk.send(get("/", "")).await;
        let answer = talk.answer().await;
        assert!(answer.is_whole && answer.status / 100 == 2, "{act:?}: {answer:?}");
        assert_eq!(answer.text(), body, "{act:?}");
    }
}

#[tokio::test]
async fn chunks_are_not_lost_behind_an_answer_in_http_1_0() {
    let old = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\ngood";
    let raw = Raw::start(Act::say(old)).await;
    let node = before(&raw.url(), "");
    let mut talk = Talk::open(node.ws()).await;
    for _ in 0..2 {
        talk.send(get("/", "")).await;
        assert_eq!(talk.answer().await.text(), "good");
    }
    assert_eq!(raw.heard().len(), 1, "its connections are kept");
    talk.send(
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    )
    .await;
    assert_eq!(talk.answer().await.text(), "good");
    let heard = async || raw.heard().concat().contains("5\r\nhello\r\n0\r\n\r\n").then_some(());
    eventually("the chunks are there", heard).await;
}

#[tokio::test]
async fn a_kept_connection_that_is_closed_is_replaced_once_for_what_changes_nothing() {
    let raw = Raw::start(Act::SayOnce(GOOD.as_bytes().to_vec())).await;
    let node = before(&raw.url(), "");
    // On a connection that one answer has come on.
    let asked = async |request: &str, act: Act| {
        let mut talk = Talk::open(node.ws()).await;
        raw.set(Act::SayOnce(GOOD.as_bytes().to_vec()));
        talk.send(get("/", "")).await;
        assert_eq!(talk.answer().await.status, 200);
        raw.set(act);
        let before = raw.heard().len();
        talk.send(request).await;
        (talk.answer().await.status, raw.heard().len() - before)
    };
    let closing = || Act::SayOnce(GOOD.as_bytes().to_vec());
    let options = "OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(asked(&get("/", ""), closing()).await, (200, 1));
    assert_eq!(asked(options, closing()).await, (200, 1));
    let empty = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(asked(empty, closing()).await, (502, 0), "it may change something");
    let body = "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";
    assert_eq!(asked(body, closing()).await, (502, 0), "its body is gone");
    let half = Act::say_and_end("HTTP/1.1 2");
    assert_eq!(asked(&get("/", ""), half).await, (502, 0), "an answer had begun");
    let never = Act::say_and_end("");
    assert_eq!(asked(&get("/", ""), never).await, (502, 1), "once is enough");
}

#[tokio::test]
async fn what_follows_an_answer_is_nobodys_answer() {
    let poisoned = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngoodHTTP/1.1 200 OK\r\n\
        Content-Length: 6\r\n\r\npoison";
    let raw = Raw::start(Act::say(poisoned)).await;
    let node = before(&raw.url(), "");
    let mut talk = Talk::open(node.ws()).await;
    for _ in 0..20 {
        talk.send(get("/", "")).await;
        assert_eq!(talk.answer().await.text(), "good");
    }
    assert_eq!(raw.heard().len(), 20, "no connection was used twice");
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached() {
    let node = before(&format!("http://127.0.0.1:{}", free_port()), SHORT);
    assert_eq!(exchange(node.ws(), get("/", "").as_bytes()).await.0, 502);
    let node = before("unix:/nonexistent/app.sock", SHORT);
    assert_eq!(exchange(node.ws(), get("/", "").as_bytes()).await.0, 502);
    // A queue of one place, which is taken: the kernel answers no further.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let _taken = TcpStream::connect(address).await.unwrap();
    let node = before(&format!("http://{address}"), ", connect_timeout: 300ms");
    assert_eq!(exchange(node.ws(), get("/", "").as_bytes()).await.0, 504);
    assert_eq!(results(&node, "connect-timeout").await, 1.0);
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_with_it() {
    let raw = Raw::start(Act::say("")).await;
    let node = before(&raw.url(), "");
    let mut tcp = TcpStream::connect(node.ws()).await.unwrap();
    tcp.write_all(get("/", "").as_bytes()).await.unwrap();
    node.metric_becomes("moorline_passthrough_in_flight", &[], 1.0).await;
    drop(tcp);
    node.metric_becomes("moorline_passthrough_in_flight", &[], 0.0).await;
    node.metric_becomes("moorline_passthrough_requests_total", &["vanished"], 1.0).await;
    let upstream = Upstream::start().await;
    let node = before(&upstream.url(), "");
    let mut talk = Talk::open(node.ws()).await;
    talk.send(get("/events", "")).await;
    assert_eq!(talk.answer_to_head().await.status, 200);
    drop(talk);
    eventually("the connection to the upstream is closed", async || {
        (upstream.open() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_still_sends() {
    let early =
        "HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge";
    let raw = Raw::start(Act::say(early)).await;
    let node = before(&raw.url(), "");
    let body = vec![b'x'; 4 << 20];
    let mut talk = Talk::open(node.ws()).await;
    talk.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()))
        .await;
    let answer = talk.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (413, "large"));
    // An upstream that is not there answers as early.
    let node = before(&format!("http://127.0.0.1:{}", free_port()), "");
    for _ in 0..10 {
        let mut talk = Talk::open(node.ws()).await;
        talk.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()))
            .await;
        let _ = talk.try_send(&body[..1 << 20]).await;
        assert_eq!(talk.answer().await.status, 502);
    }
}

/// A body that goes on behind its answer.
async fn answered_early(node: &Node) -> Talk {
    let mut talk = Talk::open(node.ws()).await;
    talk.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\nx").await;
    assert_eq!(talk.answer().await.text(), "good");
    talk
}

#[tokio::test]
async fn a_body_behind_its_answer_keeps_its_place() {
    let raw = Raw::start(Act::say(GOOD)).await;
    let node = before(&raw.url(), ", max_requests: 2, queue_timeout: 0s");
    let _talks = [answered_early(&node).await, answered_early(&node).await];
    assert_eq!(node.metric("moorline_passthrough_in_flight", &[]).await, 2.0);
    assert_eq!(exchange(node.ws(), get("/", "").as_bytes()).await.0, 503);
    node.wait_for("request failed", |line| line["reason"] == "too many requests are under way");
    assert_eq!(raw.heard().len(), 2);
}

#[tokio::test]
async fn a_body_does_not_go_on_for_ever_behind_its_answer() {
    let raw = Raw::start(Act::say(GOOD)).await;
    let node = before(&raw.url(), SHORT);
    let mut talk = answered_early(&node).await;
    let sending = async {
        // Never a pause that is too long.
        while talk.try_send(b"x").await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, sending).await.expect("the end of the stream");
    node.metric_becomes("moorline_passthrough_in_flight", &[], 0.0).await;
}

/// An upstream that takes one connection, and what it does with it.
async fn once<F: Future<Output = ()> + Send + 'static>(
    does: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move { does(listener.accept().await.unwrap().0).await });
    (url, serving)
}

#[tokio::test]
async fn an_answer_without_a_length_before_the_end_of_its_request_is_whole() {
    const BODY: usize = 60_000;
    const FIRST: usize = 20_000;
    let (url, _serving) = once(async |mut stream: TcpStream| {
        let mut heard = 0;
        let mut bytes = [0; 4096];
        while heard < FIRST {
            heard += stream.read(&mut bytes).await.unwrap();
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello").await.unwrap();
        while heard < BODY {
            heard += stream.read(&mut bytes).await.unwrap();
        }
    })
    .await;
    let node = before(&url, "");
    let mut talk = Talk::open(node.ws()).await;
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BODY}\r\n\r\n");
    // The upstream counts its head, too.
    talk.send([head.as_bytes(), &[b'x'; FIRST]].concat()).await;
    assert_eq!(talk.answer_to_head().await.status, 200);
    assert_eq!(talk.chunk().await.unwrap(), b"hello");
    talk.send([b'x'; BODY - FIRST]).await;
    assert_eq!(talk.chunk().await.as_deref(), Some(&b""[..]), "the end of a whole answer");
}

#[tokio::test]
async fn an_answer_that_is_reset_does_not_look_whole() {
    for (framing, start) in
        [("Content-Length: 10", "hello"), ("Transfer-Encoding: chunked", "5\r\nhello\r\n")]
    {
        let said = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{start}");
        let (heard, is_heard) = tokio::sync::oneshot::channel::<()>();
        let (url, _serving) = once(async move |mut stream: TcpStream| {
            stream.read_u8().await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            is_heard.await.unwrap();
            stream.set_zero_linger().unwrap();
        })
        .await;
        let node = before(&url, "");
        let mut talk = Talk::open(node.ws()).await;
        talk.send(get("/", "")).await;
        assert_eq!(talk.answer_to_head().await.status, 200);
        assert_eq!(talk.exactly(start.len()).await.as_deref(), Some(start.as_bytes()));
        heard.send(()).unwrap();
        talk.ended().await;
        let broken = async || (results(&node, "broken").await == 1.0).then_some(());
        eventually("it is counted", broken).await;
    }
}

#[tokio::test]
async fn an_answer_goes_on_though_nobody_takes_the_request() {
    const EVENTS: usize = 40;
    let (url, _serving) = once(async |mut stream: TcpStream| {
        // Of the request no more than its beginning.
        stream.read_u8().await.unwrap();
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head).await.unwrap();
        for _ in 0..EVENTS {
            sleep(Duration::from_millis(100)).await;
            stream.write_all(b"5\r\nevent\r\n").await.unwrap();
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
        std::future::pending().await
    })
    .await;
    // Less than all of the events take, and far more than one.
    let node = before(&url, ", first_byte_timeout: 2s, idle_timeout: 2s");
    let stream = TcpStream::connect(node.ws()).await.unwrap();
    let (answer, mut request) = tokio::io::split(stream);
    let sending = tokio::spawn(async move {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n";
        request.write_all(head.as_bytes()).await.unwrap();
        while request.write_all(&[b'x'; 1 << 16]).await.is_ok() {}
    });
    let mut talk = Talk::over(tokio::io::join(answer, tokio::io::sink()));
    assert_eq!(talk.answer_to_head().await.status, 200);
    let mut events = 0;
    while talk.chunk().await.is_some_and(|chunk| chunk == b"event") {
        events += 1;
    }
    assert_eq!(events, EVENTS);
    sending.abort();
}

#[tokio::test]
async fn an_upstream_that_takes_nothing_more_is_left() {
    let raw = Raw::start(Act::SayAndStall(GOOD.as_bytes().to_vec())).await;
    let node = before(&raw.url(), SHORT);
    let before = node.sockets();
    let mut talk = answered_early(&node).await;
    let piece = vec![b'x'; 1 << 16];
    // Until all that lies between is full.
    while timeout(Duration::from_millis(200), talk.try_send(&piece)).await == Ok(true) {}
    drop(talk);
    node.metric_becomes("moorline_passthrough_in_flight", &[], 0.0).await;
    eventually("no stream is left", async || (node.sockets() <= before).then_some(())).await;
}
