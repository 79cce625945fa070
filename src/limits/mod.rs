//! What the node takes in at most, and the guards that give it back.

mod permits;
mod pending;
mod arrivals;
mod admission;
mod addresses;
mod handshakes;
mod network;
mod shards;
mod memory;
mod limit;
mod meter;
mod users;
mod rule;
mod clock;

pub use addresses::{AddressPermit, Addresses};
pub use admission::{Admission, Denied};
pub use limit::{Limit, Limited};
pub use memory::{Memory, MemoryError, Watch};
pub use meter::{Meter, Meters, PlanRules, Verdict};
pub use pending::{Newcomer, Pending};
pub use permits::{Permit, Permits};
pub(crate) use shards::Shards;
pub use users::{UserLimits, Users};

/// What an open connection holds of the node's bounds.
#[derive(Debug)]
pub struct Seat {
    /// Its place among all connections.
    pub node: Permit,
    /// Its place among those of its address.
    pub address: AddressPermit,
}
