//! Events to workers behind a real nats-server, and what comes of them.

mod hold;

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::testing::{event, peer, route};
use super::*;
use crate::config::Period;
use crate::event::{Action, EventBody, Grant, Offer, Peer, Refusal};
use crate::message::Message;
use crate::nats::testing::{NatsServer, start, until};
use crate::task::Tasks;

/// A route to workers behind a server of its own.
struct Edge {
    relay: Relay,
    metrics: Metrics,
    hold: Hold,
    peer: Arc<Peer>,
}

impl Edge {
    async fn new(server: &NatsServer, change: impl FnOnce(&mut Route)) -> Self {
        let mut route = route("app");
        change(&mut route);
        let metrics = Metrics::new();
        let nats = Box::pin(server.nats(&metrics)).await;
        let hold = Hold::new(1 << 20);
        let relay =
            Relay::new(&route, Some(&nats), &gates(), &hold, &Fence::open(), &metrics).unwrap();
        Self { relay, metrics, hold, peer: Arc::new(peer("app", None)) }
    }

    async fn ask(&self, text: &str) -> Outcome {
        Box::pin(self.relay.request(event(&self.peer, EventBody::Message(Message::text(text)))))
            .await
    }

    /// Asks in the background; ends when the event waits in line.
    async fn ask_in_line(&self, text: &str) -> JoinHandle<Outcome> {
        let held = self.held();
        let asked = self.ask_later(text);
        until("held", || self.held() > held).await;
        asked
    }

    #[expect(clippy::disallowed_methods, reason = "a test wants what the task returns")]
    fn ask_later(&self, text: &str) -> JoinHandle<Outcome> {
        let (relay, event) =
            (self.relay.clone(), event(&self.peer, EventBody::Message(Message::text(text))));
        tokio::spawn(async move { relay.request(event).await })
    }

    fn held(&self) -> u64 {
        self.value("moorline_backend_held")
    }

    fn outcomes(&self, outcome: &str) -> u64 {
        let text = String::from_utf8(self.metrics.to_text()).unwrap();
        let label = format!("outcome=\"{outcome}\"");
        let family = "moorline_backend_requests_total{";
        let line = text.lines().find(|line| line.starts_with(family) && line.contains(&label));
        line.and_then(|line| line.rsplit(' ').next()).unwrap().parse().unwrap()
    }

    fn value(&self, name: &str) -> u64 {
        let text = String::from_utf8(self.metrics.to_text()).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")));
        line.and_then(|line| line.rsplit(' ').next()).unwrap().parse().unwrap()
    }

    /// Nothing is left of any event.
    fn assert_at_rest(&self) {
        assert_eq!((self.held(), self.value("moorline_backend_in_flight")), (0, 0));
        assert_eq!(self.hold.used(), 0);
    }
}

/// What workers got, in order.
type Seen = Arc<Mutex<Vec<String>>>;

/// A worker that answers each message with the same text.
async fn echo(server: &NatsServer, seen: &Seen) {
    let (client, mut requests) = subscribe(server).await;
    let seen = Arc::clone(seen);
    Tasks::new().spawn("echo", async move {
        while let Some(request) = requests.next().await {
            seen.lock().unwrap().push(String::from_utf8(request.payload.to_vec()).unwrap());
            client.publish(request.reply.unwrap(), request.payload).await.unwrap();
        }
    });
}

/// A worker's subscription, known to the server when this returns.
async fn subscribe(server: &NatsServer) -> (async_nats::Client, async_nats::Subscriber) {
    let client = server.client().await;
    let group = "workers".to_owned();
    let requests = client.queue_subscribe("moorline.app.in.*", group).await.unwrap();
    let _ = client.request("nobody", Bytes::new()).await;
    (client, requests)
}

fn gates() -> Gates {
    Gates::new(&Tasks::new())
}

