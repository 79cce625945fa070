//! While no worker is there, events wait; then each comes to one, once and in order.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::{Edge, Seen, echo, gates, said, seconds, subscribe};
use crate::config::Period;
use crate::event::Outcome;
use crate::nats::testing::{NatsServer, until};
use crate::relay::testing::route;
use crate::relay::{Fence, Hold, Relay};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_comes_to_a_late_worker_once_and_in_order() {
    let (server, seen) = (NatsServer::start(), Seen::default());
    let edge = Edge::new(&server, |route| route.hold = seconds(30)).await;
    let texts: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    let mut asked = Vec::new();
    for text in &texts {
        asked.push(edge.ask_in_line(text).await);
    }
    assert!(edge.hold.used() >= 50 * 1024);
    echo(&server, &seen).await;
    for (text, asked) in texts.iter().zip(asked) {
        assert_eq!(asked.await.unwrap(), said(text));
    }
    assert_eq!(*seen.lock().unwrap(), texts);
    assert_eq!(edge.outcomes("replied"), 50);
    edge.assert_at_rest();
}

#[tokio::test]
async fn a_slow_worker_gets_all_that_is_held_without_answering_first() {
    let server = NatsServer::start();
    let edge = Edge::new(&server, |route| route.hold = seconds(30)).await;
    let mut asked = Vec::new();
    for n in 0..20 {
        asked.push(edge.ask_in_line(&n.to_string()).await);
    }
    let (client, mut requests) = subscribe(&server).await;
    let mut got = Vec::new();
    for n in 0..20 {
        let request = requests.next().await.unwrap();
        assert_eq!(request.payload, n.to_string());
        got.push(request);
    }
    until("no longer held", || edge.held() == 0).await;
    for request in got {
        client.publish(request.reply.unwrap(), request.payload).await.unwrap();
    }
    let outcomes = join_all(asked).await;
    assert!(outcomes.into_iter().all(|end| matches!(end, Ok(Outcome::Replied(_)))));
    edge.assert_at_rest();
}

#[tokio::test]
async fn a_worker_that_leaves_again_loses_and_doubles_nothing() {
    let (server, seen) = (NatsServer::start(), Seen::default());
    let edge = Edge::new(&server, |route| route.hold = seconds(30)).await;
    let texts: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let mut asked = Vec::new();
    for text in &texts {
        asked.push(edge.ask_in_line(text).await);
    }
    // Takes one and is gone: the others were sent when nobody listened.
    let client = server.client().await;
    let mut one = client.subscribe("moorline.app.in.message").await.unwrap();
    one.unsubscribe_after(1).await.unwrap();
    let request = one.next().await.unwrap();
    seen.lock().unwrap().push(String::from_utf8(request.payload.to_vec()).unwrap());
    client.publish(request.reply.unwrap(), request.payload).await.unwrap();
    until("19 held", || edge.held() == 19 && edge.outcomes("replied") == 1).await;

    echo(&server, &seen).await;
    for (text, asked) in texts.iter().zip(asked) {
        assert_eq!(asked.await.unwrap(), said(text));
    }
    assert_eq!(*seen.lock().unwrap(), texts);
    edge.assert_at_rest();
}

#[tokio::test]
async fn a_newcomer_does_not_overtake_those_who_wait() {
    let (server, seen) = (NatsServer::start(), Seen::default());
    let edge = Edge::new(&server, |route| route.hold = seconds(30)).await;
    let mut asked = vec![edge.ask_in_line("first").await];
    echo(&server, &seen).await;
    asked.push(edge.ask_later("second"));
    assert!(join_all(asked).await.into_iter().all(|end| end.is_ok()));
    assert_eq!(*seen.lock().unwrap(), ["first", "second"]);
}

#[tokio::test]
async fn without_a_worker_an_event_ends_unavailable_after_the_hold() {
    let server = NatsServer::start();
    let edge = Edge::new(&server, |route| route.hold = Period::millis(300)).await;
    let start = Instant::now();
    let outcomes = join_all((0..10).map(|_| edge.ask("x"))).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Unavailable));
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(3), "{took:?}");
    assert_eq!(edge.outcomes("unavailable"), 10);
    edge.assert_at_rest();

    let edge = Edge::new(&server, |route| route.hold = seconds(0)).await;
    assert_eq!(edge.ask("x").await, Outcome::Unavailable);
    assert_eq!(edge.held(), 0);
}

