//! The loop around the machine: socket, backend answers, wishes of the node and the clock go in,
//! effects come out.
//!
//! One hand-written future for each connection, because every local of an async fn would be memory
//! for each idle client. Its order is the backpressure: what is to be sent is sent before an outcome
//! is looked at, and an outcome before the client is read, so a client that does not read its replies
//! is not read either. Nothing is buffered but the outbox, and one message of a client that is over its
//! limits.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, Sleep, sleep_until};

use super::effect::{Dispatch, Dispatched, Effect, Effects, Input};
use super::inbound::Inbound;
use super::machine::Machine;
use super::outbound::Outbound;
use super::progress::Progress;
use super::requests::{Request, Requests};
use super::socket::{Broken, Socket};
use super::stats::Stats;
use super::step::step;
use crate::close::{Cause, Close};
use crate::event::{Action, Event, EventBody, Peer, Trace};
use crate::hub::{Mailbox, Registered, Wish};
use crate::limits::Meters;
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
    pub(super) registered: Registered,
    pub(super) inbound: Inbound,
    pub(super) outbound: Outbound,
    pub(super) effects: Effects,
    /// Armed at or before the next time that matters. It is not moved for every message; when it
    /// fires too early, it is armed again.
    timer: Pin<Box<Sleep>>,
    /// Whether all was out and nothing more came in when the last poll ended, so that only a wish, a
    /// message or what stirs the line can change anything.
    is_at_rest: bool,
    /// When this poll began. All that one poll does counts as at once.
    pub(super) now: Instant,
    /// Until when what happens is logged, if it is.
    pub(super) traced: Option<Instant>,
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

impl<S: Progress> Driver<S> {
    #[expect(clippy::too_many_arguments, reason = "the parts of a connection, each built apart")]
    pub(super) fn new(
        socket: Socket<S>,
        machine: Machine,
        peer: Arc<Peer>,
        relay: Relay,
        trace: Trace,
        mailbox: Mailbox,
        registered: Registered,
        meters: Meters,
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
            registered,
            inbound: Inbound::new(meters.inbound, meters.frames),
            outbound: Outbound::new(meters.outbound),
            effects: Effects::new(),
            timer: Box::pin(sleep_until(now)),
            is_at_rest: false,
            now,
            traced: None,
            panicked: false,
        };
        let first = driver.machine.open(now);
        driver.go_on(first);
        driver
    }

    /// Works until nothing can be done; ready when the socket is to be left.
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<Exit> {
        let mut budget = BUDGET;
        self.now = Instant::now();
        let mut was_at_rest = std::mem::take(&mut self.is_at_rest);
        while let Poll::Ready(wish) = self.mailbox.poll_wish(cx) {
            was_at_rest = false;
            match wish {
                Wish::Refresh(ends) => self.machine.refresh(ends),
                Wish::Trace(until) => {
                    self.traced = Some(until);
                    let seconds = (until - self.now).as_secs_f64();
                    step!(self, seconds, "connection traced");
                }
                Wish::Poll => self.machine.poll(self.now),
                Wish::Part(close) => self.input(Input::Part(close)),
                Wish::Cut(close) => self.cut(close),
            }
        }
        // All else wakes the connection through its line, which keeps in mind that it was not a message.
        was_at_rest &= !self.mailbox.take_stir();
        let waker = self.mailbox.waker();
        let cx = &mut Context::from_waker(&waker);
        let mut performed = self.perform(cx);
        if was_at_rest && matches!(performed, Poll::Ready(Ok(None))) {
            // Messages came and are out; to look for more would cost as much as to send one.
            self.socket.shrink();
            self.is_at_rest = true;
            return Poll::Pending;
        }
        loop {
            let is_all_out = match performed {
                Poll::Ready(Ok(Some(exit))) => return Poll::Ready(exit),
                Poll::Ready(Ok(None)) => true,
                Poll::Ready(Err(Broken)) => {
                    self.input(Input::PeerGone);
                    return Poll::Ready(Exit::Abort);
                }
                Poll::Pending => false,
            };
            self.note_way_out(is_all_out);
            if self.take_input(cx, &mut budget).is_pending() {
                if is_all_out {
                    self.socket.shrink();
                    self.effects = Effects::new();
                }
                match self.keep_time(cx) {
                    Poll::Ready(Some(exit)) => return Poll::Ready(exit),
                    Poll::Ready(None) => {}
                    Poll::Pending => {
                        self.is_at_rest = is_all_out;
                        return Poll::Pending;
                    }
                }
            }
            performed = self.perform(cx);
        }
    }

    /// Arms the timer, or says that something was due. Ready without an exit: look again.
    fn keep_time(&mut self, cx: &mut Context<'_>) -> Poll<Option<Exit>> {
        let due = [self.machine.due(), self.outbound.due(), self.inbound.due()];
        let due = due.into_iter().flatten().min();
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
        if self.outbound.is_stalled(self.socket.written(), self.now) {
            self.input(Input::WriteStalled);
            return Poll::Ready(Some(Exit::Abort));
        }
        if self.inbound.resume(self.now) {
            self.machine.set_throttled(false, self.now);
        }
        let dispatch = self.machine.tick(self.now, &mut self.effects);
        self.go_on(dispatch);
        Poll::Ready(None)
    }

    /// Does what the backend wanted when it let the client in.
    pub(super) fn begin(&mut self, actions: Vec<Action>) {
        self.machine.begin(actions, self.now, &mut self.effects);
    }

    /// Tells the machine, and gives a new event to the backend at once.
    pub(super) fn input(&mut self, input: Input) {
        let dispatch = self.machine.on(input, self.now, &mut self.effects);
        self.go_on(dispatch);
    }

    fn go_on(&mut self, dispatch: Option<Dispatch>) {
        if let Some(dispatch) = dispatch {
            self.dispatch(dispatch);
        }
        self.mailbox.set_busy(self.machine.is_busy());
    }

    /// Ends the connection at once; what waits for the client is gone.
    pub(super) fn cut(&mut self, close: Close) {
        if close.cause == Cause::OutboxFull {
            self.relay.metrics().outbox_full();
        }
        self.mailbox.abandon();
        self.effects.retain(|effect| !matches!(effect, Effect::Send(_)));
        self.input(Input::Cut(close));
    }

    /// Whether what happens on the connection is logged for everybody to see.
    pub(super) fn is_traced(&self) -> bool {
        self.traced.is_some_and(|until| self.now < until)
    }

    fn dispatch(&mut self, dispatch: Dispatch) {
        let event = self.event(dispatch.sequence, dispatch.body);
        let (kind, sequence, relay) = (event.kind(), event.sequence, self.relay.clone());
        step!(self, sequence, event = kind.as_str(), "event sent");
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
            written: None,
            body: match body {
                Dispatched::Connected => EventBody::Connected,
                Dispatched::Message(message) => EventBody::Message(message),
                Dispatched::Poll => EventBody::Poll,
            },
        }
    }

    /// A bug must not take more than its own connection: it is closed with 1011.
    fn on_panic(&mut self) {
        self.relay.metrics().panicked();
        tracing::error!(connection = %self.peer.id, "connection panicked");
        self.requests = Requests::default();
        self.effects.clear();
        self.mailbox.abandon();
        self.input(Input::Panicked);
    }
}

impl<S: Progress> Future for Driver<S> {
    type Output = Exit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Exit> {
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.step(cx))) {
                Ok(poll) => {
                    self.account_for_rest();
                    return poll;
                }
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
