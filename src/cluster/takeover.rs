//! Finishing what is left of another node's connections: its backends are told of each one's end.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::{Instant, sleep};

use super::farewell::{self, OFFERED_FOR, Told};
use super::lease::{Lease, LeaseId};
use super::record::{Record, millis};
use super::ways::Way;
use super::{Buckets, Inner};
use crate::event::{Event, EventBody, Trace};
use crate::id::ConnectionId;
use crate::nats::{self, Key, REQUEST_TIMEOUT, Revision, StoreError};
use crate::task::Backoff;

/// A lease that this node has taken over.
#[derive(Debug)]
pub(super) struct Takeover {
    pub(super) inner: Arc<Inner>,
    pub(super) buckets: Buckets,
    pub(super) lease: LeaseId,
    /// The lease's revision since it was taken; none for one that is finished already.
    pub(super) revision: Option<Revision>,
}

/// A key of our own below the lease. Who reads what we have just written there reads all that was
/// written before it.
const BARRIER: &str = "taken";
const STALE_PAUSE: Duration = Duration::from_millis(50);
const STALE_LOOKS: u32 = 100;
/// Connections that are told of at the same time.
const AT_ONCE: usize = 256;
/// How long it stays known that a lease is finished: for a node that was frozen for as long.
pub(super) const REMEMBERED_FOR: Duration = Duration::from_secs(24 * 3600);
/// How long each event is offered at the least.
const LEAST_OFFERED_FOR: Duration = Duration::from_secs(60);
/// How often a route is looked for that this node does not have.
const ROUTE_PAUSE: Duration = Duration::from_secs(1);

impl Takeover {
    /// Tells of every connection, then marks the lease as finished. Dropped, it leaves what is not told
    /// yet to whoever takes the lease over next.
    pub(super) async fn run(self) {
        let give_up = Instant::now() + OFFERED_FOR;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            match self.sweep(give_up).await {
                Ok(()) => break,
                Err(error) => tracing::warn!(lease = %self.lease, %error, "takeover goes on later"),
            }
            sleep(backoff.delay()).await;
        }
        tracing::info!(lease = %self.lease, "takeover finished");
    }

    /// Tells of all entries that there are, until there are none.
    async fn sweep(&self, give_up: Instant) -> Result<(), StoreError> {
        let connections = &self.buckets.connections;
        let barrier = Key::of(&[&self.lease.to_string(), BARRIER]);
        let written = connections.put(&barrier, Bytes::new(), deadline()).await?;
        let mut patience = STALE_LOOKS;
        loop {
            let mut all = connections.all(Some(&self.lease.key()), deadline()).await?;
            let before = all.len();
            all.retain(|record| record.revision != written);
            if all.len() == before {
                // The server that answered has not heard of the last writes yet, or somebody else has
                // written there since.
                patience = patience.checked_sub(1).ok_or(StoreError::Conflict)?;
                sleep(STALE_PAUSE).await;
                continue;
            }
            if all.is_empty() {
                break;
            }
            // Those of routes that nobody has may take long.
            all.sort_by_cached_key(|record| !self.is_of_a_route(record));
            let all: Vec<_> = all.iter().map(|record| self.tell(record, give_up)).collect();
            let told: Vec<_> = stream::iter(all).buffer_unordered(AT_ONCE).collect().await;
            told.into_iter().collect::<Result<(), StoreError>>()?;
        }
        connections.forget(&barrier, None, deadline()).await?;
        self.inner.quotas.forget(self.lease).await?;
        if let Some(revision) = self.revision {
            let (key, value) = (self.lease.key(), Lease::Finished.to_json());
            let leases = &self.buckets.leases;
            let finished = leases.update_for(REMEMBERED_FOR, &key, value, revision, deadline());
            match finished.await {
                // It was finished by a write whose answer was lost, or taken from us.
                Ok(_) | Err(StoreError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Tells a backend of one connection's end, and takes the entry out once it has accepted that or it
    /// is too old.
    async fn tell(&self, stored: &nats::Record, give_up: Instant) -> Result<(), StoreError> {
        let parsed = self.id_of(&stored.key).zip(stored.value.as_deref().and_then(Record::parse));
        match parsed {
            None => tracing::warn!(key = stored.key, "registry entry cannot be read, forgotten"),
            Some((id, record)) => self.tell_end(id, &record, give_up).await,
        }
        let tokens: Vec<&str> = stored.key.split('.').collect();
        self.buckets.connections.forget(&Key::of(&tokens), None, deadline()).await
    }

    async fn tell_end(&self, id: ConnectionId, record: &Record, give_up: Instant) {
        let Some((route, relay)) = self.way(record, give_up).await else {
            let (hub, route) = (&*record.hub, &*record.route);
            tracing::warn!(connection = %id, hub, route, "no such route, disconnected is not told");
            return self.inner.metrics.disconnect_event(Told::GivenUp.as_str());
        };
        let now = SystemTime::now();
        let (peer, ended) = (Arc::new(record.peer(id, route)), record.ended(now));
        tracing::info!(
            connection = %id,
            user = peer.user.as_ref().map(tracing::field::display),
            hub = record.hub,
            route = record.route,
            remote = %peer.remote,
            code = ended.close.code,
            cause = ended.close.cause.as_str(),
            duration_ms = u64::try_from(ended.duration.as_millis()).unwrap_or(u64::MAX),
            "connection of another node ended"
        );
        // Its own node has offered it for some of the time.
        let age = record.ended.as_ref().map_or(0, |ended| millis(now).saturating_sub(ended.at));
        let give_up = give_up.checked_sub(Duration::from_millis(age)).unwrap_or(give_up);
        // Clocks of nodes differ, and no worker may have been there while it waited for its turn.
        let give_up = give_up.max(Instant::now() + LEAST_OFFERED_FOR);
        // The last number is not known.
        let event = Event {
            peer,
            sequence: 0,
            time: now,
            state: None,
            trace: Trace::start(),
            written: None,
            body: EventBody::Disconnected(Box::new(ended)),
        };
        self.inner.fence.opened().await;
        let told: Told = farewell::tell(&relay, &event, give_up).await;
        told.count(&relay, &event);
    }

    /// The route that the connection was on. Another config may come into force while it is looked for.
    async fn way(&self, record: &Record, give_up: Instant) -> Option<Way> {
        loop {
            match self.inner.ways.find(&record.hub, &record.route) {
                None if Instant::now() < give_up => sleep(ROUTE_PAUSE).await,
                way => return way,
            }
        }
    }

    fn is_of_a_route(&self, stored: &nats::Record) -> bool {
        let record = stored.value.as_deref().and_then(Record::parse);
        record.is_none_or(|record| self.inner.ways.find(&record.hub, &record.route).is_some())
    }

    /// The connection that a key is of.
    fn id_of(&self, key: &str) -> Option<ConnectionId> {
        let (lease, id) = key.split_once('.')?;
        let id: ConnectionId = id.parse().ok()?;
        (lease == self.lease.to_string() && id.node() == self.lease.node).then_some(id)
    }
}

fn deadline() -> Instant {
    // A listing takes several requests.
    Instant::now() + 5 * REQUEST_TIMEOUT
}
