//! What a backend has done by the clock, and what it may do beside sending messages.

use std::time::Duration;

use bytes::Bytes;

use super::heartbeat;
use super::machine::{Scene, dispatched, replied, sent};
use crate::close::{Cause, Close};
use crate::config::OnFailure;
use crate::connection::effect::{Dispatch, Dispatched, Effect, Effects};
use crate::event::{Action, Content, KeepAlive, Outcome, Refusal};
use crate::message::Message;

#[test]
fn a_silent_connection_is_asked_about_one_request_at_a_time() {
    let mut scene = Scene::open(|_| {});
    let (ten, second) = (Duration::from_secs(10), Duration::from_secs(1));
    assert_eq!(scene.answered(vec![Action::PollEvery(Some(ten))]), []);
    let due = scene.machine.due().unwrap() - scene.now;
    assert!((ten - second..=ten).contains(&due), "clients that came together are not in step");
    assert_eq!(scene.event_after(ten - second - second), None);
    assert_eq!(scene.message("x"), dispatched(2, "x"));
    assert_eq!(scene.event_after(ten), None, "an event is at the backend");
    assert_eq!(scene.outcome(2, replied("X")), sent("X"));
    assert_eq!(scene.event_after(ten - second - second), None);
    let poll = |sequence| Some(Dispatch { sequence, body: Dispatched::Poll });
    assert_eq!(scene.event_after(second + second), poll(3));
    assert!(!scene.machine.reads(), "what the client says waits behind it");
    assert_eq!(scene.outcome(3, replied("P")), sent("P"));
    assert_eq!(scene.event_after(ten), poll(4));
    let closed = scene.outcome(4, Outcome::Refused(Refusal::new(500, None)));
    assert_eq!(closed, [Effect::SendClose(Close::of(Cause::BackendFailed))]);
    assert_eq!(scene.machine.due(), Some(scene.now + heartbeat().close_timeout.get()));
}

#[test]
fn a_question_that_came_to_no_backend_is_asked_again_and_the_client_notices_nothing() {
    let poll = |sequence| Some(Dispatch { sequence, body: Dispatched::Poll });
    for on_failure in [OnFailure::Close, OnFailure::Message("{outcome}".into())] {
        let mut scene = Scene::open(|route| route.on_failure = on_failure);
        scene.machine.poll(scene.now);
        assert_eq!(scene.event_after(Duration::ZERO), poll(1));
        for (sequence, failure, most) in
            [(1, Outcome::Overloaded, 1), (2, Outcome::Unavailable, 2), (3, Outcome::Overloaded, 4)]
        {
            let most = Duration::from_secs(most);
            assert_eq!(scene.outcome(sequence, failure), []);
            let pause = scene.machine.due().unwrap() - scene.now;
            assert!((most / 2..=most).contains(&pause), "{pause:?}");
            assert_eq!(scene.event_after(pause / 2), None);
            assert_eq!(scene.event_after(pause - pause / 2), poll(sequence + 1));
        }
        assert_eq!(scene.outcome(4, replied("there")), sent("there"));
        scene.machine.poll(scene.now);
        assert_eq!(scene.event_after(Duration::ZERO), poll(5));
        assert_eq!(scene.outcome(5, Outcome::Unavailable), []);
        let pause = scene.machine.due().unwrap() - scene.now;
        assert!(pause <= Duration::from_secs(1), "pauses begin anew: {pause:?}");
        // A message of the client is another matter.
        assert_eq!(scene.message("x"), dispatched(6, "x"));
        assert_eq!(scene.outcome(6, Outcome::Unavailable).len(), 1);
    }
}

#[test]
fn a_backend_has_things_sent_by_the_clock() {
    let mut scene = Scene::open(|_| {});
    let text = |text| Content::Message(Message::text(text));
    let (two, five) = (Duration::from_secs(2), Duration::from_secs(5));
    let keep = |content| {
        let keep = KeepAlive { content, after: five, is_steady: false };
        Action::KeepAlive(Some(Box::new(keep)))
    };
    let later = |after, content| Action::SendLater(after, Box::new(content));
    scene.answered(vec![keep(text("k")), later(two, text("a"))]);
    assert_eq!(scene.after(two), sent("a"));
    scene.machine.used(scene.now);
    assert_eq!(scene.after(five - two), [], "something went to the client");
    assert_eq!(scene.after(two), sent("k"));
    assert_eq!(scene.after(five), sent("k"));
    let ping = Bytes::from_static(b"!");
    assert_eq!(scene.answered(vec![Action::Ping(ping.clone())]), [Effect::Ping(ping.clone())]);
    assert_eq!(scene.answered(vec![keep(Content::Ping(ping.clone()))]), []);
    assert_eq!(scene.after(five), [Effect::Ping(ping)]);
    assert_eq!(scene.answered(vec![Action::KeepAlive(None), later(five, text("b"))]), []);
    assert_eq!(scene.answered(vec![later(five, text("c"))]), sent("b"), "it makes room");
    assert_eq!(scene.answered(vec![Action::SendNow, Action::SendNow]), sent("c"));
    assert_eq!(scene.event_after(five), None);
}

#[test]
fn a_backend_may_cut_a_connection_without_a_word() {
    let mut scene = Scene::open(|_| {});
    assert_eq!(scene.answered(vec![Action::Cut]), [Effect::Abort]);
    assert_eq!(scene.closed(), Some((1006, Cause::BackendClosed)));
    let mut effects = Effects::new();
    let mut scene = Scene::open(|_| {});
    let first =
        vec![Action::Send(Message::text("hi")), Action::Close(Close::of(Cause::BackendClosed))];
    scene.machine.begin(first, scene.now, &mut effects);
    let close = Effect::SendClose(Close::of(Cause::BackendClosed));
    assert_eq!(Vec::from(effects), [Effect::Send(Message::text("hi")), close]);
}
