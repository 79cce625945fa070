//! The way to the client: effects of the machine first, then what waits in the outbox, as fast as the
//! client reads and its limits allow.

use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use super::driver::{Driver, Exit};
use super::effect::{Effect, Input};
use super::heartbeat::STARVED;
use super::progress::Progress;
use super::socket::Broken;
use super::step::step;
use crate::close::{Cause, Close};
use crate::hub::NotTaken;
use crate::id::GroupName;
use crate::limits::{Meter, Verdict};
use crate::message::Message;

/// What a connection remembers of the way to its client.
#[derive(Debug)]
pub(super) struct Outbound {
    meter: Meter,
    /// When the message whose turn it is may go out; nothing else holds it up then.
    paced: Option<Instant>,
    /// Since when a write waits: when it counts as stalled, and the bytes written until then.
    stall: Option<(Instant, u64)>,
    /// What the gauge was told of the outbox.
    reported: usize,
}

impl Outbound {
    pub(super) fn new(meter: Meter) -> Self {
        Self { meter, paced: None, stall: None, reported: 0 }
    }

    /// When the way is next worth a look.
    pub(super) fn due(&self) -> Option<Instant> {
        self.paced.or(self.stall.map(|(due, _)| due))
    }

    /// Whether a write has waited too long, `written` being all that ever went out. Any progress gives
    /// it new time, and so does a look that comes late: then the node itself got no time to write.
    pub(super) fn is_stalled(&mut self, written: u64, now: Instant) -> bool {
        let Some((due, before)) = self.stall.take_if(|(due, _)| *due <= now) else { return false };
        written == before && now - due < STARVED
    }
}

impl<S: Progress> Driver<S> {
    /// Everything is out, or something waits: then the client is not read, lest it ask for more than it
    /// reads. One that only waits for its turn is read while there is room for what comes of it.
    pub(super) fn note_way_out(&mut self, is_all_out: bool) {
        let is_paced = self.outbound.paced.is_some();
        if is_all_out || is_paced {
            self.outbound.stall = None;
        } else {
            let due = self.now + self.machine.write_timeout();
            self.outbound.stall.get_or_insert((due, self.socket.written()));
        }
        let may_read = is_all_out || (is_paced && self.mailbox.is_low());
        self.machine.set_blocked(!may_read, self.now);
    }

