//! The rate limits that one connection meets: its own, and those it shares with all connections of its
//! user.
//!
//! A message is charged to one bucket after the other. Where it has to wait, what it has paid so far
//! stays paid, and what is more than a bucket ever holds is paid in instalments, so that a rate holds
//! whatever the size of messages is.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::limit::{Limit, Limited};
use super::rule::{Fill, Rule, SharedFill};
use super::users::UserLimits;
use crate::config::{LimitAction, Plan, Rates};

/// The limits of a plan on a route, for all connections that meet them, each for itself.
#[derive(Debug)]
pub struct PlanRules([Pair; 3]);

/// The limits of one connection.
#[derive(Debug)]
pub struct Meters {
    /// Messages from the client.
    pub inbound: Meter,
    /// Messages to the client.
    pub outbound: Meter,
    /// Frames from the client beside the one that each message needs.
    pub frames: Meter,
}

/// Limits that things pass one at a time.
#[derive(Debug)]
pub struct Meter {
    rules: Arc<PlanRules>,
    own: [Fill; 2],
    user: Option<Arc<UserLimits>>,
    way: Way,
    turn: Turn,
}

/// How far the thing at hand has come.
#[derive(Debug, Default)]
struct Turn {
    /// The limit it stands at: the connection's own come first, then those of its user.
    place: u8,
    /// Whether it is counted already that it waits there.
    is_counted: bool,
    /// What it has paid there.
    paid: u32,
    /// What it has booked there.
    booked: u32,
}

/// The bucket at a place.
#[derive(Debug, Clone, Copy)]
enum Bucket<'a> {
    Own(&'a Fill),
    Shared(&'a SharedFill),
}

/// The limits of one way: of messages or frames, then of bytes.
pub(super) type Pair = [Option<Rule>; 2];

/// What passes a meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Inbound,
    Outbound,
    Frames,
}

/// What is to be done with the thing at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It is asked for again at this time.
    Wait(Instant),
    /// It goes no further.
    Drop,
    /// Nor does the connection.
    Close,
}

impl PlanRules {
    /// The limits under `plan` where messages from the client have at most `max_message` bytes: a
    /// bucket of bytes holds at least one.
    #[must_use]
    pub fn new(plan: &Plan, max_message: usize) -> Self {
        let inbound = &plan.connection.inbound;
        let messages = Rates { messages: inbound.messages, bytes: inbound.bytes };
        let frames = Rule::of_count(&inbound.frames, Limit::ConnectionFramesInbound);
        let of_connection = [Limit::ConnectionMessagesInbound, Limit::ConnectionBytesInbound];
        let to_connection = [Limit::ConnectionMessagesOutbound, Limit::ConnectionBytesOutbound];
        Self([
            pair(&messages, max_message, of_connection),
            pair(&plan.connection.outbound, 0, to_connection),
            [frames, None],
        ])
    }

    fn of(&self, way: Way) -> &Pair {
        let Self([inbound, outbound, frames]) = self;
        match way {
            Way::Inbound => inbound,
            Way::Outbound => outbound,
            Way::Frames => frames,
        }
    }
}

impl Meters {
    /// The limits of a connection, and those that its user's connections share.
    #[must_use]
    pub fn new(rules: &Arc<PlanRules>, user: Option<&Arc<UserLimits>>) -> Self {
        let meter = |way| Meter {
            rules: Arc::clone(rules),
            own: [Fill::default(), Fill::default()],
            user: user.cloned(),
            way,
            turn: Turn::default(),
        };
        let (inbound, outbound) = (meter(Way::Inbound), meter(Way::Outbound));
        Self { inbound, outbound, frames: meter(Way::Frames) }
    }
}

/// The limits of messages and bytes in one direction. A bucket of bytes holds `least` at least.
pub(super) fn pair(rates: &Rates, least: usize, [messages, bytes]: [Limit; 2]) -> Pair {
    [Rule::of_count(&rates.messages, messages), Rule::of_bytes(&rates.bytes, least, bytes)]
}