#[tokio::test]
async fn a_short_hold_under_load_still_finds_the_worker() {
    let (server, seen) = (NatsServer::start(), Seen::default());
    let edge = Edge::new(&server, |route| route.hold = Period::millis(60)).await;
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut asked = Vec::new();
    // Somebody always waits, and whoever stands first has little time left.
    let mut ticks = tokio::time::interval(Duration::from_millis(2));
    for n in 0.. {
        ticks.tick().await;
        asked.push(edge.ask_later("x"));
        if n == 200 {
            echo(&server, &seen).await;
        }
        if edge.outcomes("replied") > 0 {
            break;
        }
        assert!(Instant::now() < deadline, "no event came to the worker");
    }
    join_all(asked).await;
    let all = edge.outcomes("replied") + edge.outcomes("unavailable");
    assert_eq!((edge.outcomes("unknown"), edge.outcomes("overloaded")), (0, 0));
    assert!(all > 200 && edge.outcomes("replied") == seen.lock().unwrap().len() as u64);
    edge.assert_at_rest();
}

#[tokio::test]
async fn what_is_held_is_bounded() {
    let server = NatsServer::start();
    let mut edge = Edge::new(&server, |_| ()).await;
    let nats = Box::pin(server.nats(&edge.metrics)).await;
    let mut route = route("app");
    route.hold = seconds(1);
    edge.hold = Hold::new(4096);
    edge.relay =
        Relay::new(&route, Some(&nats), &gates(), &edge.hold, &Fence::open(), &edge.metrics)
            .unwrap();
    let outcomes = join_all((0..5).map(|_| edge.ask("x"))).await;
    let count = |outcome| outcomes.iter().filter(|other| **other == outcome).count();
    assert_eq!((count(Outcome::Unavailable), count(Outcome::Overloaded)), (3, 2));
    edge.assert_at_rest();
}

#[tokio::test]
async fn while_nats_is_away_events_wait_and_come_once_and_in_order() {
    let (mut server, seen) = (NatsServer::start(), Seen::default());
    let edge = Edge::new(&server, |route| route.hold = seconds(30)).await;
    server.kill();
    until("noticed", || !edge.relay.is_reachable()).await;
    let texts = ["a", "b", "c", "d"];
    let mut asked = Vec::new();
    for text in texts {
        asked.push(edge.ask_in_line(text).await);
    }
    server.restart();
    echo(&server, &seen).await;
    for (text, asked) in texts.iter().zip(asked) {
        assert_eq!(asked.await.unwrap(), said(text));
    }
    assert_eq!(*seen.lock().unwrap(), texts);
    edge.assert_at_rest();
}

#[tokio::test]
async fn silence_ends_unknown_in_time_also_after_a_hold() {
    let server = NatsServer::start();
    let edge = Edge::new(&server, |route| {
        route.hold = seconds(10);
        route.request_timeout = Period::millis(400);
    })
    .await;
    let held = edge.ask_in_line("held").await;
    let (_client, mut requests) = subscribe(&server).await;
    let from = Instant::now();
    assert_eq!(edge.ask("direct or behind").await, Outcome::Unknown);
    assert_eq!(held.await.unwrap(), Outcome::Unknown);
    assert!(from.elapsed() < Duration::from_secs(3), "{:?}", from.elapsed());
    assert!(requests.next().await.is_some() && requests.next().await.is_some());
    edge.assert_at_rest();
}

#[tokio::test]
async fn a_dropped_request_is_counted_and_leaves_nothing_behind() {
    let server = NatsServer::start();
    let edge = Edge::new(&server, |route| route.hold = seconds(30)).await;
    let held = edge.ask_in_line("held").await;
    let second = edge.ask_in_line("second").await;
    held.abort();
    until("counted", || edge.outcomes("unavailable") == 1).await;

    let (_client, mut requests) = subscribe(&server).await;
    assert_eq!(requests.next().await.unwrap().payload, "second", "the next one is let go");
    second.abort();
    until("counted", || edge.outcomes("unknown") == 1).await;
    edge.assert_at_rest();
}
