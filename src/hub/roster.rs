//! Which nodes are alive, as far as anybody knows.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::id::NodeId;

/// The nodes that are alive, this one among them. Whoever watches over them sets it; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Roster(Arc<ArcSwapOption<HashSet<NodeId>>>);

impl Roster {
    /// Says who is alive; none when that is not known any more.
    pub fn set(&self, nodes: Option<HashSet<NodeId>>) {
        self.0.store(nodes.map(Arc::new));
    }

    /// Who is alive; none while nobody knows.
    #[must_use]
    pub fn nodes(&self) -> Option<Arc<HashSet<NodeId>>> {
        self.0.load_full()
    }
}
