//! What others may want of connections that are there, and what came of it.

use std::collections::HashSet;

use serde::{Deserialize, Deserializer, Serialize};

use super::push::Target;
use crate::close::{Cause, Close, is_sendable};
use crate::id::{ConnectionId, GroupName, UserId};

/// What is to be done with connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub enum Command {
    /// End them, once what they asked is answered.
    Close {
        /// The code of the close frame, one that an endpoint may send.
        #[serde(default = "normal")]
        code: u16,
        /// Its reason, cut to what a close frame holds.
        #[serde(default)]
        reason: String,
        /// Who stays.
        #[serde(default)]
        exclude: HashSet<ConnectionId>,
    },
    /// End them: newer connections of their users take their places.
    #[serde(deserialize_with = "nothing_more")]
    Evict,
    /// Join them to groups.
    Join {
        /// At most 1,000.
        groups: Vec<GroupName>,
    },
    /// Take them out of groups.
    Leave {
        /// At most 1,000; none means all that they are in.
        #[serde(default)]
        groups: Option<Vec<GroupName>>,
    },
    /// Say who they are.
    Info {
        /// How many of each node are described, at most 1,000.
        #[serde(default = "some")]
        limit: usize,
    },
    /// Say how many there are.
    #[serde(deserialize_with = "nothing_more")]
    Count,
    /// Ask their backends at once, where those can be asked for something that no client said.
    #[serde(deserialize_with = "nothing_more")]
    Poll,
    /// The token that let them in was renewed. Only for those of `user`.
    Refresh {
        /// Whose token it is.
        user: UserId,
        /// When it ends now, in seconds since 1970.
        expires: u64,
    },
    /// The tokens of the user, of whom there may be connections to any hub, or some of everybody's are
    /// no good any more: those of a user that were made before, those of all that were, or one of all.
    Revoke {
        /// The id of the one.
        #[serde(default)]
        jti: Option<String>,
        /// In seconds since 1970. For a user, now when it is left out.
        #[serde(default)]
        before: Option<u64>,
        /// When they have ended, in seconds since 1970.
        #[serde(default)]
        until: Option<u64>,
    },
    /// Log what happens on them.
    Trace {
        /// For how long, at most 600.
        seconds: u16,
    },
}

/// Why a command is not obeyed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Larger than any command is.
    #[error("a command has at most {maximum} bytes, this one has {size}")]
    TooLarge {
        /// Its bytes.
        size: usize,
        /// The most that are read.
        maximum: usize,
    },
    /// Not one of the commands, in JSON.
    #[error("not a command: {0}")]
    Form(String),
    /// A close code that no endpoint sends.
    #[error("code: {0} may not be sent; expected 1000 to 1003, 1007 to 1014 or 3000 to 4999")]
    Code(u16),
    /// A revocation that does not say which tokens, or says it twice.
    #[error("revoke: for a user, expected `before` or nothing; for all, `jti` or `before`")]
    Revoke,
    /// A number or a list over its bound.
    #[error("{field}: expected at most {maximum}, found {found}")]
    TooMuch {
        /// The field's name.
        field: &'static str,
        /// What it has.
        found: usize,
        /// Its bound.
        maximum: usize,
    },
}

/// What came of a command or a push, on one node or on all together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Done {
    /// Connections that were meant; of a push, those that took it.
    pub connections: usize,
    /// Connections that were changed by it.
    pub changed: usize,
    /// The connections, as far as they were asked for.
    pub info: Vec<Info>,
    /// The first reason why one of them was not changed as it should have been.
    pub refused: Option<String>,
    /// Whether a node has not answered in time.
    #[serde(skip)]
    pub is_partial: bool,
}

/// One connection as others see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The connection.
    pub id: ConnectionId,
    /// Whose it is.
    pub user: Option<UserId>,
    /// Its groups, in order.
    pub groups: Vec<GroupName>,
    /// The name of its route.
    pub route: String,
    /// The client's address.
    pub remote: String,
    /// The selected subprotocol.
    pub subprotocol: Option<String>,
    /// When its handshake came, in milliseconds since 1970.
    pub since: u64,
    /// Payload bytes that wait for the client to read them.
    pub outbox_bytes: usize,
}

