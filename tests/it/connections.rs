//! The life of a connection over real sockets: heartbeat, limits, slow clients, tokens that end,
//! and the stop of the node.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Answer, Client, NatsServer, Node, Request, Worker, eventually};

const ECHO: &str = "routes:\n- {path: /ws, auth: none, backend: {echo: true}";

#[tokio::test]
async fn a_message_over_the_limit_is_closed_with_1009() {
    let node = Node::start(&format!("{ECHO}, max_message: 1KiB}}\n"));
    let mut client = Client::connect(node.ws()).await;
    let fits = "x".repeat(1024);
    assert_eq!(client.ask(&fits).await, fits);
    client.send("x".repeat(1025)).await;
    assert_eq!(client.closed().await, Some((1009, "too-big".to_owned())));
}

#[tokio::test]
async fn a_quiet_client_is_pinged_and_its_answer_is_timed() {
    let node =
        Node::start(&format!("heartbeat: {{ping_interval: 1s, pong_timeout: 1s}}\n{ECHO}}}\n"));
    let mut client = Client::connect(node.ws()).await;
    let started = Instant::now();
    // Reading answers the pings; nothing else is sent.
    let silence = tokio::time::timeout(Duration::from_secs(4), client.next()).await;
    assert!(silence.is_err(), "a client that answers pings stays: {silence:?}");
    assert!(node.metric("moorline_ping_rtt_seconds_count", &[]).await >= 2.0);
    let mut mute = Client::connect(node.ws()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(mute.closed().await, Some((4408, "pong-timeout".to_owned())));
    assert!(started.elapsed() < Duration::from_secs(25));
}

#[tokio::test]
async fn an_idle_connection_ends_where_the_route_says_so() {
    let node = Node::start(&format!(
        "{ECHO}, heartbeat: {{ping_interval: 1s, pong_timeout: 5s, idle_timeout: 2s}}}}\n"
    ));
    let mut client = Client::connect(node.ws()).await;
    assert_eq!(client.ask("a").await, "a");
    assert_eq!(client.closed().await, Some((4408, "idle".to_owned())));
}

#[tokio::test]
async fn while_a_backend_works_a_client_is_not_timed_out() {
    let nats = NatsServer::start().await;
    let node = Node::start(&format!(
        "nats: {{servers: ['{}']}}\nheartbeat: {{ping_interval: 1s, pong_timeout: 1s}}\n\
         routes:\n- {{path: /ws, auth: none}}\n",
        nats.url()
    ));
    node.reaches_nats().await;
    let _worker = Worker::start(&nats, "moorline.default.in.message", |message| {
        Answer::payload(message.payload.clone()).after(Duration::from_secs(5))
    })
    .await;
    let mut client = Client::connect(node.ws()).await;
    assert_eq!(client.ask("takes long").await, "takes long");
}

#[tokio::test]
async fn a_client_that_floods_is_held_back_and_answered_in_order() {
    let nats = NatsServer::start().await;
    let node = Node::start(&format!(
        "nats: {{servers: ['{}']}}\nroutes:\n- {{path: /ws, auth: none}}\n",
        nats.url()
    ));
    node.reaches_nats().await;
    let worker = Worker::start(&nats, "moorline.default.in.message", |message| {
        Answer::payload(message.payload.clone()).after(Duration::from_millis(50))
    })
    .await;
    let mut client = Client::connect(node.ws()).await;
    for n in 0..40 {
        client.send(format!("{n}")).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = worker.texts().len();
    assert!(begun < 20, "one at a time, the rest waits in the socket: {begun}");
    for n in 0..40 {
        assert_eq!(client.next_text().await, format!("{n}"));
    }
}

#[tokio::test]
async fn a_client_that_never_reads_is_closed_and_costs_little() {
    let node =
        Node::start(&format!("{ECHO}, max_message: 1MiB, heartbeat: {{write_timeout: 2s}}}}\n"));
    let mut client = Client::connect(node.ws()).await;
    let before = node.metric("process_resident_memory_bytes", &[]).await;
    let message = Message::binary(vec![7; 1 << 20]);
    let flood = async {
        for _ in 0..200 {
            if !client.try_send(message.clone()).await {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(4), flood).await;
    let line = node.wait_for("connection ended", |_| true);
    assert_eq!(
        (line["code"].as_u64(), line["cause"].as_str()),
        (Some(4508), Some("write-timeout"))
    );
    let after = node.metric("process_resident_memory_bytes", &[]).await;
    assert!(after - before < 24.0 * 1024.0 * 1024.0, "{before} to {after}");
}

#[tokio::test]
async fn an_ended_connection_is_one_line_that_says_how() {
    let node = Node::start(&format!("{ECHO}}}\n"));
    let mut client = Client::connect(node.ws()).await;
    let id = client.headers["moorline-connection-id"].to_str().unwrap().to_owned();
    assert_eq!(client.ask("hello").await, "hello");
    client.close().await;
    let line = node.wait_for("connection ended", |line| line["connection"] == id.as_str());
    assert_eq!(line["level"], "INFO");
    for (field, value) in [("code", 1005), ("messages_in", 1), ("bytes_in", 5), ("messages_out", 1)]
    {
        assert_eq!(line[field], value, "{field}");
    }
    assert_eq!((line["cause"].as_str(), line["hub"].as_str()), (Some("client"), Some("default")));
    assert_eq!(
        (line["route"].as_str(), line["last_outcome"].as_str()),
        (Some("/ws"), Some("replied"))
    );
    assert!(line["remote"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(line["duration_ms"].is_u64());
    assert_eq!(node.lines("connection ended").len(), 1);
    node.metric_becomes("moorline_connections", &[], 0.0).await;
    let closed = node.metric("moorline_connections_closed_total", &["cause=\"client\""]).await;
    assert_eq!(closed, 1.0);
}

#[tokio::test]
async fn a_stopped_node_answers_what_is_in_flight_and_says_1012() {
    let nats = NatsServer::start().await;
    let mut node = Node::start(&format!(
        "nats: {{servers: ['{}']}}\nroutes:\n- {{path: /ws, auth: none}}\n",
        nats.url()
    ));
    node.reaches_nats().await;
    let worker = Worker::start(&nats, "moorline.default.in.message", |message| {
        Answer::payload(message.payload.clone()).after(Duration::from_secs(2))
    })
    .await;
    let mut idle = Client::connect(node.ws()).await;
    let mut busy = Client::connect(node.ws()).await;
    busy.send("in flight").await;
    eventually("in flight", async || (worker.texts().len() == 1).then_some(())).await;
    node.signal("TERM");
    assert_eq!(idle.closed().await, Some((1012, "drain".to_owned())));
    assert_eq!(busy.next_text().await, "in flight");
    assert_eq!(busy.closed().await, Some((1012, "drain".to_owned())));
    assert!(node.ended().success(), "a good stop ends with 0");
}

#[tokio::test]
async fn a_handshake_under_way_when_the_node_stops_still_gets_its_end() {
    let nats = NatsServer::start().await;
    let mut node = Node::start(&format!(
        "nats: {{servers: ['{}']}}\nroutes:\n- {{path: /ws, auth: connect}}\n",
        nats.url()
    ));
    node.reaches_nats().await;
    let worker = Worker::start(&nats, "moorline.default.in.connect", |_| {
        Answer::payload("").after(Duration::from_secs(3))
    })
    .await;
    // Who asked for nothing holds nothing up.
    let _silent = tokio::net::TcpStream::connect(node.ws()).await.unwrap();
    let address = node.ws();
    let late = tokio::spawn(async move { Request::new("/ws").connect(address).await });
    eventually("the worker is asked", async || (worker.texts().len() == 1).then_some(())).await;
    node.signal("TERM");
    node.wait_for("drain goes on", |_| true);
    let mut client = late.await.unwrap().expect("the worker let it in");
    assert_eq!(client.closed().await, Some((1012, "drain".to_owned())));
    assert!(node.ended().success());
    assert_eq!(node.lines("connection ended").len(), 1);
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let mut node = Node::start(&format!("{}{ECHO}}}\n", "heartbeat: {close_timeout: 1m}\n"));
    let _client = Client::connect(node.ws()).await;
    node.signal("TERM");
    node.wait_for("draining", |_| true);
    let second = Instant::now();
    node.signal("TERM");
    assert!(!node.ended().success());
    assert!(second.elapsed() < Duration::from_secs(5));
}

/// A node and 20 clients that answer its pings; a ping every second, and a second for the pong.
async fn quick_heartbeat() -> (Node, Vec<tokio::task::JoinHandle<()>>) {
    let node =
        Node::start(&format!("heartbeat: {{ping_interval: 1s, pong_timeout: 1s}}\n{ECHO}}}\n"));
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut socket = Client::connect(node.ws()).await.into_socket();
        // Reading answers the pings.
        clients.push(tokio::spawn(async move { while socket.next().await.is_some() {} }));
    }
    (node, clients)
}

#[tokio::test]
async fn a_process_that_was_stopped_for_a_minute_times_nobody_out() {
    let (node, clients) = quick_heartbeat().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    node.signal("STOP");
    tokio::time::sleep(Duration::from_secs(60)).await;
    node.signal("CONT");
    // Two heartbeats later everybody has been asked again.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(node.metric("moorline_connections", &[]).await, 20.0);
    clients.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_starved_process_times_nobody_out_but_the_dead() {
    let (node, clients) = quick_heartbeat().await;
    // It answers nothing, as a host that is gone.
    let dead = Client::connect(node.ws()).await;
    for _ in 0..15 {
        node.signal("STOP");
        tokio::time::sleep(Duration::from_millis(900)).await;
        node.signal("CONT");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let gone = ["pong-timeout", "4408"];
    node.metric_becomes("moorline_connections_closed_total", &gone, 1.0).await;
    assert_eq!(node.metric("moorline_connections", &[]).await, 20.0);
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    drop(dead);
}

#[tokio::test]
async fn when_descriptors_run_out_accept_waits_and_the_others_live() {
    let node = Node::with_descriptors(256, &format!("{ECHO}}}\n"));
    let mut first = Client::connect(node.ws()).await;
    let mut crowd = Vec::new();
    for _ in 0..300 {
        crowd.push(tokio::net::TcpStream::connect(node.ws()).await.unwrap());
    }
    node.wait_for("accept failed; waiting", |_| true);
    assert_eq!(first.ask("still here").await, "still here");
    let before = node.cpu_ticks();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let busy = node.cpu_ticks() - before;
    assert!(busy < 20, "accept spins: {busy} ticks of CPU in 4 s, which is 5 %");
    drop(crowd);
    eventually("service resumes", async || Request::new("/ws").connect(node.ws()).await.ok()).await;
}
