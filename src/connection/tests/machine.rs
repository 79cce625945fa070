//! Inputs and the effects they have, phase by phase.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{heartbeat, route};
use crate::close::{Cause, Close};
use crate::config::{EventKind, OnFailure, Period, Route};
use crate::connection::effect::{Dispatch, Dispatched, Effect, Effects, Input};
use crate::connection::machine::Machine;
use crate::event::{Action, Outcome, Refusal, State};
use crate::message::Message;

pub(super) struct Scene {
    pub(super) machine: Machine,
    pub(super) now: Instant,
}

impl Scene {
    pub(super) fn new(edit: impl FnOnce(&mut Route)) -> Self {
        let now = Instant::now();
        let machine = Machine::new(route(edit), Arc::new(heartbeat()), 0, None, None, now);
        Self { machine, now }
    }

    pub(super) fn open(edit: impl FnOnce(&mut Route)) -> Self {
        let mut scene = Self::new(edit);
        assert_eq!(scene.machine.open(scene.now), None);
        scene
    }

    pub(super) fn on(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Effects::new();
        assert_eq!(self.machine.on(input, self.now, &mut effects), None);
        effects.into()
    }

    pub(super) fn after(&mut self, time: Duration) -> Vec<Effect> {
        self.now += time;
        let mut effects = Effects::new();
        assert_eq!(self.machine.tick(self.now, &mut effects), None);
        effects.into()
    }

    /// The event that the clock brings about, and nothing else.
    pub(super) fn event_after(&mut self, time: Duration) -> Option<Dispatch> {
        self.now += time;
        let mut effects = Effects::new();
        let dispatch = self.machine.tick(self.now, &mut effects);
        assert_eq!(effects, []);
        dispatch
    }

    /// What the answer to a new message does.
    pub(super) fn answered(&mut self, actions: Vec<Action>) -> Vec<Effect> {
        let sequence = self.message("?").unwrap().sequence;
        self.outcome(sequence, Outcome::Replied(actions))
    }

    pub(super) fn message(&mut self, text: &str) -> Option<Dispatch> {
        let mut effects = Effects::new();
        let input = Input::Message(Message::text(text));
        let dispatch = self.machine.on(input, self.now, &mut effects);
        assert_eq!(effects, []);
        dispatch
    }

    pub(super) fn outcome(&mut self, sequence: u64, outcome: Outcome) -> Vec<Effect> {
        self.on(Input::Outcome { kind: EventKind::Message, sequence, outcome })
    }

    pub(super) fn closed(&self) -> Option<(u16, Cause)> {
        self.machine.closed().map(|close| (close.code, close.cause))
    }
}

pub(super) fn dispatched(sequence: u64, text: &str) -> Option<Dispatch> {
    Some(Dispatch { sequence, body: Dispatched::Message(Message::text(text)) })
}

pub(super) fn replied(text: &str) -> Outcome {
    Outcome::Replied(vec![Action::Send(Message::text(text))])
}

pub(super) fn sent(text: &str) -> Vec<Effect> {
    vec![Effect::Send(Message::text(text))]
}

#[test]
fn one_message_at_a_time_keeps_the_order() {
    let mut scene = Scene::open(|_| {});
    assert!(scene.machine.reads());
    assert_eq!(scene.message("a"), dispatched(1, "a"));
    assert!(!scene.machine.reads(), "the window is full");
    assert!(scene.machine.is_busy());
    assert_eq!(scene.outcome(1, replied("A")), sent("A"));
    assert!(scene.machine.reads());
    assert_eq!(scene.message("b"), dispatched(2, "b"));
}

#[test]
fn a_wider_window_reads_on_until_it_is_full() {
    let mut scene = Scene::open(|route| route.in_flight = 2);
    scene.message("a");
    assert!(scene.machine.reads());
    scene.message("b");
    assert!(!scene.machine.reads());
    assert_eq!(scene.outcome(2, replied("B")), sent("B"), "replies come as they come");
    assert!(scene.machine.reads());
}

