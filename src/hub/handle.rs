//! The line to one connection: others leave wishes and messages, the connection's own task takes them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use super::outbox::{Account, NotTaken, Outbox};
use crate::close::{Cause, Close};
use crate::config;
use crate::message::Message;

/// The end that others hold. Cloning shares the line.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Line>);

/// The end that the connection's task holds.
#[derive(Debug)]
pub struct Mailbox(Arc<Line>);

/// What somebody wants of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// The token that let it in ends then.
    Refresh(Instant),
    /// What happens on it is logged until then.
    Trace(Instant),
    /// Its backend is asked as soon as it has answered what it was told.
    Poll,
    /// Once its events are answered and what waits for it is sent.
    Part(Close),
    /// At once; what waits for it is gone.
    Cut(Close),
}

#[derive(Debug)]
struct Line {
    /// Held for a move only, never while another lock is taken.
    shared: Mutex<Shared>,
    /// Whether there is a wish, so that looking for one takes no lock.
    is_wished: AtomicBool,
    /// Messages in the outbox, so that finding it empty takes no lock.
    waiting: AtomicUsize,
    /// Whether something else than a wish or a message has woken the connection.
    is_stirred: AtomicBool,
    waker: AtomicWaker,
    /// Whether an event of the connection is at the backend.
    busy: AtomicBool,
}

#[derive(Debug)]
struct Shared {
    outbox: Outbox,
    /// Apart, because each push touches what lies beside the outbox, and few connections have any.
    wishes: Option<Box<Wishes>>,
}

/// What others want and the connection has not seen yet.
#[derive(Debug, Default)]
struct Wishes {
    /// The first wish to end of its kind stands; a cut goes before a part.
    end: Option<Wish>,
    /// The last of its kind stands.
    refresh: Option<Instant>,
    trace: Option<Instant>,
    is_polled: bool,
}

impl Handle {
    /// Both ends of a new line, whose outbox has these bounds.
    #[must_use]
    pub fn new(bounds: &config::Outbox) -> (Self, Mailbox) {
        let line = Arc::new(Line {
            shared: Mutex::new(Shared::new(bounds)),
            is_wished: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            is_stirred: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            busy: AtomicBool::new(false),
        });
        (Self(Arc::clone(&line)), Mailbox(line))
    }

    /// Wishes that the connection ends, once its events are answered.
    pub fn part(&self, close: Close) {
        self.0.lock().wishes().end.get_or_insert(Wish::Part(close));
        self.0.call();
    }

    /// Tells that the token that let the connection in was renewed, or that one counts from now on,
    /// and when it ends.
    pub fn refresh(&self, ends: Instant) {
        self.0.lock().wishes().refresh = Some(ends);
        self.0.call();
    }

    /// Wishes that what happens on the connection is logged.
    pub fn trace(&self, until: Instant) {
        self.0.lock().wishes().trace = Some(until);
        self.0.call();
    }

    /// Wishes that the backend is asked.
    pub fn poll(&self) {
        self.0.lock().wishes().is_polled = true;
        self.0.call();
    }

    /// Wishes that the connection ends at once; what waits for it is gone.
    pub fn cut(&self, close: Close) {
        self.0.lock().wishes().cut(close);
        self.0.call();
    }

    /// Puts a message into the outbox; the connection sends it when its client reads, unless that is
    /// after `expires`.
    ///
    /// # Errors
    /// When there is no room, and the connection is cut then, with 4508; or when it is at its end.
    pub fn push(&self, message: Message, expires: Option<Instant>) -> Result<(), NotTaken> {
        let offered = {
            let mut shared = self.0.lock();
            let offered = shared.outbox.offer(message, expires);
            if offered == Err(NotTaken::Full) {
                shared.wishes().cut(Close::of(Cause::OutboxFull));
            }
            self.0.waiting.store(shared.outbox.len(), Ordering::Release);
            offered
        };
        match offered {
            Ok(()) => self.0.waker.wake(),
            Err(NotTaken::Full) => self.0.call(),
            Err(NotTaken::Ended) => {}
        }
        offered
    }

    /// Whether an event of the connection is at the backend.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.0.busy.load(Ordering::Relaxed)
    }

    /// Payload bytes that wait for the client to read them.
    #[must_use]
    pub fn outbox_bytes(&self) -> usize {
        self.0.lock().outbox.bytes()
    }
}

