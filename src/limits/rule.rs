//! One rate limit at work: a token bucket (GCRA) for each holder, and what happens above it.
//!
//! The rule is shared by all who are held to it; a holder keeps eight bytes, because there are as many
//! as connections.

use std::hash::{Hash, Hasher};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};

use super::clock::{At, NodeClock};
use super::limit::Limit;
use crate::config::{LimitAction, Rate, Size};

/// A limit in one direction.
#[derive(Debug)]
pub(super) struct Rule {
    limiter: RateLimiter<Fill, Fills, NodeClock, NoOpMiddleware<At>>,
    per_second: NonZeroU32,
    /// The most that is taken at once.
    burst: NonZeroU32,
    pub(super) limit: Limit,
    pub(super) action: LimitAction,
    pub(super) dry_run: bool,
    pub(super) counts_bytes: bool,
}

/// How full one holder's bucket is: when it is full again, in nanoseconds since the rule was made; nil
/// for a bucket that nothing was taken from.
#[derive(Debug, Default)]
pub(super) struct Fill(AtomicU64);

/// Where the library finds the buckets: the key is the bucket.
#[derive(Debug)]
struct Fills;

/// A bucket at which several may wait. Each books what it owes, and who comes later waits until that
/// would be paid: so they pass in their order, not all of them wake for one place, and a large message
/// is not passed by small ones for ever.
#[derive(Debug, Default)]
pub(super) struct SharedFill {
    pub(super) fill: Fill,
    booked: AtomicU64,
}

impl Rule {
    /// The limit that `rate` sets; none where it sets none.
    pub(super) fn of_count(rate: &Rate<u32>, limit: Limit) -> Option<Self> {
        let per_second = NonZeroU32::new(rate.per_second)?;
        let burst = NonZeroU32::new(rate.burst()).unwrap_or(per_second);
        Some(Self::new(per_second, burst, rate.action, rate.dry_run, limit, false))
    }

    /// The limit of bytes that `rate` sets, whose buckets hold at least `least`; none where it sets
    /// none.
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
        let limiter = RateLimiter::new(quota, Fills, NodeClock);
        Self { limiter, per_second, burst, limit, action, dry_run, counts_bytes }
    }

    /// Takes all of `due`, if it is there. More than a bucket ever holds never is.
    pub(super) fn take_all(&self, fill: &Fill, due: u32) -> bool {
        let take = |due| matches!(self.limiter.check_key_n(fill, due), Ok(Ok(())));
        NonZeroU32::new(due).is_none_or(take)
    }

    /// Takes on account of `due`, as much at once as a bucket ever holds: how much it took.
    ///
    /// # Errors
    /// How long to wait until it is worth asking again.
    pub(super) fn take_part(&self, fill: &Fill, due: u32) -> Result<u32, Duration> {
        let Some(part) = NonZeroU32::new(due.min(self.burst.get())) else { return Ok(0) };
        match self.limiter.check_key_n(fill, part) {
            Ok(Ok(())) => Ok(part.get()),
            Ok(Err(not_until)) => Err(not_until.wait_time_from(NodeClock.now())),
            // More than a bucket ever holds, which `part` is not.
            Err(_) => Ok(due),
        }
    }

    /// The same of a bucket at which others may wait. `booked` is what the one who asks has booked
    /// there before, and is kept up to date.
    ///
    /// # Errors
    /// As [`take_part`](Self::take_part).
    pub(super) fn take_turn(
        &self,
        shared: &SharedFill,
        due: u32,
        booked: &mut u32,
    ) -> Result<u32, Duration> {
        let ahead = shared.booked.load(Ordering::Relaxed);
        if *booked == 0 && ahead > 0 {
            shared.book(due, booked);
            return Err(self.time_for(ahead));
        }
        let taken = self.take_part(&shared.fill, due);
        match taken {
            Ok(part) => shared.unbook(part, booked),
            Err(_) if *booked == 0 => shared.book(due, booked),
            Err(_) => {}
        }
        taken
    }

    /// How long it takes until an empty bucket is full.
    pub(super) fn refill(&self) -> Duration {
        self.time_for(self.burst.get().into())
    }

    fn time_for(&self, amount: u64) -> Duration {
        Duration::from_secs_f64(amount as f64 / f64::from(self.per_second.get()))
    }
}

impl SharedFill {
    fn book(&self, due: u32, booked: &mut u32) {
        *booked = due;
        self.booked.fetch_add(due.into(), Ordering::Relaxed);
    }

    /// Gives back what is booked: it is taken, or will not be.
    pub(super) fn unbook(&self, part: u32, booked: &mut u32) {
        let part = part.min(*booked);
        *booked -= part;
        self.booked.fetch_sub(part.into(), Ordering::Relaxed);
    }
}

impl StateStore for Fills {
    type Key = Fill;

    fn measure_and_replace<T, F, E>(&self, fill: &Fill, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut known = fill.0.load(Ordering::Acquire);
        loop {
            let (outcome, next) = measure(NonZeroU64::new(known).map(|n| n.get().into()))?;
            let swapped = fill.0.compare_exchange_weak(
                known,
                next.into(),
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            match swapped {
                Ok(_) => return Ok(outcome),
                Err(other) => known = other,
            }
        }
    }
}

/// The library asks for what a key of a map needs. There is no map here, and it never uses this.
impl Clone for Fill {
    fn clone(&self) -> Self {
        Self(self.0.load(Ordering::Acquire).into())
    }
}

impl PartialEq for Fill {
    fn eq(&self, other: &Self) -> bool {
        self.0.load(Ordering::Acquire) == other.0.load(Ordering::Acquire)
    }
}

impl Eq for Fill {}

impl Hash for Fill {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.load(Ordering::Acquire).hash(state);
    }
}
