//! Every rate limit that a connection can meet, and what can happen above it, as words of metrics.

use crate::config::LimitAction;

macro_rules! limits {
    ($($name:ident = $word:literal,)*) => {
        /// A rate limit: whose, of what, and which way.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs, reason = "their words say it")]
        pub enum Limit { $($name,)* }

        impl Limit {
            /// Every limit.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The limit's word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

limits! {
    ConnectionMessagesInbound = "connection-messages-inbound",
    ConnectionBytesInbound = "connection-bytes-inbound",
    ConnectionFramesInbound = "connection-frames-inbound",
    ConnectionMessagesOutbound = "connection-messages-outbound",
    ConnectionBytesOutbound = "connection-bytes-outbound",
    UserMessagesInbound = "user-messages-inbound",
    UserBytesInbound = "user-bytes-inbound",
    UserMessagesOutbound = "user-messages-outbound",
    UserBytesOutbound = "user-bytes-outbound",
}

/// One time that a limit mattered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    /// The limit.
    pub limit: Limit,
    /// The word of what was done.
    pub action: &'static str,
}

impl Limited {
    /// Every action's word.
    pub const ACTIONS: [&'static str; 4] = ["throttle", "drop", "close", DRY_RUN];

    pub(super) fn new(limit: Limit, action: LimitAction) -> Self {
        let [throttle, drop, close, _] = Self::ACTIONS;
        let action = match action {
            LimitAction::Throttle => throttle,
            LimitAction::Drop => drop,
            LimitAction::Close => close,
        };
        Self { limit, action }
    }

    pub(super) fn dry_run(limit: Limit) -> Self {
        Self { limit, action: DRY_RUN }
    }
}

const DRY_RUN: &str = "dry-run";
