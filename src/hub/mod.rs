//! Who is connected to this node, by connection, user and group, and the way to tell them something.
//!
//! ```text
//! NATS -> intake  -> push    -> hub -> members -> handle -> outbox -> (the connection's own task) -> client
//! NATS -> control -> command -> hub -> members -> handle -> wish   -> (the connection's own task)
//! ```
//!
//! A push waits for nobody: it ends in outboxes, which are bounded, and a slow client costs nobody else
//! anything. Whoever is inside and wants something of connections, wherever they are, goes to the fleet:
//! over NATS when there are many nodes, straight to the hub when there is one.

mod outbox;
mod handle;
mod push;
mod command;
mod member;
mod changes;
#[expect(clippy::module_inception, reason = "the hub is what this station is about")]
mod hub;
mod demand;
mod obey;
mod table;
mod roster;
mod node;
mod received;
mod answer;
mod intake;
mod linger;
mod confirm;
mod interest;
mod control;
mod ask;
mod fleet;
#[cfg(test)]
mod tests;

pub use command::{Command, CommandError, Done, Info};
pub use demand::Demand;
pub use fleet::{Fleet, FleetError};
pub use handle::{Handle, Mailbox, Wish};
pub use hub::{Hub, JoinError};
pub use interest::Interest;
pub use member::Member;
pub use outbox::{Account, NotTaken, Outbox};
pub use push::{Push, Target};
pub use roster::Roster;
pub use table::{Registered, Table};
