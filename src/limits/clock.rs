//! The one clock of all rate limits: tokio's, so that they agree with the timers that wait for them,
//! and tests can stop both. It takes no room in a limiter.

use std::ops::Add;
use std::time::Duration;

use governor::clock::{Clock, Reference};
use governor::nanos::Nanos;
use tokio::time::Instant;

/// Where all limiters get the time from.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct NodeClock;

/// A time that a limiter can reckon with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At(Instant);

impl Clock for NodeClock {
    type Instant = At;

    fn now(&self) -> At {
        At(Instant::now())
    }
}

impl Reference for At {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.0.saturating_duration_since(earlier.0).into()
    }

    fn saturating_sub(&self, duration: Nanos) -> Self {
        Self(self.0.checked_sub(duration.into()).unwrap_or(self.0))
    }
}

impl Add<Nanos> for At {
    type Output = Self;

    fn add(self, duration: Nanos) -> Self {
        Self(self.0.checked_add(Duration::from(duration)).unwrap_or(self.0))
    }
}
