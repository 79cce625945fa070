//! A message that no request asked for, and whom it is for.

use std::collections::HashSet;

use tokio::time::Instant;

use crate::id::{ConnectionId, GroupName, UserId};
use crate::message::Message;

/// Connections of one hub.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// One connection.
    Connection(ConnectionId),
    /// All connections of a user.
    User(UserId),
    /// All members of a group.
    Group(GroupName),
    /// All connections.
    All,
}

/// A message from somebody who was not asked.
#[derive(Debug, Clone)]
pub struct Push {
    /// Whom it is for.
    pub target: Target,
    /// What is sent; all who get it share its bytes.
    pub message: Message,
    /// Who does not get it.
    pub exclude: HashSet<ConnectionId>,
    /// When it is of no use any more.
    pub expires: Option<Instant>,
}

impl Target {
    /// The kind's word in subjects and metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Connection(_) => "conn",
            Self::User(_) => "user",
            Self::Group(_) => "group",
            Self::All => "all",
        }
    }
}
