//! All connections of the node.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::handle::{Handle, Mailbox};
use crate::config;
use crate::id::ConnectionId;

/// The connections by id, in shards so that handshakes on many cores do not meet at one lock. No
/// lock is held across an await or while another one is taken.
#[derive(Debug, Clone)]
pub struct Table(Arc<[Shard; SHARDS]>);

/// A connection's place in the table; it is given back on drop.
#[derive(Debug)]
pub struct Registered {
    id: ConnectionId,
    table: Table,
}

type Shard = Mutex<HashMap<ConnectionId, Handle>>;

const SHARDS: usize = 64;

impl Table {
    /// No connections yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(std::array::from_fn(|_| Mutex::default())))
    }

    /// Adds a connection until the returned guard is dropped.
    #[must_use]
    pub fn register(&self, id: ConnectionId, outbox: &config::Outbox) -> (Registered, Mailbox) {
        let (handle, mailbox) = Handle::new(outbox);
        self.shard(&id).insert(id, handle);
        (Registered { id, table: self.clone() }, mailbox)
    }

    /// The lines to all connections there are now.
    #[must_use]
    pub fn handles(&self) -> Vec<Handle> {
        self.0.iter().flat_map(|shard| lock(shard).values().cloned().collect::<Vec<_>>()).collect()
    }

    /// How many connections there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Whether there is no connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[expect(clippy::indexing_slicing, reason = "the remainder is below the number of shards")]
    fn shard(&self, id: &ConnectionId) -> MutexGuard<'_, HashMap<ConnectionId, Handle>> {
        lock(&self.0[id.spread() as usize % SHARDS])
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.table.shard(&self.id).remove(&self.id);
    }
}

fn lock(shard: &Shard) -> MutexGuard<'_, HashMap<ConnectionId, Handle>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;

    #[test]
    fn a_connection_is_in_the_table_for_the_life_of_its_guard() {
        let table = Table::new();
        let node = NodeId::random();
        let kept: Vec<_> = (0..1000)
            .map(|_| table.register(ConnectionId::random(node), &config::Outbox::default()))
            .collect();
        assert_eq!((table.len(), table.handles().len()), (1000, 1000));
        drop(kept);
        assert!(table.is_empty());
    }
}
