//! Which rate limits a client meets: those of the plan that its token names, else of its route's.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use crate::config::{DEFAULT_PLAN, Plan};
use crate::event::Peer;
use crate::limits::{Meters, Users};
use crate::nats::LogLimit;

/// The plans of the config, by name.
#[derive(Debug)]
pub struct Plans {
    plans: BTreeMap<String, Plan>,
    /// Tokens may be meant for another service, too, and its plans are not ours.
    unknown: LogLimit,
}

impl Plans {
    /// The plans as written, and the default one if it is not.
    #[must_use]
    pub fn new(written: &BTreeMap<String, Plan>) -> Self {
        let mut plans = written.clone();
        plans.entry(DEFAULT_PLAN.to_owned()).or_default();
        Self { plans, unknown: LogLimit::new() }
    }

    /// The limits of a new connection. A plan that nobody wrote is the operator's mistake, not the
    /// client's: it is logged, and the route's plan holds.
    pub(super) fn meters(&self, peer: &Arc<Peer>, claimed: Option<&str>, users: &Users) -> Meters {
        let claimed_plan = claimed.and_then(|name| self.plans.get_key_value(name));
        if let (Some(claimed), None) = (claimed, claimed_plan)
            && let Some(left_out) = self.unknown.admit(Instant::now())
        {
            let id = peer.id;
            tracing::warn!(connection = %id, claimed, left_out, "the token names an unknown plan");
        }
        let found = claimed_plan.or_else(|| self.plans.get_key_value(&peer.route.plan));
        let built_in = Plan::default();
        let (name, plan) = found.map_or((DEFAULT_PLAN, &built_in), |(name, plan)| (name, plan));
        let (route, user) = (&peer.route, peer.user.as_ref());
        let max_message = route.max_message.bytes();
        let shared = users.join(&route.hub, user, name, plan, max_message);
        Meters::new(plan, max_message, shared.as_ref())
    }
}