/// Bytes of a command. A thousand groups of the longest names are four times this; whoever has such
/// names sends them in several commands.
const COMMAND_MAX: usize = 64 * 1024;
/// Groups in one command.
const GROUPS_MAX: usize = 1000;
/// Connections that one node describes.
const INFO_MAX: usize = 1000;
/// Seconds of a trace: somebody looks on meanwhile.
const TRACE_MAX: u16 = 600;

impl Command {
    /// Reads a command.
    ///
    /// # Errors
    /// When it is too large, no command, or one over its bounds.
    pub fn parse(json: &[u8]) -> Result<Self, CommandError> {
        if json.len() > COMMAND_MAX {
            return Err(CommandError::TooLarge { size: json.len(), maximum: COMMAND_MAX });
        }
        let command: Self =
            serde_json::from_slice(json).map_err(|error| CommandError::Form(error.to_string()))?;
        command.check()?;
        Ok(command)
    }

    /// The command as it is sent.
    ///
    /// # Errors
    /// When it is too large, or over its bounds.
    pub(super) fn to_json(&self) -> Result<Vec<u8>, CommandError> {
        self.check()?;
        let json =
            serde_json::to_vec(self).map_err(|error| CommandError::Form(error.to_string()))?;
        match json.len() > COMMAND_MAX {
            true => Err(CommandError::TooLarge { size: json.len(), maximum: COMMAND_MAX }),
            false => Ok(json),
        }
    }

    fn check(&self) -> Result<(), CommandError> {
        let at_most = |field, maximum, found| match found > maximum {
            true => Err(CommandError::TooMuch { field, found, maximum }),
            false => Ok(()),
        };
        match self {
            Self::Close { code, .. } if !is_sendable(*code) => Err(CommandError::Code(*code)),
            Self::Join { groups } | Self::Leave { groups: Some(groups) } => {
                at_most("groups", GROUPS_MAX, groups.len())
            }
            Self::Info { limit } => at_most("limit", INFO_MAX, *limit),
            Self::Trace { seconds } => at_most("seconds", TRACE_MAX.into(), (*seconds).into()),
            _ => Ok(()),
        }
    }

    /// Whether it makes sense for those who are meant.
    ///
    /// # Errors
    /// When it does not.
    pub(super) fn check_for(&self, target: &Target) -> Result<(), CommandError> {
        let Self::Revoke { jti, before, .. } = self else { return Ok(()) };
        let fits = match target {
            Target::User(_) => jti.is_none(),
            Target::All => jti.is_some() != before.is_some(),
            Target::Connection(_) | Target::Group(_) => false,
        };
        if fits { Ok(()) } else { Err(CommandError::Revoke) }
    }

    /// The command's word.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Close { .. } => "close",
            Self::Evict => "evict",
            Self::Join { .. } => "join",
            Self::Leave { .. } => "leave",
            Self::Info { .. } => "info",
            Self::Count => "count",
            Self::Poll => "poll",
            Self::Refresh { .. } => "refresh",
            Self::Revoke { .. } => "revoke",
            Self::Trace { .. } => "trace",
        }
    }
}

impl CommandError {
    /// The word in answers and metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too-large",
            Self::Form(_) | Self::Code(_) | Self::Revoke | Self::TooMuch { .. } => "bad-request",
        }
    }
}

impl Done {
    /// Adds what came of it elsewhere.
    pub(super) fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.changed += other.changed;
        self.info.extend(other.info);
        self.refused = self.refused.take().or(other.refused);
        self.is_partial |= other.is_partial;
    }
}

fn normal() -> u16 {
    Close::of(Cause::BackendClosed).code
}

fn some() -> usize {
    100
}

