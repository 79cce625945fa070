//! The slots of users in the bucket: who has them, and how one is taken.
//!
//! A slot that is written is held until its [`Held`] is dropped. One whose write had no answer is looked
//! for later, so none stays that nobody knows of.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use prometheus::IntCounter;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::UserQuota;
use super::returned::{Returned, Work};
use crate::cluster::alive::Alive;
use crate::cluster::lease::LeaseId;
use crate::cluster::record;
use crate::cluster::registry::Registry;
use crate::config::WhenUserFull;
use crate::event::Peer;
use crate::id::{ConnectionId, HubName, NodeId, UserId};
use crate::nats::{Bucket, Key, Revision, StoreError};

/// The slots of all users. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Slots(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) bucket: Bucket,
    alive: Alive,
    /// Knows the lease in force.
    registry: Arc<Registry>,
    pub(super) node: NodeId,
    /// The connections of this node that have a slot or ask for one. Held to put in, take out or look.
    holders: Mutex<HashMap<ConnectionId, HubName>>,
    pub(super) returned: Returned,
}

/// Who has a slot, as the bucket holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    pub(super) connection: ConnectionId,
    /// The lease of its node.
    pub(super) lease: LeaseId,
    /// Milliseconds since 1970.
    pub(super) since: u64,
}

/// A connection of this node that asks for a slot, or has one.
#[derive(Debug)]
pub(super) struct Claim {
    slots: Slots,
    pub(super) holder: Holder,
}

/// A slot of ours; given back on drop.
#[derive(Debug)]
pub(super) struct Held {
    claim: Claim,
    key: Key,
    revision: Revision,
}

/// What came of asking for a slot.
#[derive(Debug)]
pub(super) enum Taken {
    /// One that was free.
    Free(Held),
    /// One that another connection had.
    From(Held, ConnectionId),
    /// None: all are held.
    None,
}

/// What is to be written.
enum Choice {
    /// To a key that has this revision; the connection that loses its slot by that.
    Update(Key, Revision, Option<ConnectionId>),
    /// To a key that has no value.
    Create(Key),
    /// Nothing: all slots are held.
    Nothing,
}

/// How often it is begun again because others took a slot at the same time.
const TRIES: usize = 16;
/// Slots on their way back: as many as a large node has connections, in some megabytes.
const RETURNED: usize = 1 << 16;

impl Slots {
    pub(super) fn new(
        bucket: Bucket,
        alive: Alive,
        registry: &Arc<Registry>,
        node: NodeId,
        left_out: IntCounter,
    ) -> Self {
        let (registry, returned) = (Arc::clone(registry), Returned::new(RETURNED, left_out));
        let holders = Mutex::default();
        Self(Arc::new(Inner { bucket, alive, registry, node, holders, returned }))
    }

    /// Begins to ask for a slot; none while the node has no lease.
    pub(super) fn claim(&self, peer: &Peer) -> Option<Claim> {
        // Before looking at the lease: when that is lost, either this one is found among the holders, or
        // it finds no lease.
        self.holders().insert(peer.id, peer.route.hub.clone());
        let Some(lease) = self.0.registry.lease() else {
            self.holders().remove(&peer.id);
            return None;
        };
        let holder = Holder { connection: peer.id, lease, since: record::millis(peer.since) };
        Some(Claim { slots: self.clone(), holder })
    }

    /// The connections that have a slot or ask for one.
    pub(super) fn all(&self) -> Vec<(ConnectionId, HubName)> {
        self.holders().iter().map(|(id, hub)| (*id, hub.clone())).collect()
    }

    /// Whether the connection has a slot or asks for one.
    pub(super) fn has(&self, connection: ConnectionId) -> bool {
        self.holders().contains_key(&connection)
    }

    /// Whether no slot is held, asked for, or on its way back.
    pub(super) fn is_idle(&self) -> bool {
        self.holders().is_empty() && self.is_settled()
    }

    /// Whether nothing is on its way back.
    pub(super) fn is_settled(&self) -> bool {
        self.0.returned.is_empty()
    }

    /// Nothing that is given back waits any more.
    pub(super) fn hurry(&self) {
        self.0.returned.hurry();
    }

