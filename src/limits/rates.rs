//! The rate limits that one connection meets: its own, and those it shares with all connections of its
//! user.
//!
//! A message is charged to one bucket after the other. Where it has to wait, what it has paid so far
//! stays paid, and what is more than a bucket ever holds is paid in instalments, so that a rate holds
//! whatever the size of messages is.

use std::sync::Arc;

use tokio::time::Instant;

use super::bucket::{Bucket, Unit};
use super::users::UserRates;
use crate::config::{LimitAction, Plan, Rates as Limits};

/// The limits of one connection.
#[derive(Debug)]
pub struct Rates {
    /// Messages from the client.
    pub inbound: Gate,
    /// Messages to the client.
    pub outbound: Gate,
    /// Frames from the client beside the one that each message needs.
    pub frames: Gate,
}

/// Limits that things pass one at a time.
#[derive(Debug)]
pub struct Gate {
    own: Box<[Bucket]>,
    shared: Option<(Arc<UserRates>, Direction)>,
    /// The bucket that the thing at the gate has come to, and what it has paid there.
    place: usize,
    paid: u32,
    /// Whether it is counted already that it waits.
    is_counted: bool,
}

/// Which way messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Inbound,
    Outbound,
}

/// What is to be done with the thing at the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It comes to the gate again at this time.
    Wait(Instant),
    /// It goes no further.
    Drop,
    /// Nor does the connection.
    Close,
}

/// One time that a limit mattered: its word, and that of what was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    /// The limit.
    pub limit: &'static str,
    /// What was done.
    pub action: &'static str,
}

impl Limited {
    /// Every limit's word.
    pub const LIMITS: [&'static str; 9] = [
        "connection-messages-inbound",
        "connection-bytes-inbound",
        "connection-frames-inbound",
        "connection-messages-outbound",
        "connection-bytes-outbound",
        "user-messages-inbound",
        "user-bytes-inbound",
        "user-messages-outbound",
        "user-bytes-outbound",
    ];
    /// Every action's word.
    pub const ACTIONS: [&'static str; 4] = ["throttle", "drop", "close", "dry-run"];
}

impl Rates {
    /// The limits of a connection under `plan`, and of its user's connections if they share any.
    #[must_use]
    pub fn new(plan: &Plan, user: Option<&Arc<UserRates>>) -> Self {
        let (inbound, outbound) = (&plan.connection.inbound, &plan.connection.outbound);
        let messages = Limits { messages: inbound.messages, bytes: inbound.bytes };
        let frames = Bucket::of_count(&inbound.frames, Unit::Frames, "connection-frames-inbound");
        let shared = |direction| user.map(|user| (Arc::clone(user), direction));
        Self {
            inbound: Gate::new(
                pair(&messages, "connection-messages-inbound", "connection-bytes-inbound"),
                shared(Direction::Inbound),
            ),
            outbound: Gate::new(
                pair(outbound, "connection-messages-outbound", "connection-bytes-outbound"),
                shared(Direction::Outbound),
            ),
            frames: Gate::new(frames.into_iter().collect(), None),
        }
    }
}

/// The buckets of one direction.
pub(super) fn pair(limits: &Limits, messages: &'static str, bytes: &'static str) -> Box<[Bucket]> {
    let messages = Bucket::of_count(&limits.messages, Unit::Messages, messages);
    messages.into_iter().chain(Bucket::of_bytes(&limits.bytes, bytes)).collect()
}

impl Gate {
    fn new(own: Box<[Bucket]>, shared: Option<(Arc<UserRates>, Direction)>) -> Self {
        Self { own, shared, place: 0, paid: 0, is_counted: false }
    }

    /// Asks for a message of `bytes`. The same message comes again after a wait. What happens above a
    /// limit is told to `count`, once for each message and limit.
    pub fn message(&mut self, bytes: usize, count: impl FnMut(Limited)) -> Verdict {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.ask(|unit| if unit == Unit::Bytes { bytes } else { 1 }, count)
    }