/// A command without fields refuses unknown ones, too.
fn nothing_more<'de, D: Deserializer<'de>>(from: D) -> Result<(), D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    Nothing::deserialize(from).map(|Nothing {}| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Command, String> {
        Command::parse(json.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_command_is_read_with_its_defaults() {
        let close = Command::Close { code: 1000, reason: String::new(), exclude: HashSet::new() };
        assert_eq!(read(r#"{"command":"close"}"#), Ok(close));
        let red = vec![GroupName::new("red, or blue").unwrap()];
        let join = Command::Join { groups: red.clone() };
        assert_eq!(read(r#"{"groups":["red, or blue"],"command":"join"}"#), Ok(join));
        assert_eq!(read(r#"{"command":"leave"}"#), Ok(Command::Leave { groups: None }));
        let leave = Command::Leave { groups: Some(red) };
        assert_eq!(read(r#"{"command":"leave","groups":["red, or blue"]}"#), Ok(leave));
        assert_eq!(read(r#"{"command":"info"}"#), Ok(Command::Info { limit: 100 }));
        assert_eq!(read(r#"{"command":"count"}"#), Ok(Command::Count));
        assert_eq!(
            read(r#"{"command":"trace","seconds":600}"#),
            Ok(Command::Trace { seconds: 600 })
        );
    }

    #[test]
    fn what_is_written_is_read_again() {
        let id = ConnectionId::random(crate::id::NodeId::random());
        let user = UserId::new("ann").unwrap();
        for command in [
            Command::Close { code: 4000, reason: "bye".into(), exclude: HashSet::from([id]) },
            Command::Leave { groups: None },
            Command::Count,
            Command::Refresh { user, expires: 7 },
        ] {
            let json = serde_json::to_vec(&command).unwrap();
            assert_eq!(Command::parse(&json), Ok(command));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let many = format!(r#"{{"command":"join","groups":[{}"a"]}}"#, r#""a","#.repeat(1000));
        let large = format!(r#"{{"command":"count"{}}}"#, " ".repeat(COMMAND_MAX));
        for (json, part) in [
            ("", "not a command: EOF"),
            ("[]", "not a command: "),
            ("{}", "missing field `command`"),
            (r#"{"command":"explode"}"#, "unknown variant `explode`, expected one of `close`"),
            (r#"{"command":"close","cod":4000}"#, "unknown field `cod`"),
            (r#"{"command":"count","limit":1}"#, "unknown field `limit`"),
            (r#"{"command":"close","code":1006}"#, "code: 1006 may not be sent"),
            (r#"{"command":"close","exclude":["x"]}"#, "not an id"),
            (r#"{"command":"join"}"#, "missing field `groups`"),
            (r#"{"command":"join","groups":[""]}"#, "must not be empty"),
            (r#"{"command":"join","groups":["a\u0000"]}"#, "control characters"),
            (r#"{"command":"info","limit":1001}"#, "limit: expected at most 1000, found 1001"),
            (r#"{"command":"trace","seconds":601}"#, "seconds: expected at most 600, found 601"),
            (&many, "groups: expected at most 1000, found 1001"),
            (&large, "at most 65536 bytes, this one has 65555"),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
    }

    #[test]
    fn a_revocation_says_which_tokens() {
        let ann = Target::User(UserId::new("ann").unwrap());
        let group = Target::Group(GroupName::new("red").unwrap());
        for (target, json, fits) in [
            (&ann, r#"{"command":"revoke"}"#, true),
            (&ann, r#"{"command":"revoke","before":7,"until":9}"#, true),
            (&ann, r#"{"command":"revoke","jti":"7"}"#, false),
            (&Target::All, r#"{"command":"revoke","jti":"7"}"#, true),
            (&Target::All, r#"{"command":"revoke","before":7}"#, true),
            (&Target::All, r#"{"command":"revoke"}"#, false),
            (&Target::All, r#"{"command":"revoke","jti":"7","before":7}"#, false),
            (&group, r#"{"command":"revoke","before":7}"#, false),
            (&group, r#"{"command":"count"}"#, true),
        ] {
            assert_eq!(read(json).unwrap().check_for(target).is_ok(), fits, "{json}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_safe(bytes: Vec<u8>) {
            let _ = Command::parse(&bytes);
        }
    }
}
