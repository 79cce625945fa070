//! One rate limit at work: a token bucket (GCRA) and what happens above it.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::clock::{At, NodeClock};
use crate::config::{LimitAction, Rate, Size};

/// A limit of one holder in one direction. Shared by reference; it needs no lock.
#[derive(Debug)]
pub(super) struct Bucket {
    limiter: RateLimiter<NotKeyed, InMemoryState, NodeClock, NoOpMiddleware<At>>,
    /// The most that is taken at once.
    burst: NonZeroU32,
    /// The limit's word in metrics.
    pub(super) word: &'static str,
    pub(super) action: LimitAction,
    pub(super) dry_run: bool,
    pub(super) unit: Unit,
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Messages,
    Bytes,
    Frames,
}

impl Bucket {
    /// A bucket for `rate`; none where that is no limit.
    pub(super) fn of_count(rate: &Rate<u32>, unit: Unit, word: &'static str) -> Option<Self> {
        let (action, dry_run) = (rate.action, rate.dry_run);
        Self::new(rate.per_second, rate.burst(), action, dry_run, unit, word)
    }

    /// A bucket of bytes for `rate`; none where that is no limit.
    pub(super) fn of_bytes(rate: &Rate<Size>, word: &'static str) -> Option<Self> {
        let number = |size: Size| u32::try_from(size.bytes()).unwrap_or(u32::MAX);
        let (per_second, burst) = (number(rate.per_second), number(rate.burst()));
        Self::new(per_second, burst, rate.action, rate.dry_run, Unit::Bytes, word)
    }

    fn new(
        per_second: u32,
        burst: u32,
        action: LimitAction,
        dry_run: bool,
        unit: Unit,
        word: &'static str,
    ) -> Option<Self> {
        let per_second = NonZeroU32::new(per_second)?;
        let burst = NonZeroU32::new(burst).unwrap_or(per_second);
        let quota = Quota::per_second(per_second).allow_burst(burst);
        let limiter = RateLimiter::direct_with_clock(quota, NodeClock);
        Some(Self { limiter, burst, word, action, dry_run, unit })
    }

    /// Takes from the bucket on account of the `due` that are still owed, as many at once as it ever
    /// holds: how many it took.
    ///
    /// # Errors
    /// How long to wait until it can.
    pub(super) fn take(&self, due: u32) -> Result<u32, Duration> {
        let Some(part) = NonZeroU32::new(due.min(self.burst.get())) else { return Ok(0) };
        match self.limiter.check_n(part) {
            Ok(Ok(())) => Ok(part.get()),
            Ok(Err(not_until)) => Err(not_until.wait_time_from(NodeClock.now())),
            // More than the bucket ever holds, which `part` is not.
            Err(_) => Ok(due),
        }
    }
}
