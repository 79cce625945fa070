//! What to do on this input at this time: the life of one connection as a pure state machine.
//!
//! It owns no socket and no clock. [`Machine::on`] takes what happened and appends what to do; the
//! driver does it in that order. A client's message becomes an event only here, and only while the
//! window has room; its outcome comes back only here. After the phase has left `Open` nothing is
//! dispatched and nothing but the close frame is sent.

mod answer;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::effect::{Dispatch, Dispatched, Effect, Effects, Input};
use super::heartbeat::{Beat, Heartbeat};
use super::timers::Timers;
use crate::close::{Cause, Close};
use crate::config::{EventKind, Heartbeat as HeartbeatSettings, Route};
use crate::event::{Action, State};
use crate::message::Message;

/// The state of one connection after its 101.
#[derive(Debug)]
pub(super) struct Machine {
    route: Arc<Route>,
    phase: Phase,
    heartbeat: Heartbeat,
    /// What the backend wants by the clock; none while it wants nothing.
    timers: Option<Box<Timers>>,
    /// Events at the backend.
    in_flight: u16,
    /// The last event's number.
    sequence: u64,
    /// The backend's state of the connection.
    state: Option<State>,
    /// When the token that lets the client stay ends.
    expires: Option<Instant>,
    /// A close that waits until no event is at the backend.
    parting: Option<Close>,
    /// Whether something waits for the client to read it, or for its turn; the client is not read
    /// meanwhile either.
    is_blocked: bool,
    /// Whether the client sent more than its limits allow and is not read for a while.
    is_throttled: bool,
    /// Whether the client was read until now; the heartbeat pauses meanwhile.
    was_reading: bool,
}

#[derive(Debug)]
enum Phase {
    /// `connected` is at the backend; messages wait behind it.
    Opening,
    Open,
    /// Our close frame is sent; the peer's is awaited until then (RFC 6455 section 7.1.2).
    Closing {
        close: Close,
        until: Instant,
    },
    /// Nothing more is taken from the client or sent to it but what is on its way, which has until
    /// then.
    Closed {
        close: Close,
        until: Instant,
    },
}

impl Machine {
    /// A connection that was just accepted. `sequence` is the number of the last event that was sent
    /// for it, `state` what the backend said to it.
    pub(super) fn new(
        route: Arc<Route>,
        heartbeat: Arc<HeartbeatSettings>,
        sequence: u64,
        state: Option<State>,
        expires: Option<Instant>,
        now: Instant,
    ) -> Self {
        Self {
            route,
            phase: Phase::Open,
            heartbeat: Heartbeat::new(heartbeat, now),
            timers: None,
            in_flight: 0,
            sequence,
            state,
            expires,
            parting: None,
            is_blocked: false,
            is_throttled: false,
            was_reading: true,
        }
    }

    /// The first event, if the backend wants one.
    pub(super) fn open(&mut self, now: Instant) -> Option<Dispatch> {
        let first = self.route.wants(EventKind::Connected).then(|| {
            self.phase = Phase::Opening;
            self.dispatch(Dispatched::Connected)
        });
        self.note_reading(now);
        first
    }

    /// Does what the backend wanted when it let the client in.
    pub(super) fn begin(&mut self, actions: Vec<Action>, now: Instant, effects: &mut Effects) {
        actions.into_iter().for_each(|action| self.act(action, now, effects));
        self.note_reading(now);
    }

    /// Takes `input` into account at `now`: appends what to do, and returns the event to dispatch.
    pub(super) fn on(
        &mut self,
        input: Input,
        now: Instant,
        effects: &mut Effects,
    ) -> Option<Dispatch> {
        let mut dispatch = None;
        match input {
            Input::Message(message) => dispatch = self.on_message(message, now),
            Input::Outcome { kind, sequence, outcome } => {
                self.on_outcome(kind, sequence, outcome, now, effects);
            }
            Input::Part(close) => self.part(close, now, effects),
            Input::Cut(close) => {
                // Who does not read is not waited for; anybody else is to read why.
                let is_deaf = matches!(close.cause, Cause::OutboxFull | Cause::Memory);
                let last = if is_deaf { Effect::Abort } else { Effect::Linger };
                self.fail(close, last, now, effects);
            }
            Input::PeerClosed(close) => {
                let is_answer = matches!(self.phase, Phase::Closing { .. });
                let last = if is_answer { Effect::HangUp } else { Effect::Linger };
                self.end(close, last, now, effects);
            }
            Input::PeerGone => self.end(Close::of(Cause::Vanished), Effect::Abort, now, effects),
            Input::WriteStalled => {
                self.end(Close::of(Cause::WriteTimeout), Effect::Abort, now, effects)
            }
            Input::Violation(close) => self.fail(close, Effect::Linger, now, effects),
            Input::Panicked => {
                self.in_flight = 0;
                self.fail(Close::of(Cause::Panic), Effect::Linger, now, effects);
            }
        }
        self.note_reading(now);
        dispatch
    }

