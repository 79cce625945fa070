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
    /// When bytes were last asked for, and how many were used then. They are as good as freed.
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
/// The allocator gives freed pages back over ten seconds. Until then only what has come since is asked
/// for, or one shortage would be answered many times.
const SHED_PAUSE: Duration = Duration::from_secs(10);
/// Percent of all memory that use must grow by to be answered within the pause: for a single page a
/// whole connection would be closed.
const GROWTH: u8 = 1;

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
        if !reading.is_above(self.shed_above) {
            return None;
        }
        let excess = match self.shed.filter(|(at, _)| now.duration_since(*at) < SHED_PAUSE) {
            Some((_, used)) => {
                let growth = reading.used.saturating_sub(used);
                Some(growth).filter(|growth| *growth >= reading.part(GROWTH))?
            }
            None => reading.used.saturating_sub(reading.part(self.refuse_above)),
        };
        self.shed = Some((now, reading.used));
        Some(excess)
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
        let share = |percent: u64| Some(GIB / 100 * percent);
        assert_eq!(marks.judge(percent(90), start), None);
        assert_eq!(marks.judge(percent(92), start), share(12));
        let later = start + Duration::from_secs(1);
        assert_eq!(marks.judge(percent(92), later), None, "freed, but not given back yet");
        let page = Reading { used: percent(92).used + 4096, ..percent(92) };
        assert_eq!(marks.judge(page, later), None, "worth no connection");
        assert_eq!(marks.judge(percent(93), later), share(1), "what has come since");
        assert_eq!(marks.judge(percent(89), later), None);
        assert_eq!(marks.judge(percent(92), later), None);
        assert_eq!(marks.judge(percent(92), later + SHED_PAUSE), share(12), "it was not enough");
    }

    #[test]
    fn a_shortage_that_grows_is_answered_by_what_it_grew() {
        let (mut marks, start) = (marks(), Instant::now());
        let looks = (0..10).map(|look| (91 + look, start + Duration::from_millis(250 * look)));
        let asked: u64 = looks.filter_map(|(used, at)| marks.judge(percent(used), at)).sum();
        assert_eq!(asked, GIB / 100 * 20, "from 100 % down to 80 %, and no byte twice");
    }
}
