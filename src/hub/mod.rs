//! Who is connected to this node, by connection, user and group, and the way to tell them something.
//!
//! ```text
//! NATS -> intake -> push -> hub -> members -> handle -> outbox -> (the connection's own task) -> client
//! ```
//!
//! Nothing here waits: a push ends in outboxes, which are bounded, and a slow client costs nobody else
//! anything.

mod outbox;
mod handle;
mod push;
mod command;
mod member;
mod changes;
#[expect(clippy::module_inception, reason = "the hub is what this station is about")]
mod hub;
mod obey;
mod table;
mod received;
mod intake;
mod linger;
mod interest;
mod roster;
mod fleet;
#[cfg(test)]
mod tests;

pub use command::{Command, CommandError, Done, Info};
pub use fleet::{Fleet, FleetError};
pub use handle::{Handle, Mailbox, Wish};
pub use hub::{Hub, JoinError};
pub use interest::Interest;
pub use member::Member;
pub use outbox::{Account, NotTaken, Outbox};
pub use push::{Push, Target};
pub use roster::Roster;
pub use table::{Registered, Table};
