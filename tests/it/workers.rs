//! The example workers, each by its own NATS client, behave the same; and three of them are one fleet.

use std::process::Command;

use tokio_tungstenite::tungstenite::Message;

use crate::harness::{NatsServer, Node, Process, Request, Tool, have, node_program, python};

fn start(mut command: Command, nats: &NatsServer) -> Process {
    command.env("NATS_URL", nats.url());
    Process::start(command)
}

fn rust_worker() -> Command {
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_moorline"));
    let worker = binary.parent().unwrap().join("examples/worker");
    assert!(
        worker.exists(),
        "the example is not built: `cargo test` builds it, `--test it` does not"
    );
    Command::new(worker)
}

/// What every example does; see examples/README.md.
async fn talks_as_the_contract_says(worker: Command) {
    let nats = NatsServer::start().await;
    let node = Node::start(&format!(
        "nats: {{servers: ['{}']}}\n\
         routes:\n- {{path: /ws, auth: connect, hold: 20s, \
         events: [connect, connected, message, disconnected]}}\n",
        nats.url()
    ));
    node.reaches_nats().await;
    let mut worker = start(worker, &nats);
    let mut client = Request::new("/ws").connect(node.ws()).await.expect("accepted");
    assert_eq!(client.ask("hello").await, "guest 1: HELLO");
    assert_eq!(client.ask("refuse").await, "refused");
    assert_eq!(client.ask("again").await, "guest 2: AGAIN");
    client.send(Message::binary(&b"abc"[..])).await;
    assert_eq!(client.next().await.unwrap(), Message::binary(&b"cba"[..]));
    assert_eq!(client.ask("bye").await, "BYE");
    assert_eq!(client.closed().await, Some((4000, "bye".to_owned())));
    let denied = Request::new("/ws?deny=1").connect(node.ws()).await.err().expect("a refusal");
    assert_eq!(denied.0, 403);
    worker.signal("TERM");
    let status = worker.ends().await;
    assert!(status.success(), "{status}");
    for outcome in ["unknown", "unavailable", "overloaded"] {
        let label = format!("outcome=\"{outcome}\"");
        assert_eq!(
            node.metric("moorline_backend_requests_total", &[&label]).await,
            0.0,
            "{outcome}"
        );
    }
}

#[tokio::test]
async fn the_python_worker_talks_as_the_contract_says() {
    if have("the_python_worker_talks_as_the_contract_says", &[Tool::Python]) {
        talks_as_the_contract_says(python("examples/python/worker.py")).await;
    }
}

#[tokio::test]
async fn the_node_worker_talks_as_the_contract_says() {
    if have("the_node_worker_talks_as_the_contract_says", &[Tool::Node]) {
        talks_as_the_contract_says(node_program("examples/node/worker.mjs")).await;
    }
}

#[tokio::test]
async fn the_rust_worker_talks_as_the_contract_says() {
    talks_as_the_contract_says(rust_worker()).await;
}

#[tokio::test]
async fn a_worker_process_killed_with_a_request_leaves_one_unknown() {
    let nats = NatsServer::start().await;
    let node = Node::start(&format!(
        "nats: {{servers: ['{}']}}\nroutes:\n- {{path: /ws, auth: none, hold: 20s, \
         request_timeout: 2s, on_failure: {{message: '{{outcome}} {{sequence}}'}}}}\n",
        nats.url()
    ));
    node.reaches_nats().await;
    let mut first = start(rust_worker(), &nats);
    let mut client = Request::new("/ws").connect(node.ws()).await.expect("accepted");
    assert_eq!(client.ask("hello").await, "guest 1: HELLO");
    // Stopped, it still gets the request, as a worker does that hangs in the middle of its work.
    first.signal("STOP");
    client.send("doomed").await;
    node.metric_becomes("moorline_backend_in_flight", &[], 1.0).await;
    first.signal("KILL");
    first.ends().await;
    let _second = start(rust_worker(), &nats);
    assert_eq!(client.next_text().await, "unknown 2");
    assert_eq!(client.ask("next").await, "guest 2: NEXT");
    let unknown = ["outcome=\"unknown\""];
    assert_eq!(node.metric("moorline_backend_requests_total", &unknown).await, 1.0);
    let replied = ["outcome=\"replied\""];
    assert_eq!(node.metric("moorline_backend_requests_total", &replied).await, 2.0);
}

#[test]
fn each_worker_is_under_sixty_lines() {
    for file in ["python/worker.py", "python/http_worker.py", "node/worker.mjs", "rust/worker.rs"] {
        let path = crate::harness::root().join("examples").join(file);
        let lines = std::fs::read_to_string(path).unwrap().lines().count();
        assert!(lines < 60, "{file} has {lines} lines");
    }
}
