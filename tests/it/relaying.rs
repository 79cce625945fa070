//! Messages to workers and back: order, kinds, what a reply may do, and who handles what.

use std::collections::HashSet;
use std::time::Duration;

use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Answer, Client, NatsServer, Node, Request, Worker, eventually, header};

const MESSAGES: &str = "moorline.default.in.message";

async fn node_with(nats: &NatsServer, route: &str) -> Node {
    let node = Node::start(&format!(
        "nats: {{servers: ['{}']}}\nroutes:\n- {{path: /ws, auth: none{route}}}\n",
        nats.url()
    ));
    node.reaches_nats().await;
    node
}

#[tokio::test]
async fn three_workers_share_one_clients_messages_in_order() {
    let nats = NatsServer::start().await;
    let node = node_with(&nats, "").await;
    let mut workers = Vec::new();
    for delay in [0, 3, 7] {
        let worker = Worker::start(&nats, MESSAGES, move |message| {
            Answer::payload(message.payload.clone()).after(Duration::from_millis(delay))
        });
        workers.push(worker.await);
    }
    let mut client = Client::connect(node.ws()).await;
    let texts: Vec<String> = (0..150).map(|n| format!("message {n}")).collect();
    for text in &texts {
        client.send(text.as_str()).await;
    }
    for text in &texts {
        assert_eq!(client.next_text().await, *text, "replies come in order");
    }
    let handled: Vec<String> = workers.iter().flat_map(Worker::texts).collect();
    assert_eq!(handled.len(), texts.len(), "each message was handled once");
    let distinct: HashSet<&String> = handled.iter().collect();
    assert_eq!(distinct.len(), texts.len());
    assert!(workers.iter().all(|worker| !worker.texts().is_empty()), "all workers had a share");
}

