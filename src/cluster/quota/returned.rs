//! What is left to do about slots that nobody needs any more, in the order in which it is due.
//!
//! Bounded: what finds no room is counted, and the whole bucket is looked through for it later.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::id::ConnectionId;
use crate::nats::{Key, Revision};

/// The work that waits, for one task that does it.
#[derive(Debug)]
pub(super) struct Returned {
    /// Held to put in or take out.
    queue: Mutex<Queue>,
    /// There may be something to do.
    news: Notify,
    max: usize,
    /// What found no room.
    left_out: IntCounter,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Work {
    /// To forget a slot that a connection had.
    Forget(Key, Revision),
    /// To look whether this connection has a slot, for the answer to its write was lost, and to forget
    /// it then.
    Look(Key, ConnectionId),
    /// To look through the whole bucket.
    Sweep,
}

#[derive(Debug, Default)]
struct Queue {
    now: VecDeque<Work>,
    /// Each with when it is due. All wait for as long, so the first one is due first.
    later: VecDeque<(Instant, Work)>,
    /// A sweep waits: what finds no room meanwhile is its business, too.
    is_sweeping: bool,
    /// How much was taken out and is not done yet.
    under_way: usize,
    /// Nothing waits until it is due.
    is_urgent: bool,
}

/// How long a write whose answer was lost may still be on its way.
const PAUSE: Duration = Duration::from_secs(5);

impl Returned {
    /// Room for so many.
    pub(super) fn new(max: usize, left_out: IntCounter) -> Self {
        Self { queue: Mutex::default(), news: Notify::new(), max, left_out }
    }

    /// Puts in what is to be done.
    pub(super) fn put(&self, work: Work) {
        self.lock().put(work, self.max, &self.left_out, Instant::now());
        self.news.notify_one();
    }

    /// Takes out at most `most` that are due, and waits until there are some. Cancel safe.
    pub(super) async fn take(&self, most: usize) -> Vec<Work> {
        loop {
            let due = {
                let mut queue = self.lock();
                let work = queue.take(most, Instant::now());
                if !work.is_empty() {
                    return work;
                }
                queue.later.front().map(|(due, _)| *due)
            };
            tokio::select! {
                () = self.news.notified() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    /// What was taken out last is done, but for what `failed`.
    pub(super) fn done(&self, failed: Vec<Work>) {
        let mut queue = self.lock();
        queue.under_way = 0;
        queue.now.extend(failed);
    }

    /// Begins, perhaps again: whoever did this before is gone, and with it what was under way.
    pub(super) fn begin(&self) {
        let mut queue = self.lock();
        if std::mem::take(&mut queue.under_way) > 0 {
            queue.sweep_later(Instant::now());
        }
    }

    /// Nothing waits any more until it is due: the node stops.
    pub(super) fn hurry(&self) {
        self.lock().is_urgent = true;
        self.news.notify_one();
    }

    /// Whether everything is done.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn put(&mut self, work: Work, max: usize, left_out: &IntCounter, now: Instant) {
        if self.len() >= max {
            left_out.inc();
            return self.sweep_later(now);
        }
        match work {
            Work::Forget(..) => self.now.push_back(work),
            Work::Look(..) | Work::Sweep => self.later.push_back((now + PAUSE, work)),
        }
    }

    fn sweep_later(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.is_sweeping, true) {
            self.later.push_back((now + PAUSE, Work::Sweep));
        }
    }

    fn take(&mut self, most: usize, now: Instant) -> Vec<Work> {
        let is_urgent = self.is_urgent;
        let due = self.later.partition_point(|(due, _)| is_urgent || *due <= now);
        self.now.extend(self.later.drain(..due).map(|(_, work)| work));
        let work: Vec<_> = self.now.drain(..most.min(self.now.len())).collect();
        // What finds no room from now on may come too late for it.
        self.is_sweeping &= !work.contains(&Work::Sweep);
        self.under_way = work.len();
        work
    }

    fn len(&self) -> usize {
        self.now.len() + self.later.len() + self.under_way
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;

    const MOST: usize = 3;

    fn forget(number: u64) -> Work {
        Work::Forget(Key::of(&["hub", "alice", &number.to_string()]), Revision::test(number))
    }

    fn look() -> Work {
        Work::Look(Key::of(&["hub", "alice", "0"]), ConnectionId::random(NodeId::random()))
    }

    fn returned(max: usize) -> Returned {
        Returned::new(max, IntCounter::new("left_out", "Left out.").unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_doubt_waits_and_what_is_certain_does_not() {
        let (returned, doubt, start) = (returned(100), look(), Instant::now());
        returned.put(doubt.clone());
        (1..=4).for_each(|number| returned.put(forget(number)));
        assert_eq!(returned.take(MOST).await, [forget(1), forget(2), forget(3)]);
        returned.done(vec![forget(2)]);
        assert_eq!(returned.take(MOST).await, [forget(4), forget(2)]);
        returned.done(vec![]);
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(returned.take(MOST).await, [doubt]);
        assert!(start.elapsed() >= PAUSE);
        assert!(!returned.is_empty(), "it is under way");
        returned.done(vec![]);
        assert!(returned.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_stops_waits_for_nothing() {
        let (returned, doubt, start) = (returned(100), look(), Instant::now());
        returned.put(doubt.clone());
        returned.hurry();
        assert_eq!(returned.take(MOST).await, [doubt]);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_finds_no_room_is_counted_and_looked_for_once() {
        let returned = returned(2);
        (1..=5).for_each(|number| returned.put(forget(number)));
        assert_eq!(returned.left_out.get(), 3);
        assert_eq!(returned.take(MOST).await, [forget(1), forget(2)]);
        returned.done(vec![]);
        assert_eq!(returned.take(MOST).await, [Work::Sweep]);
        // It may have looked there already.
        (1..=2).for_each(|number| returned.put(forget(number)));
        assert_eq!(returned.left_out.get(), 4);
        returned.done(vec![]);
        assert_eq!(returned.take(MOST).await, [forget(1)]);
        returned.done(vec![]);
        assert_eq!(returned.take(MOST).await, [Work::Sweep]);
        returned.done(vec![]);
        assert!(returned.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_under_way_in_a_task_that_died_is_looked_for() {
        let returned = returned(100);
        returned.begin();
        assert!(returned.is_empty());
        returned.put(forget(1));
        assert_eq!(returned.take(MOST).await, [forget(1)]);
        returned.begin();
        assert_eq!(returned.take(MOST).await, [Work::Sweep]);
    }
}
