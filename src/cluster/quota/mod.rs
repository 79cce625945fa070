//! How many connections a user may have, on all nodes together.
//!
//! Each has a slot, `<hub>.<user>.<i>`, that is taken by compare-and-set, so there are never more. While
//! JetStream cannot be asked, each node counts its own only. A slot is gone from the bucket some time
//! after its connection, whatever becomes of the answers to what was written, and of the node.

mod local;
mod returned;
mod slots;
mod forget;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use super::Parts;
use super::alive::Alive;
use super::lease::LeaseId;
use super::registry::Registry;
use crate::close::{Cause, Close};
use crate::config::WhenUserFull;
use crate::event::Peer;
use crate::hub::{Command, Fleet, FleetError, Table, Target};
use crate::id::{ConnectionId, HubName, UserId};
use crate::nats::{LogLimit, StoreError};
use crate::task::{Backoff, Tasks};

use local::{Local, Place};
use slots::{Claim, Held, Slots, Taken};

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
    held: Option<Held>,
}

/// The user has as many connections as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the user has as many connections as there may be")]
pub struct UserFull;

/// How long a handshake waits for JetStream's word.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one try may take to reach the node of a connection that lost its slot.
const EVICT_TIMEOUT: Duration = Duration::from_secs(5);
const EVICT_TRIES: usize = 4;
/// The longest pause between two tries, and half of the shortest: time for a node to reach NATS again,
/// or for a connection to open that has its slot already.
const EVICT_PAUSE: Duration = Duration::from_secs(4);

impl Quotas {
    /// Those of a node by itself.
    pub(super) fn solo(table: &Table, fleet: &Fleet, tasks: &Tasks) -> Self {
        Self::new(None, table, fleet, tasks)
    }

    /// Those of a node among others, whose lease `registry` knows.
    pub(super) fn shared(parts: &Parts<'_>, alive: Alive, registry: &Arc<Registry>) -> Self {
        let Parts { node, store, table, fleet, tasks, metrics, .. } = *parts;
        let left_out = metrics.user_slots_left_out().clone();
        let slots = Slots::new(store.bucket("users"), alive, registry, node, left_out);
        Self::new(Some(slots), table, fleet, tasks)
    }

    /// Takes a slot for a client; none is needed for one that is nobody. Cancel safe: a slot that nobody
    /// waits for any more is given back.
    pub(super) async fn take(
        &self,
        peer: &Peer,
        quota: UserQuota,
    ) -> Result<Option<Box<Slot>>, UserFull> {
        let Some(user) = peer.user.as_ref().filter(|_| quota.max > 0) else { return Ok(None) };
        let hub = &peer.route.hub;
        let place = self.0.local.take(hub, user);
        if let Some(claim) = self.0.slots.as_ref().and_then(|slots| slots.claim(peer)) {
            match self.ask(claim, hub, user, quota).await {
                Ok(Taken::Free(held) | Taken::From(held, _)) => {
                    return Ok(Some(Box::new(Slot { _place: place, held: Some(held) })));
                }
                Ok(Taken::None) => return Err(UserFull),
                Err(error) => self.note(&error),
            }
        }
        if place.number() > usize::from(quota.max) {
            match quota.when_full {
                WhenUserFull::RejectNew => return Err(UserFull),
                WhenUserFull::EvictOldest => self.evict_own(hub, user),
            }
        }
        Ok(Some(Box::new(Slot { _place: place, held: None })))
    }

    /// Forgets the slots of a node that is no more.
    ///
    /// # Errors
    /// Those of any request; some are left then.
    pub(super) async fn forget(&self, lease: LeaseId) -> Result<(), StoreError> {
        match &self.0.slots {
            Some(slots) => slots.forget_lease(lease).await,
            None => Ok(()),
        }
    }

    /// Another node has taken over the lease, which the registry does not give out any more, and has
    /// freed its slots: the connections that had them end.
    pub(super) fn lose(&self) {
        let Some(slots) = &self.0.slots else { return };
        let close = Close::with_code(Cause::NodeLost, Cause::Evicted.code());
        for (connection, hub) in slots.all() {
            let hub = self.0.table.hub(&hub);
            let members = hub.map(|hub| hub.members(&Target::Connection(connection)));
            members.iter().flatten().for_each(|member| member.handle.cut(close.clone()));
        }
    }

