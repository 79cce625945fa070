//! What waits for one client to read it: bounded in bytes and in messages.
//!
//! Messages are shared, not copied; their payload is charged to each outbox that holds them. One
//! message fits an empty outbox whatever its size, so that a bound can never lock a client out.

use std::collections::VecDeque;

use crate::config;
use crate::message::Message;

/// Messages for one client, oldest first.
#[derive(Debug)]
pub struct Outbox {
    queue: VecDeque<Message>,
    /// Payload bytes in the queue.
    bytes: usize,
    /// The most bytes there have been.
    peak: usize,
    /// Messages that made room for newer ones, since they were last asked for.
    dropped: usize,
    /// Whether nothing is taken any more: the close frame goes out, or the connection is cut.
    is_sealed: bool,
    max_bytes: usize,
    max_messages: usize,
    when_full: config::WhenFull,
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
            queue: VecDeque::new(),
            bytes: 0,
            peak: 0,
            dropped: 0,
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
    pub fn offer(&mut self, message: Message) -> Result<(), NotTaken> {
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
        self.queue.push_back(message);
        Ok(())
    }

    /// The bytes of the message whose turn it is.
    #[must_use]
    pub fn next(&self) -> Option<usize> {
        self.queue.front().map(|message| message.data().len())
    }

    /// Takes the message whose turn it is.
    pub fn take(&mut self) -> Option<Message> {
        let message = self.queue.pop_front()?;
        self.bytes -= message.data().len();
        if self.queue.is_empty() {
            // An idle connection keeps no buffer.
            self.queue = VecDeque::new();
        }
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
        self.queue = VecDeque::new();
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
        self.queue.is_empty()
    }

    /// Payload bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The most bytes that ever waited.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.peak
    }

    /// Messages that made room for newer ones since the last call.
    pub fn take_dropped(&mut self) -> usize {
        std::mem::take(&mut self.dropped)
    }

    fn has_room(&self, message: &Message) -> bool {
        self.queue.is_empty()
            || (self.queue.len() < self.max_messages
                && message.data().len() <= self.max_bytes.saturating_sub(self.bytes))
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
        let mut full = outbox(WhenFull::Close);
        assert!((0..4).all(|_| full.offer(message(1)) == Ok(())));
        assert_eq!(
            (full.offer(message(0)), full.bytes(), full.next()),
            (Err(NotTaken::Full), 0, None)
        );
        let mut large = outbox(WhenFull::Close);
        assert_eq!(large.offer(message(1000)), Ok(()));
        assert_eq!(large.offer(message(24)), Ok(()));
        assert_eq!((large.bytes(), large.offer(message(1))), (1024, Err(NotTaken::Full)));
        assert_eq!(large.offer(message(1)), Err(NotTaken::Ended), "the connection is being closed");
        assert_eq!(large.peak(), 1024);
    }

    #[test]
    fn the_oldest_make_room_for_the_newest() {
        let mut outbox = outbox(WhenFull::DropOldest);
        for bytes in 100..104 {
            assert_eq!(outbox.offer(message(bytes)), Ok(()));
        }
        assert_eq!((outbox.offer(message(1)), outbox.take_dropped()), (Ok(()), 1));
        assert_eq!((outbox.offer(message(1000)), outbox.take_dropped()), (Ok(()), 3));
        assert_eq!((outbox.bytes(), outbox.next()), (1001, Some(1)));
    }

    #[test]
    fn one_message_always_fits_and_an_empty_outbox_holds_nothing() {
        let mut outbox = outbox(WhenFull::Close);
        assert_eq!(outbox.offer(message(5000)), Ok(()));
        assert_eq!(outbox.take().map(|message| message.data().len()), Some(5000));
        assert_eq!((outbox.bytes(), outbox.queue.capacity(), outbox.take()), (0, 0, None));
    }
}
