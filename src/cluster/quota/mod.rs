//! How many connections a user may have, on all nodes together.
//!
//! Each has a slot, `<hub>.<user>.<i>`, that is taken by compare-and-set, so there are never more. While
//! JetStream cannot be asked, each node counts its own only.

mod local;
mod slots;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::alive::Alive;
use super::lease::LeaseId;
use super::record;
use crate::close::{Cause, Close};
use crate::config::WhenUserFull;
use crate::event::Peer;
use crate::hub::{Command, Fleet, FleetError, Table, Target};
use crate::id::{ConnectionId, HubName};
use crate::nats::{LogLimit, Store};
use crate::task::Tasks;

use local::{Local, Place};
use slots::{Held, Slots, Taken};

/// How many connections of one user there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserQuota {
    /// On all nodes.
    pub max: u16,
    /// What becomes of one more.
    pub when_full: WhenUserFull,
}

/// The slots of all users. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Quotas(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    local: Local,
    /// None for a node by itself.
    slots: Option<Slots>,
    fleet: Fleet,
    table: Table,
    tasks: Tasks,
    alone: LogLimit,
}

/// A connection's slot; given back on drop.
#[derive(Debug)]
pub struct Slot {
    _place: Place,
    held: Option<(Quotas, Held)>,
}

/// The user has as many connections as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the user has as many connections as there may be")]
pub struct UserFull;

/// How long a handshake waits for JetStream's word.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// How long it is tried to reach the node of a connection that lost its slot.
const EVICT_TIMEOUT: Duration = Duration::from_secs(5);
const EVICT_TRIES: usize = 3;

impl Quotas {
    pub(super) fn new(
        store: Option<(&Store, Alive)>,
        table: &Table,
        fleet: &Fleet,
        tasks: &Tasks,
    ) -> Self {
        let slots = store.map(|(store, alive)| Slots::new(store.bucket("users"), alive, tasks));
        Self(Arc::new(Inner {
            local: Local::default(),
            slots,
            fleet: fleet.clone(),
            table: table.clone(),
            tasks: tasks.clone(),
            alone: LogLimit::new(),
        }))
    }

    /// Takes a slot for a client; none is needed for one that is nobody. Cancel safe in that a slot
    /// that was taken meanwhile is given back.
    pub(super) async fn take(
        &self,
        peer: &Peer,
        lease: Option<LeaseId>,
        quota: UserQuota,
    ) -> Result<Option<Box<Slot>>, UserFull> {
        let Some(user) = peer.user.as_ref().filter(|_| quota.max > 0) else { return Ok(None) };
        let place = self.0.local.take(&peer.route.hub, user);
        if let Some((slots, lease)) = self.0.slots.as_ref().zip(lease) {
            let since = record::millis(peer.since);
            let holder = slots::Holder { connection: peer.id, lease, since };
            let deadline = Instant::now() + ASK_TIMEOUT;
            let taking = slots.take(&peer.route.hub, user, holder, quota);
            // Boxed, for few routes come here, and each handshake has room for it.
            match timeout_at(deadline, Box::pin(taking)).await {
                Ok(Ok(Taken::Free(held))) => return Ok(Some(self.slot(place, held))),
                Ok(Ok(Taken::From(held, loser))) => {
                    self.evict(&peer.route.hub, loser);
                    return Ok(Some(self.slot(place, held)));
                }
                Ok(Ok(Taken::None)) => return Err(UserFull),
                Ok(Err(error)) => self.note(&error.to_string()),
                Err(_) => self.note("no answer in time"),
            }
        }
        if place.number() > usize::from(quota.max) {
            match quota.when_full {
                WhenUserFull::RejectNew => return Err(UserFull),
                WhenUserFull::EvictOldest => self.evict_own(&peer.route.hub, user),
            }
        }
        Ok(Some(Box::new(Slot { _place: place, held: None })))
    }

    /// Forgets the slots of a node that is no more.
    pub(super) async fn forget(&self, lease: LeaseId) {
        if let Some(slots) = &self.0.slots {
            slots.forget_all(lease).await;
        }
    }

    fn slot(&self, place: Place, held: Held) -> Box<Slot> {
        Box::new(Slot { _place: place, held: Some((self.clone(), held)) })
    }

    /// Closes a connection that lost its slot, wherever it is.
    fn evict(&self, hub: &HubName, loser: ConnectionId) {
        let (inner, hub) = (Arc::clone(&self.0), hub.clone());
        self.0.tasks.spawn("eviction", async move {
            let target = Target::Connection(loser);
            for _ in 0..EVICT_TRIES {
                let deadline = Instant::now() + EVICT_TIMEOUT;
                match inner.fleet.command(&hub, &target, &Command::Evict, deadline).await {
                    Ok(done) if !done.is_partial => return,
                    Err(FleetError::Gone) => return,
                    other => tracing::debug!(connection = %loser, ?other, "not evicted yet"),
                }
            }
            tracing::warn!(connection = %loser, "the loser of a slot was not reached");
        });
    }

    /// Closes the oldest connection that the user has here.
    fn evict_own(&self, hub: &HubName, user: &crate::id::UserId) {
        let hub = self.0.table.hub(hub);
        let members = hub.map(|hub| hub.members(&Target::User(user.clone()))).unwrap_or_default();
        if let Some(oldest) = members.iter().min_by_key(|member| member.peer.since) {
            oldest.handle.cut(Close::of(Cause::Evicted));
        }
    }

    fn note(&self, error: &str) {
        if let Some(left_out) = self.0.alone.admit(Instant::now()) {
            tracing::warn!(error, left_out, "a user's connections are counted on this node only");
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some((quotas, held)) = self.held.take()
            && let Some(slots) = &quotas.0.slots
        {
            slots.give_back(held);
        }
    }
}
