//! This node among others.

use super::roster::Roster;
use crate::id::NodeId;
use crate::nats::{Feed, Subjects};

/// What it takes to hear of other nodes and to speak to them. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) feed: Feed,
    pub(super) subjects: Subjects,
    pub(super) roster: Roster,
}
