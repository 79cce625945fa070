//! One rate limit at work: a token bucket (GCRA) and what happens above it.
//!
//! Several may wait at one bucket. Each books what it owes, and who comes later waits until that would
//! be paid: so they pass in their order, not all of them wake for one place, and a large message is not
//! passed by small ones for ever.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::clock::{At, NodeClock};
use super::limit::Limit;
use crate::config::{LimitAction, Rate, Size};

/// A limit of one holder in one direction. Shared by reference; it needs no lock.
#[derive(Debug)]
pub(super) struct Bucket {
    limiter: RateLimiter<NotKeyed, InMemoryState, NodeClock, NoOpMiddleware<At>>,
    per_second: NonZeroU32,
    /// The most that is taken at once.
    burst: NonZeroU32,
    /// What those who wait still owe.
    booked: AtomicU64,
    pub(super) limit: Limit,
    pub(super) action: LimitAction,
    pub(super) dry_run: bool,
    pub(super) counts_bytes: bool,
}

impl Bucket {
    /// A bucket for `rate`; none where that is no limit.
    pub(super) fn of_count(rate: &Rate<u32>, limit: Limit) -> Option<Self> {
        let per_second = NonZeroU32::new(rate.per_second)?;
        let burst = NonZeroU32::new(rate.burst()).unwrap_or(per_second);
        Some(Self::new(per_second, burst, rate.action, rate.dry_run, limit, false))
    }

    /// A bucket of bytes for `rate`, which holds at least `least` bytes; none where that is no limit.
    pub(super) fn of_bytes(rate: &Rate<Size>, least: usize, limit: Limit) -> Option<Self> {
        let number = |bytes: usize| NonZeroU32::new(u32::try_from(bytes).unwrap_or(u32::MAX));
        let per_second = number(rate.per_second.bytes())?;
        let burst = number(rate.burst().bytes().max(least)).unwrap_or(per_second);
        Some(Self::new(per_second, burst, rate.action, rate.dry_run, limit, true))
    }

    fn new(
        per_second: NonZeroU32,
        burst: NonZeroU32,
        action: LimitAction,
        dry_run: bool,
        limit: Limit,
        counts_bytes: bool,
    ) -> Self {
        let quota = Quota::per_second(per_second).allow_burst(burst);
        let limiter = RateLimiter::direct_with_clock(quota, NodeClock);
        let booked = AtomicU64::new(0);
        Self { limiter, per_second, burst, booked, limit, action, dry_run, counts_bytes }
    }

    /// Takes all of `due`, if it is there. More than the bucket ever holds never is.
    pub(super) fn take_all(&self, due: u32) -> bool {
        NonZeroU32::new(due).is_none_or(|due| matches!(self.limiter.check_n(due), Ok(Ok(()))))
    }

    /// Takes from the bucket on account of `due`, as much at once as it ever holds: how much it took.
    /// `booked` is what the one who asks has booked here before, and is kept up to date.
    ///
    /// # Errors
    /// How long to wait until it is worth asking again.
    pub(super) fn take_part(&self, due: u32, booked: &mut u32) -> Result<u32, Duration> {
        let Some(part) = NonZeroU32::new(due.min(self.burst.get())) else { return Ok(0) };
        if *booked == 0 {
            let ahead = self.booked.load(Ordering::Relaxed);
            if ahead > 0 {
                self.book(due, booked);
                return Err(self.time_for(ahead));
            }
        }
        match self.limiter.check_n(part) {
            Ok(Ok(())) => {
                self.unbook(part.get(), booked);
                Ok(part.get())
            }
            Ok(Err(not_until)) => {
                if *booked == 0 {
                    self.book(due, booked);
                }
                Err(not_until.wait_time_from(NodeClock.now()))
            }
            // More than the bucket ever holds, which `part` is not.
            Err(_) => Ok(due),
        }
    }

    /// Gives back what is booked and will not be taken.
    pub(super) fn unbook(&self, part: u32, booked: &mut u32) {
        let part = part.min(*booked);
        *booked -= part;
        self.booked.fetch_sub(part.into(), Ordering::Relaxed);
    }

    /// How long it takes until an empty bucket is full.
    pub(super) fn refill(&self) -> Duration {
        self.time_for(self.burst.get().into())
    }

    fn book(&self, due: u32, booked: &mut u32) {
        *booked = due;
        self.booked.fetch_add(due.into(), Ordering::Relaxed);
    }

    fn time_for(&self, amount: u64) -> Duration {
        Duration::from_secs_f64(amount as f64 / f64::from(self.per_second.get()))
    }
}
