//! Which groups got their first member here or lost their last, for whoever subscribes to them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::id::{GroupName, HubName};

/// Groups that changed since they were last asked for: each once, so at most as many as there are and
/// were meanwhile.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Without anybody who asks, nothing is kept.
    is_watched: AtomicBool,
    changed: Mutex<HashSet<(HubName, GroupName)>>,
    news: Notify,
}

impl Changes {
    pub(super) fn watch(&self) {
        self.is_watched.store(true, Ordering::Release);
    }

    pub(super) fn note(&self, hub: &HubName, group: &GroupName) {
        if self.is_watched.load(Ordering::Acquire) {
            let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
            changed.insert((hub.clone(), group.clone()));
            drop(changed);
            self.news.notify_one();
        }
    }

    /// Waits for changes and takes them. Cancel safe.
    pub(super) async fn next(&self) -> HashSet<(HubName, GroupName)> {
        loop {
            let all = self.take();
            if !all.is_empty() {
                return all;
            }
            self.news.notified().await;
        }
    }

    fn take(&self) -> HashSet<(HubName, GroupName)> {
        std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
