//! Messages that wait in the node's subscriptions, bounded in bytes over all of them together.
//!
//! A subscription may hold as much as all of them leave free: one that is flooded takes half of the
//! room, two a third each, and who takes its messages in time finds some left whatever the others do.
//! Knows nothing of the client library but what a message costs.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use async_nats::{HeaderName, HeaderValue};

use super::feed::Delivery;

/// The bytes that are free. Shared by the subscriptions of a node.
#[derive(Debug)]
pub(super) struct Room(AtomicUsize);

/// What waits in one subscription, in the order in which it came.
#[derive(Debug)]
pub(super) struct Backlog {
    room: Arc<Room>,
    /// Held for a move only.
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Each with the bytes that it takes.
    messages: VecDeque<(usize, Delivery)>,
    bytes: usize,
    /// Nothing more will come.
    is_closed: bool,
    /// Who found nothing.
    taker: Option<Waker>,
}

/// Bytes of all messages that wait. One connection carries some 100,000 small messages a second into a
/// busy process, so half of it is a pause of half a second; and it is little beside what a node with
/// many clients has.
pub(super) const ROOM: usize = 64 << 20;
/// Bytes of a message besides its payload: its place in the queue, which grows by doubling, and the
/// allocations of its payload and its subjects.
const MESSAGE: usize = 512;
/// Bytes of a header's name and of each of its values besides their text, in the library's map.
const NAME: usize = 256;
const VALUE: usize = 64;
/// Places that an empty queue keeps.
const KEPT: usize = 64;

impl Room {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(bytes)))
    }

    /// Takes some more for one who holds some; whether it may.
    fn take(&self, more: usize, held: usize) -> bool {
        let less = |free: usize| (held.saturating_add(more) <= free).then(|| free - more);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn give(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Backlog {
    pub(super) fn new(room: &Arc<Room>) -> Self {
        Self { room: Arc::clone(room), waiting: Mutex::default() }
    }

    /// Puts a message behind the others; whether there was room for it.
    pub(super) fn offer(&self, message: Delivery) -> bool {
        let size = cost(&message);
        let mut waiting = self.lock();
        if !self.room.take(size, waiting.bytes) {
            return false;
        }
        waiting.bytes += size;
        waiting.messages.push_back((size, message));
        let taker = waiting.taker.take();
        drop(waiting);
        taker.into_iter().for_each(Waker::wake);
        true
    }

    /// Tells that nothing more will come.
    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        waiting.is_closed = true;
        let taker = waiting.taker.take();
        drop(waiting);
        taker.into_iter().for_each(Waker::wake);
    }

    /// Takes the first message; none once there is none and nothing more will come. Only the last who
    /// asked is woken.
    pub(super) fn poll_next(&self, cx: &Context<'_>) -> Poll<Option<Delivery>> {
        let mut waiting = self.lock();
        let Some((size, message)) = waiting.messages.pop_front() else {
            if waiting.is_closed {
                return Poll::Ready(None);
            }
            waiting.taker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        waiting.bytes -= size;
        if waiting.messages.is_empty() && waiting.messages.capacity() > KEPT {
            waiting.messages = VecDeque::new();
        }
        self.room.give(size);
        Poll::Ready(Some(message))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        self.room.give(self.lock().bytes);
    }
}

/// About what a message takes in memory. Headers weigh far more there than on the wire.
fn cost(message: &Delivery) -> usize {
    let header = |name: &HeaderName, values: &Vec<HeaderValue>| {
        let name: &str = name.as_ref();
        NAME + name.len() + values.iter().map(|value| VALUE + value.as_str().len()).sum::<usize>()
    };
    let headers: usize = message.headers.iter().map(|(name, values)| header(name, values)).sum();
    let reply = message.reply.as_ref().map_or(0, |reply| reply.len());
    MESSAGE + message.subject.len() + reply + message.payload.len() + headers
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderMap;

    use super::*;

    const KIB: usize = 1024;

    fn message(bytes: usize) -> Delivery {
        let (subject, headers) = ("x".into(), HeaderMap::new());
        Delivery { subject, reply: None, headers, payload: vec![0; bytes - MESSAGE - 1].into() }
    }

    fn fill(backlog: &Backlog) -> usize {
        std::iter::from_fn(|| backlog.offer(message(KIB)).then_some(())).count()
    }

    fn take(backlog: &Backlog) -> Option<Delivery> {
        match backlog.poll_next(&Context::from_waker(Waker::noop())) {
            Poll::Ready(message) => message,
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_flood_leaves_room_for_the_others_and_all_of_it_comes_back() {
        let room = Room::new(600 * KIB);
        let [one, two, three] = [(); 3].map(|()| Backlog::new(&room));
        assert_eq!(fill(&one), 300);
        assert_eq!(fill(&two), 150);
        assert_eq!(fill(&three), 75);
        assert!(take(&three).is_some());
        assert_eq!(fill(&three), 1, "some is free again");
        drop((two, three));
        assert_eq!(fill(&one), 0, "as much as it leaves");
        assert_eq!(std::iter::from_fn(|| take(&one)).count(), 300);
        assert_eq!(room.0.load(Ordering::Relaxed), 600 * KIB);
        assert!(one.lock().messages.capacity() <= KEPT, "an empty queue is small");
    }

    #[test]
    fn messages_come_in_order_and_wake_who_waits() {
        struct Flag(std::sync::atomic::AtomicBool);
        impl std::task::Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let backlog = Backlog::new(&Room::new(ROOM));
        let flag = Arc::new(Flag(false.into()));
        let waker = Waker::from(Arc::clone(&flag));
        assert!(backlog.poll_next(&Context::from_waker(&waker)).is_pending());
        for size in [700, 600, 800] {
            assert!(backlog.offer(message(size)));
            assert!(flag.0.load(Ordering::Relaxed));
        }
        let sizes: Vec<_> = std::iter::from_fn(|| take(&backlog)).map(|m| cost(&m)).collect();
        assert_eq!(sizes, [700, 600, 800]);
    }

    #[test]
    fn what_is_all_headers_is_counted_as_what_it_takes() {
        let mut headers = HeaderMap::new();
        (0..1000).for_each(|n| headers.insert(format!("{n}"), ""));
        let all = cost(&Delivery { headers, ..message(KIB) });
        assert!(all > 1000 * (NAME + VALUE), "{all}");
    }
}