impl Meter {
    /// Asks for a message of `bytes`. The same message comes again after a wait. What happens above a
    /// limit is told to `count`, once for each message and limit.
    pub fn message(&mut self, bytes: usize, count: impl FnMut(Limited)) -> Verdict {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.ask(bytes, 1, count)
    }

    /// Asks for `number` frames that came together.
    pub fn frames(&mut self, number: u32, count: impl FnMut(Limited)) -> Verdict {
        self.ask(0, number, count)
    }

    fn ask(&mut self, bytes: u32, number: u32, mut count: impl FnMut(Limited)) -> Verdict {
        let Self { rules, own, user, way, turn } = self;
        for (rule, bucket) in places(rules, own, user.as_deref(), *way).skip(turn.place.into()) {
            if let Some(rule) = rule {
                let due = if rule.counts_bytes { bytes } else { number };
                match turn.pass(rule, bucket, due, &mut count) {
                    Verdict::Pass => {}
                    wait @ Verdict::Wait(_) => return wait,
                    end => {
                        *turn = Turn::default();
                        return end;
                    }
                }
            }
            *turn = Turn { place: turn.place + 1, ..Turn::default() };
        }
        *turn = Turn::default();
        Verdict::Pass
    }
}

/// The limits that things pass on this way, and the buckets they find there.
fn places<'a>(
    rules: &'a PlanRules,
    own: &'a [Fill; 2],
    user: Option<&'a UserLimits>,
    way: Way,
) -> impl Iterator<Item = (Option<&'a Rule>, Bucket<'a>)> {
    let own = rules.of(way).iter().zip(own.iter().map(Bucket::Own));
    let shared = user.and_then(|user| user.of(way)).into_iter();
    let shared =
        shared.flat_map(|(rules, fills)| rules.iter().zip(fills.iter().map(Bucket::Shared)));
    own.chain(shared).map(|(rule, bucket)| (rule.as_ref(), bucket))
}

impl Turn {
    /// Asks for what is due at one limit.
    fn pass(
        &mut self,
        rule: &Rule,
        bucket: Bucket<'_>,
        due: u32,
        count: &mut impl FnMut(Limited),
    ) -> Verdict {
        if rule.dry_run {
            if !rule.take_all(bucket.fill(), due) {
                count(Limited::dry_run(rule.limit));
            }
            return Verdict::Pass;
        }
        let mut limited = || count(Limited::new(rule.limit, rule.action));
        if rule.action == LimitAction::Throttle {
            return match self.pay(rule, bucket, due) {
                Ok(()) => Verdict::Pass,
                Err(wait) => {
                    if !std::mem::replace(&mut self.is_counted, true) {
                        limited();
                    }
                    Verdict::Wait(Instant::now() + wait)
                }
            };
        }
        if rule.take_all(bucket.fill(), due) {
            return Verdict::Pass;
        }
        limited();
        if rule.action == LimitAction::Drop { Verdict::Drop } else { Verdict::Close }
    }

    /// Pays what is due, in instalments of a bucket.
    fn pay(&mut self, rule: &Rule, bucket: Bucket<'_>, due: u32) -> Result<(), Duration> {
        while self.paid < due {
            let left = due - self.paid;
            self.paid += match bucket {
                Bucket::Own(fill) => rule.take_part(fill, left)?,
                Bucket::Shared(shared) => rule.take_turn(shared, left, &mut self.booked)?,
            };
        }
        Ok(())
    }
}

impl<'a> Bucket<'a> {
    fn fill(self) -> &'a Fill {
        match self {
            Self::Own(fill) => fill,
            Self::Shared(shared) => &shared.fill,
        }
    }
}

impl Drop for Meter {
    /// Whoever waits behind does not wait for a connection that is gone.
    fn drop(&mut self) {
        let Self { rules, own, user, way, turn } = self;
        let place = places(rules, own, user.as_deref(), *way).nth(turn.place.into());
        if let Some((_, Bucket::Shared(shared))) = place {
            shared.unbook(turn.booked, &mut turn.booked);
        }
    }
}
