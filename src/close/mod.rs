//! Why a connection ended: the one table of close codes and causes.
//!
//! The cause's word is the same in the close reason, the log, the metric label and
//! `moorline.disconnected`. Codes follow RFC 6455 section 7.4 and the IANA registry; 4000-4999 are
//! private use and chosen so that their last digits remind of an HTTP status.

use std::borrow::Cow;

/// A decision to end a connection: the code and reason for the peer, the cause for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// The close code on the wire; 1006 when no close frame was or could be sent.
    pub code: u16,
    /// Who or what ended it.
    pub cause: Cause,
    /// The text in the close frame, at most 123 bytes.
    pub reason: Cow<'static, str>,
}

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $code:literal;)*) => {
        /// Who or what ended a connection. Closed on purpose: dashboards and alerts are built on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Cause { $($(#[$doc])* $name,)* }

        impl Cause {
            /// Every cause, in the order of the table.
            pub const ALL: &[Cause] = &[$(Cause::$name,)*];

            /// The cause's word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Cause::$name => $word,)* }
            }

            /// The close code that goes with it unless the peer or the backend chose one.
            #[must_use]
            pub const fn code(self) -> u16 {
                match self { $(Cause::$name => $code,)* }
            }
        }
    };
}

causes! {
    /// The client sent a close frame; its code is kept.
    Client = "client", 1000;
    /// The client's connection broke without a close frame (RFC 6455 section 7.1.5).
    Vanished = "vanished", 1006;
    /// The client broke the protocol; 1007 when text was not UTF-8.
    Protocol = "protocol", 1002;
    /// A message over the route's limit.
    TooBig = "too-big", 1009;
    /// The backend asked for it; its code is kept.
    BackendClosed = "backend-closed", 1000;
    /// The backend failed or may have failed on a message, or may have let in who was refused.
    BackendFailed = "backend-failed", 1011;
    /// No backend took a message; it was certainly not processed.
    BackendUnavailable = "backend-unavailable", 1013;
    /// This node is shutting down; reconnect.
    Drain = "drain", 1012;
    /// The connection reached its maximum age; reconnect.
    MaxAge = "max-age", 1012;
    /// No sign of life after a ping.
    PongTimeout = "pong-timeout", 4408;
    /// No message for the route's idle timeout.
    Idle = "idle", 4408;
    /// A message that did not come in whole in time.
    MessageTimeout = "message-timeout", 4408;
    /// The token that opened the connection has ended.
    TokenExpired = "token-expired", 4401;
    /// The token or the user was revoked.
    Revoked = "revoked", 4403;
    /// A newer connection of the user took its place.
    Evicted = "evicted", 4409;
    /// The client went over a rate limit.
    RateLimited = "rate-limited", 4429;
    /// The client did not read fast enough.
    OutboxFull = "outbox-full", 4508;
    /// A write made no progress for too long.
    WriteTimeout = "write-timeout", 4508;
    /// A hole in the durable pushes that could not be filled; resume by cursor.
    Gap = "gap", 4510;
    /// The node was short of memory.
    Memory = "memory", 1013;
    /// A bug in moorline.
    Panic = "panic", 1011;
    /// The node died; said by the node that took over.
    NodeLost = "node-lost", 1006;
}

impl Close {
    /// A close with the cause's own code and word.
    #[must_use]
    pub const fn of(cause: Cause) -> Self {
        Self { code: cause.code(), cause, reason: Cow::Borrowed(cause.as_str()) }
    }

    /// A close with another code than the cause's own.
    #[must_use]
    pub const fn with_code(cause: Cause, code: u16) -> Self {
        Self { code, cause, reason: Cow::Borrowed(cause.as_str()) }
    }

    /// A close with code and reason chosen by the client or the backend. The reason is cut to what
    /// a close frame holds.
    #[must_use]
    pub fn said(cause: Cause, code: u16, reason: &str) -> Self {
        let end = reason.floor_char_boundary(REASON_MAX);
        Self { code, cause, reason: Cow::Owned(reason.get(..end).unwrap_or_default().to_owned()) }
    }
}

/// Bytes of reason in a close frame: a control frame's 125 less the code (RFC 6455 section 5.5).
pub const REASON_MAX: usize = 123;

/// Whether an endpoint may send `code` in a close frame (RFC 6455 section 7.4 and the IANA registry:
/// 1004-1006 and 1015 are never sent, 1016-2999 are unassigned).
#[must_use]
pub const fn is_sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_fit_a_close_frame() {
        for (i, cause) in Cause::ALL.iter().enumerate() {
            assert!(cause.as_str().len() <= REASON_MAX);
            assert!(Cause::ALL.iter().skip(i + 1).all(|other| other.as_str() != cause.as_str()));
            assert!(is_sendable(cause.code()) || cause.code() == 1006, "{cause:?}");
        }
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let close = Close::said(Cause::BackendClosed, 4000, &"é".repeat(100));
        assert_eq!(close.reason.len(), 122);
    }

    #[test]
    fn reserved_codes_are_never_sent() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000] {
            assert!(!is_sendable(code), "{code}");
        }
        for code in [1000, 1001, 1003, 1007, 1012, 1014, 3000, 4999] {
            assert!(is_sendable(code), "{code}");
        }
    }
}
