//! The node's own connections in the registry, and the task that writes them there.
//!
//! The first event of a connection waits until its entry is stored, so no node dies with a connection
//! that a backend knows and nobody else does. One write of an entry is on its way at a time, so a late
//! try never undoes a newer one; what waits is at most one write for each entry.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use prometheus::IntGauge;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use super::lease::LeaseId;
use super::record::{EndRecord, Record};
use crate::event::{Ended, Peer};
use crate::id::ConnectionId;
use crate::nats::{Bucket, Key, LogLimit, REQUEST_TIMEOUT, StoreError};
use crate::relay::Fence;
use crate::task::Backoff;

/// The entries of this node's connections.
#[derive(Debug)]
pub(super) struct Registry {
    bucket: Option<Bucket>,
    fence: Fence,
    /// Held for a few instructions, before the lock of an item, never after it.
    inner: Mutex<Inner>,
    /// There is something to write.
    work: Notify,
    /// The bucket is not there.
    pub(super) missing: Notify,
    /// Nobody will ever store anything; then nobody waits for it.
    is_off: AtomicBool,
    entries: IntGauge,
    failed: LogLimit,
}

#[derive(Debug, Default)]
struct Inner {
    items: HashMap<ConnectionId, Arc<Item>>,
    /// Those that have something to be written.
    queue: VecDeque<Arc<Item>>,
    /// The lease in force.
    lease: Option<LeaseId>,
}

/// A connection's place in the registry. Dropped, it is taken out, as one that was never told of.
#[derive(Debug)]
pub struct Entry {
    registry: Arc<Registry>,
    item: Arc<Item>,
    is_left: bool,
}

#[derive(Debug)]
struct Item {
    id: ConnectionId,
    state: Mutex<State>,
    /// Something was stored, or never will be.
    stored: Notify,
}

#[derive(Debug)]
struct State {
    peer: Arc<Peer>,
    ended: Option<EndRecord>,
    /// To be taken out.
    is_gone: bool,
    /// The lease that it is written under, from the first write on.
    lease: Option<LeaseId>,
    /// Another node has it.
    is_lost: bool,
    /// How often it was changed, and which change is stored.
    wanted: u64,
    written: u64,
    is_queued: bool,
    is_on_its_way: bool,
}

/// One write: what to, and the value; none takes the entry out.
type Write = (Key, Option<Bytes>);