#[test]
fn connected_comes_before_the_first_message() {
    let mut scene =
        Scene::new(|route| route.events = vec![EventKind::Connected, EventKind::Message]);
    let first = Dispatch { sequence: 1, body: Dispatched::Connected };
    assert_eq!(scene.machine.open(scene.now), Some(first));
    assert!(!scene.machine.reads());
    let answered =
        Input::Outcome { kind: EventKind::Connected, sequence: 1, outcome: Outcome::Unknown };
    assert_eq!(scene.on(answered), [], "its outcome is nobody's business");
    assert!(scene.machine.reads());
    assert_eq!(scene.message("a"), dispatched(2, "a"));
}

#[test]
fn messages_that_no_backend_wants_end_here() {
    let mut scene = Scene::open(|route| route.events = vec![EventKind::Disconnected]);
    assert_eq!(scene.message("a"), None);
    assert!(scene.machine.reads());
}

#[test]
fn actions_apply_in_order_and_nothing_follows_a_close() {
    let mut scene = Scene::open(|_| {});
    scene.message("a");
    let close = Close::said(Cause::BackendClosed, 4000, "bye");
    let state = State::new("s1").unwrap();
    let effects = scene.outcome(
        1,
        Outcome::Replied(vec![
            Action::Send(Message::text("last")),
            Action::State(state.clone()),
            Action::Close(close.clone()),
            Action::Send(Message::text("never")),
        ]),
    );
    let expected = [Effect::Send(Message::text("last")), Effect::SendClose(close)];
    assert_eq!(effects, expected);
    assert_eq!(scene.machine.state(), state.as_ref());
    assert_eq!(scene.message("ignored"), None, "after our close frame nothing is taken");
    assert_eq!(scene.on(Input::PeerClosed(Close::said(Cause::Client, 4000, ""))), [Effect::HangUp]);
    assert_eq!(scene.closed(), Some((4000, Cause::BackendClosed)));
}

#[test]
fn each_failed_outcome_has_its_close() {
    let refusal = |message| Outcome::Refused(Refusal::new(422, message));
    for (outcome, cause) in [
        (refusal(None), Cause::BackendFailed),
        (Outcome::Unknown, Cause::BackendFailed),
        (Outcome::Unavailable, Cause::BackendUnavailable),
        (Outcome::Overloaded, Cause::BackendUnavailable),
    ] {
        let mut scene = Scene::open(|_| {});
        scene.message("a");
        let effects = scene.outcome(1, outcome.clone());
        assert_eq!(effects, [Effect::SendClose(Close::of(cause))], "{outcome:?}");
    }
    let mut scene = Scene::open(|_| {});
    scene.message("a");
    let shown = refusal(Some(Message::text("no such room")));
    assert_eq!(scene.outcome(1, shown), sent("no such room"));
    assert!(scene.machine.reads(), "an answer to the client is no reason to close");
}