#[tokio::test]
async fn an_event_is_a_cloudevent_that_says_all() {
    let nats = NatsServer::start().await;
    let node = node_with(&nats, "").await;
    let worker = Worker::start(&nats, MESSAGES, |message| {
        Answer::payload(message.payload.clone()).header("moorline-state", "n=1 ✓")
    })
    .await;
    let mut client = Request::new("/ws?token=secret")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .header("ce-type", "forged")
        .header("nats-msg-id", "forged")
        .connect(node.ws())
        .await
        .unwrap();
    assert_eq!(client.ask("one").await, "one");
    client.send(Message::binary(vec![0xff, 0])).await;
    assert_eq!(client.next().await.unwrap(), Message::binary(vec![0xff, 0]));
    let requests = worker.requests();
    let get = |n: usize, name: &str| header(&requests[n], name).unwrap_or_default();
    let id = client.headers["moorline-connection-id"].to_str().unwrap();
    assert_eq!(get(0, "ce-specversion"), "1.0");
    assert_eq!(get(0, "ce-type"), "moorline.message");
    assert_eq!(get(0, "ce-id"), format!("{id}-1"));
    assert_eq!(get(0, "ce-source"), format!("/hubs/default/connections/{id}"));
    assert_eq!(get(0, "ce-subject"), "/ws");
    assert_eq!(get(0, "ce-hub"), "default");
    assert_eq!(get(0, "ce-connectionid"), id);
    assert_eq!((get(0, "ce-sequence"), get(1, "ce-sequence")), ("1".into(), "2".into()));
    assert_eq!(get(0, "ce-datacontenttype"), "text/plain; charset=utf-8");
    assert_eq!(get(1, "ce-datacontenttype"), "application/octet-stream");
    assert!(get(0, "ce-time").ends_with('Z'));
    assert_eq!(header(&requests[0], "ce-state"), None);
    assert!(get(0, "traceparent").starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
    assert_eq!(header(&requests[0], "nats-msg-id"), None);
    let all = requests[0].headers.as_ref().unwrap();
    assert!(!format!("{all:?}").contains("secret") && !format!("{all:?}").contains("forged"));
}

#[tokio::test]
async fn a_reply_decides_kind_state_close_and_silence() {
    let nats = NatsServer::start().await;
    let node = node_with(&nats, "").await;
    let _worker = Worker::start(&nats, MESSAGES, |message| {
        let state = header(message, "ce-state");
        match &message.payload[..] {
            b"binary" => {
                Answer::payload("text as bytes").header("content-type", "application/octet-stream")
            }
            b"json" => Answer::payload("{}").header("content-type", "application/json"),
            b"nothing" => Answer::payload(""),
            b"keep" => Answer::payload("kept").header("Moorline-State", "s 1"),
            b"clear" => Answer::payload("cleared").header("moorline-state", ""),
            b"state" => Answer::payload(state.unwrap_or_else(|| "none".to_owned())),
            b"no" => Answer::payload("not allowed").header("moorline-status", "403"),
            b"bye" => Answer::payload("last").header("moorline-close", "4321 see you"),
            _ => Answer::payload(message.payload.clone()).header("ce-type", "echoed"),
        }
    })
    .await;
    let mut client = Client::connect(node.ws()).await;
    assert_eq!(client.ask("hello").await, "hello");
    client.send("binary").await;
    assert_eq!(client.next().await.unwrap(), Message::binary(&b"text as bytes"[..]));
    client.send(Message::binary(&b"json"[..])).await;
    assert_eq!(client.next().await.unwrap(), Message::text("{}"));
    client.send("nothing").await;
    assert_eq!(client.ask("state").await, "none", "an empty reply is no message");
    assert_eq!(client.ask("keep").await, "kept");
    assert_eq!(client.ask("state").await, "s%201", "a header value is percent-encoded");
    assert_eq!(client.ask("clear").await, "cleared");
    assert_eq!(client.ask("state").await, "none");
    assert_eq!(client.ask("no").await, "not allowed", "a refusal that is for the client");
    assert_eq!(client.ask("bye").await, "last");
    assert_eq!(client.closed().await, Some((4321, "see you".to_owned())));
    let line = node.wait_for("connection ended", |line| line["code"] == 4321);
    assert_eq!(line["cause"], "backend-closed");
    assert_eq!(line["last_outcome"], "replied");
}

#[tokio::test]
async fn what_a_failure_looks_like_is_the_routes_choice() {
    let nats = NatsServer::start().await;
    let node = Node::start(&format!(
        "nats: {{servers: ['{}']}}\n\
         routes:\n\
         - {{path: /close, auth: none, hold: 100ms, request_timeout: 500ms}}\n\
         - path: /message\n  auth: none\n  hold: 100ms\n  request_timeout: 500ms\n  \
         on_failure: {{message: '{{\"error\":\"{{outcome}}\",\"sequence\":{{sequence}}}}'}}\n\
         - {{path: /nothing, auth: none, hold: 100ms, request_timeout: 500ms, on_failure: nothing}}\n",
        nats.url()
    ));
    node.reaches_nats().await;
    let connect = async |path: &str| Request::new(path).connect(node.ws()).await.unwrap();

    let mut client = connect("/close").await;
    client.send("nobody is there").await;
    assert_eq!(client.closed().await, Some((1013, "backend-unavailable".to_owned())));
    let mut client = connect("/message").await;
    assert_eq!(client.ask("x").await, r#"{"error":"unavailable","sequence":1}"#);

    let _worker = Worker::start(&nats, MESSAGES, |message| match &message.payload[..] {
        b"refuse" => Answer::payload("internal").header("Nats-Service-Error-Code", "500"),
        b"silence" => Answer::never(),
        _ => Answer::payload(message.payload.clone()),
    })
    .await;
    assert_eq!(client.ask("refuse").await, r#"{"error":"refused","sequence":2}"#);
    assert_eq!(client.ask("silence").await, r#"{"error":"unknown","sequence":3}"#);
    assert_eq!(client.ask("fine").await, "fine");
    let mut client = connect("/close").await;
    client.send("silence").await;
    assert_eq!(client.closed().await, Some((1011, "backend-failed".to_owned())));
    let mut client = connect("/close").await;
    client.send("refuse").await;
    assert_eq!(client.closed().await, Some((1011, "backend-failed".to_owned())));
    let mut client = connect("/nothing").await;
    client.send("silence").await;
    assert_eq!(client.ask("fine").await, "fine");
    for (outcome, count) in [("unavailable", 2.0), ("refused", 2.0), ("unknown", 3.0)] {
        let labels = [&*format!("outcome=\"{outcome}\"")];
        node.metric_becomes("moorline_backend_requests_total", &labels, count).await;
    }
}

#[tokio::test]
async fn no_workers_for_two_seconds_loses_nothing_and_doubles_nothing() {
    let nats = NatsServer::start().await;
    let node = node_with(&nats, ", hold: 10s").await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Client::connect(node.ws()).await);
    }
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(format!("from {n}")).await;
    }
    node.metric_becomes("moorline_backend_held", &[], 20.0).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let worker = Worker::echo(&nats, MESSAGES).await;
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.next_text().await, format!("from {n}"));
    }
    let texts = worker.texts();
    let distinct: HashSet<&String> = texts.iter().collect();
    assert_eq!((texts.len(), distinct.len()), (20, 20));
    node.metric_becomes("moorline_backend_held", &[], 0.0).await;
}

