//! Holding events while no backend is there: a line for each place, in the order of arrival.
//!
//! Who stands first in a line tries again, with jittered pauses that belong to the line and not to
//! whoever stands first, so that a short hold under load still tries. Once one got through, the
//! line is open: each goes as soon as the one before it was sent, so order is kept without waiting
//! for answers. What all lines together hold is bounded in bytes.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::task::Backoff;

/// The lines of one node. Clones share them.
#[derive(Debug, Clone)]
pub struct Hold {
    budget: Arc<Budget>,
    /// By the name of where they go, and whether a fence stops those who wait. Routes keep their lines
    /// alive; an entry of a route that is gone is empty. Held only while a route is made.
    lines: Arc<Mutex<Lines>>,
}

type Lines = HashMap<(String, bool), Weak<Line>>;

#[derive(Debug)]
struct Budget {
    max: AtomicUsize,
    used: AtomicUsize,
}

/// Those who wait for a backend at one place.
#[derive(Debug)]
pub(super) struct Line {
    budget: Arc<Budget>,
    /// How many wait, to be read without the lock by every event that comes.
    len: AtomicUsize,
    /// Held for a few instructions, never across an await.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// By number, so that one that comes back stands where it stood.
    waiting: BTreeMap<u64, Arc<Notify>>,
    next: u64,
    /// When the first may try; none while the line is open.
    try_at: Option<Instant>,
    pauses: Backoff,
}

/// A place in a line and the bytes it holds. Leaves the line on drop.
#[derive(Debug)]
pub(super) struct Place {
    line: Arc<Line>,
    number: u64,
    /// Woken when all before have left.
    turn: Arc<Notify>,
    bytes: usize,
}

/// Pauses between tries. A try costs a quarter of a millisecond and one message; 250 ms is what a
/// worker that starts is noticed within.
const PAUSE_FIRST: Duration = Duration::from_millis(25);
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// What an event takes beside its payload.
const OVERHEAD: usize = 1024;

impl Hold {
    /// Lines that together hold at most `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        let budget = Arc::new(Budget { max: AtomicUsize::new(max), used: AtomicUsize::new(0) });
        Self { budget, lines: Arc::default() }
    }

    /// Makes it `max` bytes. What is held beyond that stays held.
    pub fn set_max(&self, max: usize) {
        self.budget.max.store(max, Ordering::Relaxed);
    }

    /// The line of those who wait to go to `place` (a subject, or one of a service), the same for every
    /// route that sends there; but who is stopped by a fence must not stand before those who are not.
    pub(super) fn line(&self, place: &str, is_fenced: bool) -> Arc<Line> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (place.to_owned(), is_fenced);
        if let Some(line) = lines.get(&key).and_then(Weak::upgrade) {
            return line;
        }
        lines.retain(|_, line| line.strong_count() > 0);
        let line = Arc::new(Line::new(Arc::clone(&self.budget)));
        lines.insert(key, Arc::downgrade(&line));
        line
    }

    /// The bytes that wait now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.budget.used.load(Ordering::Acquire)
    }
}

impl Line {
    fn new(budget: Arc<Budget>) -> Self {
        let state = State {
            waiting: BTreeMap::new(),
            next: 0,
            try_at: None,
            pauses: Backoff::new(PAUSE_FIRST, PAUSE_MAX),
        };
        Self { budget, len: AtomicUsize::new(0), state: Mutex::new(state) }
    }

    /// Whether nobody waits, so that a new event need not.
    pub(super) fn is_empty(&self) -> bool {
        self.len.load(Ordering::Acquire) == 0
    }

    /// A place at the end for an event of this size; none when the node holds too much already.
    pub(super) fn join(self: &Arc<Self>, payload: usize, now: Instant) -> Option<Place> {
        let bytes = payload.saturating_add(OVERHEAD);
        let max = self.budget.max.load(Ordering::Relaxed);
        let within = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= max);
        let used = &self.budget.used;
        used.fetch_update(Ordering::AcqRel, Ordering::Acquire, within).ok()?;
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        if state.waiting.is_empty() {
            state.pauses.reset();
            state.close(now);
        }
        let turn = Arc::new(Notify::new());
        state.waiting.insert(number, Arc::clone(&turn));
        self.len.store(state.waiting.len(), Ordering::Release);
        Some(Place { line: Arc::clone(self), number, turn, bytes })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Nobody gets through: the first tries again after a pause.
    fn close(&mut self, now: Instant) {
        self.try_at = Some(now + self.pauses.delay());
    }
}

impl Place {
    /// Waits to stand first. Cancel safe.
    pub(super) async fn turn(&self) {
        while !self.is_first() {
            self.turn.notified().await;
        }
    }