#[test]
fn a_route_may_answer_failures_with_a_message_or_nothing() {
    let template = r#"{"error":"{outcome}","message":{sequence}}"#;
    let mut scene = Scene::open(|route| route.on_failure = OnFailure::Message(template.into()));
    scene.message("a");
    assert_eq!(scene.outcome(1, Outcome::Unknown), sent(r#"{"error":"unknown","message":1}"#));
    let mut scene = Scene::open(|route| route.on_failure = OnFailure::Nothing);
    scene.message("a");
    assert_eq!(scene.outcome(1, Outcome::Unavailable), []);
    assert!(scene.machine.reads());
}

#[test]
fn the_end_has_one_cause() {
    let vanished = (1006, Cause::Vanished);
    for (input, last, closed) in [
        (Input::PeerGone, Effect::Abort, vanished),
        (
            Input::PeerClosed(Close::said(Cause::Client, 1005, "")),
            Effect::Linger,
            (1005, Cause::Client),
        ),
        (
            Input::PeerClosed(Close::said(Cause::Client, 3001, "x")),
            Effect::Linger,
            (3001, Cause::Client),
        ),
        (Input::WriteStalled, Effect::Abort, (4508, Cause::WriteTimeout)),
    ] {
        let mut scene = Scene::open(|_| {});
        assert_eq!(scene.on(input), [last]);
        assert_eq!(scene.closed(), Some(closed));
        assert_eq!(scene.on(Input::PeerGone), [], "the first cause stands");
        assert_eq!(scene.closed(), Some(closed));
        let due = scene.machine.due().unwrap();
        assert_eq!(
            scene.after(due - scene.now),
            [Effect::Abort],
            "what is on its way has its time"
        );
    }
}

#[test]
fn a_violation_is_named_and_not_argued_about() {
    for (close, name) in [
        (Close::of(Cause::Protocol), "protocol"),
        (Close::with_code(Cause::Protocol, 1007), "protocol"),
        (Close::of(Cause::TooBig), "too-big"),
    ] {
        let mut scene = Scene::open(|_| {});
        let effects = scene.on(Input::Violation(close.clone()));
        assert_eq!(effects, [Effect::SendClose(close.clone()), Effect::Linger]);
        assert_eq!(scene.closed(), Some((close.code, close.cause)));
        assert_eq!(close.cause.as_str(), name);
    }
}

#[test]
fn a_drain_waits_for_the_answer() {
    let drain = || Input::Part(Close::of(Cause::Drain));
    let mut idle = Scene::open(|_| {});
    assert_eq!(idle.on(drain()), [Effect::SendClose(Close::of(Cause::Drain))]);

    let mut busy = Scene::open(|_| {});
    busy.message("a");
    assert_eq!(busy.on(drain()), []);
    assert!(!busy.machine.reads(), "no further message is begun");
    let effects = busy.outcome(1, replied("A"));
    let expected = [Effect::Send(Message::text("A")), Effect::SendClose(Close::of(Cause::Drain))];
    assert_eq!(effects, expected);
}

#[test]
fn a_peer_that_does_not_answer_the_close_is_dropped() {
    let mut scene = Scene::open(|_| {});
    scene.on(Input::Part(Close::of(Cause::Drain)));
    assert_eq!(scene.machine.due(), Some(scene.now + Duration::from_secs(5)));
    assert_eq!(scene.after(Duration::from_secs(4)), []);
    assert_eq!(scene.after(Duration::from_secs(1)), [Effect::Abort]);
    assert_eq!(scene.closed(), Some((1012, Cause::Drain)));
}

#[test]
fn silence_ends_with_a_ping_and_a_deadline() {
    let mut scene = Scene::open(|_| {});
    let due = scene.machine.due().unwrap();
    let effects = scene.after(due - scene.now);
    assert!(matches!(effects.as_slice(), [Effect::Ping(_)]));
    let due = scene.machine.due().unwrap();
    assert_eq!(due - scene.now, Duration::from_secs(10));
    assert_eq!(
        scene.after(Duration::from_secs(10)),
        [],
        "there may be bytes that are not seen yet"
    );
    let due = scene.machine.due().unwrap();
    let effects = scene.after(due - scene.now);
    assert_eq!(effects, [Effect::SendClose(Close::of(Cause::PongTimeout)), Effect::Abort]);
    assert_eq!(scene.closed(), Some((4408, Cause::PongTimeout)));
}

#[test]
fn while_the_backend_works_silence_is_nobodys_fault() {
    let mut scene = Scene::open(|_| {});
    scene.message("a");
    for _ in 0..20 {
        let effects = scene.after(Duration::from_secs(30));
        assert!(matches!(effects.as_slice(), [Effect::Ping(_)]), "the flow is kept alive");
    }
    scene.outcome(1, replied("A"));
    assert_eq!(scene.after(Duration::from_secs(9)), []);
    scene.machine.heard(scene.now);
    assert!(scene.machine.due().unwrap() > scene.now + Duration::from_secs(20));
}

#[test]
fn the_token_ends_the_connection() {
    let now = Instant::now();
    let expires = now + Duration::from_secs(3);
    let mut machine =
        Machine::new(route(|_| {}), Arc::new(heartbeat()), 0, None, Some(expires), now);
    assert_eq!(machine.due(), Some(expires));
    let mut effects = Effects::new();
    machine.tick(expires, &mut effects);
    assert_eq!(effects, [Effect::SendClose(Close::of(Cause::TokenExpired))]);
}

#[test]
fn an_old_connection_parts_when_it_is_idle() {
    let now = Instant::now();
    let mut settings = heartbeat();
    settings.max_age = Some(Period::secs(60));
    let mut machine = Machine::new(route(|_| {}), Arc::new(settings), 0, None, None, now);
    let mut effects = Effects::new();
    machine.on(Input::Message(Message::binary(Bytes::new())), now, &mut effects);
    effects.clear();
    let later = now + Duration::from_secs(60);
    machine.tick(later, &mut effects);
    assert!(effects.is_empty() && machine.due().is_none_or(|due| due > later));
    let outcome = Input::Outcome {
        kind: EventKind::Message,
        sequence: 1,
        outcome: Outcome::Replied(Vec::new()),
    };
    machine.on(outcome, later, &mut effects);
    assert_eq!(effects, [Effect::SendClose(Close::of(Cause::MaxAge))]);
}

#[test]
fn a_panic_costs_its_own_connection_only() {
    let mut scene = Scene::open(|_| {});
    scene.message("a");
    let effects = scene.on(Input::Panicked);
    assert_eq!(effects, [Effect::SendClose(Close::of(Cause::Panic)), Effect::Linger]);
    assert_eq!(scene.closed(), Some((1011, Cause::Panic)));
    assert!(!scene.machine.is_busy());
}

#[test]
fn a_client_that_reads_slowly_is_not_blamed_for_its_silence() {
    let mut scene = Scene::open(|_| {});
    scene.machine.set_blocked(true, scene.now);
    assert!(!scene.machine.reads());
    let effects = scene.after(Duration::from_secs(300));
    assert!(matches!(effects.as_slice(), [Effect::Ping(_)]));
    scene.machine.set_blocked(false, scene.now);
    assert!(scene.machine.reads());
    assert_eq!(scene.after(Duration::from_secs(9)), []);
    scene.machine.heard(scene.now);
    assert!(scene.machine.due().unwrap() > scene.now + Duration::from_secs(20));
}

#[test]
fn a_slow_backend_is_no_idle_client() {
    let now = Instant::now();
    let mut settings = heartbeat();
    settings.idle_timeout = Some(Period::secs(5));
    let mut machine = Machine::new(route(|_| {}), Arc::new(settings), 0, None, None, now);
    let mut effects = Effects::new();
    assert!(machine.on(Input::Message(Message::text("a")), now, &mut effects).is_some());
    let later = now + Duration::from_secs(8);
    machine.tick(later, &mut effects);
    assert_eq!(effects, []);
    let outcome = Input::Outcome { kind: EventKind::Message, sequence: 1, outcome: replied("A") };
    machine.on(outcome, later, &mut effects);
    assert_eq!(effects, [Effect::Send(Message::text("A"))]);
}

#[test]
fn a_token_that_is_renewed_has_another_end() {
    let ends_after = |renewed: &[u64]| {
        let mut scene = Scene::open(|_| {});
        let mut effects = Effects::new();
        for seconds in renewed {
            scene.machine.refresh(scene.now + Duration::from_secs(*seconds));
        }
        // Other things are due meanwhile.
        while scene.machine.is_open() {
            let due = scene.machine.due().unwrap();
            scene.machine.heard(due);
            scene.machine.tick(due, &mut effects);
            if !scene.machine.is_open() {
                let expired = Effect::SendClose(Close::of(Cause::TokenExpired));
                assert_eq!(effects.back(), Some(&expired));
                return (due - scene.now).as_secs();
            }
        }
        0
    };
    assert_eq!(ends_after(&[3]), 3, "there was no end before");
    assert_eq!(ends_after(&[3, 300]), 300, "later");
    assert_eq!(ends_after(&[300, 3]), 3, "earlier");
    assert_eq!(ends_after(&[300, 0]), 0, "at once");
}