    /// Asks for `number` frames that came together.
    pub fn frames(&mut self, number: u32, count: impl FnMut(Limited)) -> Verdict {
        self.ask(|_| number, count)
    }

    fn ask(&mut self, due: impl Fn(Unit) -> u32, mut count: impl FnMut(Limited)) -> Verdict {
        loop {
            let Some(bucket) = bucket(&self.own, self.shared.as_ref(), self.place) else {
                self.next_thing();
                return Verdict::Pass;
            };
            let left = due(bucket.unit).saturating_sub(self.paid);
            let limit = bucket.word;
            let taken = bucket.take(left);
            match (taken, bucket.dry_run, bucket.action) {
                (Ok(part), false, LimitAction::Throttle) if part < left => self.paid += part,
                (Ok(_), ..) => self.next_bucket(),
                (Err(_), true, _) => {
                    count(Limited { limit, action: "dry-run" });
                    self.next_bucket();
                }
                (Err(wait), false, LimitAction::Throttle) => {
                    if !std::mem::replace(&mut self.is_counted, true) {
                        count(Limited { limit, action: "throttle" });
                    }
                    return Verdict::Wait(Instant::now() + wait);
                }
                (Err(_), false, LimitAction::Drop) => {
                    count(Limited { limit, action: "drop" });
                    self.next_thing();
                    return Verdict::Drop;
                }
                (Err(_), false, LimitAction::Close) => {
                    count(Limited { limit, action: "close" });
                    return Verdict::Close;
                }
            }
        }
    }

    fn next_bucket(&mut self) {
        (self.place, self.paid, self.is_counted) = (self.place + 1, 0, false);
    }