/// Writes on their way at the same time: a few milliseconds of what JetStream takes.
const WINDOW: usize = 256;
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How often it is looked whether a pause is over, or the fence open again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Registry {
    pub(super) fn new(bucket: Option<Bucket>, fence: Fence, entries: IntGauge) -> Arc<Self> {
        Arc::new(Self {
            is_off: bucket.is_none().into(),
            bucket,
            fence,
            inner: Mutex::default(),
            work: Notify::new(),
            missing: Notify::new(),
            entries,
            failed: LogLimit::new(),
        })
    }

    /// Enters a connection.
    pub(super) fn enter(self: &Arc<Self>, peer: &Arc<Peer>) -> Entry {
        let state = State {
            peer: Arc::clone(peer),
            ended: None,
            is_gone: false,
            lease: None,
            is_lost: false,
            wanted: 0,
            written: 0,
            is_queued: false,
            is_on_its_way: false,
        };
        let item = Arc::new(Item { id: peer.id, state: Mutex::new(state), stored: Notify::new() });
        self.lock().items.insert(peer.id, Arc::clone(&item));
        self.entries.inc();
        self.change(&item, |_| {});
        Entry { registry: Arc::clone(self), item, is_left: false }
    }

    /// From now on entries are written under this lease.
    pub(super) fn set_lease(&self, lease: LeaseId) {
        self.lock().lease = Some(lease);
        self.work.notify_one();
    }

    /// The lease in force.
    pub(super) fn lease(&self) -> Option<LeaseId> {
        self.lock().lease
    }

    /// Another node has the connections of `lease`: who they are.
    pub(super) fn lose(&self) -> Vec<Arc<Peer>> {
        let mut inner = self.lock();
        inner.lease = None;
        let mut lost = Vec::new();
        inner.items.retain(|_, item| {
            let mut state = item.lock();
            let is_lost = state.lease.is_some();
            if is_lost {
                state.is_lost = true;
                state.peer.disown();
                item.stored.notify_waiters();
                if state.ended.is_none() && !state.is_gone {
                    lost.push(Arc::clone(&state.peer));
                }
                self.entries.dec();
            }
            !is_lost
        });
        lost
    }

    /// Writes all entries again: the bucket was made anew.
    pub(super) fn rewrite(&self) {
        let items: Vec<_> = self.lock().items.values().cloned().collect();
        items.iter().for_each(|item| self.change(item, |_| {}));
    }

    /// There is no registry after all.
    pub(super) fn give_up(&self) {
        self.is_off.store(true, Ordering::Release);
        let mut inner = self.lock();
        inner.queue.clear();
        for (_, item) in inner.items.drain() {
            item.stored.notify_waiters();
            self.entries.dec();
        }
    }

    pub(super) fn is_off(&self) -> bool {
        self.is_off.load(Ordering::Acquire)
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Whether everything is written.
    pub(super) fn is_settled(&self) -> bool {
        let is_settled = |item: &Arc<Item>| {
            let state = item.lock();
            state.wanted == state.written
        };
        self.lock().items.values().all(is_settled)
    }

    /// Writes what there is to write, for ever. Dropped, it leaves nothing half done but what is on its
    /// way.
    pub(super) async fn write(self: Arc<Self>) {
        let Some(bucket) = &self.bucket else { return };
        // Whoever did this before is gone, and with it what was on its way.
        for item in self.lock().items.values() {
            item.lock().is_on_its_way = false;
        }
        self.rewrite();
        let mut on_their_way = FuturesUnordered::new();
        let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        let mut pause_until = Instant::now();
        loop {
            let pauses = self.fence.is_shut() || Instant::now() < pause_until;
            while !pauses && on_their_way.len() < WINDOW {
                let Some((item, version, (key, value))) = self.next() else { break };
                on_their_way.push(async move {
                    let deadline = Instant::now() + REQUEST_TIMEOUT;
                    let written = match value {
                        Some(value) => bucket.put(&key, value, deadline).await.map(drop),
                        None => bucket.forget(&key, None, deadline).await,
                    };
                    (item, version, written)
                });
            }
            tokio::select! {
                Some((item, version, written)) = on_their_way.next() => {
                    let failure = written.as_ref().err().cloned();
                    self.done(&item, version, written.is_ok());
                    match failure {
                        None => backoff.reset(),
                        Some(error) => {
                            self.note(&error);
                            pause_until = Instant::now() + backoff.delay();
                        }
                    }
                }
                () = self.work.notified(), if !pauses => {}
                () = sleep(LOOK_AGAIN), if pauses => {}
            }
        }
    }

    fn note(&self, error: &StoreError) {
        if matches!(error, StoreError::NoBucket(_)) {
            self.missing.notify_one();
        }
        if let Some(left_out) = self.failed.admit(Instant::now()) {
            tracing::warn!(%error, left_out, "registry entry not written, trying again");
        }
    }

    /// The next write, once there is a lease.
    fn next(&self) -> Option<(Arc<Item>, u64, Write)> {
        let mut inner = self.lock();
        let lease = inner.lease?;
        loop {
            let item = inner.queue.pop_front()?;
            let mut state = item.lock();
            state.is_queued = false;
            if state.is_lost {
                continue;
            }
            if state.is_gone && state.lease.is_none() {
                drop(state);
                self.remove(&mut inner, &item);
                continue;
            }
            state.is_on_its_way = true;
            let lease = *state.lease.get_or_insert(lease);
            let record = || Record::of(&state.peer, state.ended.clone()).to_json();
            let value = (!state.is_gone).then(record);
            let version = state.wanted;
            drop(state);
            let key = key_of(lease, item.id);
            return Some((item, version, (key, value)));
        }
    }

    /// A write came to its end.
    fn done(&self, item: &Arc<Item>, version: u64, is_written: bool) {
        let mut inner = self.lock();
        let mut state = item.lock();
        state.is_on_its_way = false;
        if state.is_lost {
            return;
        }
        if is_written {
            state.written = version;
            item.stored.notify_waiters();
        }
        if state.written < state.wanted {
            if !state.is_queued {
                state.is_queued = true;
                inner.queue.push_back(Arc::clone(item));
            }
        } else if state.is_gone {
            drop(state);
            self.remove(&mut inner, item);
        }
    }

    fn remove(&self, inner: &mut Inner, item: &Item) {
        if inner.items.remove(&item.id).is_some() {
            self.entries.dec();
        }
    }

    /// Changes an item and has it written.
    fn change(&self, item: &Arc<Item>, change: impl FnOnce(&mut State)) {
        let mut inner = self.lock();
        let mut state = item.lock();
        change(&mut state);
        state.wanted += 1;
        if self.is_off() || state.is_lost || state.is_queued || state.is_on_its_way {
            return;
        }
        state.is_queued = true;
        drop(state);
        inner.queue.push_back(Arc::clone(item));
        drop(inner);
        self.work.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Waits until the entry is stored as it is now: whether it is, by `deadline`. Cancel safe.
    pub async fn is_stored(&self, deadline: Instant) -> bool {
        let wanted = self.item.lock().wanted;
        let stored = async {
            loop {
                let news = self.item.stored.notified();
                let mut news = std::pin::pin!(news);
                // Before looking, or a word between look and wait would be missed.
                news.as_mut().enable();
                let (is_lost, written) = {
                    let state = self.item.lock();
                    (state.is_lost, state.written)
                };
                if self.registry.is_off() || written >= wanted {
                    return true;
                }
                if is_lost {
                    return false;
                }
                news.await;
            }
        };
        timeout_at(deadline, stored).await.unwrap_or(false)
    }

    /// More is known of the client.
    pub fn know(&self, peer: &Arc<Peer>) {
        self.registry.change(&self.item, |state| {
            if state.is_lost {
                peer.disown();
            }
            state.peer = Arc::clone(peer);
        });
    }

    /// Whether another node has taken the connection over, and tells of its end.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.item.lock().is_lost
    }

    /// Waits until this node may speak for the connection. Cancel safe.
    pub(super) async fn may_speak(&self) {
        self.registry.fence.opened().await;
    }

    /// Whether this node may speak for the connection now.
    pub(super) fn is_spoken_for(&self) -> bool {
        !self.registry.fence.is_shut()
    }

    /// The connection has ended, and its backend is told.
    pub(super) fn end(&self, ended: &Ended) {
        let ended = EndRecord::of(ended, SystemTime::now());
        self.registry.change(&self.item, |state| state.ended = Some(ended));
    }

    /// Leaves the entry for others to finish, once this node has stopped.
    pub(super) fn leave(mut self) {
        self.is_left = true;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // After a panic nobody knows whether its backend was told; others tell it once this node is gone.
        if !self.is_left && !std::thread::panicking() {
            self.registry.change(&self.item, |state| state.is_gone = true);
        }
    }
}

impl Item {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the entry of a connection is.
fn key_of(lease: LeaseId, id: ConnectionId) -> Key {
    let id = id.to_string();
    let (node, random) = id.split_once('.').unwrap_or_default();
    Key::of(&[&lease.to_string(), node, random])
}
