//! The stop of a node under load, and the door that operators ask for it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{
    Answer, Client, NatsServer, Node, Worker, eventually, exchange, exchange_raw, free_port,
};

const ECHO: &str = "routes:\n- {path: /ws, auth: none, backend: {echo: true}}\n";
const CLOSED: Option<(u16, &str)> = Some((1012, "drain"));

async fn post(admin: SocketAddr, path: &str) -> (u16, String) {
    let request = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
    exchange(admin, request.as_bytes()).await
}

async fn reload(node: &Node) {
    node.signal("HUP");
    node.metric_becomes("moorline_config_reloads_total", &["result=\"ok\""], 1.0).await;
}

fn number(body: &str, key: &str) -> u64 {
    serde_json::from_str::<serde_json::Value>(body).unwrap()[key].as_u64().unwrap()
}

#[tokio::test]
async fn an_operator_starts_the_same_stop_and_the_next_signal_does_not_cut_it_short() {
    let mut node = Node::start(ECHO);
    node.rewrite(|text| text.replace("lame_duck: 0s, drain: 1s", "lame_duck: 2s, drain: 4s"));
    reload(&node).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(Client::connect(node.ws()).await);
    }
    let (status, body) = post(node.admin(), "/drain").await;
    assert_eq!((status, number(&body, "connections")), (202, 10), "{body}");
    assert!(
        (1..=6).contains(&number(&body, "eta_seconds")),
        "by the config that was reloaded: {body}"
    );
    assert!(node.metric("moorline_drain_eta_seconds", &[]).await >= 1.0);
    let (again, body) = post(node.admin(), "/drain").await;
    assert_eq!(again, 202, "{body}");
    let (ready, _) = exchange(node.admin(), b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(ready, 503);
    assert_eq!(node.lines("draining").len(), 1);
    node.signal("TERM");
    let line = node.wait_for("drain goes on", |_| true);
    assert!(line["connections"].is_u64() && line["eta_s"].is_f64(), "{line}");
    for client in &mut clients {
        let closed = client.closed().await;
        assert_eq!(closed.as_ref().map(|(code, reason)| (*code, reason.as_str())), CLOSED);
    }
    assert!(node.ended().success());
}

#[tokio::test]
async fn who_waits_hears_when_all_have_left() {
    let mut node = Node::start(ECHO);
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(Client::connect(node.ws()).await);
    }
    let reading = tokio::spawn(async move {
        for client in &mut clients {
            assert_eq!(client.closed().await.expect("a close frame").0, 1012);
        }
    });
    let (status, body) = post(node.admin(), "/drain?wait=true").await;
    assert_eq!((status, body.as_str()), (200, "{\"connections\":0,\"eta_seconds\":0}\n"));
    node.signal("TERM");
    reading.await.unwrap();
    assert!(node.ended().success());
}

#[tokio::test]
async fn a_second_signal_after_a_wish_stops_at_once() {
    let mut node = Node::start(ECHO);
    node.rewrite(|text| text.replace("drain: 1s", "drain: 1h"));
    reload(&node).await;
    let _clients = (Client::connect(node.ws()).await, Client::connect(node.ws()).await);
    assert_eq!(post(node.admin(), "/drain").await.0, 202);
    node.signal("TERM");
    node.wait_for("drain goes on", |_| true);
    node.signal("TERM");
    assert!(!node.ended().success());
}

