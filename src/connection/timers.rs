//! What a backend wants done on a connection by the clock: to be asked, and to have things sent. Few
//! backends want any of it, so a connection has room for it only then. No clock of its own.

use std::time::Duration;

use tokio::time::Instant;

use crate::event::{Content, KeepAlive, Outcome};
use crate::task::Backoff;

/// The wishes of one connection's backend.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// How long without an event until the backend is asked, and when that is.
    poll: Option<(Duration, Instant)>,
    /// When the backend is to be asked, whatever the interval says.
    wanted: Option<Instant>,
    /// The number of the question that is at the backend.
    asked: Option<u64>,
    /// The pauses between questions that came to no backend; none since one did.
    pauses: Option<Backoff>,
    /// What is sent so that the way stays open, and when it is next.
    keep_alive: Option<(Box<KeepAlive>, Instant)>,
    /// What is sent once, and when.
    later: Option<(Box<Content>, Instant)>,
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Ask the backend.
    Poll,
    /// Send this to the client.
    Send(Content),
}

/// Pauses between questions that came to no backend, which has no place for more or is not there.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

impl Timers {
    /// The backend is asked whenever there was no event for so long, or no more.
    pub(super) fn poll_every(&mut self, interval: Option<Duration>, now: Instant) {
        self.poll = interval.map(|interval| (interval, now + interval));
    }

    /// The backend is asked as soon as it can be.
    pub(super) fn poll_soon(&mut self, now: Instant) {
        self.wanted.get_or_insert(now);
    }

    /// The question of this number is at the backend.
    pub(super) fn asked(&mut self, sequence: u64) {
        self.asked = Some(sequence);
    }

    /// Whether the event of this number was a question that certainly came to no backend; it is then
    /// asked again after a pause.
    pub(super) fn is_asked_again(
        &mut self,
        sequence: u64,
        outcome: &Outcome,
        now: Instant,
    ) -> bool {
        if self.asked.take_if(|asked| *asked == sequence).is_none() {
            return false;
        }
        if !matches!(outcome, Outcome::Unavailable | Outcome::Overloaded) {
            self.pauses = None;
            return false;
        }
        let pauses = self.pauses.get_or_insert(Backoff::new(PAUSE_FIRST, PAUSE_MAX));
        self.wanted = Some(now + pauses.delay());
        true
    }

    /// The backend has answered an event.
    pub(super) fn answered(&mut self, now: Instant) {
        if let Some((interval, at)) = &mut self.poll {
            *at = now + *interval;
        }
    }

    /// This is sent whenever it is due, or nothing any more.
    pub(super) fn keep_alive(&mut self, keep_alive: Option<Box<KeepAlive>>, now: Instant) {
        self.keep_alive = keep_alive.map(|keep| {
            let at = now + keep.after;
            (keep, at)
        });
    }

    /// A message went to the client.
    pub(super) fn sent(&mut self, now: Instant) {
        if let Some((keep, at)) = &mut self.keep_alive
            && !keep.is_steady
        {
            *at = now + keep.after;
        }
    }

    /// This is sent then.
    pub(super) fn send_at(&mut self, at: Instant, content: Box<Content>) {
        self.later = Some((content, at));
    }

    /// What was to be sent later, which is not any more.
    pub(super) fn take_later(&mut self) -> Option<Content> {
        self.later.take().map(|(content, _)| *content)
    }

    /// When [`next`](Self::next) is worth a call.
    pub(super) fn due(&self, may_poll: bool) -> Option<Instant> {
        let poll = self.wanted.or(self.poll.map(|(_, at)| at)).filter(|_| may_poll);
        let keep_alive = self.keep_alive.as_ref().map(|(_, at)| *at);
        let later = self.later.as_ref().map(|(_, at)| *at);
        [poll, keep_alive, later].into_iter().flatten().min()
    }

    /// One thing that is due at `now`.
    pub(super) fn next(&mut self, may_poll: bool, now: Instant) -> Option<Due> {
        if let Some((content, _)) = self.later.take_if(|(_, at)| *at <= now) {
            return Some(Due::Send(*content));
        }
        if let Some((keep, at)) = &mut self.keep_alive
            && *at <= now
        {
            *at = now + keep.after;
            return Some(Due::Send(keep.content.clone()));
        }
        let poll = self.wanted.or(self.poll.map(|(_, at)| at));
        let is_due = poll.is_some_and(|at| at <= now);
        if !may_poll || !is_due {
            return None;
        }
        self.wanted = None;
        self.answered(now);
        Some(Due::Poll)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn text(text: &str) -> Content {
        Content::Message(Message::text(text))
    }

    #[test]
    fn the_backend_is_asked_after_silence_and_when_somebody_wants_it() {
        let (start, mut timers) = (Instant::now(), Timers::default());
        assert_eq!((timers.due(true), timers.next(true, start)), (None, None));
        timers.poll_every(Some(secs(20)), start);
        assert_eq!(timers.due(true), Some(start + secs(20)));
        assert_eq!(timers.due(false), None, "an event is there already");
        timers.answered(start + secs(10));
        assert_eq!(timers.next(true, start + secs(29)), None);
        assert_eq!(timers.next(false, start + secs(30)), None);
        assert_eq!(timers.next(true, start + secs(30)), Some(Due::Poll));
        assert_eq!(timers.due(true), Some(start + secs(50)));
        timers.poll_soon(start + secs(31));
        assert_eq!(timers.due(true), Some(start + secs(31)));
        assert_eq!(timers.next(true, start + secs(31)), Some(Due::Poll));
        assert_eq!(timers.due(true), Some(start + secs(51)), "that was an event");
        timers.poll_every(None, start);
        assert_eq!(timers.due(true), None);
    }

    #[test]
    fn what_keeps_the_way_open_comes_after_silence_or_at_its_pace() {
        let start = Instant::now();
        for (is_steady, second) in [(false, 15), (true, 10)] {
            let mut timers = Timers::default();
            let keep = KeepAlive { content: text("k"), after: secs(10), is_steady };
            timers.keep_alive(Some(Box::new(keep)), start);
            timers.sent(start + secs(5));
            assert_eq!(timers.due(false), Some(start + secs(second)));
            assert_eq!(timers.next(false, start + secs(second)), Some(Due::Send(text("k"))));
            assert_eq!(timers.due(false), Some(start + secs(second + 10)));
            timers.keep_alive(None, start);
            assert_eq!(timers.due(false), None);
        }
    }

    #[test]
    fn what_is_sent_later_is_sent_once() {
        let (start, mut timers) = (Instant::now(), Timers::default());
        timers.send_at(start + secs(2), Box::new(text("a")));
        assert_eq!(timers.due(true), Some(start + secs(2)));
        assert_eq!(timers.take_later(), Some(text("a")));
        timers.send_at(start + secs(3), Box::new(text("b")));
        assert_eq!(timers.next(true, start + secs(2)), None);
        assert_eq!(timers.next(true, start + secs(3)), Some(Due::Send(text("b"))));
        assert_eq!((timers.due(true), timers.take_later()), (None, None));
    }
}
