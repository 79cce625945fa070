//! The nodes of a fleet, as far as one has to answer for another: who is alive, which connections a
//! backend knows of, and who tells it of their end.
//!
//! ```text
//! handshake -> entry (registry) ... connection ends -> farewell -> entry taken out
//!                 |
//! another node: observer sees that the lease is not renewed -> takes it over -> tells of each entry's end
//! ```
//!
//! No key has a lifetime on the server: if NATS were away for longer, every node would be dead to every
//! other at once. What a node sees of the others, it judges by its own monotonic clock, and what it does
//! about it is a compare-and-set, so that exactly one does it.

mod lease;
mod observer;
mod alive;
mod record;
mod registry;
mod ways;
mod farewell;
mod quota;
mod takeover;
mod keeper;
mod look;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};

use crate::config::{Backend, EventKind, JetStream};
use crate::event::Peer;
use crate::hub::{Fleet, Roster, Table};
use crate::id::NodeId;
use crate::metrics::Metrics;
use crate::nats::{Bucket, Store};
use crate::relay::Fence;
use crate::task::Tasks;

use alive::Alive;
use keeper::Keeper;
use quota::Quotas;
use registry::Registry;
use ways::Ways;

pub use farewell::Farewells;
pub use quota::{Slot, UserFull, UserQuota};
pub use registry::Entry;
pub use ways::Way;

/// This node's part in the fleet. Clones share it.
#[derive(Debug, Clone)]
pub struct Cluster(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    node: NodeId,
    /// How many leases it has tried to take.
    leases: AtomicU32,
    /// Whether the node can do without.
    jetstream: JetStream,
    registry: Arc<Registry>,
    quotas: Quotas,
    table: Table,
    roster: Roster,
    fence: Fence,
    ways: Ways,
    standing: watch::Sender<Standing>,
    /// The node stops: the lease is given back.
    release: Notify,
    tasks: Tasks,
    metrics: Metrics,
}

/// What a node among others is made of.
#[derive(Debug)]
pub struct Parts<'a> {
    /// This node.
    pub node: NodeId,
    /// Where the state of all is.
    pub store: &'a Store,
    /// Whether the node can do without.
    pub jetstream: JetStream,
    /// This node's connections.
    pub table: &'a Table,
    /// The way to those of the others.
    pub fleet: &'a Fleet,
    /// Is told who is alive.
    pub roster: &'a Roster,
    /// What lasts as long as the node.
    pub tasks: &'a Tasks,
    /// Where it counts.
    pub metrics: &'a Metrics,
}

/// Where the fleet's state is.
#[derive(Debug, Clone)]
struct Buckets {
    store: Store,
    leases: Bucket,
    connections: Bucket,
}

/// How the node stands to the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// It has no lease yet.
    Starting,
    /// It has had one.
    Up,
    /// There is no fleet.
    Off,
    /// There can be none, and there must: why not.
    Unusable(String),
    /// The lease was given back.
    Released,
}

/// How long a drain waits for the last writes.
const SETTLE_PAUSE: Duration = Duration::from_millis(10);

impl Cluster {
    /// A node by itself. What it needs of the fleet, it asks `fleet`, which may have other nodes all the
    /// same.
    #[must_use]
    pub fn solo(table: &Table, fleet: &Fleet, tasks: &Tasks, metrics: &Metrics) -> Self {
        let fence = Fence::open();
        Self(Arc::new(Inner {
            node: NodeId::random(),
            leases: AtomicU32::new(0),
            jetstream: JetStream::Off,
            registry: Registry::new(None, fence.clone(), metrics.registry_entries().clone()),
            quotas: Quotas::solo(table, fleet, tasks),
            table: table.clone(),
            roster: Roster::default(),
            fence,
            ways: Ways::default(),
            standing: watch::Sender::new(Standing::Off),
            release: Notify::new(),
            tasks: tasks.clone(),
            metrics: metrics.clone(),
        }))
    }

