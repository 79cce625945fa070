//! The way from the client: outcomes first, then what it sends, as fast as its limits allow. A client
//! over its limits is not read, and of what it sent at most one message is kept meanwhile.

use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use super::driver::Driver;
use super::effect::Input;
use super::progress::Progress;
use super::socket::Received;
use super::step::step;
use crate::close::{Cause, Close};
use crate::limits::{Meter, Verdict};
use crate::message::Message;

/// What a connection remembers of the way from its client.
#[derive(Debug)]
pub(super) struct Inbound {
    messages: Meter,
    frames: Meter,
    /// A message that came too early for the limits.
    waiting: Option<Message>,
    /// Frames that are not accounted for yet.
    owed: u32,
    /// Until when the client is not read.
    throttled: Option<Instant>,
}

impl Inbound {
    pub(super) fn new(messages: Meter, frames: Meter) -> Self {
        Self { messages, frames, waiting: None, owed: 0, throttled: None }
    }

    /// When the client may be read again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.throttled
    }

    /// Whether the client may be read again from `now` on, after a pause.
    pub(super) fn resume(&mut self, now: Instant) -> bool {
        self.throttled.take_if(|until| *until <= now).is_some()
    }
}

impl<S: Progress> Driver<S> {
    /// Takes one outcome, or else one thing from the client. Pending when there is neither.
    pub(super) fn take_input(&mut self, cx: &mut Context<'_>, budget: &mut usize) -> Poll<()> {
        if self.take_outcome(cx).is_ready() {
            return Poll::Ready(());
        }
        if !self.machine.reads() {
            return Poll::Pending;
        }
        if *budget == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        *budget -= 1;
        if self.inbound.owed > 0 && self.machine.is_open() {
            let metrics = self.relay.metrics();
            let verdict = self.inbound.frames.frames(self.inbound.owed, |limited| {
                metrics.limited(limited.limit.as_str(), limited.action)
            });
            if self.hold_back(verdict) {
                return Poll::Ready(());
            }
            self.inbound.owed = 0;
        }
        if let Some(message) = self.inbound.waiting.take() {
            self.message(message);
            return Poll::Ready(());
        }
        self.receive(cx)
    }

    /// Takes one outcome.
    pub(super) fn take_outcome(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (kind, sequence, outcome) = ready!(self.requests.poll_next(cx));
        self.stats.outcome(&outcome);
        step!(self, sequence, outcome = outcome.as_str(), "event answered");
        self.input(Input::Outcome { kind, sequence, outcome });
        Poll::Ready(())
    }

    /// Takes one thing from the socket.
    fn receive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let received = self.socket.poll_receive(cx);
        if self.socket.take_heard() {
            self.machine.heard(self.now);
        }
        self.inbound.owed = self.inbound.owed.saturating_add(self.socket.take_extra());
        if received.is_pending() {
            self.machine.partial(self.socket.is_partial(), self.now);
        }
        match ready!(received) {
            Received::Message(message) if self.machine.is_open() => {
                self.relay.metrics().inbound(&message);
                self.stats.inbound(&message);
                let (kind, bytes) = (message.kind().as_str(), message.data().len());
                step!(self, kind, bytes, "message from the client");
                self.machine.partial(false, self.now);
                self.message(message);
            }
            Received::Message(_) | Received::Ping => {}
            Received::Pong(payload) => {
                if let Some(rtt) = self.machine.pong(&payload, self.now) {
                    self.relay.metrics().ping_rtt(rtt.as_secs_f64());
                    step!(self, rtt_ms = rtt.as_secs_f64() * 1000.0, "pong from the client");
                }
            }
            Received::Close(close) => self.input(Input::PeerClosed(close)),
            Received::Violation(close) => self.input(Input::Violation(close)),
            Received::Gone => self.input(Input::PeerGone),
        }
        Poll::Ready(())
    }

    /// A message from the client, new or after a pause. One that waited until the end is discarded
    /// (RFC 6455 section 1.4).
    fn message(&mut self, message: Message) {
        if !self.machine.is_open() {
            return;
        }
        let metrics = self.relay.metrics();
        let verdict = self.inbound.messages.message(message.data().len(), |limited| {
            metrics.limited(limited.limit.as_str(), limited.action);
        });
        match verdict {
            Verdict::Pass => self.input(Input::Message(message)),
            Verdict::Wait(_) => {
                self.inbound.waiting = Some(message);
                self.hold_back(verdict);
            }
            Verdict::Drop => {}
            Verdict::Close => drop(self.hold_back(verdict)),
        }
    }

    /// Reads the client no further, if the `verdict` is so; says whether it is.
    fn hold_back(&mut self, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Pass | Verdict::Drop => return false,
            Verdict::Wait(until) => {
                self.inbound.throttled = Some(until);
                self.machine.set_throttled(true, self.now);
            }
            Verdict::Close => self.input(Input::Violation(Close::of(Cause::RateLimited))),
        }
        true
    }
}
