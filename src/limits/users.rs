//! The rate limits that the connections of one user to this node share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::limit::Limit;
use super::meter::{Pair, Way, pair};
use super::rule::{Rule, SharedFill};
use crate::config::{Plan, Rates, UserRates};
use crate::id::{HubName, UserId};

/// The users whose plans share limits: those with connections, and those who had some until their
/// buckets are full again, because to come back must not give a new burst. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Users(Arc<Mutex<HashMap<Key, Known>>>);

/// The limits of one user under one plan, and the buckets that go with them.
#[derive(Debug)]
pub struct UserLimits {
    inbound: (Pair, [SharedFill; 2]),
    outbound: (Pair, [SharedFill; 2]),
}

#[derive(Debug)]
struct Known {
    limits: Arc<UserLimits>,
    /// What they were made from.
    rates: UserRates,
    /// Since when the user is known to have no connection.
    alone_since: Option<Instant>,
}

type Key = (HubName, UserId, Box<str>);

/// The longest that a user without connections is remembered.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Beyond so many users only those with connections are remembered.
const MOST: usize = 1 << 18;

impl Users {
    /// No users.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The limits that a new connection of `user` shares under the plan of this name; none where it
    /// shares none. A bucket of bytes from the client holds at least one message of `max_message`.
    #[must_use]
    pub fn join(
        &self,
        hub: &HubName,
        user: Option<&UserId>,
        name: &str,
        plan: &Plan,
        max_message: usize,
    ) -> Option<Arc<UserLimits>> {
        let rates = plan.user;
        let user = user.filter(|_| is_limited(&rates.inbound) || is_limited(&rates.outbound))?;
        let key = (hub.clone(), user.clone(), name.into());
        let mut users = self.lock();
        if let Some(known) = users.get_mut(&key).filter(|known| known.rates == rates) {
            known.alone_since = None;
            return Some(Arc::clone(&known.limits));
        }
        let limits = Arc::new(UserLimits::new(&rates, max_message));
        users.insert(key, Known { limits: Arc::clone(&limits), rates, alone_since: None });
        Some(limits)
    }

    /// Forgets users without connections whose buckets are full again.
    pub fn tidy(&self) {
        let now = Instant::now();
        let mut users = self.lock();
        let is_crowded = users.len() > MOST;
        users.retain(|_, known| {
            if Arc::strong_count(&known.limits) > 1 {
                known.alone_since = None;
                return true;
            }
            let since = *known.alone_since.get_or_insert(now);
            !is_crowded && now < since + known.limits.refill().min(REMEMBERED)
        });
        users.shrink_to_fit();
    }

    /// How many users are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Held for one look-up when a connection opens, and for a look at all of them now and then.
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UserLimits {
    pub(super) fn new(rates: &UserRates, max_message: usize) -> Self {
        let of_user = [Limit::UserMessagesInbound, Limit::UserBytesInbound];
        let to_user = [Limit::UserMessagesOutbound, Limit::UserBytesOutbound];
        let inbound = pair(&rates.inbound, max_message, of_user);
        let outbound = pair(&rates.outbound, 0, to_user);
        Self { inbound: (inbound, Default::default()), outbound: (outbound, Default::default()) }
    }

    /// The limits of one way, each with its bucket.
    pub(super) fn of(&self, way: Way) -> Option<(&Pair, &[SharedFill; 2])> {
        let (rules, fills) = match way {
            Way::Inbound => &self.inbound,
            Way::Outbound => &self.outbound,
            Way::Frames => return None,
        };
        Some((rules, fills))
    }

    pub(super) fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.inbound.0.iter().chain(&self.outbound.0).flatten()
    }

    /// How long it takes until all buckets are full.
    fn refill(&self) -> Duration {
        self.rules().map(Rule::refill).max().unwrap_or_default()
    }
}

fn is_limited(rates: &Rates) -> bool {
    rates.messages.per_second > 0 || rates.bytes.per_second.bytes() > 0
}