    fn holders(&self) -> MutexGuard<'_, HashMap<ConnectionId, HubName>> {
        self.0.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// Takes a slot of the user. Not cancel safe: dropped, it may leave a slot that nobody knows of.
    pub(super) async fn take(
        self,
        hub: &HubName,
        user: &UserId,
        quota: UserQuota,
        deadline: Instant,
    ) -> Result<Taken, StoreError> {
        let bucket = &self.slots.0.bucket;
        let value = Bytes::from(serde_json::to_vec(&self.holder).unwrap_or_default());
        let mut tries = 0..TRIES;
        let (key, revision, loser) = loop {
            let written = match self.choose(hub, user, quota, deadline).await {
                Ok(Choice::Nothing) => return Ok(Taken::None),
                Ok(Choice::Update(key, revision, loser)) => {
                    let written = bucket.update(&key, value.clone(), revision, deadline).await;
                    self.written(key, loser, written)
                }
                Ok(Choice::Create(key)) => {
                    let written = bucket.create(&key, value.clone(), deadline).await;
                    self.written(key, None, written)
                }
                Err(error) => Err(error),
            };
            match written {
                Ok(written) => break written,
                // Somebody else was faster, and everything looks different now.
                Err(StoreError::Conflict) if tries.next().is_some() => {}
                Err(StoreError::NoBucket(_)) if tries.next().is_some() => {
                    bucket.ensure(deadline).await?;
                }
                Err(error) => return Err(error),
            }
        };
        let held = Held { claim: self, key, revision };
        Ok(match loser {
            Some(loser) => Taken::From(held, loser),
            None => Taken::Free(held),
        })
    }

    /// Sees to it that a slot is looked for that may be written.
    fn written(
        &self,
        key: Key,
        loser: Option<ConnectionId>,
        written: Result<Revision, StoreError>,
    ) -> Result<(Key, Revision, Option<ConnectionId>), StoreError> {
        match written {
            Ok(revision) => Ok((key, revision, loser)),
            Err(error) => {
                if matches!(error, StoreError::Unknown | StoreError::Answer(_)) {
                    self.slots.0.returned.put(Work::Look(key, self.holder.connection));
                }
                Err(error)
            }
        }
    }

    /// Which slot to take.
    async fn choose(
        &self,
        hub: &HubName,
        user: &UserId,
        quota: UserQuota,
        deadline: Instant,
    ) -> Result<Choice, StoreError> {
        let token = user.token();
        let below = Key::of(&[hub.as_str(), &token]);
        let key = |place: &str| Key::of(&[hub.as_str(), &token, place]);
        let inner = &self.slots.0;
        let records = inner.bucket.all(Some(&below), deadline).await?;
        let mut oldest: Option<(Holder, Key, Revision)> = None;
        let mut used = vec![false; usize::from(quota.max)];
        for record in records {
            let place = record.key.rsplit('.').next().unwrap_or_default();
            // Beyond the bound, which was another before.
            let Some(used) = place.parse::<usize>().ok().and_then(|n| used.get_mut(n)) else {
                continue;
            };
            let (key, revision) = (key(place), record.revision);
            match record.value.as_deref().and_then(Holder::parse) {
                Some(found) if inner.alive.is_alive(found.lease).await? => {
                    *used = true;
                    if oldest.as_ref().is_none_or(|(before, ..)| found.since < before.since) {
                        oldest = Some((found, key, revision));
                    }
                }
                _ => return Ok(Choice::Update(key, revision, None)),
            }
        }
        if let Some(place) = used.iter().position(|used| !used) {
            return Ok(Choice::Create(key(&place.to_string())));
        }
        Ok(match (quota.when_full, oldest) {
            (WhenUserFull::EvictOldest, Some((loser, key, revision))) => {
                Choice::Update(key, revision, Some(loser.connection))
            }
            _ => Choice::Nothing,
        })
    }
}

impl Holder {
    /// Who was written; none when that was not by moorline.
    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }
}

impl Held {
    /// Whether the slot is another node's to give, for it has taken over the lease.
    pub(super) fn is_lost(&self) -> bool {
        self.claim.slots.0.registry.lease() != Some(self.claim.holder.lease)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.slots.holders().remove(&self.holder.connection);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Before its claim is dropped, so that it is among one or the other all the time.
        let returned = &self.claim.slots.0.returned;
        returned.put(Work::Forget(self.key.clone(), self.revision));
    }
}
