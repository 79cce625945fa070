//! What the node takes in at most.

mod permits;
mod clock;
mod bucket;
mod rates;
mod users;

pub use permits::{Permit, Permits};
pub use rates::{Gate, Limited, Rates, Verdict};
pub use users::{UserRates, Users};
