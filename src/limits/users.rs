//! The rate limits that the connections of one user to this node share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::bucket::Bucket;
use super::rates::{Direction, pair};
use crate::config::{Plan, Rate, Rates, Size};
use crate::id::{HubName, UserId};

/// The users with connections, as far as their plans share limits. Cloning shares it. At most as many
/// as there are connections.
#[derive(Debug, Clone, Default)]
pub struct Users(Arc<Mutex<HashMap<Key, Weak<UserRates>>>>);

/// The limits of one user under one plan; gone with the last connection that holds them.
#[derive(Debug)]
pub struct UserRates {
    inbound: Box<[Bucket]>,
    outbound: Box<[Bucket]>,
    key: Key,
    users: Users,
}

type Key = (HubName, UserId, Box<str>);

impl Users {
    /// No users.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The limits that a new connection of `user` shares under `plan`; none where there are none.
    #[must_use]
    pub fn join(
        &self,
        hub: &HubName,
        user: Option<&UserId>,
        name: &str,
        plan: &Plan,
    ) -> Option<Arc<UserRates>> {
        let user =
            user.filter(|_| is_limited(&plan.user.inbound) || is_limited(&plan.user.outbound))?;
        let key = (hub.clone(), user.clone(), name.into());
        let mut users = self.lock();
        if let Some(rates) = users.get(&key).and_then(Weak::upgrade) {
            return Some(rates);
        }
        let rates = Arc::new(UserRates {
            inbound: pair(&plan.user.inbound, "user-messages-inbound", "user-bytes-inbound"),
            outbound: pair(&plan.user.outbound, "user-messages-outbound", "user-bytes-outbound"),
            key: key.clone(),
            users: self.clone(),
        });
        users.insert(key, Arc::downgrade(&rates));
        Some(rates)
    }

    /// How many users there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Held for one look-up when a connection opens or ends.
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Weak<UserRates>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UserRates {
    pub(super) fn buckets(&self, direction: Direction) -> &[Bucket] {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }
}

impl Drop for UserRates {
    fn drop(&mut self) {
        let mut users = self.users.lock();
        // A newer connection of the user may have put its own there meanwhile.
        if users.get(&self.key).is_some_and(|rates| rates.strong_count() == 0) {
            users.remove(&self.key);
        }
    }
}

fn is_limited(rates: &Rates) -> bool {
    let none = |messages: &Rate<u32>, bytes: &Rate<Size>| {
        messages.per_second == 0 && bytes.per_second.bytes() == 0
    };
    !none(&rates.messages, &rates.bytes)
}
