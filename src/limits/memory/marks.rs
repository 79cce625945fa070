//! What to do at this much memory at this time. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::source::Reading;
use crate::config::Memory;

/// The marks, and how the node stands to them.
#[derive(Debug)]
pub(super) struct Marks {
    refuse_above: u8,
    shed_above: u8,
    level: Level,
    /// When bytes were last asked for, and how many were used then.
    shed: Option<(Instant, u64)>,
}

/// How short memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Calm,
    Refusing,
    Shedding,
}

/// Percent below a mark at which it is left again, so that memory that stays about a mark is no news
/// four times a second.
const SLACK: u8 = 3;
/// The allocator gives freed pages back over ten seconds. Until then more is only asked for when still
/// more is used, or one shortage would be answered many times.
const SHED_PAUSE: Duration = Duration::from_secs(10);

impl Marks {
    pub(super) fn new(config: Memory) -> Self {
        let Memory { max: _, refuse_above, shed_above } = config;
        Self { refuse_above, shed_above, level: Level::Calm, shed: None }
    }

    pub(super) fn level(&self) -> Level {
        self.level
    }

    /// Takes a reading; gives the bytes that must be freed now, down to the lower mark.
    pub(super) fn judge(&mut self, reading: Reading, now: Instant) -> Option<u64> {
        let is_above = |mark: u8, was_above| {
            reading.is_above(if was_above { mark.saturating_sub(SLACK) } else { mark })
        };
        self.level = if is_above(self.shed_above, self.level == Level::Shedding) {
            Level::Shedding
        } else if is_above(self.refuse_above, self.level >= Level::Refusing) {
            Level::Refusing
        } else {
            Level::Calm
        };
        let is_answered = self
            .shed
            .is_some_and(|(at, used)| reading.used <= used && now.duration_since(at) < SHED_PAUSE);
        if !reading.is_above(self.shed_above) || is_answered {
            return None;
        }
        self.shed = Some((now, reading.used));
        Some(reading.used.saturating_sub(reading.part(self.refuse_above)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MemoryMax;

    const GIB: u64 = 1 << 30;

    fn marks() -> Marks {
        Marks::new(Memory { max: MemoryMax::Auto, refuse_above: 80, shed_above: 90 })
    }

    fn percent(percent: u64) -> Reading {
        Reading { used: GIB / 100 * percent, limit: GIB / 100 * 100 }
    }

    #[test]
    fn newcomers_are_refused_first_and_connections_closed_later() {
        use Level::{Calm, Refusing, Shedding};
        let (mut marks, now) = (marks(), Instant::now());
        for (used, level) in [
            (50, Calm),
            (80, Calm),
            (81, Refusing),
            (79, Refusing),
            (78, Refusing),
            (77, Calm),
            (79, Calm),
            (91, Shedding),
            (88, Shedding),
            (87, Refusing),
            (89, Refusing),
            (95, Shedding),
            (10, Calm),
        ] {
            marks.judge(percent(used), now);
            assert_eq!(marks.level(), level, "{used} %");
        }
    }

    #[test]
    fn what_is_over_the_lower_mark_is_to_be_freed_once() {
        let (mut marks, start) = (marks(), Instant::now());
        let excess = |used: u64| Some(GIB / 100 * (used - 80));
        assert_eq!(marks.judge(percent(90), start), None);
        assert_eq!(marks.judge(percent(92), start), excess(92));
        let later = start + Duration::from_secs(1);
        assert_eq!(marks.judge(percent(92), later), None, "freed, but not given back yet");
        assert_eq!(marks.judge(percent(93), later), excess(93), "still more is used");
        assert_eq!(marks.judge(percent(89), later), None);
        assert_eq!(marks.judge(percent(92), later), None);
        assert_eq!(marks.judge(percent(92), later + SHED_PAUSE), excess(92), "it was not enough");
    }
}