    /// Does what the machine wants, in order, and writes out what waits. Pending when a write is
    /// blocked, or the next message is not due yet.
    pub(super) fn perform(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Exit>, Broken>> {
        self.outbound.paced = None;
        loop {
            if let Some(exit) = ready!(self.perform_effects(cx))? {
                return Poll::Ready(Ok(Some(exit)));
            }
            ready!(self.empty_outbox(cx))?;
            // A limit may have ended the connection.
            if self.effects.is_empty() {
                return self.socket.poll_flush(cx).map_ok(|()| None);
            }
        }
    }

    fn perform_effects(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Exit>, Broken>> {
        loop {
            if self.effects.back() == Some(&Effect::Abort) {
                return Poll::Ready(Ok(Some(self.abort(cx))));
            }
            match self.effects.front() {
                None => return Poll::Ready(Ok(None)),
                // What cannot go out now waits in the outbox, not here.
                Some(Effect::Send(_) | Effect::Join(_) | Effect::Leave(_)) => {}
                // What was sent before a close frame comes before it, without regard to limits: the
                // client has little time left.
                Some(Effect::SendClose(_)) => {
                    self.mailbox.seal();
                    while self.mailbox.has_waiting() {
                        ready!(self.socket.poll_ready(cx))?;
                        self.write_next(cx)?;
                    }
                    ready!(self.socket.poll_ready(cx))?;
                }
                Some(Effect::HangUp | Effect::Linger) => {
                    self.mailbox.abandon();
                    ready!(self.socket.poll_flush(cx))?;
                    let is_short = self.effects.front() == Some(&Effect::HangUp);
                    let exit = if is_short { Exit::HangUp } else { Exit::Linger };
                    return Poll::Ready(Ok(Some(exit)));
                }
                Some(_) => ready!(self.socket.poll_ready(cx))?,
            }
            match self.effects.pop_front() {
                Some(Effect::Send(message)) => self.send(message, cx)?,
                Some(Effect::Join(group)) => self.join(&group),
                Some(Effect::Leave(group)) => drop(self.registered.leave(&group)),
                Some(Effect::Ping(payload)) => {
                    step!(self, "ping to the client");
                    self.socket.ping(cx, payload)?;
                }
                Some(Effect::SendClose(close)) => {
                    self.socket.close(cx, close.code, &close.reason)?;
                }
                _ => {}
            }
        }
    }

    /// Accounts for what waits for the client, at the end of a poll that left something.
    pub(super) fn account_for_rest(&mut self) {
        if self.outbound.reported > 0 || self.mailbox.has_waiting() {
            self.account_for_outbox();
        }
    }

    /// Accounts for what waits for the client.
    pub(super) fn account_for_outbox(&mut self) {
        let account = self.mailbox.account();
        let metrics = self.relay.metrics();
        metrics.outbox(self.outbound.reported, account.bytes);
        metrics.outbox_lost(account.dropped, account.expired);
        if account.bytes != self.outbound.reported {
            let (bytes, dropped, expired) = (account.bytes, account.dropped, account.expired);
            step!(self, bytes, dropped, expired, "outbox");
        }
        self.outbound.reported = account.bytes;
        self.stats.outbox_peak = account.peak;
    }

    /// A backend that joins a client to more groups than it may hears nothing of it, but the log does.
    fn join(&mut self, group: &GroupName) {
        if let Err(error) = self.registered.join(group) {
            tracing::warn!(connection = %self.peer.id, %error, "group not joined");
        }
    }

    /// Sends a message at once if nothing is in its way; else it waits in the outbox.
    fn send(&mut self, message: Message, cx: &mut Context<'_>) -> Result<(), Broken> {
        if !self.mailbox.has_waiting() && self.is_writable(cx)? {
            match self.ask(message.data().len()) {
                Verdict::Pass => return self.write(message, cx),
                Verdict::Wait(_) => {}
                Verdict::Drop | Verdict::Close => return Ok(()),
            }
        }
        match self.mailbox.offer(message.detached()) {
            Err(NotTaken::Full) => self.cut(Close::of(Cause::OutboxFull)),
            Ok(()) | Err(NotTaken::Ended) => {}
        }
        Ok(())
    }

    fn empty_outbox(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while self.mailbox.has_waiting() {
            ready!(self.socket.poll_ready(cx))?;
            match self.mailbox.next(self.now).map(|bytes| self.ask(bytes)) {
                None => break,
                Some(Verdict::Pass) => self.write_next(cx)?,
                Some(Verdict::Drop) => drop(self.mailbox.take()),
                Some(Verdict::Close) => return Poll::Ready(Ok(())),
                Some(Verdict::Wait(until)) => {
                    ready!(self.socket.poll_flush(cx))?;
                    self.outbound.paced = Some(until);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn is_writable(&mut self, cx: &mut Context<'_>) -> Result<bool, Broken> {
        match self.socket.poll_ready(cx) {
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(broken)) => Err(broken),
            Poll::Pending => Ok(false),
        }
    }

    /// Asks the limits for a message to the client.
    fn ask(&mut self, bytes: usize) -> Verdict {
        let metrics = self.relay.metrics();
        let verdict = self
            .outbound
            .meter
            .message(bytes, |limited| metrics.limited(limited.limit.as_str(), limited.action));
        if verdict == Verdict::Close {
            self.mailbox.abandon();
            self.input(Input::Violation(Close::of(Cause::RateLimited)));
        }
        verdict
    }

    fn write_next(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        self.mailbox.take().map_or(Ok(()), |message| self.write(message, cx))
    }

    fn write(&mut self, message: Message, cx: &mut Context<'_>) -> Result<(), Broken> {
        let (kind, bytes) = (message.kind().as_str(), message.data().len());
        step!(self, kind, bytes, "message to the client");
        self.relay.metrics().outbound(&message);
        self.stats.outbound(&message);
        self.machine.used(self.now);
        self.socket.send(cx, message)
    }

    /// Says why, if there is room for it, and waits for nothing.
    fn abort(&mut self, cx: &mut Context<'_>) -> Exit {
        self.mailbox.abandon();
        while let Some(effect) = self.effects.pop_front() {
            if let Effect::SendClose(close) = effect
                && let Poll::Ready(Ok(())) = self.socket.poll_ready(cx)
                && self.socket.close(cx, close.code, &close.reason).is_ok()
            {
                let _ = self.socket.poll_flush(cx);
            }
        }
        Exit::Abort
    }
}
