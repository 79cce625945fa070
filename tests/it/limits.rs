//! Clients that send too much or read too little, beside clients that do neither.

use std::time::{Duration, Instant};

use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Client, Node, Request, eventually};

const MIB: f64 = 1024.0 * 1024.0;

#[tokio::test]
async fn a_flood_is_read_at_the_throttle_and_not_kept_in_memory() {
    // Nothing comes back: the flood is to be slowed down by its own limit alone.
    let node = Node::start(
        "plans: {default: {connection: {inbound: {bytes: {per_second: 1MB, burst: 256KiB}}}}}\n\
         routes:\n- {path: /ws, auth: none, events: [], backend: {echo: true}}\n",
    );
    let client = Client::connect(node.ws()).await;
    let flood = tokio::spawn(flood(client, 10_000, 10_000_000));
    let read = async || {
        let bytes = node.metric("moorline_message_bytes_total", &["inbound"]).await;
        (Instant::now(), bytes, node.metric("process_resident_memory_bytes", &[]).await)
    };
    // The burst and what the kernel's buffers take are over by then.
    eventually("3 MB are read", async || (read().await.1 > 3e6).then_some(())).await;
    let (start, before, memory) = read().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (end, after, memory_after) = read().await;
    let rate = (after - before) / (end - start).as_secs_f64();
    assert!((0.95e6..=1.05e6).contains(&rate), "{rate} bytes/s");
    assert!(memory_after - memory < 2.0 * MIB, "{memory} to {memory_after}");
    let throttled = ["connection-bytes-inbound", "throttle"];
    assert!(node.metric("moorline_limited_total", &throttled).await > 100.0);
    flood.abort();
}

/// Sends messages of `size` as fast as the node takes them, but no faster than `rate` bytes/s.
async fn flood(mut client: Client, size: usize, rate: usize) {
    let message = Message::binary(vec![7; size]);
    let mut turn = tokio::time::interval(Duration::from_secs_f64(size as f64 / rate as f64));
    while client.try_send(message.clone()).await {
        turn.tick().await;
    }
}

#[tokio::test]
async fn noisy_and_deaf_neighbours_are_nobody_elses_trouble() {
    const OUTBOX: f64 = 256.0 * 1024.0;
    const DEAF: usize = 100;
    let node = Node::start(
        "heartbeat: {write_timeout: 3s}\n\
         limits: {handshakes_per_ip: {per_second: 0}}\n\
         plans:\n  default: {connection: {inbound: {messages: {per_second: 20, burst: 20}}}}\n\
         \x20 free: {connection: {inbound: {messages: {per_second: 0}}}}\n\
         routes:\n- {path: /ws, auth: none, backend: {echo: true}, in_flight: 4}\n\
         - {path: /free, auth: none, backend: {echo: true}, plan: free, \
         outbox: {max_bytes: 256KiB}}\n",
    );
    let mut others = Vec::new();
    for _ in 0..890 {
        others.push(Client::connect(node.ws()).await);
    }
    let before = node.metric("process_resident_memory_bytes", &[]).await;
    let mut noisy = Vec::new();
    for _ in 0..10 {
        let client = Client::connect(node.ws()).await;
        noisy.push(tokio::spawn(flood(client, 100, 200_000)));
    }
    let mut deaf = Vec::new();
    for _ in 0..DEAF {
        let client = Request::new("/free").connect(node.ws()).await.unwrap();
        deaf.push(tokio::spawn(flood(client, 60_000, 60_000_000)));
    }
    let mut peak: f64 = 0.0;
    let closed = ["write-timeout", "4508"];
    eventually("all deaf clients are closed", async || {
        for (n, client) in others.iter_mut().enumerate().skip(rand::random_range(0..10)).step_by(10)
        {
            let word = format!("{n}");
            assert_eq!(client.ask(&word).await, word);
        }
        peak = peak.max(node.metric("process_resident_memory_bytes", &[]).await);
        let gone = node.metric("moorline_connections_closed_total", &closed).await;
        (gone == DEAF as f64).then_some(())
    })
    .await;
    // Beside its outbox a deaf client may hold one message that is half written and one half read.
    let most = DEAF as f64 * (OUTBOX + 2.0 * 64.0 * 1024.0) + 16.0 * MIB;
    assert!(peak - before < most, "{before} to {peak}");
    assert_eq!(node.metric("moorline_connections", &[]).await, 900.0, "the noisy are only slowed");
    let throttled = ["connection-messages-inbound", "throttle"];
    assert!(node.metric("moorline_limited_total", &throttled).await > 100.0);
    noisy.iter().chain(&deaf).for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_dry_run_says_what_it_would_have_done() {
    let node = Node::start(
        "plans: {default: {connection: {inbound: \
         {messages: {per_second: 1, action: close, dry_run: true}}}}}\n\
         routes:\n- {path: /ws, auth: none, backend: {echo: true}}\n",
    );
    let mut client = Client::connect(node.ws()).await;
    for n in 0..50 {
        assert_eq!(client.ask(&format!("{n}")).await, format!("{n}"));
    }
    let counted = ["connection-messages-inbound", "dry-run"];
    assert!(node.metric("moorline_limited_total", &counted).await >= 40.0);
}

#[tokio::test]
async fn a_flood_of_pings_is_closed_and_costs_little() {
    let node = Node::start("routes:\n- {path: /ws, auth: none, backend: {echo: true}}\n");
    let mut client = Client::connect(node.ws()).await;
    let before = node.metric("process_resident_memory_bytes", &[]).await;
    for _ in 0..1_000_000 {
        if !client.try_send(Message::Ping(vec![7; 100].into())).await {
            break;
        }
    }
    let line = node.wait_for("connection ended", |_| true);
    assert_eq!((line["code"].as_u64(), line["cause"].as_str()), (Some(4429), Some("rate-limited")));
    let after = node.metric("process_resident_memory_bytes", &[]).await;
    assert!(after - before < 4.0 * MIB, "{before} to {after}");
}
