//! The body of a request on its way to the upstream, and whose turn it is.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::Refusal;
use super::places::Place;

/// A client's body, which may not pause for too long, nor go on for long behind the answer.
#[derive(Debug)]
pub(super) struct Upload {
    /// None when there is nothing to send.
    body: Option<Incoming>,
    idle: Duration,
    /// When a pause is too long; there in a pause.
    pause: Option<Pin<Box<Sleep>>>,
    progress: Arc<Progress>,
}

/// How far the request is. Kept apart from the body, which goes to the task of a connection.
#[derive(Debug)]
pub(super) struct Progress(Mutex<State>);

#[derive(Debug)]
struct State {
    /// When something was last done.
    last: Instant,
    /// Whether the upstream wants more of the body than the client has sent.
    is_clients_turn: bool,
    /// Why the body ended before its end.
    fault: Option<Refusal>,
    bytes: u64,
    /// What the request takes, until both its body and its answer are through.
    place: Option<Place>,
    /// When the answer was, or came to nothing.
    over: Option<Instant>,
}

/// The client's body is not whole, so the request to the upstream ends, too.
#[derive(Debug, thiserror::Error)]
#[error("the client's body is not whole")]
pub(super) struct NotWhole;

impl Upload {
    /// It is the upstream's turn from now on.
    pub(super) fn new(body: Option<Incoming>, idle: Duration, progress: &Arc<Progress>) -> Self {
        progress.turn(false, 0);
        Self { body, idle, pause: None, progress: Arc::clone(progress) }
    }

    fn fail(&self, fault: Refusal) -> Poll<Option<Result<Frame<Bytes>, NotWhole>>> {
        self.progress.state().fault = Some(fault);
        Poll::Ready(Some(Err(NotWhole)))
    }
}

impl Progress {
    pub(super) fn new() -> Self {
        let last = Instant::now();
        Self(Mutex::new(State {
            last,
            is_clients_turn: false,
            fault: None,
            bytes: 0,
            place: None,
            over: None,
        }))
    }

    /// The request has its place.
    pub(super) fn takes(&self, place: Place) {
        self.state().place = Some(place);
    }

    /// The answer is through, or will not be.
    pub(super) fn over(&self) {
        self.state().over = Some(Instant::now());
    }

    /// Whether that is so for this long.
    fn is_over_for(&self, time: Duration) -> bool {
        self.state().over.is_some_and(|since| since.elapsed() >= time)
    }

    /// When something was last done.
    pub(super) fn last(&self) -> Instant {
        self.state().last
    }

    /// Whether the upstream has had its turn since then.
    pub(super) fn is_upstreams_turn_since(&self, then: Instant) -> bool {
        let state = self.state();
        !state.is_clients_turn && state.last <= then
    }

    /// As long as it is the client's turn, there is nothing to hold against the upstream.
    pub(super) fn look_again(&self) {
        let mut state = self.state();
        if state.is_clients_turn {
            state.last = Instant::now();
        }
    }

    /// Why the body ended before its end, if it did.
    pub(super) fn fault(&self) -> Option<Refusal> {
        self.state().fault
    }

    /// Bytes of the body so far.
    pub(super) fn bytes(&self) -> u64 {
        self.state().bytes
    }

    /// Held for a look or a change.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, is_clients: bool, bytes: usize) {
        let mut state = self.state();
        state.last = Instant::now();
        state.is_clients_turn = is_clients;
        state.bytes += bytes as u64;
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = NotWhole;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, NotWhole>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        // Each byte of the client's leads here, and so does a pause.
        if this.progress.is_over_for(this.idle) {
            return this.fail(Refusal::SlowBody);
        }
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.pause = None;
                this.progress.turn(false, frame.data_ref().map_or(0, Bytes::len));
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => this.fail(Refusal::BrokenBody),
            Poll::Ready(None) => {
                this.pause = None;
                this.progress.turn(false, 0);
                Poll::Ready(None)
            }
            Poll::Pending => {
                if this.pause.is_none() {
                    this.progress.turn(true, 0);
                }
                let idle = this.idle;
                let pause = this.pause.get_or_insert_with(|| Box::pin(sleep(idle)));
                match pause.as_mut().poll(cx) {
                    Poll::Ready(()) => this.fail(Refusal::SlowBody),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}
