//! One log line a second at most for a kind of trouble, so that a flood of it cannot become a flood
//! of lines. What was left out is counted and said with the next line.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The gate before one kind of log line.
#[derive(Debug, Default)]
pub struct LogLimit {
    /// When the last line was written, and how many were left out since. Held for a comparison.
    state: Mutex<(Option<Instant>, u64)>,
}

const PAUSE: Duration = Duration::from_secs(1);

impl LogLimit {
    /// A gate that lets the first line through.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether to write a line at `now`: then how many were left out since the last.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, left_out) = &mut *state;
        if last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
            *left_out += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_a_second() {
        let (limit, start) = (LogLimit::new(), Instant::now());
        assert_eq!(limit.admit(start), Some(0));
        assert_eq!((0..5).filter_map(|_| limit.admit(start)).count(), 0);
        assert_eq!(limit.admit(start + PAUSE), Some(5));
        assert_eq!(limit.admit(start + PAUSE * 3), Some(0));
    }
}
