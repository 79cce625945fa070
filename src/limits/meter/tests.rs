//! Rates that hold, by the clock of the test.

use std::time::Duration;

use tokio::time::{advance, sleep_until};

use super::*;
use crate::config::{Rate, Size};
use crate::id::HubName;
use crate::limits::Users;

fn rate<N: Copy>(per_second: N, burst: N, action: LimitAction) -> Rate<N> {
    Rate { per_second, burst: Some(burst), action, dry_run: false }
}

fn rules(plan: &Plan) -> Arc<PlanRules> {
    Arc::new(PlanRules::new(plan, 0))
}

fn plan(edit: impl FnOnce(&mut Plan)) -> Plan {
    let mut plan = Plan::default();
    plan.connection.inbound.messages.per_second = 0;
    plan.connection.inbound.bytes.per_second = Size::kib(0);
    edit(&mut plan);
    plan
}

/// Passes as many messages of `bytes` as go through in `time`, waiting where it must.
async fn passed(meter: &mut Meter, bytes: usize, time: Duration) -> usize {
    let end = Instant::now() + time;
    let mut passed = 0;
    while Instant::now() < end {
        match meter.message(bytes, |_| {}) {
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
        let mut meter = Meters::new(&rules(&plan), None).inbound;
        let read = passed(&mut meter, bytes, Duration::from_secs(20)).await * bytes;
        // A bucket counts whole nanoseconds for each byte, which is 0.06 % off here.
        let most = (20 * 1000 * 1024 + 100 * 1024) * 1001 / 1000;
        assert!(read <= most + bytes && read + bytes >= most * 98 / 100, "{bytes}: {read}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_action_is_taken_and_counted_once() {
    for (action, word) in [(LimitAction::Drop, "drop"), (LimitAction::Close, "close")] {
        let plan = plan(|plan| plan.connection.inbound.messages = rate(1, 2, action));
        let mut meter = Meters::new(&rules(&plan), None).inbound;
        let mut counted = Vec::new();
        let verdicts = [(); 3].map(|()| meter.message(1, |limited| counted.push(limited)));
        let last = if word == "drop" { Verdict::Drop } else { Verdict::Close };
        assert_eq!(verdicts, [Verdict::Pass, Verdict::Pass, last]);
        let limit = Limit::ConnectionMessagesInbound;
        assert_eq!(counted, [Limited { limit, action: word }]);
    }
    let plan = plan(|plan| plan.connection.inbound.messages = rate(1, 1, LimitAction::Throttle));
    let mut meter = Meters::new(&rules(&plan), None).inbound;
    let mut counted = 0;
    assert_eq!(meter.message(1, |_| counted += 1), Verdict::Pass);
    for _ in 0..3 {
        assert!(matches!(meter.message(1, |_| counted += 1), Verdict::Wait(_)));
    }
    assert_eq!(counted, 1);
    advance(Duration::from_secs(1)).await;
    assert_eq!(meter.message(1, |_| counted += 1), Verdict::Pass);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_only_counts() {
    let plan = plan(|plan| {
        plan.connection.inbound.messages = Rate { dry_run: true, ..rate(1, 1, LimitAction::Close) };
    });
    let mut meter = Meters::new(&rules(&plan), None).inbound;
    let mut counted = Vec::new();
    for _ in 0..4 {
        assert_eq!(meter.message(1, |limited| counted.push(limited.action)), Verdict::Pass);
    }
    assert_eq!(counted, ["dry-run"; 3]);
}

#[tokio::test(start_paused = true)]
async fn connections_of_a_user_share_one_rate() {
    let plan = plan(|plan| plan.user.inbound.messages = rate(10, 10, LimitAction::Throttle));
    let users = Users::new();
    let (hub, user) = (HubName::default(), crate::id::UserId::new("ann").unwrap());
    let join = || users.join(&hub, Some(&user), "default", &plan, 0);
    let (a, b) = (join(), join());
    let mut meters = [a, b].map(|shared| Meters::new(&rules(&plan), shared.as_ref()).inbound);
    let mut sum = 0;
    for _ in 0..20 {
        for meter in &mut meters {
            sum += passed(meter, 1, Duration::from_millis(500)).await;
        }
    }
    assert!((205..=212).contains(&sum), "{sum}");
    assert_eq!(users.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_larger_than_a_bucket_is_over_it() {
    let small = Size::kib(1);
    for (action, verdict) in
        [(LimitAction::Drop, Verdict::Drop), (LimitAction::Close, Verdict::Close)]
    {
        let plan = plan(|plan| plan.connection.outbound.bytes = rate(small, small, action));
        let mut meter = Meters::new(&rules(&plan), None).outbound;
        assert_eq!(meter.message(1025, |_| {}), verdict);
        let plan = self::plan(|plan| plan.connection.inbound.bytes = rate(small, small, action));
        let mut meter = Meters::new(&Arc::new(PlanRules::new(&plan, 64 * 1024)), None).inbound;
        assert_eq!(meter.message(64 * 1024, |_| {}), Verdict::Pass, "one message always fits");
        advance(Duration::from_secs(1)).await;
        assert_eq!(meter.message(64 * 1024, |_| {}), verdict);
        let frames = rate(10, 10, LimitAction::Close);
        let plan = self::plan(|plan| plan.connection.inbound.frames = frames);
        let mut meter = Meters::new(&rules(&plan), None).frames;
        assert_eq!(meter.frames(11, |_| {}), Verdict::Close, "as many as came at once");
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_at_one_bucket_pass_in_their_order() {
    let plan = plan(|plan| {
        plan.user.inbound.bytes = rate(Size::kib(64), Size::kib(64), LimitAction::Throttle);
    });
    let user = crate::id::UserId::new("ann").unwrap();
    let (users, shared_rules) = (Users::new(), rules(&plan));
    let join = || users.join(&HubName::default(), Some(&user), "default", &plan, 0);
    let mut large = Meters::new(&shared_rules, join().as_ref()).inbound;
    let mut small = Meters::new(&shared_rules, join().as_ref()).inbound;
    assert_eq!(small.message(64 * 1024, |_| {}), Verdict::Pass);
    let start = Instant::now();
    let Verdict::Wait(until) = large.message(60_000, |_| {}) else { panic!("it passed") };
    // The other sends 100 bytes as often as it may.
    let mut passed = 0;
    let mut turn = start;
    while turn < until {
        sleep_until(turn).await;
        match small.message(100, |_| {}) {
            Verdict::Pass => passed += 1,
            Verdict::Wait(next) => turn = next,
            other => panic!("{other:?}"),
        }
    }
    sleep_until(until).await;
    assert_eq!((large.message(60_000, |_| {}), passed), (Verdict::Pass, 0));
    let mut many: Vec<_> =
        (0..100).map(|_| Meters::new(&shared_rules, join().as_ref()).inbound).collect();
    let mut times: Vec<_> = many
        .iter_mut()
        .filter_map(|meter| match meter.message(1000, |_| {}) {
            Verdict::Wait(until) => Some(until),
            _ => None,
        })
        .collect();
    times.dedup();
    assert!(times.len() > 90, "not all wake at once");
}

#[tokio::test(start_paused = true)]
async fn to_come_again_gives_no_new_burst() {
    let plan = plan(|plan| plan.user.inbound.messages = rate(1, 10, LimitAction::Drop));
    let users = Users::new();
    let user = crate::id::UserId::new("ann").unwrap();
    let mut passed = 0;
    for _ in 0..5 {
        let shared = users.join(&HubName::default(), Some(&user), "default", &plan, 0);
        let mut meter = Meters::new(&rules(&plan), shared.as_ref()).inbound;
        passed += (0..10).filter(|_| meter.message(1, |_| {}) == Verdict::Pass).count();
        users.tidy();
    }
    assert_eq!(passed, 10);
    users.tidy();
    advance(Duration::from_secs(11)).await;
    users.tidy();
    assert!(users.is_empty(), "a full bucket is forgotten");
}

#[tokio::test(start_paused = true)]
async fn changed_limits_hold_for_the_next_connection() {
    let limited = |n| plan(|plan| plan.user.inbound.messages = rate(n, n, LimitAction::Drop));
    let users = Users::new();
    let user = crate::id::UserId::new("ann").unwrap();
    let join = |plan: &Plan| users.join(&HubName::default(), Some(&user), "default", plan, 0);
    let _old = join(&limited(1));
    let shared = join(&limited(50));
    let mut meter = Meters::new(&rules(&limited(50)), shared.as_ref()).inbound;
    assert_eq!((0..100).filter(|_| meter.message(1, |_| {}) == Verdict::Pass).count(), 50);
}

#[test]
fn every_limit_is_met_by_some_rule() {
    let all = |rates: &mut Rates| {
        *rates = Rates {
            messages: rate(1, 1, LimitAction::Drop),
            bytes: rate(Size::kib(1), Size::kib(1), LimitAction::Drop),
        };
    };
    let mut plan = Plan::default();
    all(&mut plan.connection.outbound);
    all(&mut plan.user.inbound);
    all(&mut plan.user.outbound);
    let (PlanRules(own), user) = (PlanRules::new(&plan, 0), UserLimits::new(&plan.user, 0));
    let met: Vec<_> = own.iter().flatten().flatten().chain(user.rules()).collect();
    assert_eq!(met.len(), Limit::ALL.len());
    assert!(Limit::ALL.iter().all(|limit| met.iter().any(|rule| rule.limit == *limit)));
}