    fn next_thing(&mut self) {
        (self.place, self.paid, self.is_counted) = (0, 0, false);
    }
}

/// The bucket at `place`: first the connection's own, then those of its user.
fn bucket<'a>(
    own: &'a [Bucket],
    shared: Option<&'a (Arc<UserRates>, Direction)>,
    place: usize,
) -> Option<&'a Bucket> {
    own.get(place).or_else(|| {
        let (user, direction) = shared?;
        user.buckets(*direction).get(place.checked_sub(own.len())?)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{advance, sleep_until};

    use super::*;
    use crate::config::{Rate, Size};
    use crate::id::HubName;
    use crate::limits::Users;

    fn rate<N: Copy>(per_second: N, burst: N, action: LimitAction) -> Rate<N> {
        Rate { per_second, burst: Some(burst), action, dry_run: false }
    }

    fn plan(edit: impl FnOnce(&mut Plan)) -> Plan {
        let mut plan = Plan::default();
        plan.connection.inbound.messages.per_second = 0;
        plan.connection.inbound.bytes.per_second = Size::kib(0);
        edit(&mut plan);
        plan
    }

    /// Passes as many messages of `bytes` as go through in `time`, waiting where it must.
    async fn passed(gate: &mut Gate, bytes: usize, time: Duration) -> usize {
        let end = Instant::now() + time;
        let mut passed = 0;
        while Instant::now() < end {
            match gate.message(bytes, |_| {}) {
                Verdict::Pass => passed += 1,
                Verdict::Wait(until) => sleep_until(until.min(end)).await,
                other => panic!("{other:?}"),
            }
        }
        passed
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_holds_whatever_the_size_of_messages() {
        let (second, burst) = (Size::kib(1000), Size::kib(100));
        let plan =
            plan(|plan| plan.connection.inbound.bytes = rate(second, burst, LimitAction::Throttle));
        for bytes in [10, 1000, 102_400, 150_000, 1_000_000] {
            let mut gate = Rates::new(&plan, None).inbound;
            let read = passed(&mut gate, bytes, Duration::from_secs(20)).await * bytes;
            // A bucket counts whole nanoseconds for each byte, which is 0.06 % off here.
            let most = (20 * 1000 * 1024 + 100 * 1024) * 1001 / 1000;
            assert!(read <= most + bytes && read + bytes >= most * 98 / 100, "{bytes}: {read}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_action_is_taken_and_counted_once() {
        for (action, word) in [(LimitAction::Drop, "drop"), (LimitAction::Close, "close")] {
            let plan = plan(|plan| plan.connection.inbound.messages = rate(1, 2, action));
            let mut gate = Rates::new(&plan, None).inbound;
            let mut counted = Vec::new();
            let verdicts = [(); 3].map(|()| gate.message(1, |limited| counted.push(limited)));
            let last = if word == "drop" { Verdict::Drop } else { Verdict::Close };
            assert_eq!(verdicts, [Verdict::Pass, Verdict::Pass, last]);
            let limit = "connection-messages-inbound";
            assert_eq!(counted, [Limited { limit, action: word }]);
        }
        let plan =
            plan(|plan| plan.connection.inbound.messages = rate(1, 1, LimitAction::Throttle));
        let mut gate = Rates::new(&plan, None).inbound;
        let mut counted = 0;
        assert_eq!(gate.message(1, |_| counted += 1), Verdict::Pass);
        for _ in 0..3 {
            assert!(matches!(gate.message(1, |_| counted += 1), Verdict::Wait(_)));
        }
        assert_eq!(counted, 1);
        advance(Duration::from_secs(1)).await;
        assert_eq!(gate.message(1, |_| counted += 1), Verdict::Pass);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dry_run_only_counts() {
        let plan = plan(|plan| {
            plan.connection.inbound.messages =
                Rate { dry_run: true, ..rate(1, 1, LimitAction::Close) };
        });
        let mut gate = Rates::new(&plan, None).inbound;
        let mut counted = Vec::new();
        for _ in 0..4 {
            assert_eq!(gate.message(1, |limited| counted.push(limited.action)), Verdict::Pass);
        }
        assert_eq!(counted, ["dry-run"; 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_of_a_user_share_one_rate() {
        let plan = plan(|plan| plan.user.inbound.messages = rate(10, 10, LimitAction::Throttle));
        let users = Users::new();
        let (hub, user) = (HubName::default(), crate::id::UserId::new("ann").unwrap());
        let join = || users.join(&hub, Some(&user), "default", &plan);
        let (a, b) = (join(), join());
        let mut gates = [a, b].map(|shared| Rates::new(&plan, shared.as_ref()).inbound);
        let mut sum = 0;
        for _ in 0..20 {
            for gate in &mut gates {
                sum += passed(gate, 1, Duration::from_millis(500)).await;
            }
        }
        assert!((205..=212).contains(&sum), "{sum}");
        assert_eq!(users.len(), 1);
        drop(gates);
        assert_eq!(users.len(), 0);
    }

    #[test]
    fn every_limit_has_its_word() {
        let all = |rates: &mut Limits| {
            *rates = Limits {
                messages: rate(1, 1, LimitAction::Drop),
                bytes: rate(Size::kib(1), Size::kib(1), LimitAction::Drop),
            };
        };
        let mut plan = Plan::default();
        all(&mut plan.connection.outbound);
        all(&mut plan.user.inbound);
        all(&mut plan.user.outbound);
        let user = crate::id::UserId::new("ann").unwrap();
        let shared = Users::new().join(&HubName::default(), Some(&user), "default", &plan);
        let rates = Rates::new(&plan, shared.as_ref());
        let mut words = Vec::new();
        for gate in [&rates.inbound, &rates.frames, &rates.outbound] {
            words.extend(gate.own.iter().map(|bucket| bucket.word));
        }
        for direction in [Direction::Inbound, Direction::Outbound] {
            words.extend(shared.iter().flat_map(|user| user.buckets(direction)).map(|b| b.word));
        }
        assert_eq!(words, Limited::LIMITS);
    }
}
