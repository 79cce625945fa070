//! What the node takes in at most.

mod permits;

pub use permits::{Permit, Permits};
