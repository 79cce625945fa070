//! The loop around the machine: socket, backend answers, wishes of the node and the clock go in,
//! effects come out.
//!
//! One hand-written future for each connection, because every local of an async fn would be memory
//! for each idle client. Its order is the backpressure: effects are written before an outcome is
//! looked at, and an outcome before the client is read, so a client that does not read its replies is
//! not read either. Nothing is buffered but the outcomes of what is in flight.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use super::machine::{Dispatch, Dispatched, Effect, Effects, Input, Machine};
use super::requests::{Answered, Request, Requests};
use super::socket::{Broken, Received, Socket};
use super::stats::Stats;
use crate::event::{Event, EventBody, Peer, Trace};
use crate::hub::Mailbox;
use crate::relay::Relay;

/// One open connection.
pub(super) struct Driver<S> {
    pub(super) socket: Socket<S>,
    pub(super) machine: Machine,
    pub(super) requests: Requests,
    pub(super) stats: Stats,
    pub(super) peer: Arc<Peer>,
    pub(super) relay: Relay,
    pub(super) trace: Trace,
    pub(super) mailbox: Mailbox,
    effects: Effects,
    /// Outcomes that came while a write was blocked, at most as many as the route has in flight. They
    /// are taken over even then: an unpolled request would hold up others that wait behind it.
    pub(super) answered: VecDeque<Answered>,
    /// Armed at or before the next time that matters. It is not moved for every message; when it
    /// fires too early, it is armed again.
    timer: Pin<Box<Sleep>>,
    /// Since when a write waits: when it counts as stalled, and the bytes written until then.
    stall: Option<(Instant, u64)>,
    write_timeout: Duration,
    /// When this poll began. All that one poll does counts as at once.
    now: Instant,
    panicked: bool,
}

/// How the socket is to be left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// End the TCP stream.
    HangUp,
    /// End the TCP stream and wait for the peer to do the same.
    Linger,
    /// Drop it.
    Abort,
}

