//! Identifiers: of nodes, connections, users, groups, hubs and tokens. Each is valid by construction, and each knows
//! how it is written as one NATS subject token, so client data can never become subject text raw.

mod connection;
mod name;
mod token;

pub use connection::{ConnectionId, IdError, NodeId};
pub use name::{GroupName, HubName, NameError, UserId};
pub use token::{TokenId, TokenIdError};