    /// When the first in line may try; none when the line is open and it may at once.
    pub(super) fn try_at(&self) -> Option<Instant> {
        self.line.lock().try_at
    }

    /// A try got through: all may go, one after the other.
    pub(super) fn open(&self) {
        let mut state = self.line.lock();
        state.try_at = None;
        state.pauses.reset();
    }

    /// A try did not get through: the first waits again.
    pub(super) fn close(&self, now: Instant) {
        self.line.lock().close(now);
    }

    /// Lets the next one go; the bytes stay counted.
    pub(super) fn leave(&self) {
        let mut state = self.line.lock();
        state.waiting.remove(&self.number);
        self.line.len.store(state.waiting.len(), Ordering::Release);
        if let Some((_, first)) = state.waiting.first_key_value() {
            first.notify_one();
        }
    }

    /// Stands again where it stood, after it left and did not get through.
    pub(super) fn come_back(&self, now: Instant) {
        let mut state = self.line.lock();
        state.waiting.insert(self.number, Arc::clone(&self.turn));
        self.line.len.store(state.waiting.len(), Ordering::Release);
        state.close(now);
    }

    fn is_first(&self) -> bool {
        self.line.lock().waiting.first_key_value().is_some_and(|(first, _)| *first == self.number)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
        self.line.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    const PLACE: &str = "moorline.default.in.message";

    fn line(hold: &Hold) -> Arc<Line> {
        hold.line(PLACE, false)
    }

    fn has_turn(place: &Place) -> bool {
        place.turn().now_or_never().is_some()
    }

    #[test]
    fn places_have_their_turn_in_order() {
        let (hold, now) = (Hold::new(1 << 20), Instant::now());
        let line = line(&hold);
        assert!(line.is_empty());
        let [a, b, c] = [0; 3].map(|_| line.join(1, now).unwrap());
        assert!(!line.is_empty() && has_turn(&a) && !has_turn(&b) && !has_turn(&c));
        let first = a.try_at().unwrap();
        assert!(first > now && first <= now + PAUSE_FIRST);
        a.open();
        assert_eq!(b.try_at(), None);
        a.leave();
        assert!(has_turn(&b) && !has_turn(&c));
        b.leave();
        assert!(has_turn(&c));
        // What was sent but not taken stands before those that came after it.
        b.come_back(now);
        a.come_back(now);
        assert!(has_turn(&a) && !has_turn(&b) && !has_turn(&c));
        assert!(c.try_at().is_some());
        drop(a);
        drop(c);
        assert!(has_turn(&b));
        drop(b);
        assert!(line.is_empty());
        assert_eq!(hold.used(), 0);
    }

    #[test]
    fn pauses_belong_to_the_line() {
        let (hold, now) = (Hold::new(1 << 20), Instant::now());
        let line = line(&hold);
        let (a, b) = (line.join(1, now).unwrap(), line.join(1, now).unwrap());
        for _ in 0..10 {
            a.close(now);
        }
        let pause = a.try_at().unwrap() - now;
        assert!(pause >= PAUSE_MAX / 2 && pause <= PAUSE_MAX, "{pause:?}");
        drop(a);
        assert_eq!(b.try_at(), Some(now + pause), "the next one goes on with it");
        drop(b);
        let c = line.join(1, now).unwrap();
        assert!(c.try_at().unwrap() <= now + PAUSE_FIRST, "a new line starts anew");
    }

    #[test]
    fn the_bytes_of_all_lines_are_bounded() {
        let (hold, now) = (Hold::new(3 * OVERHEAD), Instant::now());
        let line = line(&hold);
        let a = line.join(OVERHEAD, now).unwrap();
        assert!(line.join(1, now).is_none());
        let b = line.join(0, now).unwrap();
        assert!(line.join(usize::MAX, now).is_none());
        assert_eq!(hold.used(), 3 * OVERHEAD);
        a.leave();
        assert_eq!(hold.used(), 3 * OVERHEAD, "held until it has an outcome");
        drop((a, b));
        assert_eq!(hold.used(), 0);
        hold.set_max(OVERHEAD);
        assert!(line.join(1, now).is_none());
        assert!(line.join(0, now).is_some());
    }

    #[test]
    fn a_place_has_one_line_while_any_route_has() {
        let hold = Hold::new(1);
        let (a, b) = (line(&hold), line(&hold));
        assert!(Arc::ptr_eq(&a, &b));
        assert!(!Arc::ptr_eq(&a, &hold.line(PLACE, true)), "the fence is for some only");
        drop((a, b));
        let _c = line(&hold);
        assert_eq!(hold.lines.lock().unwrap().len(), 1);
    }
}
