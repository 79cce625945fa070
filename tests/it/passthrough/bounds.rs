//! What a request may take: time, places, and the end of the node.

use std::pin::pin;

use futures_util::future::{Either, select};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::talk::Talk;
use super::upstream::{Act, Raw, Upstream};
use super::{before, config, get};
use crate::harness::{Node, eventually, exchange};

#[tokio::test]
async fn more_requests_than_places_wait_and_then_are_refused() {
    let upstream = Upstream::start().await;
    let node = before(&upstream.url(), ", max_requests: 1, queue_timeout: 30s");
    let mut first = Talk::open(node.ws()).await;
    first.send(get("/events", "")).await;
    assert_eq!(first.answer_to_head().await.status, 200);
    // Of two more one waits, and there is no room for the other.
    let ask = async || {
        let mut talk = Talk::open(node.ws()).await;
        talk.send(get("/", "")).await;
        talk.answer().await
    };
    let (mut second, mut third) = (pin!(ask()), pin!(ask()));
    let (refused, waiting) = match select(second.as_mut(), third.as_mut()).await {
        Either::Left((answer, waiting)) | Either::Right((answer, waiting)) => (answer, waiting),
    };
    assert_eq!(refused.status, 503);
    assert!(refused.field("retry-after").is_some());
    assert_eq!(node.metric("moorline_passthrough_in_flight", &[]).await, 1.0);
    drop(first);
    assert_eq!(waiting.await.status, 200, "its turn came");
    let node = before(&upstream.url(), ", max_requests: 1, queue_timeout: 100ms");
    let mut first = Talk::open(node.ws()).await;
    first.send(get("/events", "")).await;
    assert_eq!(first.answer_to_head().await.status, 200);
    assert_eq!(exchange(node.ws(), get("/", "").as_bytes()).await.0, 503);
}

#[tokio::test]
async fn clients_beyond_those_that_are_kept_are_served_and_closed() {
    let upstream = Upstream::start().await;
    let node = before(&upstream.url(), ", max_clients: 1");
    let mut kept = Talk::open(node.ws()).await;
    kept.send(get("/", "")).await;
    assert_eq!(kept.answer().await.field("connection"), None);
    for _ in 0..3 {
        let mut other = Talk::open(node.ws()).await;
        other.send(get("/", "")).await;
        let answer = other.answer().await;
        assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
        other.ended().await;
    }
    kept.send(get("/", "")).await;
    assert_eq!(kept.answer().await.status, 200);
    drop(kept);
    eventually("the place is free", async || {
        let mut next = Talk::open(node.ws()).await;
        next.send(get("/", "")).await;
        next.answer().await.field("connection").is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_takes_its_time_is_told_or_cut() {
    let upstream = Upstream::start().await;
    let text = config(&upstream.url(), ", idle_timeout: 300ms")
        .replace("limits: {", "limits: {head_timeout: 300ms, ");
    let node = Node::start(&text);
    // A body that pauses.
    let mut talk = Talk::open(node.ws()).await;
    talk.send("POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello").await;
    let answer = talk.answer().await;
    assert_eq!(answer.status, 408, "{}", answer.text());
    talk.ended().await;
    // A stream between two requests, and one with half a head.
    for half in ["", "GET / HT"] {
        let mut talk = Talk::open(node.ws()).await;
        talk.send(get("/", "")).await;
        assert_eq!(talk.answer().await.status, 200);
        talk.send(half).await;
        talk.ended().await;
    }
    // A first head that never ends is told so, as ever.
    let (status, _) = exchange(node.ws(), b"GET / HT").await;
    assert_eq!(status, 408);
    node.wait_for("handshake refused", |line| line["result"] == "head-timeout");
    assert_eq!(node.lines("handshake refused").len(), 1, "{}", node.whole_log());
    assert_eq!(node.metric("moorline_passthrough_requests_total", &["slow-body"]).await, 1.0);
}

#[tokio::test]
async fn a_slow_upload_is_not_held_against_the_upstream() {
    let upstream = Upstream::start().await;
    let node = before(&upstream.url(), ", first_byte_timeout: 300ms, idle_timeout: 10s");
    let mut talk = Talk::open(node.ws()).await;
    talk.send("POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n").await;
    for _ in 0..8 {
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        talk.send("x").await;
    }
    let answer = talk.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "8"));
}

#[tokio::test]
async fn a_stopping_node_finishes_what_is_under_way() {
    let upstream = Upstream::start().await;
    let text = config(&upstream.url(), "");
    let mut node = Node::start(&text);
    node.rewrite(|text| text.replace("drain: 1s", "drain: 20s"));
    node.signal("HUP");
    node.wait_for("config reloaded; all files were read again", |_| true);
    let mut streaming = Talk::open(node.ws()).await;
    streaming.send(get("/events", "")).await;
    assert_eq!(streaming.answer_to_head().await.status, 200);
    let mut sending = Talk::open(node.ws()).await;
    sending.send("POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx").await;
    node.metric_becomes("moorline_passthrough_in_flight", &[], 2.0).await;
    let mut idle = Talk::open(node.ws()).await;
    idle.send(get("/", "")).await;
    assert_eq!(idle.answer().await.status, 200);
    node.signal("TERM");
    idle.ended().await;
    sending.send("x").await;
    let answer = sending.answer().await;
    assert_eq!((answer.text().as_str(), answer.field("connection")), ("2", Some("close")));
    sending.ended().await;
    assert!(upstream.event("last").await);
    assert_eq!(streaming.chunk().await.unwrap(), b"data: last\n\n");
    drop(streaming);
    assert!(node.ended().success());
}

#[tokio::test]
async fn a_stopping_node_waits_no_longer_than_its_drain() {
    let upstream = Upstream::start().await;
    let mut node = before(&upstream.url(), "");
    let mut streaming = Talk::open(node.ws()).await;
    streaming.send(get("/events", "")).await;
    assert_eq!(streaming.answer_to_head().await.status, 200);
    node.signal("TERM");
    streaming.ended().await;
    assert!(node.ended().success());
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_not_kept() {
    let raw = Raw::start(Act::say("")).await;
    let text = config(&raw.url(), ", first_byte_timeout: 100ms, idle_timeout: 300ms");
    let node = Node::start(&text.replace("limits: {", "limits: {head_timeout: 300ms, "));
    let before = node.sockets();
    let mut tcp = TcpStream::connect(node.ws()).await.unwrap();
    tcp.write_all(get("/", "").as_bytes()).await.unwrap();
    node.metric_becomes("moorline_passthrough_requests_total", &["timeout"], 1.0).await;
    // The client neither reads nor leaves, and its stream goes all the same.
    eventually("the client's stream is gone", async || (node.sockets() <= before).then_some(()))
        .await;
}