    /// The token that let the client in was renewed, or another counts from now on.
    pub(super) fn refresh(&mut self, ends: Instant) {
        self.expires = Some(ends);
    }

    /// Somebody wants the backend asked.
    pub(super) fn poll(&mut self, now: Instant) {
        self.timers().poll_soon(now);
    }

    /// Any bytes came in.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heartbeat.heard(now);
    }

    /// A pong came in: the round-trip time, if it answers the last ping.
    pub(super) fn pong(&mut self, payload: &[u8], now: Instant) -> Option<Duration> {
        self.heartbeat.pong(payload, now)
    }

    /// The time is `now`: appends what to do, and returns the event to dispatch.
    pub(super) fn tick(&mut self, now: Instant, effects: &mut Effects) -> Option<Dispatch> {
        let mut dispatch = None;
        match &self.phase {
            Phase::Closing { until, .. } | Phase::Closed { until, .. } if *until > now => {}
            Phase::Closed { .. } => effects.push_back(Effect::Abort),
            Phase::Closing { close, .. } => self.end(close.clone(), Effect::Abort, now, effects),
            Phase::Opening | Phase::Open => {
                if self.expires.is_some_and(|expires| expires <= now) {
                    self.close(Close::of(Cause::TokenExpired), now, effects);
                    return None;
                }
                dispatch = self.ring(now, effects);
                match self.heartbeat.beat(now) {
                    Beat::Wait => {}
                    // One that still waits behind a blocked write is enough.
                    Beat::Ping(_) if effects.iter().any(|e| matches!(e, Effect::Ping(_))) => {}
                    Beat::Ping(payload) => effects.push_back(Effect::Ping(payload)),
                    Beat::End(Cause::MaxAge) => {
                        self.part(Close::of(Cause::MaxAge), now, effects);
                    }
                    Beat::End(Cause::PongTimeout) => {
                        self.fail(Close::of(Cause::PongTimeout), Effect::Abort, now, effects);
                    }
                    Beat::End(Cause::MessageTimeout) => {
                        self.fail(Close::of(Cause::MessageTimeout), Effect::Linger, now, effects);
                    }
                    Beat::End(cause) => self.close(Close::of(cause), now, effects),
                }
            }
        }
        self.note_reading(now);
        dispatch
    }

    /// When [`tick`](Self::tick) is next worth a call.
    pub(super) fn due(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Closing { until, .. } | Phase::Closed { until, .. } => Some(*until),
            Phase::Opening | Phase::Open => {
                let beat = self.heartbeat.due().filter(|_| self.parting.is_none());
                let timers = self.timers.as_ref();
                let timers = timers.and_then(|timers| timers.due(self.may_poll()));
                [beat, self.expires, timers].into_iter().flatten().min()
            }
        }
    }

    /// Whether the client may be read. What it sends meanwhile waits in its own TCP stream.
    pub(super) fn reads(&self) -> bool {
        match self.phase {
            Phase::Opening | Phase::Closed { .. } => false,
            Phase::Open => {
                let has_room = self.in_flight < self.route.in_flight;
                has_room && !self.is_blocked && !self.is_throttled && self.parting.is_none()
            }
            Phase::Closing { .. } => true,
        }
    }

    /// A message went to the client.
    pub(super) fn used(&mut self, now: Instant) {
        self.heartbeat.used(now);
        if let Some(timers) = &mut self.timers {
            timers.sent(now);
        }
    }

    /// Something waits for the client to read it, or waits no more.
    pub(super) fn set_blocked(&mut self, is_blocked: bool, now: Instant) {
        self.is_blocked = is_blocked;
        self.note_reading(now);
    }

    /// The client is over its limits, or is no more.
    pub(super) fn set_throttled(&mut self, is_throttled: bool, now: Instant) {
        self.is_throttled = is_throttled;
        self.note_reading(now);
    }

    /// Whether what came in so far leaves a message unfinished.
    pub(super) fn partial(&mut self, is_partial: bool, now: Instant) {
        self.heartbeat.partial(is_partial, now);
    }

    /// Whether messages are still taken from the client.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Whether an event is at the backend.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight > 0
    }

    /// The backend's state, for the next event.
    pub(super) fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }

    /// The number for the last event, `disconnected`.
    pub(super) fn last_sequence(&self) -> u64 {
        self.sequence + 1
    }

    /// Time for the client to answer a close frame, and for the end of its stream.
    pub(super) fn close_timeout(&self) -> Duration {
        self.heartbeat.settings().close_timeout.get()
    }

    /// Time without any progress of a write until the client counts as gone.
    pub(super) fn write_timeout(&self) -> Duration {
        self.heartbeat.settings().write_timeout.get()
    }

    /// The round-trip time that was measured last.
    pub(super) fn last_rtt(&self) -> Option<Duration> {
        self.heartbeat.last_rtt()
    }

    /// How the connection ended, once it has.
    pub(super) fn closed(&self) -> Option<&Close> {
        match &self.phase {
            Phase::Closed { close, .. } => Some(close),
            _ => None,
        }
    }

    fn on_message(&mut self, message: Message, now: Instant) -> Option<Dispatch> {
        if !self.is_open() {
            return None; // RFC 6455 section 1.4: what comes after our close frame is discarded.
        }
        self.heartbeat.used(now);
        let is_wanted = self.route.wants(EventKind::Message);
        is_wanted.then(|| self.dispatch(Dispatched::Message(message)))
    }

    fn send(&mut self, message: Message, now: Instant, effects: &mut Effects) {
        if matches!(self.phase, Phase::Open) {
            self.heartbeat.used(now);
            effects.push_back(Effect::Send(message));
        }
    }

    fn dispatch(&mut self, body: Dispatched) -> Dispatch {
        self.sequence += 1;
        self.in_flight += 1;
        Dispatch { sequence: self.sequence, body }
    }

    fn part(&mut self, close: Close, now: Instant, effects: &mut Effects) {
        self.parting.get_or_insert(close);
        self.part_when_idle(now, effects);
    }

    fn part_when_idle(&mut self, now: Instant, effects: &mut Effects) {
        if self.in_flight == 0
            && let Some(close) = self.parting.take()
        {
            self.close(close, now, effects);
        }
    }

    /// Starts the closing handshake.
    fn close(&mut self, close: Close, now: Instant, effects: &mut Effects) {
        if matches!(self.phase, Phase::Opening | Phase::Open) {
            effects.push_back(Effect::SendClose(close.clone()));
            self.phase = Phase::Closing { close, until: now + self.close_timeout() };
        }
    }

    /// Says why, and ends without waiting for an answer (RFC 6455 section 7.1.7).
    fn fail(&mut self, close: Close, last: Effect, now: Instant, effects: &mut Effects) {
        match &self.phase {
            Phase::Opening | Phase::Open => {
                effects.push_back(Effect::SendClose(close.clone()));
                self.end(close, last, now, effects);
            }
            Phase::Closing { close, .. } => self.end(close.clone(), last, now, effects),
            Phase::Closed { .. } => {}
        }
    }

    fn end(&mut self, close: Close, last: Effect, now: Instant, effects: &mut Effects) {
        let close = match &self.phase {
            Phase::Closed { .. } => return,
            Phase::Closing { close, .. } => close.clone(),
            Phase::Opening | Phase::Open => close,
        };
        self.phase = Phase::Closed { close, until: now + self.close_timeout() };
        effects.push_back(last);
    }

    /// Tells the heartbeat when reading went on after a pause.
    fn note_reading(&mut self, now: Instant) {
        let reads = self.reads();
        match (self.was_reading, reads) {
            (false, true) => self.heartbeat.resumed(now),
            (true, false) => self.heartbeat.paused(now),
            _ => {}
        }
        self.was_reading = reads;
    }
}
