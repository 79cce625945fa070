//! NATS is killed, frozen and restarted under connected clients.

use std::time::{Duration, Instant};

use crate::harness::{Client, NatsServer, Node, Request, Worker, eventually, exchange};

const MESSAGES: &str = "moorline.default.in.message";

fn node(nats: &NatsServer) -> Node {
    Node::start(&format!(
        "nats: {{servers: ['{}']}}\n\
         routes:\n\
         - {{path: /ws, auth: none, hold: 1s, on_failure: {{message: 'failed: {{outcome}}'}}}}\n\
         - {{path: /asks, auth: connect, hold: 100ms}}\n",
        nats.url()
    ))
}

#[tokio::test]
async fn killed_and_restarted_under_200_clients_nobody_is_disconnected() {
    let mut nats = NatsServer::start().await;
    let node = node(&nats);
    node.reaches_nats().await;
    let worker = Worker::echo(&nats, MESSAGES).await;
    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(Client::connect(node.ws()).await);
    }
    for client in &mut clients {
        assert_eq!(client.ask("before").await, "before");
    }
    nats.kill();
    node.metric_becomes("moorline_nats_connected", &[], 0.0).await;
    assert_eq!(clients[0].ask("during").await, "failed: unavailable");
    let (status, _) = exchange(node.admin(), b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(status, 200, "all nodes at once would leave the balancer");
    let refused = Request::new("/asks").connect(node.ws()).await.err().expect("a refusal");
    assert_eq!(refused.0, 503, "a handshake that needs NATS");
    clients.push(Client::connect(node.ws()).await);

    nats.resume().await;
    let back = Instant::now();
    eventually("service resumes", async || {
        (clients[1].ask("again").await == "again").then_some(())
    })
    .await;
    let outage = back.elapsed();
    for client in &mut clients {
        // The worker's own client may be a moment later than the node's.
        eventually("every client is served", async || {
            (client.ask("after").await == "after").then_some(())
        })
        .await;
    }
    assert_eq!(node.metric("moorline_connections", &[]).await, 201.0, "nobody was disconnected");
    assert!(node.metric("moorline_nats_reconnects_total", &[]).await >= 1.0);
    assert!(node.lines("connection ended").is_empty());
    // The promise is 2 s. A busy test machine may add its own, so the figure is shown and the bound is
    // generous: it only tells a reconnect apart from a time-out.
    eprintln!("service resumed {outage:?} after nats-server listened again");
    assert!(outage < Duration::from_secs(5), "{outage:?}");
    assert!(!worker.texts().is_empty());
}

#[tokio::test]
async fn requests_in_flight_when_nats_dies_end_unknown_at_once() {
    let mut nats = NatsServer::start().await;
    let node = node(&nats);
    node.reaches_nats().await;
    let worker = Worker::start(&nats, MESSAGES, |_| crate::harness::Answer::never()).await;
    let mut client = Client::connect(node.ws()).await;
    client.send("in flight").await;
    eventually("the request is at the worker", async || (worker.texts().len() == 1).then_some(()))
        .await;
    nats.kill();
    let killed = Instant::now();
    assert_eq!(client.next_text().await, "failed: unknown");
    assert!(killed.elapsed() < Duration::from_secs(5), "not at its time-out of 10 s");
}

#[tokio::test]
async fn a_frozen_nats_is_noticed_within_seconds() {
    let nats = NatsServer::start().await;
    let node = node(&nats);
    node.reaches_nats().await;
    let _worker = Worker::echo(&nats, MESSAGES).await;
    let mut client = Client::connect(node.ws()).await;
    assert_eq!(client.ask("before").await, "before");
    nats.signal("STOP");
    let stopped = Instant::now();
    node.metric_becomes("moorline_nats_connected", &[], 0.0).await;
    let noticed = stopped.elapsed();
    nats.signal("CONT");
    // The promise is 3 s; as above, the figure is shown and the bound is generous.
    eprintln!("a frozen nats-server was noticed after {noticed:?}");
    assert!(noticed < Duration::from_secs(8), "{noticed:?}");
    eventually("service resumes", async || (client.ask("after").await == "after").then_some(()))
        .await;
}

#[tokio::test]
async fn a_node_starts_without_nats_and_becomes_ready_when_it_comes() {
    let mut nats = NatsServer::start().await;
    nats.kill();
    let node = node(&nats);
    let ready = async || exchange(node.admin(), b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await.0;
    let live = async || exchange(node.admin(), b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.0;
    assert_eq!((live().await, ready().await), (200, 503));
    nats.resume().await;
    eventually("readiness", async || (ready().await == 200).then_some(())).await;
}

#[tokio::test]
async fn a_wrong_password_is_said_and_not_shown() {
    let nats = NatsServer::with_config("authorization: {user: node, password: right}").await;
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "a-wrong-one\n").unwrap();
    let config = format!(
        "nats: {{servers: ['{}'], user: node, password: {}}}\n\
         routes:\n- {{path: /ws, auth: none}}\n",
        nats.url(),
        password.display()
    );
    let node = Node::start(&config);
    eventually("the log says why", async || {
        node.whole_log().to_lowercase().contains("authorization").then_some(())
    })
    .await;
    assert!(!node.whole_log().contains("a-wrong-one"));
    drop(node);
    std::fs::write(&password, "right\n").unwrap();
    Node::start(&config).reaches_nats().await;
}
