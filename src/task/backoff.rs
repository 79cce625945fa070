//! Waiting longer after each failure, with jitter, so that many nodes never knock in step.

use std::time::Duration;

/// Delays that double from `first` to `max`; each is drawn from its upper half.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    next: Duration,
    max: Duration,
}

impl Backoff {
    /// Delays from `first` to `max`.
    #[must_use]
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, next: first, max }
    }

    /// The next delay.
    pub fn delay(&mut self) -> Duration {
        let delay = self.next.min(self.max);
        self.next = delay.saturating_mul(2);
        delay.mul_f64(0.5 + 0.5 * rand::random::<f64>())
    }

    /// Starts again from `first`, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Up to a tenth less, so that what began together does not stay in step.
pub fn jittered(full: Duration) -> Duration {
    full.mul_f64(1.0 - 0.1 * rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        for upper in [100, 200, 350, 350] {
            let delay = backoff.delay().as_millis();
            assert!((upper / 2..=upper).contains(&delay), "{delay} for {upper}");
        }
        backoff.reset();
        assert!(backoff.delay() <= Duration::from_millis(100));
    }
}
