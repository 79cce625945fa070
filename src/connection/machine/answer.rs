//! What a backend's answer does to the connection, or its silence, and what it wants by the clock.

use tokio::time::Instant;

use super::{Dispatch, Dispatched, Effect, Effects, Machine, Phase};
use crate::close::{Cause, Close};
use crate::config::{EventKind, OnFailure};
use crate::connection::timers::{Due, Timers};
use crate::event::{Action, Content, Outcome};
use crate::message::Message;
use crate::task::jittered;

impl Machine {
    pub(super) fn on_outcome(
        &mut self,
        kind: EventKind,
        sequence: u64,
        outcome: Outcome,
        now: Instant,
        effects: &mut Effects,
    ) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if matches!(self.phase, Phase::Opening) {
            self.phase = Phase::Open;
        }
        if kind == EventKind::Message {
            let is_asked_again = self.timers.as_mut().is_some_and(|timers| {
                timers.answered(now);
                timers.is_asked_again(sequence, &outcome, now)
            });
            match outcome {
                // The client did nothing, and nothing of it is lost.
                _ if is_asked_again => {}
                Outcome::Replied(actions) => {
                    actions.into_iter().for_each(|action| self.act(action, now, effects));
                }
                Outcome::Refused(ref refusal) => match refusal.message.clone() {
                    Some(message) => self.send(message, now, effects),
                    None => self.on_failure(sequence, &outcome, now, effects),
                },
                Outcome::Unavailable | Outcome::Unknown | Outcome::Overloaded => {
                    self.on_failure(sequence, &outcome, now, effects);
                }
                Outcome::Accepted(_) => {}
            }
        }
        self.part_when_idle(now, effects);
    }

    pub(super) fn act(&mut self, action: Action, now: Instant, effects: &mut Effects) {
        match action {
            Action::Send(message) => self.send(message, now, effects),
            Action::Join(group) => effects.push_back(Effect::Join(group)),
            Action::Leave(group) => effects.push_back(Effect::Leave(group)),
            Action::State(state) => self.state = state,
            Action::Close(close) => self.close(close, now, effects),
            Action::Cut => {
                // There is no close frame.
                let close = Close::with_code(Cause::BackendClosed, Cause::Vanished.code());
                self.end(close, Effect::Abort, now, effects);
            }
            Action::Ping(payload) => self.send_content(Content::Ping(payload), now, effects),
            Action::PollEvery(interval) => {
                self.timers().poll_every(interval.map(jittered), now);
            }
            Action::KeepAlive(keep_alive) => self.timers().keep_alive(keep_alive, now),
            Action::SendLater(after, content) => {
                self.send_now(now, effects);
                self.timers().send_at(now + after, content);
            }
            Action::SendNow => self.send_now(now, effects),
        }
    }

    pub(super) fn timers(&mut self) -> &mut Timers {
        self.timers.get_or_insert_default()
    }

    /// Does what the backend wanted done by now.
    pub(super) fn ring(&mut self, now: Instant, effects: &mut Effects) -> Option<Dispatch> {
        loop {
            let may_poll = self.may_poll();
            match self.timers.as_mut()?.next(may_poll, now)? {
                Due::Send(content) => self.send_content(content, now, effects),
                Due::Poll => {
                    let dispatch = self.dispatch(Dispatched::Poll);
                    self.timers().asked(dispatch.sequence);
                    return Some(dispatch);
                }
            }
        }
    }

    /// Whether the backend may be asked: it has nothing of the connection to answer.
    pub(super) fn may_poll(&self) -> bool {
        self.is_open() && self.in_flight == 0 && self.parting.is_none()
    }

    /// Sends what was to be sent later.
    fn send_now(&mut self, now: Instant, effects: &mut Effects) {
        if let Some(content) = self.timers.as_mut().and_then(|timers| timers.take_later()) {
            self.send_content(content, now, effects);
        }
    }

    fn send_content(&mut self, content: Content, now: Instant, effects: &mut Effects) {
        match content {
            Content::Message(message) => self.send(message, now, effects),
            Content::Ping(payload) if self.is_open() => effects.push_back(Effect::Ping(payload)),
            Content::Ping(_) => {}
        }
    }

    fn on_failure(
        &mut self,
        sequence: u64,
        outcome: &Outcome,
        now: Instant,
        effects: &mut Effects,
    ) {
        match &self.route.on_failure {
            OnFailure::Nothing => {}
            OnFailure::Message(template) => {
                let text = template
                    .replace("{outcome}", outcome.as_str())
                    .replace("{sequence}", &sequence.to_string());
                self.send(Message::text(text), now, effects);
            }
            OnFailure::Close => {
                let cause = match outcome {
                    Outcome::Unavailable | Outcome::Overloaded => Cause::BackendUnavailable,
                    _ => Cause::BackendFailed,
                };
                self.close(Close::of(cause), now, effects);
            }
        }
    }
}
