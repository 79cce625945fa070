//! Servers that are not there, that come back, and that do not answer.

use super::*;
use crate::close::{Cause, Close};
use crate::event::Ended;

#[tokio::test]
async fn an_event_that_was_not_written_waits_and_one_that_was_is_not_sent_again() {
    let address = nobody().await;
    let url = format!("http://{address}/");
    let edge = Edge::new(vec![url], |route, _| route.hold = Period::secs(30));
    let ask = join_all((0..20).map(|n| edge.ask(["a", "b", "c"][n % 3])));
    let arrives = async {
        until("held", || edge.metric("moorline_backend_held", "") == 20).await;
        Service::at(address, ok("yes")).await
    };
    let (outcomes, service) = tokio::join!(ask, arrives);
    assert!(outcomes.iter().all(|outcome| *outcome == said("yes")));
    assert_eq!(service.bodies().len(), 20);
    service.now(Does::Resets);
    assert_eq!(edge.ask("doomed").await, Outcome::Unknown);
    assert_eq!(service.bodies().iter().filter(|body| *body == "doomed").count(), 1);
    service.now(ok("yes"));
    assert_eq!(edge.ask("next").await, said("yes"));
    assert_eq!(edge.circuits(), 0);
    edge.assert_at_rest();
}

#[tokio::test]
async fn without_a_server_an_event_is_unavailable_after_the_hold() {
    let url = format!("http://{}/", nobody().await);
    let edge = Edge::new(vec![url.clone()], |_, _| ());
    assert_eq!(edge.ask("x").await, Outcome::Unavailable);
    let edge = Edge::new(vec![url], |route, _| route.hold = Period::millis(200));
    let outcomes = join_all((0..10).map(|_| edge.ask("x"))).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Unavailable));
    assert_eq!((edge.outcomes("unavailable"), edge.circuits()), (10, 1));
    let nowhere = Edge::new(vec!["http://nowhere.invalid/".into()], |_, _| ());
    assert_eq!(nowhere.ask("x").await, Outcome::Unavailable);
    edge.assert_at_rest();
}

#[tokio::test]
async fn all_bytes_that_are_held_count() {
    for (dialect, copies) in [(Dialect::Cloudevents, 1), (Dialect::WebsocketOverHttp, 2)] {
        let edge = Edge::new(vec![format!("http://{}/", nobody().await)], |route, backend| {
            (route.hold, backend.dialect) = (Period::secs(30), dialect);
        });
        let text = "x".repeat(100_000);
        let held = async {
            until("held", || edge.hold.used() > 0).await;
            edge.hold.used()
        };
        tokio::select! {
            _ = edge.ask(&text) => panic!("nobody answers"),
            used = held => assert_eq!(used / text.len(), copies),
        }
    }
}

#[tokio::test]
async fn a_connection_closed_while_idle_costs_nothing() {
    let service = Service::start(ok("yes")).await;
    let edge = Edge::to(&service);
    assert_eq!(edge.ask("x").await, said("yes"));
    let address = service.stop().await;
    let service = Service::at(address, ok("yes")).await;
    for _ in 0..10 {
        assert_eq!(edge.ask("x").await, said("yes"));
    }
    assert_eq!(service.bodies().len(), 10);
}

#[tokio::test]
async fn of_several_servers_those_that_are_there_are_asked() {
    let (a, b) = (Service::start(ok("a")).await, Service::start(ok("b")).await);
    let down = format!("http://{}/", nobody().await);
    let edge = Edge::new(vec![a.url(), down, b.url()], |_, _| ());
    for _ in 0..100 {
        assert!(matches!(edge.ask("x").await, Outcome::Replied(_)));
    }
    assert_eq!(a.bodies().len() + b.bodies().len(), 100);
    assert!(a.bodies().len() > 20 && b.bodies().len() > 20, "{}", a.bodies().len());
    assert_eq!(edge.circuits(), 1);
}

#[tokio::test]
async fn a_server_that_never_answers_is_left_alone_until_it_does() {
    let service = Service::start(Does::Sleeps).await;
    let edge = Edge::new(vec![service.url()], |route, _| {
        route.request_timeout = Period::millis(100);
    });
    let outcomes = join_all((0..5).map(|_| edge.ask("x"))).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Unknown));
    assert_eq!(edge.circuits(), 1);
    assert!(!edge.relay.is_reachable());
    assert_eq!(edge.ask("x").await, Outcome::Unavailable);
    assert_eq!(service.bodies().len(), 5);
    until("given up", || service.open() == 0).await;
    service.now(ok("yes"));
    until("asked again", || edge.relay.is_reachable()).await;
    assert_eq!(edge.ask("x").await, said("yes"));
    assert_eq!(edge.circuits(), 0);
    edge.assert_at_rest();
}

