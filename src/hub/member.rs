//! One connection as its hub knows it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::handle::Handle;
use super::push::Push;
use crate::event::Peer;
use crate::id::GroupName;

/// A connection of a hub.
#[derive(Debug)]
pub struct Member {
    /// Who it is.
    pub peer: Arc<Peer>,
    /// The line to it.
    pub handle: Handle,
    /// Its groups, and its number in each; none once it has left the hub, so that nobody can join it to
    /// one any more. Taken before the lock of a group, never after.
    groups: Mutex<Option<BTreeMap<GroupName, u64>>>,
}

impl Member {
    pub(super) fn new(peer: Arc<Peer>, handle: Handle) -> Self {
        Self { peer, handle, groups: Mutex::new(Some(BTreeMap::new())) }
    }

    /// Its groups, in order.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupName> {
        self.lock().iter().flatten().map(|(group, _)| group.clone()).collect()
    }

    /// Gives it a push, unless it is not to get it; whether it took it.
    pub(super) fn push(&self, push: &Push) -> bool {
        !push.exclude.contains(&self.peer.id)
            && self.handle.push(push.message.clone(), push.expires).is_ok()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Option<BTreeMap<GroupName, u64>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
