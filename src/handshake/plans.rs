//! Which rate limits a client meets: those of the plan that its token names, else of its route's.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{DEFAULT_PLAN, Plan};
use crate::event::Peer;
use crate::limits::{Rates, Users};

/// The plans of the config, by name.
#[derive(Debug)]
pub struct Plans(BTreeMap<String, Plan>);

impl Plans {
    /// The plans as written, and the default one if it is not.
    #[must_use]
    pub fn new(written: &BTreeMap<String, Plan>) -> Self {
        let mut plans = written.clone();
        plans.entry(DEFAULT_PLAN.to_owned()).or_default();
        Self(plans)
    }

    /// The limits of a new connection. A plan that nobody wrote is the operator's mistake, not the
    /// client's: it is logged, and the route's plan holds.
    pub(super) fn rates(&self, peer: &Arc<Peer>, claimed: Option<&str>, users: &Users) -> Rates {
        let claimed_plan = claimed.and_then(|name| self.0.get_key_value(name));
        if claimed.is_some() && claimed_plan.is_none() {
            tracing::warn!(
                connection = %peer.id,
                plan = &*peer.route.plan,
                "the token names a plan that the config does not know"
            );
        }
        let own = || self.0.get_key_value(&peer.route.plan);
        let built_in = Plan::default();
        let (name, plan) =
            claimed_plan.or_else(own).map_or((DEFAULT_PLAN, &built_in), |(n, p)| (n, p));
        let shared = users.join(&peer.route.hub, peer.user.as_ref(), name, plan);
        Rates::new(plan, shared.as_ref())
    }
}