#[tokio::test]
async fn a_worker_that_dies_with_a_request_leaves_one_unknown() {
    let nats = NatsServer::start().await;
    let node = node_with(&nats, ", request_timeout: 1s, on_failure: {message: '{outcome}'}").await;
    let first = Worker::start(&nats, MESSAGES, |_| Answer::never()).await;
    let mut client = Client::connect(node.ws()).await;
    client.send("doomed").await;
    eventually("the request reached the worker", async || (first.texts().len() == 1).then_some(()))
        .await;
    drop(first);
    let second = Worker::echo(&nats, MESSAGES).await;
    assert_eq!(client.next_text().await, "unknown");
    assert_eq!(client.ask("next").await, "next");
    assert_eq!(second.texts(), ["next"], "a message is never sent twice");
    assert_eq!(node.metric("moorline_backend_requests_total", &["unknown"]).await, 1.0);
}

#[tokio::test]
async fn a_late_reply_is_ignored() {
    let nats = NatsServer::start().await;
    let node = node_with(&nats, ", request_timeout: 300ms, on_failure: nothing").await;
    let _worker = Worker::start(&nats, MESSAGES, |message| {
        let answer = Answer::payload(message.payload.clone());
        match &message.payload[..] {
            b"slow" => answer.after(Duration::from_millis(800)),
            _ => answer,
        }
    })
    .await;
    let mut client = Client::connect(node.ws()).await;
    client.send("slow").await;
    node.metric_becomes("moorline_backend_late_replies_total", &[], 1.0).await;
    assert_eq!(client.ask("quick").await, "quick", "the late reply did not reach the client");
}

#[tokio::test]
async fn a_wider_window_gives_the_order_up_for_throughput() {
    let nats = NatsServer::start().await;
    let node = node_with(&nats, ", in_flight: 8").await;
    let mut workers = Vec::new();
    for _ in 0..4 {
        let worker = Worker::start(&nats, MESSAGES, |message| {
            Answer::payload(message.payload.clone()).after(Duration::from_millis(100))
        });
        workers.push(worker.await);
    }
    let mut client = Client::connect(node.ws()).await;
    for n in 0..40 {
        client.send(format!("{n}")).await;
    }
    let mut replies = HashSet::new();
    for _ in 0..40 {
        replies.insert(client.next_text().await);
    }
    assert_eq!(replies.len(), 40);
    assert!(workers.iter().filter(|worker| !worker.texts().is_empty()).count() > 1);
}

#[tokio::test]
async fn all_events_of_a_connection_come_in_order() {
    let nats = NatsServer::start().await;
    let node = node_with(&nats, ", events: [connect, connected, message, disconnected]").await;
    let worker = Worker::start(&nats, "moorline.default.in.*", |message| {
        let is_message = &*message.subject == MESSAGES;
        Answer::payload(if is_message { message.payload.clone() } else { "".into() })
            .header("moorline-state", "from the backend")
    })
    .await;
    let mut client = Client::connect(node.ws()).await;
    let id = client.headers["moorline-connection-id"].to_str().unwrap().to_owned();
    assert_eq!(client.ask("a").await, "a");
    assert_eq!(client.ask("b").await, "b");
    client.close().await;
    eventually("disconnected", async || (worker.requests().len() == 5).then_some(())).await;
    let requests = worker.requests();
    let all = |name: &str| -> Vec<String> {
        requests.iter().map(|request| header(request, name).unwrap()).collect()
    };
    let types: Vec<String> = ["connect", "connected", "message", "message", "disconnected"]
        .map(|t| format!("moorline.{t}"))
        .into();
    assert_eq!(all("ce-type"), types);
    assert_eq!(all("ce-sequence"), ["1", "2", "3", "4", "5"]);
    assert_eq!(all("ce-id")[4], format!("{id}-end"));
    let ended: serde_json::Value = serde_json::from_slice(&requests[4].payload).unwrap();
    assert_eq!((ended["code"].as_u64(), ended["cause"].as_str()), (Some(1005), Some("client")));
    assert!(ended["duration_ms"].is_u64());
}

