//! Identifiers: of nodes, connections, users and hubs. Each is valid by construction, and each knows
//! how it is written as one NATS subject token, so client data can never become subject text raw.

mod connection;
mod name;

pub use connection::{ConnectionId, NodeId};
pub use name::{HubName, NameError, UserId};