#[tokio::test]
async fn a_full_backend_overloads_after_the_queue_timeout() {
    let service = Service::start(Does::Sleeps).await;
    let edge = Edge::new(vec![service.url()], |route, backend| {
        route.request_timeout = Period::secs(20);
        (backend.max_requests, backend.queue_timeout) = (2, Period::millis(50));
    });
    let first = async { tokio::join!(edge.ask("1"), edge.ask("2")) };
    let second = async {
        until("two are there", || service.bodies().len() == 2).await;
        assert_eq!(edge.ask("3").await, Outcome::Overloaded);
    };
    tokio::select! {
        _ = first => panic!("nobody answers"),
        () = second => {}
    }
    assert_eq!((edge.outcomes("overloaded"), edge.outcomes("unknown")), (1, 2));
    until("closed when dropped", || service.open() == 0).await;
    service.now(ok("yes"));
    assert_eq!(edge.ask("4").await, said("yes"));
    assert_eq!(service.bodies(), ["1", "2", "4"]);
    edge.assert_at_rest();
}

#[tokio::test]
async fn a_backend_that_takes_no_connections_in_time_is_not_overloaded() {
    // It takes the stream, and never speaks TLS.
    let service = Service::start(Does::Sleeps).await;
    let url = format!("https://{}/", service.address);
    let edge = Edge::new(vec![url], |route, backend| {
        route.request_timeout = Period::secs(20);
        (backend.max_requests, backend.queue_timeout) = (2, Period::millis(50));
        backend.connect_timeout = Period::secs(20);
    });
    let first = async { tokio::join!(edge.ask("1"), edge.ask("2")) };
    let second = async {
        until("two are on the way", || service.open() == 2).await;
        assert_eq!(edge.ask("3").await, Outcome::Unavailable);
    };
    tokio::select! {
        _ = first => panic!("nobody answers"),
        () = second => {}
    }
    assert_eq!((edge.outcomes("overloaded"), edge.outcomes("unavailable")), (0, 3));
    edge.assert_at_rest();
}

#[tokio::test]
async fn who_was_not_asked_for_lack_of_time_has_not_failed() {
    let (a, b) = (Service::start(ok("a")).await, Service::start(ok("b")).await);
    let backend = HttpBackend::new(Urls::Many(vec![a.url(), b.url()]));
    let (route, metrics) = (route("app"), Metrics::new());
    let (gates, hold) = (Gates::new(&Tasks::new()), Hold::new(1 << 20));
    let relay = HttpRelay::new(&route, &backend, &gates, &hold, &Fence::open(), &metrics).unwrap();
    for _ in 0..20 {
        assert!(relay.connection(Instant::now()).await.is_none());
    }
    assert!(relay.is_reachable());
}

#[tokio::test]
async fn nothing_goes_out_while_the_node_may_not_speak() {
    let service = Service::start(ok("yes")).await;
    let mut route = route("app");
    route.hold = Period::millis(20);
    route.events = EventKind::ALL.to_vec();
    let urls = Urls::One(service.url());
    route.backend = Backend::Http(Box::new(HttpBackend::new(urls)));
    let (gates, fence) = (Gates::new(&Tasks::new()), Fence::shut());
    let relay = Relay::new(&route, None, &gates, &Hold::new(1 << 20), &fence, &Metrics::new());
    let (relay, peer) = (relay.unwrap(), Arc::new(peer("app", None)));
    let ask = || Box::pin(relay.request(event(&peer, EventBody::Message(Message::text("x")))));
    assert_eq!(ask().await, Outcome::Unavailable);
    let end = Ended { close: Close::of(Cause::Client), duration: Duration::ZERO };
    let ended = Box::pin(relay.request(event(&peer, EventBody::Disconnected(Box::new(end)))));
    assert_eq!(ended.await, Outcome::Replied(Vec::new()), "others tell the last event as well");
    fence.throw_open();
    assert_eq!(ask().await, said("yes"));
    peer.disown();
    assert_eq!(ask().await, Outcome::Unavailable);
    assert_eq!(service.bodies().len(), 2);
}

#[tokio::test]
async fn what_has_waited_for_a_place_does_not_go_out_when_the_node_may_not_speak_any_more() {
    let service = Service::start(Does::Sleeps).await;
    let mut route = route("app");
    route.hold = Period::secs(0);
    route.events = EventKind::ALL.to_vec();
    let mut backend = HttpBackend::new(Urls::One(service.url()));
    (backend.max_requests, backend.queue_timeout) = (1, Period::secs(20));
    route.backend = Backend::Http(Box::new(backend));
    let (gates, fence) = (Gates::new(&Tasks::new()), Fence::open());
    let relay = Relay::new(&route, None, &gates, &Hold::new(1 << 20), &fence, &Metrics::new());
    let (relay, peer) = (relay.unwrap(), Arc::new(peer("app", None)));
    let ask = |text| Box::pin(relay.request(event(&peer, EventBody::Message(Message::text(text)))));
    for shut in [&(|| fence.close()) as &dyn Fn(), &|| peer.disown()] {
        fence.throw_open();
        let (at, mut first, mut second) = (service.bodies().len(), ask("first"), ask("second"));
        tokio::select! {
            biased;
            _ = &mut first => panic!("nobody answers"),
            _ = &mut second => panic!("there is no place"),
            () = until("the first is there", || service.bodies().len() > at) => {}
        }
        shut();
        drop(first);
        assert_eq!(second.await, Outcome::Unavailable);
        assert_eq!(service.bodies().len(), at + 1);
    }
}
