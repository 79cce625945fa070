//! Which groups and users got their first connection here or lost their last, for whoever subscribes to
//! them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::push::Target;
use crate::id::{GroupName, HubName, UserId};

/// What changed since it was last asked for: each once, so at most as many as there are and were
/// meanwhile.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Without anybody who asks, nothing is kept.
    watches_groups: AtomicBool,
    watches_users: AtomicBool,
    noted: Mutex<Noted>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Noted {
    changed: HashSet<Changed>,
    version: u64,
}

/// A group or a user of a hub.
pub(super) type Changed = (HubName, Target);

impl Changes {
    pub(super) fn watch(&self, groups: bool, users: bool) {
        self.watches_groups.store(groups, Ordering::Release);
        self.watches_users.store(users, Ordering::Release);
    }

    pub(super) fn note_group(&self, hub: &HubName, group: &GroupName) {
        if self.watches_groups.load(Ordering::Acquire) {
            self.note((hub.clone(), Target::Group(group.clone())));
        }
    }

    pub(super) fn note_user(&self, hub: &HubName, user: &UserId) {
        if self.watches_users.load(Ordering::Acquire) {
            self.note((hub.clone(), Target::User(user.clone())));
        }
    }

    /// How often something has changed.
    pub(super) fn version(&self) -> u64 {
        self.lock().version
    }

    /// Waits for changes and takes them; all up to the version are among those that were taken so far.
    /// Cancel safe.
    pub(super) async fn next(&self) -> (HashSet<Changed>, u64) {
        loop {
            {
                let mut noted = self.lock();
                if !noted.changed.is_empty() {
                    return (std::mem::take(&mut noted.changed), noted.version);
                }
            }
            self.news.notified().await;
        }
    }

    fn note(&self, changed: Changed) {
        {
            let mut noted = self.lock();
            noted.changed.insert(changed);
            noted.version += 1;
        }
        self.news.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
