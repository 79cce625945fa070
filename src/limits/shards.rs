//! A map in shards, so that what happens on many cores does not meet at one lock.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A map whose keys are spread over locks. No lock is held across an await or while another one of the
/// same map is taken.
#[derive(Debug)]
pub(crate) struct Shards<K, V> {
    shards: [Mutex<HashMap<K, V>>; SHARDS],
    /// Keyed, so that nobody can choose keys that meet in one shard.
    hasher: RandomState,
}

/// How many shards a map has.
pub(crate) const SHARDS: usize = 64;

impl<K: Eq + Hash, V> Shards<K, V> {
    pub(crate) fn new() -> Self {
        let shards = std::array::from_fn(|_| Mutex::default());
        Self { shards, hasher: RandomState::new() }
    }

    /// The part of the map that has this key, if any has.
    #[expect(clippy::indexing_slicing, reason = "the remainder is below the number of shards")]
    pub(crate) fn of(&self, key: &K) -> MutexGuard<'_, HashMap<K, V>> {
        let shard = self.hasher.hash_one(key) % SHARDS as u64;
        lock(&self.shards[shard as usize])
    }

    /// Each part of the map, locked while it is looked at.
    pub(crate) fn each(&self) -> impl Iterator<Item = MutexGuard<'_, HashMap<K, V>>> {
        self.shards.iter().map(lock)
    }

    pub(crate) fn len(&self) -> usize {
        self.each().map(|shard| shard.len()).sum()
    }
}

/// A lock that panicked holds a map that is whole: each change of it is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
