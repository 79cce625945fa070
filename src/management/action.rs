//! What a request asks for, with the names it is about.

use crate::hub::Target;
use crate::id::{ConnectionId, GroupName};

/// What a request asks for in a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Send them the message in the body.
    Send(Target),
    /// Say whether there is one.
    Exists(Target),
    /// Say what a connection is.
    Describe(ConnectionId),
    /// Say who they are.
    List(Target),
    /// Say how many there are.
    Count(Target),
    /// End them.
    Close(Target),
    /// Join them to a group.
    Join(Target, GroupName),
    /// Take them out of a group; none: out of all.
    Leave(Target, Option<GroupName>),
    /// Join all connections to the groups in the body.
    AddToGroups,
    /// Take all connections out of the groups in the body.
    RemoveFromGroups,
    /// Let a connection live as long as the token in the body.
    Refresh(ConnectionId),
    /// Log what happens on a connection.
    Trace(ConnectionId),
    /// Make a token for a client.
    MakeToken,
    /// Look at or change what a connection may do.
    Permission,
}

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// The kind of a request. Closed: it is a label of metrics.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Operation { $($(#[$doc])* $name,)* }

        impl Operation {
            /// All kinds.
            pub(super) const ALL: [Self; [$($word),*].len()] = [$(Self::$name),*];

            /// The kind's word in metrics and logs.
            pub(super) const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

operations! {
    /// A message.
    Send = "send",
    /// Whether there is one.
    Exists = "exists",
    /// Who is there.
    List = "list",
    /// How many there are.
    Count = "count",
    /// The end of connections.
    Close = "close",
    /// Into groups.
    Join = "join",
    /// Out of groups.
    Leave = "leave",
    /// A fresh token for a connection.
    Refresh = "refresh",
    /// No token any more.
    Revoke = "revoke",
    /// A look at a connection.
    Trace = "trace",
    /// A token for a client.
    Token = "token",
    /// What a connection may do.
    Permission = "permission",
    /// Items of a GRIP library.
    Publish = "publish",
    /// Whether the door answers.
    Health = "health",
    /// The description of the API.
    Description = "description",
    /// Nothing that there is.
    Unknown = "unknown",
}

impl Action {
    /// Its kind.
    pub(super) const fn operation(&self) -> Operation {
        match self {
            Self::Send(_) => Operation::Send,
            Self::Exists(_) => Operation::Exists,
            Self::Describe(_) | Self::List(_) => Operation::List,
            Self::Count(_) => Operation::Count,
            Self::Close(_) => Operation::Close,
            Self::Join(..) | Self::AddToGroups => Operation::Join,
            Self::Leave(..) | Self::RemoveFromGroups => Operation::Leave,
            Self::Refresh(_) => Operation::Refresh,
            Self::Trace(_) => Operation::Trace,
            Self::MakeToken => Operation::Token,
            Self::Permission => Operation::Permission,
        }
    }
}
