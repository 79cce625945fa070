//! The task that keeps this node's lease, and every so often looks at those of the others.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::alive::Alive;
use super::lease::{Lease, LeaseId};
use super::observer::Observer;
use super::takeover::REMEMBERED_FOR;
use super::{Buckets, Inner, Standing};
use crate::close::{Cause, Close};
use crate::config::JetStream;
use crate::hub::Target;
use crate::nats::{Key, LogLimit, REQUEST_TIMEOUT, Revision, StoreError};

/// Keeps the lease until it is released.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) inner: Arc<Inner>,
    pub(super) buckets: Buckets,
    /// Is told who is alive, as far as others can see.
    pub(super) alive: Alive,
    pub(super) own: Option<Own>,
    pub(super) observer: Observer,
    /// The last change of a lease that was seen.
    pub(super) seen: Revision,
    /// Ends the takeovers that were begun under this lease.
    pub(super) stop_takeovers: CancellationToken,
    /// Those that have not ended.
    pub(super) takeovers: HashMap<LeaseId, JoinHandle<()>>,
    /// Leases that were taken from this node: looked at once more when they are finished, for a write
    /// that came after.
    pub(super) former: Vec<LeaseId>,
    /// Whether entries were looked for that no lease stands for.
    pub(super) has_adopted: bool,
    /// Which buckets have what is ours.
    made: Made,
    /// When that was looked at last.
    checked: Option<Instant>,
    /// Since when JetStream is said to be missing.
    missing_since: Option<Instant>,
    trouble: LogLimit,
}

/// The lease in force.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) id: LeaseId,
    key: Key,
    pub(super) revision: Revision,
    /// When the last renewal was sent that was acknowledged.
    renewed: Instant,
    /// When one was sent last.
    tried: Instant,
    /// The first one that was sent since and may have been stored.
    unacknowledged: Option<Instant>,
}

/// Which buckets these are: one that was made anew has another word.
#[derive(Debug, Default)]
struct Made {
    leases: String,
    connections: String,
}

/// How often the leases are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(1500);
/// How often the own lease is renewed.
const RENEW_INTERVAL: Duration = Duration::from_millis(2900);
/// How long after a renewal the node may speak for its connections. Others take them over three seconds
/// later at the earliest: a request that was just given to NATS arrives before that.
const SPEAK_FOR: Duration = Duration::from_secs(12);
/// How often it is looked whether the buckets are still the same.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// How long JetStream may be missing at the start. A server that has just come up, or a cluster of them
/// that elects its leader, needs some seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// The least server: deletions that do not stay for ever, and reading many records at once.
const LEAST_SERVER: (u32, u32) = (2, 11);

impl Keeper {
    /// A keeper that has no lease yet.
    pub(super) fn new(inner: Arc<Inner>, buckets: Buckets, alive: Alive) -> Self {
        Self {
            inner,
            buckets,
            alive,
            own: None,
            observer: Observer::default(),
            seen: Revision::NONE,
            stop_takeovers: CancellationToken::new(),
            takeovers: HashMap::new(),
            former: Vec::new(),
            has_adopted: false,
            made: Made::default(),
            checked: None,
            missing_since: None,
            trouble: LogLimit::new(),
        }
    }

    /// Works until the lease is released, or it is clear that there can be none.
    pub(super) async fn run(mut self) {
        // Entries of a keeper that died are nobody's now.
        self.close_lost();
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (inner, store) = (Arc::clone(&self.inner), self.buckets.store.clone());
        loop {
            let was_up = store.is_up();
            tokio::select! {
                _ = looks.tick() => self.beat().await,
                () = store.up(), if !was_up => {
                    self.checked = None;
                    self.beat().await;
                }
                () = inner.registry.missing.notified() => self.check_buckets().await,
                () = inner.release.notified() => return self.give_back().await,
            }
            if matches!(*inner.standing.borrow(), Standing::Off | Standing::Unusable(_)) {
                return;
            }
        }
    }

    async fn beat(&mut self) {
        if !self.buckets.store.is_up() {
            self.tell_roster();
            return;
        }
        if self.checked.is_none_or(|checked| checked.elapsed() >= CHECK_INTERVAL) {
            Box::pin(self.check_buckets()).await;
        }
        match &self.own {
            None => self.acquire().await,
            Some(own) if own.tried.elapsed() >= RENEW_INTERVAL => self.renew().await,
            Some(_) => {}
        }
        if self.own.is_some() {
            self.look().await;
        }
        self.tell_roster();
    }

