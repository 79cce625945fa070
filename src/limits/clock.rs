//! The clock of rates: tokio's, so that tests can hold it. It has no state, so every limiter shares it.

use governor::clock::Clock;
use tokio::time::Instant;

/// tokio's time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TokioClock;

impl Clock for TokioClock {
    type Instant = std::time::Instant;

    fn now(&self) -> Self::Instant {
        Instant::now().into_std()
    }
}