    /// The node stops: what is given back is forgotten as soon as can be.
    pub(super) fn hurry(&self) {
        self.0.slots.iter().for_each(Slots::hurry);
    }

    /// Whether nothing is on its way back.
    pub(super) fn is_settled(&self) -> bool {
        self.0.slots.as_ref().is_none_or(Slots::is_settled)
    }

    /// Whether no slot is held, asked for, or on its way back.
    pub(super) fn is_idle(&self) -> bool {
        self.0.slots.as_ref().is_none_or(Slots::is_idle)
    }

    /// Takes out of the bucket what is given back, for ever.
    pub(super) async fn forget_returned(&self) {
        if let Some(slots) = &self.0.slots {
            slots.forget_returned().await;
        }
    }

    fn new(slots: Option<Slots>, table: &Table, fleet: &Fleet, tasks: &Tasks) -> Self {
        Self(Arc::new(Inner {
            local: Local::default(),
            slots,
            fleet: fleet.clone(),
            table: table.clone(),
            tasks: tasks.clone(),
            alone: LogLimit::new(),
        }))
    }

    /// Asks JetStream in a task of its own, because a handshake whose client left is dropped, and the
    /// slot may have been written by then. Nobody waits for that task: what it takes then goes back.
    async fn ask(
        &self,
        claim: Claim,
        hub: &HubName,
        user: &UserId,
        quota: UserQuota,
    ) -> Result<Taken, StoreError> {
        let (tell, told) = oneshot::channel();
        let deadline = Instant::now() + ASK_TIMEOUT;
        let (quotas, hub, user) = (self.clone(), hub.clone(), user.clone());
        self.0.tasks.spawn("user slot", async move {
            // Boxed, for it is large, and the task waits for it only.
            let taken = Box::pin(claim.take(&hub, &user, quota, deadline)).await;
            if let Ok(Taken::From(_, loser)) = &taken {
                quotas.evict(&hub, *loser);
            }
            let _ = tell.send(taken);
        });
        match timeout_at(deadline, told).await {
            Ok(Ok(taken)) => taken,
            // Too late, or a bug in the task, which logged it.
            Ok(Err(_)) | Err(_) => Err(StoreError::Unknown),
        }
    }

    /// Closes a connection that lost its slot, wherever it is.
    fn evict(&self, hub: &HubName, loser: ConnectionId) {
        let (inner, hub) = (Arc::clone(&self.0), hub.clone());
        self.0.tasks.spawn("eviction", async move {
            let target = Target::Connection(loser);
            let (mut was_gone, mut pause) = (false, Backoff::new(EVICT_PAUSE, EVICT_PAUSE));
            for _ in 0..EVICT_TRIES {
                let deadline = Instant::now() + EVICT_TIMEOUT;
                match inner.fleet.command(&hub, &target, &Command::Evict, deadline).await {
                    Ok(done) if !done.is_partial => return,
                    Err(FleetError::Gone) if was_gone => return,
                    // Nobody has it, or its node does not hear at the moment.
                    Err(FleetError::Gone) => was_gone = true,
                    other => tracing::debug!(connection = %loser, ?other, "not evicted yet"),
                }
                sleep(pause.delay()).await;
            }
            tracing::warn!(connection = %loser, "the loser of a slot was not reached");
        });
    }

    /// Closes the oldest connection that the user has here.
    fn evict_own(&self, hub: &HubName, user: &UserId) {
        let hub = self.0.table.hub(hub);
        let members = hub.map(|hub| hub.members(&Target::User(user.clone()))).unwrap_or_default();
        if let Some(oldest) = members.iter().min_by_key(|member| member.peer.since) {
            oldest.handle.cut(Close::of(Cause::Evicted));
        }
    }

    fn note(&self, error: &StoreError) {
        if let Some(left_out) = self.0.alone.admit(Instant::now()) {
            tracing::warn!(%error, left_out, "a user's connections are counted on this node only");
        }
    }
}

impl Slot {
    /// Whether another node has freed it, for it has taken over this node's lease.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.held.as_ref().is_some_and(Held::is_lost)
    }
}
