//! The slots of users in the bucket, and the task that gives them back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::UserQuota;
use crate::cluster::alive::Alive;
use crate::cluster::lease::LeaseId;
use crate::config::WhenUserFull;
use crate::id::{ConnectionId, HubName, UserId};
use crate::nats::{Bucket, Key, LogLimit, REQUEST_TIMEOUT, Revision, StoreError};
use crate::task::{Backoff, Tasks};

/// The slots of all users.
#[derive(Debug)]
pub(super) struct Slots {
    bucket: Bucket,
    alive: Alive,
    returned: Arc<Returned>,
}

/// Slots on their way back: at most as many as there were connections.
#[derive(Debug, Default)]
struct Returned {
    /// Held to put in or take out.
    slots: Mutex<Vec<Held>>,
    news: Notify,
}

/// Who has a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    pub(super) connection: ConnectionId,
    /// The lease of its node.
    pub(super) lease: LeaseId,
    /// Milliseconds since 1970.
    pub(super) since: u64,
}

/// A slot of ours.
#[derive(Debug)]
pub(super) struct Held {
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

/// Slots that are given back at the same time.
const AT_ONCE: usize = 64;
/// How often it is begun again because others took a slot at the same time.
const TRIES: usize = 16;

impl Slots {
    pub(super) fn new(bucket: Bucket, alive: Alive, tasks: &Tasks) -> Self {
        let returned = Arc::<Returned>::default();
        let (stop, work, own) = (tasks.clone(), Arc::clone(&returned), bucket.clone());
        tasks.keep("user slots", move || {
            let (stop, work, bucket) = (stop.clone(), Arc::clone(&work), own.clone());
            async move {
                tokio::select! {
                    () = stop.stopping() => {}
                    () = work.forget(&bucket) => {}
                }
            }
        });
        Self { bucket, alive, returned }
    }

    /// Takes a slot of the user for `holder`.
    pub(super) async fn take(
        &self,
        hub: &HubName,
        user: &UserId,
        holder: Holder,
        quota: UserQuota,
    ) -> Result<Taken, StoreError> {
        for _ in 0..TRIES {
            match Box::pin(self.try_to_take(hub, user, holder, quota)).await {
                // Somebody else was faster, and everything looks different now.
                Err(StoreError::Conflict) => {}
                Err(StoreError::NoBucket(_)) => {
                    self.bucket.ensure(deadline()).await?;
                }
                taken => return taken,
            }
        }
        Err(StoreError::Conflict)
    }

    /// Forgets the slots that connections of a dead node had.
    pub(super) async fn forget_all(&self, lease: LeaseId) {
        // Whoever needs a slot of a dead node takes it anyway; this is for users who never return.
        let Ok(all) = self.bucket.all(None, Instant::now() + 5 * REQUEST_TIMEOUT).await else {
            return;
        };
        for record in all {
            let holder = record.value.as_deref().and_then(parse);
            if holder.is_some_and(|holder| holder.lease == lease) {
                let tokens: Vec<&str> = record.key.split('.').collect();
                self.give_back(Held { key: Key::of(&tokens), revision: record.revision });
            }
        }
    }

    /// Gives a slot back, soon.
    pub(super) fn give_back(&self, held: Held) {
        self.returned.lock().push(held);
        self.returned.news.notify_one();
    }

    async fn try_to_take(
        &self,
        hub: &HubName,
        user: &UserId,
        holder: Holder,
        quota: UserQuota,
    ) -> Result<Taken, StoreError> {
        let token = user.token();
        let below = Key::of(&[hub.as_str(), &token]);
        let key = |place: &str| Key::of(&[hub.as_str(), &token, place]);
        let value = Bytes::from(serde_json::to_vec(&holder).unwrap_or_default());
        let records = self.bucket.all(Some(&below), deadline()).await?;
        let mut oldest: Option<(Holder, Key, Revision)> = None;
        let mut used = vec![false; usize::from(quota.max)];
        for record in records {
            let place = record.key.rsplit('.').next().unwrap_or_default();
            // Beyond the bound, which was another before.
            let Some(used) = place.parse::<usize>().ok().and_then(|n| used.get_mut(n)) else {
                continue;
            };
            let (key, revision) = (key(place), record.revision);
            let found = record.value.as_deref().and_then(parse);
            match found {
                Some(found) if self.alive.is_alive(found.lease).await? => {
                    *used = true;
                    if oldest.as_ref().is_none_or(|(before, ..)| found.since < before.since) {
                        oldest = Some((found, key, revision));
                    }
                }
                _ => {
                    let revision = self.bucket.update(&key, value, revision, deadline()).await?;
                    return Ok(Taken::Free(Held { key, revision }));
                }
            }
        }
        if let Some(place) = used.iter().position(|used| !used) {
            let key = key(&place.to_string());
            let revision = self.bucket.create(&key, value, deadline()).await?;
            return Ok(Taken::Free(Held { key, revision }));
        }
        match (quota.when_full, oldest) {
            (WhenUserFull::EvictOldest, Some((loser, key, revision))) => {
                let revision = self.bucket.update(&key, value, revision, deadline()).await?;
                Ok(Taken::From(Held { key, revision }, loser.connection))
            }
            _ => Ok(Taken::None),
        }
    }
}

impl Returned {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Held>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out what was given back, for ever.
    async fn forget(&self, bucket: &Bucket) {
        let (failed, mut backoff) =
            (LogLimit::new(), Backoff::new(Duration::from_millis(100), Duration::from_secs(5)));
        loop {
            let next: Vec<Held> = {
                let mut slots = self.lock();
                let rest = slots.len().saturating_sub(AT_ONCE);
                slots.split_off(rest)
            };
            if next.is_empty() {
                self.news.notified().await;
                continue;
            }
            let forgotten = join_all(next.into_iter().map(|held| async move {
                let forgotten = bucket.forget(&held.key, Some(held.revision), deadline()).await;
                (held, forgotten)
            }));
            let mut failure = None;
            for (held, forgotten) in forgotten.await {
                match forgotten {
                    // Somebody else has it already.
                    Ok(()) | Err(StoreError::Conflict | StoreError::NoBucket(_)) => {}
                    Err(error) => {
                        self.lock().push(held);
                        failure = Some(error);
                    }
                }
            }
            let Some(error) = failure else {
                backoff.reset();
                continue;
            };
            if let Some(left_out) = failed.admit(Instant::now()) {
                tracing::warn!(%error, left_out, "users' slots are given back later");
            }
            sleep(backoff.delay()).await;
        }
    }
}

fn parse(json: &[u8]) -> Option<Holder> {
    serde_json::from_slice(json).ok()
}

fn deadline() -> Instant {
    Instant::now() + REQUEST_TIMEOUT
}
