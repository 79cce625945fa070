//! The events of one connection that are at the backend.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::{Stream, future::BoxFuture, stream::FuturesUnordered};

use crate::config::EventKind;
use crate::event::Outcome;

/// Requests without an outcome. Nothing is allocated while there are none, and a route that keeps the
/// order never has more than one.
#[derive(Debug, Default)]
pub(super) enum Requests {
    #[default]
    None,
    One(Request),
    Many(FuturesUnordered<Request>),
}

/// One request: the event's kind, its number, and what came of it.
pub(super) struct Request(pub(super) BoxFuture<'static, Answered>);

/// A request's end.
pub(super) type Answered = (EventKind, u64, Outcome);

impl Requests {
    /// Adds a request; it starts with the next poll.
    pub(super) fn push(&mut self, request: Request) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(request),
            Self::One(first) => Self::Many([first, request].into_iter().collect()),
            Self::Many(many) => {
                many.push(request);
                Self::Many(many)
            }
        };
    }

    /// The next outcome; pending, too, when there are no requests.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Answered> {
        let poll = match self {
            Self::None => return Poll::Pending,
            Self::One(request) => Pin::new(request).poll(cx),
            Self::Many(many) => match Pin::new(&mut *many).poll_next(cx) {
                Poll::Ready(Some(answered)) if many.is_empty() => Poll::Ready(answered),
                Poll::Ready(Some(answered)) => return Poll::Ready(answered),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            },
        };
        if poll.is_ready() {
            *self = Self::None;
        }
        poll
    }

    /// The next outcome; none when there are no requests. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Answered> {
        match self {
            Self::None => None,
            _ => Some(poll_fn(|cx| self.poll_next(cx)).await),
        }
    }
}

impl Future for Request {
    type Output = Answered;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered> {
        self.0.as_mut().poll(cx)
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Request")
    }
}
