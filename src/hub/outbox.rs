//! What waits for one client to read it: bounded in bytes and in messages.
//!
//! Messages are shared, not copied; their payload is charged to each outbox that holds them. One
//! message fits an empty outbox whatever its size, so that a bound can never lock a client out.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::config;
use crate::message::Message;

/// Messages for one client, oldest first.
#[derive(Debug)]
pub struct Outbox {
    queue: Queue,
    /// Payload bytes in the queue.
    bytes: usize,
    /// The most bytes there have been.
    peak: usize,
    /// Messages that made room for newer ones, since they were last asked for.
    dropped: usize,
    /// Messages that came too late, since they were last asked for.
    expired: usize,
    /// Whether nothing is taken any more: the close frame goes out, or the connection is cut.
    is_sealed: bool,
    max_bytes: usize,
    max_messages: usize,
    when_full: config::WhenFull,
}

/// Messages that wait. One that is alone, as almost every one is, takes no allocation.
#[derive(Debug, Default)]
enum Queue {
    #[default]
    Empty,
    One(Waiting),
    Many(VecDeque<Waiting>),
}

/// A message that waits.
#[derive(Debug)]
struct Waiting {
    message: Message,
    /// When it is of no use any more.
    expires: Option<Instant>,
}

/// What became of an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Account {
    /// Payload bytes that wait.
    pub bytes: usize,
    /// The most that ever did.
    pub peak: usize,
    /// Messages that made room for newer ones.
    pub dropped: usize,
    /// Messages that came too late to be sent.
    pub expired: usize,
}

/// Why a message is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// There is no room, and the route closes then. Nothing waits any more.
    #[error("the outbox is full")]
    Full,
    /// The connection is at its end.
    #[error("the connection is at its end")]
    Ended,
}

impl Outbox {
    /// An empty outbox with the route's bounds.
    #[must_use]
    pub fn new(bounds: &config::Outbox) -> Self {
        Self {
            queue: Queue::Empty,
            bytes: 0,
            peak: 0,
            dropped: 0,
            expired: 0,
            is_sealed: false,
            max_bytes: bounds.max_bytes.bytes(),
            max_messages: bounds.max_messages,
            when_full: bounds.when_full,
        }
    }

    /// Puts a message at the end. Where the route says so, the oldest make room for it.
    ///
    /// # Errors
    /// When there is no room, or it is sealed.
    pub fn offer(&mut self, message: Message, expires: Option<Instant>) -> Result<(), NotTaken> {
        if self.is_sealed {
            return Err(NotTaken::Ended);
        }
        while !self.has_room(&message) {
            if self.when_full == config::WhenFull::Close {
                self.seal();
                self.clear();
                return Err(NotTaken::Full);
            }
            self.take();
            self.dropped += 1;
        }
        self.bytes += message.data().len();
        self.peak = self.peak.max(self.bytes);
        self.queue.push(Waiting { message, expires });
        Ok(())
    }

    /// The bytes of the message whose turn it is. Those before it that came too late are gone.
    pub fn next(&mut self, now: Instant) -> Option<usize> {
        while self.queue.front().is_some_and(|next| next.expires.is_some_and(|end| end <= now)) {
            self.take();
            self.expired += 1;
        }
        self.queue.front().map(|next| next.message.data().len())
    }

    /// Takes the message whose turn it is.
    pub fn take(&mut self) -> Option<Message> {
        let Waiting { message, .. } = self.queue.pop()?;
        self.bytes -= message.data().len();
        Some(message)
    }

    /// Takes nothing any more; what waits still goes out.
    pub fn seal(&mut self) {
        self.is_sealed = true;
    }

    /// Whether less than half of the room is taken.
    #[must_use]
    pub fn is_low(&self) -> bool {
        self.bytes < self.max_bytes / 2 && self.queue.len() <= self.max_messages / 2
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.queue = Queue::Empty;
        self.bytes = 0;
    }

    /// Messages that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Payload bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How full it is, and what was lost since the last call.
    pub fn account(&mut self) -> Account {
        let (dropped, expired) =
            (std::mem::take(&mut self.dropped), std::mem::take(&mut self.expired));
        Account { bytes: self.bytes, peak: self.peak, dropped, expired }
    }

    fn has_room(&self, message: &Message) -> bool {
        self.is_empty()
            || (self.queue.len() < self.max_messages
                && message.data().len() <= self.max_bytes.saturating_sub(self.bytes))
    }
}

impl Queue {
    fn push(&mut self, waiting: Waiting) {
        *self = match std::mem::take(self) {
            Self::Empty => Self::One(waiting),
            Self::One(first) => Self::Many(VecDeque::from([first, waiting])),
            Self::Many(mut many) => {
                many.push_back(waiting);
                Self::Many(many)
            }
        };
    }

    fn pop(&mut self) -> Option<Waiting> {
        match self {
            Self::Many(many) => {
                let first = many.pop_front();
                // An idle connection keeps no buffer.
                if many.is_empty() {
                    *self = Self::Empty;
                }
                first
            }
            _ => match std::mem::take(self) {
                Self::One(only) => Some(only),
                _ => None,
            },
        }
    }

    fn front(&self) -> Option<&Waiting> {
        match self {
            Self::Empty => None,
            Self::One(only) => Some(only),
            Self::Many(many) => many.front(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::One(_) => 1,
            Self::Many(many) => many.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Size, WhenFull};

    fn outbox(when_full: WhenFull) -> Outbox {
        Outbox::new(&config::Outbox { max_bytes: Size::kib(1), max_messages: 4, when_full })
    }

    fn message(bytes: usize) -> Message {
        Message::binary(vec![0; bytes])
    }

    #[test]
    fn bytes_and_messages_are_bounded() {
        let now = Instant::now();
        let mut full = outbox(WhenFull::Close);
        assert!((0..4).all(|_| full.offer(message(1), None) == Ok(())));
        assert_eq!(
            (full.offer(message(0), None), full.bytes(), full.next(now)),
            (Err(NotTaken::Full), 0, None)
        );
        let mut large = outbox(WhenFull::Close);
        assert_eq!(large.offer(message(1000), None), Ok(()));
        assert_eq!(large.offer(message(24), None), Ok(()));
        assert_eq!((large.bytes(), large.offer(message(1), None)), (1024, Err(NotTaken::Full)));
        assert_eq!(
            large.offer(message(1), None),
            Err(NotTaken::Ended),
            "the connection is being closed"
        );
        assert_eq!(large.account().peak, 1024);
    }

    #[test]
    fn the_oldest_make_room_for_the_newest() {
        let now = Instant::now();
        let mut outbox = outbox(WhenFull::DropOldest);
        for bytes in 100..104 {
            assert_eq!(outbox.offer(message(bytes), None), Ok(()));
        }
        assert_eq!((outbox.offer(message(1), None), outbox.account().dropped), (Ok(()), 1));
        assert_eq!((outbox.offer(message(1000), None), outbox.account().dropped), (Ok(()), 3));
        assert_eq!((outbox.bytes(), outbox.next(now)), (1001, Some(1)));
    }

    #[test]
    fn one_message_always_fits_and_an_empty_outbox_holds_nothing() {
        let mut outbox = outbox(WhenFull::Close);
        assert_eq!(outbox.offer(message(5000), None), Ok(()));
        assert_eq!(outbox.take().map(|message| message.data().len()), Some(5000));
        assert_eq!((outbox.bytes(), outbox.take()), (0, None));
        assert!(matches!(outbox.queue, Queue::Empty));
    }
}