#[tokio::test]
async fn a_message_comes_on_the_subject_of_its_action() {
    let nats = NatsServer::start().await;
    let node = node_with(&nats, ", actions: {pointer: /do, names: [join, say]}").await;
    let name =
        |message: &async_nats::Message| message.subject.rsplit('.').next().unwrap().to_owned();
    let _one = Worker::start(&nats, "moorline.default.in.message.join", move |message| {
        Answer::payload(format!("one: {}", name(message)))
    })
    .await;
    let _others = Worker::start(&nats, "moorline.default.in.message", move |message| {
        Answer::payload(format!("others: {}", name(message)))
    })
    .await;
    let _two = Worker::start(&nats, "moorline.default.in.message.say", move |message| {
        Answer::payload(format!("two: {}", name(message)))
    })
    .await;
    let mut client = Client::connect(node.ws()).await;
    assert_eq!(client.ask(r#"{"do": "join"}"#).await, "one: join");
    assert_eq!(client.ask(r#"{"n": 1, "do": "say"}"#).await, "two: say");
    for other in [r#"{"do": "leave"}"#, r#"{"action": "join"}"#, "join", r#"{"do": "join""#] {
        assert_eq!(client.ask(other).await, "others: message", "{other}");
    }
}

#[tokio::test]
async fn disconnected_is_offered_until_a_worker_accepts_it() {
    let nats = NatsServer::start().await;
    let node = node_with(&nats, ", hold: 0s, events: [disconnected]").await;
    Client::connect(node.ws()).await.vanish();
    node.wait_for("connection ended", |line| line["cause"] == "vanished");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let fussy = Worker::start(&nats, "moorline.default.in.disconnected", |_| {
        Answer::payload("").header("moorline-status", "503")
    })
    .await;
    eventually("a first offer", async || (!fussy.requests().is_empty()).then_some(())).await;
    drop(fussy);
    let worker = Worker::echo(&nats, "moorline.default.in.disconnected").await;
    eventually("an accepted offer", async || (!worker.requests().is_empty()).then_some(())).await;
    assert!(header(&worker.requests()[0], "ce-id").unwrap().ends_with("-end"));
}

#[tokio::test]
async fn a_message_that_nats_would_not_take_costs_nobody_else() {
    let nats = NatsServer::with_config("max_payload: 32KB").await;
    let node = node_with(&nats, ", max_message: 64KiB, on_failure: {message: '{outcome}'}").await;
    let _worker = Worker::echo(&nats, MESSAGES).await;
    let mut client = Client::connect(node.ws()).await;
    let mut other = Client::connect(node.ws()).await;
    node.wait_for("a route's max_message does not fit the NATS server", |line| {
        line["max_payload"] == 32 * 1024
    });
    assert_eq!(client.ask(&"x".repeat(40_000)).await, "overloaded");
    assert_eq!(other.ask("still connected").await, "still connected");
    assert_eq!(node.metric("moorline_nats_reconnects_total", &[]).await, 0.0);
}

#[tokio::test]
async fn small_messages_behind_a_large_one_are_not_lost() {
    let nats = NatsServer::start().await;
    let node = node_with(&nats, "").await;
    let worker = Worker::start(&nats, MESSAGES, |message| {
        Answer::payload(message.payload.clone()).after(Duration::from_millis(100))
    })
    .await;
    let mut client = Client::connect(node.ws()).await;
    let large = "x".repeat(20_000);
    // In one write, so that the small ones are read together with the large one's end.
    client.send_together(&[&large, "one", "two", &large, "three"]).await;
    for text in [&large, "one", "two", &large, "three"] {
        assert_eq!(client.next_text().await, *text);
    }
    assert_eq!(worker.texts().len(), 5);
}

#[tokio::test]
async fn one_client_cannot_hold_up_the_others_that_wait_for_a_worker() {
    let nats = NatsServer::start().await;
    let node = node_with(&nats, ", in_flight: 2, hold: 10s").await;
    let mut leaving = Client::connect(node.ws()).await;
    leaving.send("first in line").await;
    node.metric_becomes("moorline_backend_held", &[], 1.0).await;
    leaving.start_close().await;
    let mut other = Client::connect(node.ws()).await;
    other.send("second in line").await;
    node.metric_becomes("moorline_backend_held", &[], 2.0).await;
    let _worker = Worker::echo(&nats, MESSAGES).await;
    let started = std::time::Instant::now();
    assert_eq!(other.next_text().await, "second in line");
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}