    /// A node among others: takes a lease as soon as it can, renews it, and looks after those of the
    /// others.
    #[must_use]
    pub fn start(parts: &Parts<'_>) -> Self {
        let Parts { node, store, jetstream, table, roster, tasks, metrics, .. } = *parts;
        let buckets = Buckets {
            leases: store.bucket("nodes"),
            connections: store.bucket("connections"),
            store: store.clone(),
        };
        let alive = Alive::new(buckets.leases.clone());
        let fence = Fence::shut();
        let entries = metrics.registry_entries().clone();
        let registry = Registry::new(Some(buckets.connections.clone()), fence.clone(), entries);
        let cluster = Self(Arc::new(Inner {
            node,
            leases: AtomicU32::new(0),
            jetstream,
            registry: Arc::clone(&registry),
            quotas: Quotas::shared(parts, alive.clone(), &registry),
            table: table.clone(),
            roster: roster.clone(),
            fence,
            ways: Ways::default(),
            standing: watch::Sender::new(Standing::Starting),
            release: Notify::new(),
            tasks: tasks.clone(),
            metrics: metrics.clone(),
        }));
        let inner = Arc::clone(&cluster.0);
        cluster.keep("lease", move || {
            Keeper::new(Arc::clone(&inner), buckets.clone(), alive.clone()).run()
        });
        cluster.keep("registry", move || Arc::clone(&registry).write());
        let quotas = cluster.0.quotas.clone();
        cluster.keep("user slots", move || {
            let quotas = quotas.clone();
            async move { quotas.forget_returned().await }
        });
        cluster
    }

    /// Keeps up what lasts as long as the node.
    fn keep<W, F>(&self, name: &'static str, mut work: W)
    where
        W: FnMut() -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.0.tasks.clone();
        self.0.tasks.keep(name, move || {
            let (stop, work) = (stop.clone(), work());
            async move {
                tokio::select! {
                    () = stop.stopping() => {}
                    () = work => {}
                }
            }
        });
    }

    /// Whether this node may speak for its connections.
    #[must_use]
    pub fn fence(&self) -> &Fence {
        &self.0.fence
    }

    /// These routes are in force from now on.
    pub fn set_ways(&self, ways: impl IntoIterator<Item = Way>) {
        self.0.ways.set(ways);
    }

    /// Enters a client of whose end its backend must hear; none where it need not, or nobody else could
    /// tell it.
    #[must_use]
    pub fn enter(&self, peer: &Arc<Peer>) -> Option<Entry> {
        let is_echo = matches!(peer.route.backend, Backend::Echo(_));
        let is_told = peer.route.wants(EventKind::Disconnected) && !is_echo;
        (is_told && !self.0.registry.is_off()).then(|| self.0.registry.enter(peer))
    }

    /// Whether the node is still to get its first lease.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        *self.0.standing.borrow() == Standing::Starting
    }

    /// Takes one of the slots that the client's user has.
    ///
    /// # Errors
    /// When the user has as many connections as there may be.
    pub async fn seat(&self, peer: &Peer, quota: UserQuota) -> Result<Option<Box<Slot>>, UserFull> {
        self.0.quotas.take(peer, quota).await
    }

    /// Waits until the node has its lease, or there is no fleet. Cancel safe.
    pub async fn up(&self) {
        let mut standing = self.0.standing.subscribe();
        // It cannot end with an error: the sender is in `self`.
        let _ = standing.wait_for(|standing| *standing != Standing::Starting).await;
    }

    /// Waits, without end, until it is clear that the node cannot be part of a fleet although it must:
    /// why not. Cancel safe.
    pub async fn unusable(&self) -> String {
        let mut standing = self.0.standing.subscribe();
        loop {
            if let Standing::Unusable(why) = &*standing.borrow_and_update() {
                return why.clone();
            }
            let _ = standing.changed().await;
        }
    }

    /// Gives the lease back, after the last entry is written and the last slot is forgotten: what is left
    /// of the connections is for others to finish, at once. False when that was not done by `deadline`.
    pub async fn release(&self, deadline: Instant) -> bool {
        let Inner { registry, quotas, .. } = &*self.0;
        quotas.hurry();
        // Some of the time is for the lease itself.
        let settle_by = deadline - deadline.saturating_duration_since(Instant::now()) / 3;
        let settled = async {
            while !(registry.is_off() || registry.is_settled()) || !quotas.is_settled() {
                sleep(SETTLE_PAUSE).await;
            }
        };
        let is_settled = timeout_at(settle_by, settled).await.is_ok();
        let mut standing = self.0.standing.subscribe();
        self.0.release.notify_one();
        let is_over = |standing: &Standing| !matches!(standing, Standing::Up | Standing::Starting);
        timeout_at(deadline, standing.wait_for(is_over)).await.is_ok() && is_settled
    }
}