/// Messages that one poll takes before other connections get their turn.
const BUDGET: usize = 32;
/// A timer that is far away when nothing is due.
const FAR: Duration = Duration::from_secs(3600);

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub(super) fn new(
        socket: Socket<S>,
        machine: Machine,
        peer: Arc<Peer>,
        relay: Relay,
        trace: Trace,
        mailbox: Mailbox,
        write_timeout: Duration,
    ) -> Self {
        let now = Instant::now();
        let mut driver = Self {
            socket,
            machine,
            requests: Requests::default(),
            stats: Stats::new(),
            peer,
            relay,
            trace,
            mailbox,
            effects: Effects::new(),
            answered: VecDeque::new(),
            timer: Box::pin(sleep_until(now)),
            stall: None,
            write_timeout,
            now,
            panicked: false,
        };
        if let Some(first) = driver.machine.open(now) {
            driver.dispatch(first);
        }
        driver
    }

    /// Works until nothing can be done; ready when the socket is to be left.
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<Exit> {
        let mut budget = BUDGET;
        self.now = Instant::now();
        if let Poll::Ready(close) = self.mailbox.poll_part(cx) {
            self.input(Input::Part(close));
        }
        loop {
            match self.perform(cx) {
                Poll::Ready(Ok(Some(exit))) => return Poll::Ready(exit),
                Poll::Ready(Ok(None)) => {
                    if self.stall.take().is_some() {
                        self.machine.set_blocked(false, self.now);
                    }
                    if self.take_input(cx, &mut budget).is_ready() {
                        continue;
                    }
                    self.socket.shrink();
                    self.effects = Effects::new();
                }
                Poll::Ready(Err(Broken)) => {
                    self.input(Input::PeerGone);
                    return Poll::Ready(Exit::Abort);
                }
                Poll::Pending => {
                    if self.stall.is_none() {
                        let due = self.now + self.write_timeout;
                        self.stall = Some((due, self.socket.written()));
                        self.machine.set_blocked(true, self.now);
                    }
                    while let Poll::Ready(answered) = self.requests.poll_next(cx) {
                        self.answered.push_back(answered);
                    }
                }
            }
            match ready!(self.keep_time(cx)) {
                Some(exit) => return Poll::Ready(exit),
                None => continue,
            }
        }
    }

    /// Does what the machine wants, in order, and writes it out. Pending when a write is blocked.
    fn perform(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Exit>, Broken>> {
        if self.effects.back() == Some(&Effect::Abort) {
            return Poll::Ready(Ok(Some(self.abort(cx))));
        }
        while let Some(effect) = self.effects.front() {
            match effect {
                Effect::HangUp | Effect::Linger => {
                    let is_short = *effect == Effect::HangUp;
                    ready!(self.socket.poll_flush(cx))?;
                    let exit = if is_short { Exit::HangUp } else { Exit::Linger };
                    return Poll::Ready(Ok(Some(exit)));
                }
                _ => ready!(self.socket.poll_ready(cx))?,
            }
            match self.effects.pop_front() {
                Some(Effect::Send(message)) => {
                    self.relay.metrics().outbound(&message);
                    self.stats.outbound(&message);
                    self.socket.send(message)?;
                }
                Some(Effect::Ping(payload)) => self.socket.ping(payload)?,
                Some(Effect::SendClose(close)) => self.socket.close(close.code, &close.reason)?,
                _ => {}
            }
        }
        self.socket.poll_flush(cx).map_ok(|()| None)
    }

    /// Says why, if there is room for it, and waits for nothing.
    fn abort(&mut self, cx: &mut Context<'_>) -> Exit {
        while let Some(effect) = self.effects.pop_front() {
            if let Effect::SendClose(close) = effect
                && let Poll::Ready(Ok(())) = self.socket.poll_ready(cx)
                && self.socket.close(close.code, &close.reason).is_ok()
            {
                let _ = self.socket.poll_flush(cx);
            }
        }
        Exit::Abort
    }

    /// Takes one outcome, or else one thing from the client. Pending when there is neither.
    fn take_input(&mut self, cx: &mut Context<'_>, budget: &mut usize) -> Poll<()> {
        let next = match self.answered.pop_front() {
            Some(answered) => Poll::Ready(answered),
            None => self.requests.poll_next(cx),
        };
        if let Poll::Ready((kind, sequence, outcome)) = next {
            self.stats.outcome(&outcome);
            let word = outcome.as_str();
            tracing::trace!(connection = %self.peer.id, sequence, outcome = word, "event answered");
            self.input(Input::Outcome { kind, sequence, outcome });
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
        let received = self.socket.poll_receive(cx);
        if self.socket.take_heard() {
            self.machine.heard(self.now);
        }
        match ready!(received) {
            Received::Message(message) if self.machine.is_open() => {
                self.relay.metrics().inbound(&message);
                self.stats.inbound(&message);
                let (kind, bytes) = (message.kind().as_str(), message.data().len());
                tracing::trace!(connection = %self.peer.id, kind, bytes, "message from the client");
                self.input(Input::Message(message));
            }
            Received::Message(_) | Received::Ping => {}
            Received::Pong(payload) => {
                if let Some(rtt) = self.machine.pong(&payload, self.now) {
                    self.relay.metrics().ping_rtt(rtt.as_secs_f64());
                }
            }
            Received::Close(close) => self.input(Input::PeerClosed(close)),
            Received::Violation(close) => self.input(Input::Violation(close)),
            Received::Gone => self.input(Input::PeerGone),
        }
        Poll::Ready(())
    }

    /// Arms the timer, or says that something was due. Ready without an exit: look again.
    fn keep_time(&mut self, cx: &mut Context<'_>) -> Poll<Option<Exit>> {
        let stall = self.stall.map(|(due, _)| due);
        let due = [self.machine.due(), stall].into_iter().flatten().min();
        if let Some(due) = due.filter(|due| *due < self.timer.deadline()) {
            self.timer.as_mut().reset(due);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            self.now = Instant::now();
            match due {
                Some(due) if due <= self.now => break,
                later => self.timer.as_mut().reset(later.unwrap_or(self.now + FAR)),
            }
        }
        let now = self.now;
        if let Some((_, before)) = self.stall.filter(|(due, _)| *due <= now) {
            if self.socket.written() == before {
                self.input(Input::WriteStalled);
                return Poll::Ready(Some(Exit::Abort));
            }
            self.stall = None;
        }
        self.machine.tick(now, &mut self.effects);
        Poll::Ready(None)
    }

    /// Tells the machine, and gives a new event to the backend at once.
    fn input(&mut self, input: Input) {
        if let Some(dispatch) = self.machine.on(input, self.now, &mut self.effects) {
            self.dispatch(dispatch);
        }
        self.mailbox.set_busy(self.machine.is_busy());
    }

    fn dispatch(&mut self, dispatch: Dispatch) {
        let event = self.event(dispatch.sequence, dispatch.body);
        let (kind, sequence, relay) = (event.kind(), event.sequence, self.relay.clone());
        self.requests
            .push(Request(Box::pin(async move { (kind, sequence, relay.request(event).await) })));
    }

    fn event(&self, sequence: u64, body: Dispatched) -> Event {
        Event {
            peer: Arc::clone(&self.peer),
            sequence,
            time: SystemTime::now(),
            state: self.machine.state().cloned(),
            trace: self.trace,
            body: match body {
                Dispatched::Connected => EventBody::Connected,
                Dispatched::Message(message) => EventBody::Message(message),
            },
        }
    }

    /// A bug must not take more than its own connection: it is closed with 1011.
    fn on_panic(&mut self) {
        self.relay.metrics().panicked();
        tracing::error!(connection = %self.peer.id, "connection panicked");
        self.requests = Requests::default();
        self.effects.clear();
        self.input(Input::Panicked);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = Exit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Exit> {
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.step(cx))) {
                Ok(poll) => return poll,
                Err(_) if self.panicked => return Poll::Ready(Exit::Abort),
                Err(_) => {
                    self.panicked = true;
                    let was_closed = self.machine.closed().is_some();
                    self.on_panic();
                    if was_closed {
                        return Poll::Ready(Exit::Abort);
                    }
                }
            }
        }
    }
}

impl<S> std::fmt::Debug for Driver<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("connection", &self.peer.id).finish_non_exhaustive()
    }
}