fn said(text: &str) -> Outcome {
    Outcome::Replied(vec![Action::Send(Message::text(text))])
}

fn seconds(n: u64) -> Period {
    Period::secs(n)
}

#[tokio::test]
async fn a_message_goes_to_a_worker_and_back() {
    let server = NatsServer::start();
    let (client, mut requests) = subscribe(&server).await;
    let edge = Edge::new(&server, |_| ()).await;
    let work = async {
        let request = requests.next().await.unwrap();
        assert_eq!(request.subject.as_str(), "moorline.app.in.message");
        assert_eq!(request.payload, "hi");
        let headers = request.headers.unwrap();
        assert_eq!(headers.get("ce-type").unwrap().as_str(), "moorline.message");
        assert_eq!(headers.get("ce-sequence").unwrap().as_str(), "1");
        assert!(headers.iter().all(|(name, _)| !name.to_string().starts_with("moorline-")));
        // As some client libraries do, the worker sends the request's headers back.
        let mut answer = headers;
        answer.insert("moorline-state", "step 2");
        answer.insert("moorline-close", "4000 done");
        let reply = request.reply.unwrap();
        client.publish_with_headers(reply, answer, "there".into()).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(edge.ask("hi"), work);
    let Outcome::Replied(actions) = outcome else { panic!("{outcome:?}") };
    assert_eq!(actions.first(), Some(&Action::Send(Message::text("there"))));
    assert!(matches!(&actions[1], Action::State(Some(state)) if state.as_str() == "step 2"));
    assert!(matches!(&actions[2], Action::Close(close) if close.code == 4000));
    assert_eq!(edge.outcomes("replied"), 1);
    edge.assert_at_rest();
}

#[tokio::test]
async fn a_request_is_small() {
    let server = NatsServer::start();
    let edge = Edge::new(&server, |_| ()).await;
    let request = edge.ask("x");
    let size = size_of_val(&request);
    // It is part of every connection with a message in flight.
    assert!(size <= 2048, "{size} bytes");
}

#[tokio::test]
async fn a_connect_event_is_decided_by_a_worker() {
    let server = NatsServer::start();
    let (client, mut requests) = subscribe(&server).await;
    let edge = Edge::new(&server, |_| ()).await;
    let connect = || {
        let offer = Offer { subprotocols: vec!["v1".into()], ..Offer::default() };
        edge.relay.request(event(&edge.peer, EventBody::Connect(Box::new(offer))))
    };
    let mut no = async_nats::HeaderMap::new();
    no.insert("moorline-status", "403");
    let yes = async_nats::HeaderMap::new();
    let granted = Grant { subprotocol: Some("v1".into()), ..Grant::default() };
    let refused = Refusal::new(403, Some(Message::text("closed today")));
    let broken = Refusal::broken(502);
    for (headers, body, expected) in [
        (yes.clone(), r#"{"subprotocol": "v1"}"#, Outcome::Accepted(Box::new(granted))),
        (yes, r#"{"subprotocol": "v2"}"#, Outcome::Refused(broken)),
        (no, "closed today", Outcome::Refused(refused)),
    ] {
        let work = async {
            let request = requests.next().await.unwrap();
            assert_eq!(request.subject.as_str(), "moorline.app.in.connect");
            let offer: serde_json::Value = serde_json::from_slice(&request.payload).unwrap();
            assert_eq!(offer["subprotocols"][0], "v1");
            let reply = request.reply.unwrap();
            client.publish_with_headers(reply, headers, body.into()).await.unwrap();
        };
        let (outcome, ()) = tokio::join!(connect(), work);
        assert_eq!(outcome, expected);
    }
}

#[tokio::test]
async fn events_at_a_worker_end_unknown_when_nats_is_killed() {
    let mut server = NatsServer::start();
    let (_client, mut requests) = subscribe(&server).await;
    let edge = Edge::new(&server, |_| ()).await;
    let start = Instant::now();
    let kill = async {
        for _ in 0..50 {
            requests.next().await.unwrap();
        }
        server.kill();
    };
    let (outcomes, ()) = tokio::join!(join_all((0..50).map(|_| edge.ask("x"))), kill);
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Unknown));
    assert!(start.elapsed() < Duration::from_secs(5), "long before the request timeout");
    assert_eq!(edge.outcomes("unknown"), 50);
    edge.assert_at_rest();
}

#[tokio::test]
async fn a_reply_that_breaks_the_contract_is_a_refusal_without_words() {
    let server = NatsServer::start();
    let (client, mut requests) = subscribe(&server).await;
    let edge = Edge::new(&server, |_| ()).await;
    let work = async {
        let request = requests.next().await.unwrap();
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("moorline-close", "1006");
        let reply = request.reply.unwrap();
        client.publish_with_headers(reply, headers, "secret".into()).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(edge.ask("x"), work);
    assert_eq!(outcome, Outcome::Refused(Refusal::broken(502)));
    assert_eq!(edge.outcomes("refused"), 1);
}

#[tokio::test]
async fn a_message_that_nats_would_not_take_is_overloaded() {
    let server = NatsServer::with_config("max_payload: 2000");
    echo(&server, &Seen::default()).await;
    let edge = Edge::new(&server, |_| ()).await;
    assert_eq!(edge.ask(&"x".repeat(2000)).await, Outcome::Overloaded);
    assert_eq!(edge.ask("x").await, said("x"));
}

#[tokio::test]
async fn a_route_may_have_workers_of_its_own() {
    let server = NatsServer::start();
    let edge = Edge::new(&server, |route| route.backend = Backend::Nats("eu.fleet".into())).await;
    let client = server.client().await;
    let mut requests = client.subscribe("eu.fleet.app.in.message").await.unwrap();
    let work = async {
        let request = requests.next().await.unwrap();
        client.publish(request.reply.unwrap(), Bytes::new()).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(edge.ask("x"), work);
    assert_eq!(outcome, Outcome::Replied(Vec::new()));
}

#[tokio::test]
async fn a_route_without_a_way_is_refused() {
    let (hold, metrics) = (Hold::new(0), Metrics::new());
    let mut route = route("app");
    route.name = Some("chat".into());
    let error = Relay::new(&route, None, &gates(), &hold, &Fence::open(), &metrics).unwrap_err();
    assert!(matches!(error, RelayError::NoNats));

    let server = crate::config::Nats::default();
    let nats = start(&server, &metrics).await;
    route.backend = Backend::Nats("a.>".into());
    let error =
        Relay::new(&route, Some(&nats), &gates(), &hold, &Fence::open(), &metrics).unwrap_err();
    assert!(matches!(error, RelayError::Prefix(_)));
    assert!(!nats.is_connected() && error.to_string().contains("backend.nats"));
}

#[tokio::test]
async fn the_echo_says_back_what_it_hears() {
    let metrics = Metrics::new();
    let mut route = route("app");
    route.backend = Backend::Echo(true);
    let relay =
        Relay::new(&route, None, &gates(), &Hold::new(0), &Fence::open(), &metrics).unwrap();
    let peer = Arc::new(peer("app", None));
    let ask = |body| relay.request(event(&peer, body));
    let message = Message::binary(&[0xff][..]);
    let back = Outcome::Replied(vec![Action::Send(message.clone())]);
    assert_eq!(ask(EventBody::Message(message)).await, back);
    assert_eq!(ask(EventBody::Connect(Box::default())).await, Outcome::Accepted(Box::default()));
    assert_eq!(ask(EventBody::Connected).await, Outcome::Replied(Vec::new()));
    assert!(relay.is_reachable());
    let text = String::from_utf8(metrics.to_text()).unwrap();
    assert!(text.contains(r#"outcome="replied",route="/ws",transport="echo"} 3"#), "{text}");
}