    /// Takes a lease.
    async fn acquire(&mut self) {
        if *self.inner.standing.borrow() == Standing::Starting
            && let Err(why) = self.check_server()
        {
            return self.set_unusable(&why);
        }
        let number = self.inner.leases.fetch_add(1, Ordering::Relaxed) + 1;
        let id = LeaseId { node: self.inner.node, number };
        match self.make(id).await {
            Ok(()) => {
                tracing::info!(lease = %id, "lease taken");
                self.missing_since = None;
                self.inner.registry.set_lease(id);
                self.inner.standing.send_replace(Standing::Up);
            }
            Err(error) => self.not_made(&error),
        }
    }

    /// Makes the buckets unless they are there, and a lease.
    async fn make(&mut self, id: LeaseId) -> Result<(), StoreError> {
        self.made = self.ensure().await?;
        self.checked = Some(Instant::now());
        self.write(id).await
    }

    async fn ensure(&self) -> Result<Made, StoreError> {
        Ok(Made {
            leases: self.buckets.leases.ensure(deadline()).await?,
            connections: self.buckets.connections.ensure(deadline()).await?,
        })
    }

    /// Writes a lease that is not there.
    async fn write(&mut self, id: LeaseId) -> Result<(), StoreError> {
        let (key, sent) = (id.key(), Instant::now());
        let revision = self.buckets.leases.create(&key, Lease::Held.to_json(), deadline()).await?;
        let unacknowledged = None;
        self.own = Some(Own { id, key, revision, renewed: sent, tried: sent, unacknowledged });
        self.renewed(sent);
        Ok(())
    }

    fn not_made(&mut self, error: &StoreError) {
        let has_been_up = *self.inner.standing.borrow() == Standing::Up;
        match error {
            _ if has_been_up => {}
            StoreError::Differs { .. } => return self.set_unusable(&error.to_string()),
            StoreError::NoJetStream(_) => {
                let since = *self.missing_since.get_or_insert_with(Instant::now);
                let is_over = since.elapsed() >= PATIENCE;
                if is_over || self.inner.jetstream == JetStream::Optional {
                    return self.set_unusable(&error.to_string());
                }
            }
            _ => self.missing_since = None,
        }
        self.warn(error, "no lease yet, trying again");
    }

    /// The registry cannot be had.
    fn set_unusable(&self, why: &str) {
        let standing = if self.inner.jetstream == JetStream::Optional {
            tracing::warn!(why, "no JetStream: backends are not told when this node dies");
            self.inner.fence.throw_open();
            self.inner.registry.give_up();
            Standing::Off
        } else {
            Standing::Unusable(why.to_owned())
        };
        self.inner.standing.send_replace(standing);
    }

    fn check_server(&self) -> Result<(), String> {
        let Some(version) = self.buckets.store.server_version() else { return Ok(()) };
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
        let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if found >= LEAST_SERVER {
            return Ok(());
        }
        Err(format!("nats-server {version} is too old, 2.11 is the least"))
    }

    async fn renew(&mut self) {
        let Some(own) = &mut self.own else { return };
        let sent = Instant::now();
        own.tried = sent;
        own.unacknowledged.get_or_insert(sent);
        let held = Lease::Held.to_json();
        match self.buckets.leases.update(&own.key, held, own.revision, deadline()).await {
            Ok(revision) => {
                own.revision = revision;
                self.renewed(sent);
            }
            // Boxed, for both are rare, and every renewal has room for them.
            Err(StoreError::Conflict) => Box::pin(self.read_back()).await,
            Err(StoreError::NoBucket(_)) => Box::pin(self.check_buckets()).await,
            Err(error) => self.warn(&error, "lease not renewed"),
        }
    }

    fn renewed(&mut self, sent: Instant) {
        if let Some(own) = &mut self.own {
            own.renewed = sent;
            own.unacknowledged = None;
        }
        self.inner.fence.extend(sent + SPEAK_FOR);
        self.observer.renewed(sent);
    }

    /// The lease has another revision than we know: by a renewal of ours whose answer was lost, by
    /// somebody else, or because the bucket is one of before, as an operator brought it back.
    async fn read_back(&mut self) {
        let Some(own) = &mut self.own else { return };
        let record = match self.buckets.leases.get(&own.key, deadline()).await {
            Ok(Some(record)) => record,
            Ok(None) => return self.write_again().await,
            Err(error) => return self.warn(&error, "lease not read back"),
        };
        if record.value.as_deref().and_then(Lease::parse) != Some(Lease::Held) {
            return self.lost();
        }
        let is_of_before = record.revision < own.revision;
        own.revision = record.revision;
        match own.unacknowledged {
            _ if is_of_before => {
                tracing::warn!(lease = %own.id, "the fleet's state is one of before");
                self.forget_others();
                self.inner.registry.rewrite();
            }
            // Nobody else renews it, and it was not sent before this.
            Some(sent) => self.renewed(sent),
            None => {}
        }
        if let Some(own) = &mut self.own {
            own.tried = own.renewed;
        }
    }

