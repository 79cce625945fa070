//! One connection as its hub knows it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::handle::Handle;
use crate::event::Peer;
use crate::id::GroupName;

/// A connection of a hub.
#[derive(Debug)]
pub struct Member {
    /// Who it is.
    pub peer: Arc<Peer>,
    /// The line to it.
    pub handle: Handle,
    /// Its groups; none once it has left the hub, so that nobody can join it to one any more. Taken
    /// before the lock of a group, never after.
    groups: Mutex<Option<BTreeSet<GroupName>>>,
}

impl Member {
    pub(super) fn new(peer: Arc<Peer>, handle: Handle) -> Self {
        Self { peer, handle, groups: Mutex::new(Some(BTreeSet::new())) }
    }

    /// Its groups, in order.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupName> {
        self.lock().iter().flatten().cloned().collect()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Option<BTreeSet<GroupName>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