#[tokio::test]
async fn only_an_operators_post_drains() {
    let node = Node::start(ECHO);
    let get = exchange_raw(node.admin(), b"GET /drain HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(get.starts_with("HTTP/1.1 405 ") && get.contains("\r\nallow: POST\r\n"), "{get}");
    let page = b"POST /drain HTTP/1.1\r\nhost: x\r\norigin: https://evil.example\r\n\r\n";
    assert_eq!(exchange(node.admin(), page).await.0, 403);
    let (ready, _) = exchange(node.admin(), b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(ready, 200);
    assert_eq!(node.metric("moorline_drain_eta_seconds", &[]).await, 0.0);
}

/// The one that is at the backend and then `disconnected` take all the time that they have.
#[tokio::test]
async fn a_worker_that_hangs_does_not_spoil_the_stop() {
    let nats = NatsServer::start().await;
    let message = Worker::start(&nats, "moorline.default.in.message", |_| Answer::never()).await;
    let last = Worker::start(&nats, "moorline.default.in.disconnected", |_| Answer::never()).await;
    let mut node = Node::start(&format!(
        "nats: {{servers: ['{}']}}\nheartbeat: {{close_timeout: 100ms}}\n\
         routes:\n- {{path: /ws, auth: none, events: [message, disconnected], hold: 0s, \
         request_timeout: 3s}}\n",
        nats.url()
    ));
    node.reaches_nats().await;
    let mut client = Client::connect(node.ws()).await;
    client.send("never answered").await;
    eventually("the worker has it", async || (message.texts().len() == 1).then_some(())).await;
    node.signal("TERM");
    eventually("the last event", async || (last.requests().len() == 1).then_some(())).await;
    assert!(node.ended().success());
    let left = node.lines("disconnected was not accepted");
    assert_eq!(left.first().map(|line| &line["result"]), Some(&"left".into()));
}

const CLIENTS: u32 = 2000;
/// Of each client, so that all together ask 500 times a second.
const INTERVAL: Duration = Duration::from_secs(4);
const DRAIN: Duration = Duration::from_secs(12);
/// What the README promises: the drain, hold and request timeout, two close timeouts, and 4 s.
const STOP: Duration = Duration::from_secs(12 + 3 + 10 + 2 * 5 + 4);

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_clients_leave_evenly_and_every_request_is_answered() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let monitor = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let nats = NatsServer::with_config(&format!("http: '{monitor}'")).await;
    let worked = slow_worker(&nats).await;
    let without_node = in_nats(monitor).await;
    // They all come from one address.
    let routes =
        "limits: {handshakes_per_ip: {per_second: 0}}\nroutes:\n- {path: /ws, auth: none}\n";
    // The streams of a fleet stay, with subscriptions of the server's own.
    let config = format!("nats: {{servers: ['{}'], jetstream: off}}\n{routes}", nats.url());
    let mut node = Node::with_log("info", &config);
    node.rewrite(|text| text.replace("drain: 1s", &format!("drain: {}s", DRAIN.as_secs())));
    reload(&node).await;
    node.reaches_nats().await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Client::connect(node.ws()).await);
    }
    let start = Instant::now();
    let mut talks = JoinSet::new();
    for (number, client) in (0..CLIENTS).zip(clients) {
        talks.spawn(talk(client, start + INTERVAL * number / CLIENTS));
    }
    eventually("each has asked", async || {
        (worked.load(Ordering::Relaxed) > u64::from(CLIENTS)).then_some(())
    })
    .await;
    let told = Instant::now();
    node.signal("TERM");
    // It outlives what other requests to this door may take.
    let waiting = tokio::spawn(post(node.admin(), "/drain?wait=true"));
    // The last is of those that come later than the drain's time.
    let (mut answered, mut tenths) = (0, [0_u32; 11]);
    while let Some(talk) = talks.join_next().await {
        let (answers, closed, at) = talk.unwrap();
        assert_eq!(closed, Some(1012));
        answered += answers;
        let tenth = ((at - told).as_secs_f64() / DRAIN.as_secs_f64() * 10.0) as usize;
        tenths[tenth.min(10)] += 1;
    }
    let (status, said) = waiting.await.unwrap();
    assert_eq!((status, number(&said, "connections")), (200, 0));
    assert!(node.ended().success());
    assert!(told.elapsed() < STOP, "{:?}", told.elapsed());
    assert_eq!(answered, worked.load(Ordering::Relaxed), "every request that a worker saw");
    eprintln!("{answered} requests answered; closes in each tenth and after the last: {tenths:?}");
    let (late, tenths) = tenths.split_last().unwrap();
    assert!(tenths.iter().all(|closes| *closes <= 2 * CLIENTS / 10), "{tenths:?}");
    assert!(*late < CLIENTS / 10, "{late} of {CLIENTS} are late, as if it took a tenth longer");
    eventually("nothing of the node is left in NATS", async || {
        (in_nats(monitor).await == without_node).then_some(())
    })
    .await;
}

/// A worker that takes 20 to 50 ms for each of many requests at once, and how many it was asked.
async fn slow_worker(nats: &NatsServer) -> Arc<AtomicU64> {
    let client = nats.client().await;
    let mut asked =
        client.queue_subscribe("moorline.default.in.message", "workers".to_owned()).await.unwrap();
    client.flush().await.unwrap();
    let worked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&worked);
    tokio::spawn(async move {
        while let Some(message) = asked.next().await {
            let number = count.fetch_add(1, Ordering::Relaxed);
            let client = client.clone();
            tokio::spawn(async move {
                sleep(Duration::from_millis(20 + number % 31)).await;
                client.publish(message.reply.unwrap(), message.payload).await.unwrap();
            });
        }
    });
    worked
}

/// Asks from `first` on, until the node closes: how many answers there were, the close code, and when
/// that came.
async fn talk(client: Client, first: Instant) -> (u64, Option<u16>, Instant) {
    let mut socket = client.into_socket();
    let mut ticks = interval_at(first, INTERVAL);
    let mut answers = 0;
    loop {
        tokio::select! {
            // A message behind the node's close frame is one that nobody takes.
            _ = ticks.tick() => drop(socket.send(Message::text("request")).await),
            message = socket.next() => match message {
                Some(Ok(Message::Text(_))) => answers += 1,
                Some(Ok(Message::Close(frame))) => {
                    let at = Instant::now();
                    while let Some(Ok(_)) = socket.next().await {}
                    return (answers, frame.map(|frame| frame.code.into()), at);
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return (answers, None, Instant::now()),
            },
        }
    }
}

/// Connections and subscriptions that the NATS server has.
async fn in_nats(monitor: SocketAddr) -> (u64, u64) {
    let count = async |page: &str, key: &str| {
        let request = format!("GET /{page} HTTP/1.0\r\nhost: x\r\n\r\n");
        number(&exchange(monitor, request.as_bytes()).await.1, key)
    };
    (count("connz", "num_connections").await, count("subsz", "num_subscriptions").await)
}
