//! Whether the holder of a lease is alive, for whoever would take what it has.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::lease::{Lease, LeaseId};
use crate::nats::{Bucket, REQUEST_TIMEOUT, StoreError};

/// What is known of all leases. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Alive(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// By the last look of the keeper.
    known: ArcSwap<HashMap<LeaseId, bool>>,
    leases: Bucket,
}

impl Alive {
    pub(super) fn new(leases: Bucket) -> Self {
        Self(Arc::new(Inner { known: ArcSwap::default(), leases }))
    }

    pub(super) fn set(&self, known: HashMap<LeaseId, bool>) {
        self.0.known.store(Arc::new(known));
    }

    /// Whether its holder is alive, as far as anybody knows: in doubt, it is.
    pub(super) async fn is_alive(&self, lease: LeaseId) -> Result<bool, StoreError> {
        if self.0.known.load().get(&lease) == Some(&true) {
            return Ok(true);
        }
        // It may have been taken, or renewed, since the last look. Before another node has taken it,
        // nobody may count on its end.
        let record = self.0.leases.get(&lease.key(), Instant::now() + REQUEST_TIMEOUT).await?;
        let value = record.and_then(|record| record.value);
        Ok(value.and_then(|value| Lease::parse(&value)) == Some(Lease::Held))
    }
}