    /// Looks whether the buckets are those that have what is ours, and writes into new ones what the old
    /// ones had.
    async fn check_buckets(&mut self) {
        if self.own.is_none() {
            return;
        }
        let found = match self.ensure().await {
            Ok(found) => found,
            Err(error) => return self.warn(&error, "the fleet's state not looked at"),
        };
        self.checked = Some(Instant::now());
        if found.leases != self.made.leases {
            self.made.leases = found.leases;
            self.write_again().await;
        }
        if found.connections != self.made.connections {
            self.made.connections = found.connections;
            tracing::warn!("the bucket of connections was made anew");
            self.has_adopted = false;
            self.inner.registry.rewrite();
        }
    }

    /// Writes the lease into a bucket that has none of ours. Who had taken us over would have left a
    /// word; only after a very long sleep may that be gone again.
    async fn write_again(&mut self) {
        let Some(own) = &self.own else { return };
        if own.renewed.elapsed() >= REMEMBERED_FOR / 2 {
            return self.lost();
        }
        let lease = own.id;
        match self.write(lease).await {
            Ok(()) => {
                tracing::warn!(%lease, "the bucket of leases was made anew");
                self.forget_others();
            }
            // What is there, the next renewal will find.
            Err(StoreError::Conflict) => {}
            Err(error) => self.warn(&error, "lease not written again"),
        }
    }

    /// What was seen of the others was in another bucket.
    fn forget_others(&mut self) {
        self.observer.clear();
        self.seen = Revision::NONE;
        self.has_adopted = false;
    }

    /// Another node has taken us over: our connections are no longer ours.
    pub(super) fn lost(&mut self) {
        if let Some(own) = self.own.take() {
            tracing::error!(lease = %own.id, "this node was taken for dead; its connections end");
            self.former.push(own.id);
        }
        self.close_lost();
        self.forget_others();
    }

    fn close_lost(&mut self) {
        self.inner.fence.close();
        self.stop_takeovers.cancel();
        self.stop_takeovers = CancellationToken::new();
        self.takeovers.clear();
        let close = Close::with_code(Cause::NodeLost, Cause::Evicted.code());
        for peer in self.inner.registry.lose() {
            let hub = self.inner.table.hub(&peer.route.hub);
            let members = hub.map(|hub| hub.members(&Target::Connection(peer.id)));
            members.iter().flatten().for_each(|member| member.handle.cut(close.clone()));
        }
        self.inner.quotas.lose();
    }

    /// Tells who is alive, as long as we know.
    fn tell_roster(&self) {
        let now = Instant::now();
        let knows = self.own.as_ref().is_some_and(|own| now - own.renewed < SPEAK_FOR);
        self.inner.roster.set(knows.then(|| {
            let mut nodes = self.observer.nodes(now);
            nodes.insert(self.inner.node);
            nodes
        }));
    }

    /// The node stops. What it has not finished itself, takeovers included, is for others.
    async fn give_back(&mut self) {
        self.stop_takeovers.cancel();
        self.inner.fence.close();
        if let Some(own) = &self.own {
            let lease = match self.inner.registry.len() {
                0 if self.inner.quotas.is_idle() => Lease::Finished,
                _ => Lease::Released,
            };
            let (key, value) = (&own.key, lease.to_json());
            let given = match lease {
                // Nobody will ask for it.
                Lease::Finished => {
                    let kept = RELEASED_FOR;
                    let leases = &self.buckets.leases;
                    leases.update_for(kept, key, value, own.revision, deadline()).await
                }
                _ => self.buckets.leases.update(key, value, own.revision, deadline()).await,
            };
            if let Err(error) = given {
                tracing::warn!(%error, "lease not given back; others wait until it is old");
            }
        }
        self.inner.standing.send_replace(Standing::Released);
    }

    pub(super) fn warn(&self, error: &StoreError, what: &'static str) {
        if let Some(left_out) = self.trouble.admit(Instant::now()) {
            tracing::warn!(%error, left_out, "{what}");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop_takeovers.cancel();
    }
}

/// How long a lease that was given back with nothing left is known.
const RELEASED_FOR: Duration = Duration::from_secs(60);

pub(super) fn deadline() -> Instant {
    Instant::now() + REQUEST_TIMEOUT
}