impl Mailbox {
    /// The other end of the line.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.0))
    }

    /// Ready when there is a wish; each is given out once.
    pub fn poll_wish(&mut self, cx: &mut Context<'_>) -> Poll<Wish> {
        self.0.waker.register(cx.waker());
        if !self.0.is_wished.swap(false, Ordering::Acquire) {
            return Poll::Pending;
        }
        match self.0.lock().take_wish() {
            Some(wish) => {
                // There may be another one.
                self.0.is_wished.store(true, Ordering::Release);
                Poll::Ready(wish)
            }
            None => Poll::Pending,
        }
    }

    /// What wakes the connection when something else happens to it, so that
    /// [`take_stir`](Self::take_stir) knows.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.0))
    }

    /// Whether the [`waker`](Self::waker) was used since the last call. Call it after
    /// [`poll_wish`](Self::poll_wish), or what happens in between wakes nobody.
    #[must_use]
    pub fn take_stir(&self) -> bool {
        self.0.is_stirred.swap(false, Ordering::Acquire)
    }

    /// Says whether an event of the connection is at the backend.
    pub fn set_busy(&self, busy: bool) {
        self.0.busy.store(busy, Ordering::Relaxed);
    }

    /// Whether a message waits.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        self.0.waiting.load(Ordering::Acquire) > 0
    }

    /// Puts a message into the outbox.
    ///
    /// # Errors
    /// When there is no room, or the connection is at its end.
    pub fn offer(&self, message: Message) -> Result<(), NotTaken> {
        self.with_outbox(|outbox| outbox.offer(message, None))
    }

    /// The bytes of the message whose turn it is.
    #[must_use]
    pub fn next(&self, now: Instant) -> Option<usize> {
        self.with_outbox(|outbox| outbox.next(now))
    }

    /// Takes the message whose turn it is.
    #[must_use]
    pub fn take(&self) -> Option<Message> {
        self.with_outbox(Outbox::take)
    }

    /// Takes nothing more for the client; what waits still goes out.
    pub fn seal(&self) {
        self.with_outbox(Outbox::seal);
    }

    /// Takes nothing more for the client and drops what waits.
    pub fn abandon(&self) {
        self.with_outbox(|outbox| {
            outbox.seal();
            outbox.clear();
        });
    }

    /// Whether less than half of the outbox is taken.
    #[must_use]
    pub fn is_low(&self) -> bool {
        !self.has_waiting() || self.with_outbox(|outbox| outbox.is_low())
    }

    /// What became of the outbox since the last call.
    #[must_use]
    pub fn account(&self) -> Account {
        self.with_outbox(Outbox::account)
    }

    fn with_outbox<T>(&self, act: impl FnOnce(&mut Outbox) -> T) -> T {
        let mut shared = self.0.lock();
        let result = act(&mut shared.outbox);
        self.0.waiting.store(shared.outbox.len(), Ordering::Release);
        result
    }
}

impl Shared {
    fn new(bounds: &config::Outbox) -> Self {
        Self { outbox: Outbox::new(bounds), wishes: None }
    }

    fn wishes(&mut self) -> &mut Wishes {
        self.wishes.get_or_insert_default()
    }

    fn take_wish(&mut self) -> Option<Wish> {
        let wish = self.wishes.as_mut()?.take();
        if wish.is_none() {
            self.wishes = None;
        }
        wish
    }
}

impl Wishes {
    fn cut(&mut self, close: Close) {
        if !matches!(self.end, Some(Wish::Cut(_))) {
            self.end = Some(Wish::Cut(close));
        }
    }

    fn take(&mut self) -> Option<Wish> {
        let trace = self.trace.take().map(Wish::Trace);
        let wish = trace.or_else(|| self.refresh.take().map(Wish::Refresh));
        let polled = || std::mem::take(&mut self.is_polled).then_some(Wish::Poll);
        wish.or_else(polled).or_else(|| self.end.take())
    }
}

impl Wake for Line {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_stirred.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the connection to see a wish.
    fn call(&self) {
        self.is_wished.store(true, Ordering::Release);
        self.waker.wake();
    }
}
