//! Identifiers: of nodes, connections, users, groups and hubs. Each is valid by construction, and each knows
//! how it is written as one NATS subject token, so client data can never become subject text raw.

mod connection;
mod name;

pub use connection::{ConnectionId, IdError, NodeId};
pub use name::{GroupName, HubName, NameError, UserId};
