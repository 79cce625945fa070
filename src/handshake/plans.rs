//! Which rate limits a client meets: those of the plan that its token names, else of its route's.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use crate::config::{DEFAULT_PLAN, Plan, Route};
use crate::event::Peer;
use crate::limits::{Meters, PlanRules, Users};
use crate::nats::LogLimit;

/// The plans of the config, for the clients of one route.
#[derive(Debug)]
pub struct Plans {
    of_route: Named,
    /// By the name that a token may carry.
    all: BTreeMap<String, Named>,
    /// Tokens may be meant for another service, too, and its plans are not ours.
    unknown: LogLimit,
}

#[derive(Debug, Clone)]
struct Named {
    name: String,
    plan: Plan,
    rules: Arc<PlanRules>,
}

impl Plans {
    /// The plans as written, and the default one if it is not.
    #[must_use]
    pub fn new(written: &BTreeMap<String, Plan>, route: &Route) -> Self {
        let named = |name: &str, plan: Plan| Named {
            name: name.to_owned(),
            plan,
            rules: Arc::new(PlanRules::new(&plan, route.max_message.bytes())),
        };
        let mut all: BTreeMap<_, _> =
            written.iter().map(|(name, plan)| (name.clone(), named(name, *plan))).collect();
        let default = || named(DEFAULT_PLAN, Plan::default());
        all.entry(DEFAULT_PLAN.to_owned()).or_insert_with(default);
        let of_route = all.get(&route.plan).cloned().unwrap_or_else(default);
        Self { of_route, all, unknown: LogLimit::new() }
    }

    /// The limits of a new connection. A plan that nobody wrote is the operator's mistake, not the
    /// client's: it is logged, and the route's plan holds.
    pub(super) fn meters(&self, peer: &Peer, claimed: Option<&str>, users: &Users) -> Meters {
        let found = claimed.and_then(|name| self.all.get(name));
        if let (Some(claimed), None) = (claimed, found)
            && let Some(left_out) = self.unknown.admit(Instant::now())
        {
            let id = peer.id;
            tracing::warn!(connection = %id, claimed, left_out, "the token names an unknown plan");
        }
        let Named { name, plan, rules } = found.unwrap_or(&self.of_route);
        let (route, user) = (&peer.route, peer.user.as_ref());
        let shared = users.join(&route.hub, user, name, plan, route.max_message.bytes());
        Meters::new(rules, shared.as_ref())
    }
}
