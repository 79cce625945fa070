//! The line to one connection: others leave a wish, the connection's own task picks it up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use crate::close::Close;

/// The end that others hold. Cloning shares the line.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Line>);

/// The end that the connection's task holds.
#[derive(Debug)]
pub struct Mailbox(Arc<Line>);

#[derive(Debug, Default)]
struct Line {
    /// A wish to end; the first one stands. The lock is held for a move only.
    part: Mutex<Option<Close>>,
    /// Whether there is a wish, so that looking for one takes no lock.
    wished: AtomicBool,
    waker: AtomicWaker,
    /// Whether an event of the connection is at the backend.
    busy: AtomicBool,
}

impl Handle {
    /// Both ends of a new line.
    #[must_use]
    pub fn new() -> (Self, Mailbox) {
        let line = Arc::new(Line::default());
        (Self(Arc::clone(&line)), Mailbox(line))
    }

    /// Wishes that the connection ends, once its events are answered.
    pub fn part(&self, close: Close) {
        self.0.part.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(close);
        self.0.wished.store(true, Ordering::Release);
        self.0.waker.wake();
    }

    /// Whether an event of the connection is at the backend.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.0.busy.load(Ordering::Relaxed)
    }
}

impl Mailbox {
    /// The other end of the line.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.0))
    }

    /// Ready when there is a wish to end; each is given out once.
    pub fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Close> {
        self.0.waker.register(cx.waker());
        if !self.0.wished.swap(false, Ordering::Acquire) {
            return Poll::Pending;
        }
        match self.0.part.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(close) => Poll::Ready(close),
            None => Poll::Pending,
        }
    }

    /// Says whether an event of the connection is at the backend.
    pub fn set_busy(&self, busy: bool) {
        self.0.busy.store(busy, Ordering::Relaxed);
    }
}
