//! How many connections each user has on this node.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use crate::id::{HubName, UserId};

/// A count for each user that has a connection here.
#[derive(Debug, Clone, Default)]
pub(super) struct Local(Arc<Counts>);

/// Held for a count.
type Counts = Mutex<HashMap<(HubName, UserId), usize>>;

/// One connection in the count; given back on drop.
#[derive(Debug)]
pub(super) struct Place {
    local: Local,
    key: (HubName, UserId),
    number: usize,
}

impl Local {
    /// Counts one more.
    pub(super) fn take(&self, hub: &HubName, user: &UserId) -> Place {
        let key = (hub.clone(), user.clone());
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key.clone()).or_default();
        *count += 1;
        Place { local: self.clone(), key, number: *count }
    }
}

impl Place {
    /// How many there were with this one.
    pub(super) fn number(&self) -> usize {
        self.number
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.local.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = counts.entry(self.key.clone()) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_is_not_counted() {
        let (local, hub, user) =
            (Local::default(), HubName::default(), UserId::new("alice").unwrap());
        let (one, two) = (local.take(&hub, &user), local.take(&hub, &user));
        assert_eq!((one.number(), two.number()), (1, 2));
        drop(one);
        assert_eq!(local.take(&hub, &user).number(), 2);
        drop(two);
        assert!(local.0.lock().unwrap().is_empty());
    }
}
