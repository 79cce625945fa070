//! Subjects, valid by construction: the operator's prefix, a hub's name and fixed words. The client
//! library checks next to nothing of what it publishes (a wildcard or an empty token is accepted
//! and the message lost), so there is no other way to a [`Subject`].

use std::{fmt, sync::Arc};

use crate::config::EventKind;
use crate::id::{GroupName, HubName, NodeId};

/// A subject that can be published to: no wildcard, no empty token, no white space.
#[derive(Clone, PartialEq, Eq)]
pub struct Subject(async_nats::Subject);

/// What a subscription is for: a subject, or all subjects that go on with one more token.
#[derive(Clone, PartialEq, Eq)]
pub struct Filter(async_nats::Subject);

/// The subjects below one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subjects {
    prefix: Arc<str>,
}

/// Why a prefix was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// Longer than leaves room for names below it.
    #[error("a subject prefix has at most {PREFIX_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// Not one or more plain tokens.
    #[error("a subject prefix is tokens of A-Z a-z 0-9 _ - joined by dots, not {0:?}")]
    Form(String),
}

/// Bytes of a prefix. NATS subjects are best kept under 256 bytes in all.
const PREFIX_MAX: usize = 64;

impl Subject {
    /// A subject of JetStream, made of a bucket's name, a key and fixed words.
    pub(super) fn of_store(subject: String) -> Self {
        Self(subject.into())
    }

    /// The subject as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The subject as the client library wants it; shares the bytes.
    pub(super) fn to_nats(&self) -> async_nats::Subject {
        self.0.clone()
    }
}

impl Filter {
    /// The filter as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// What stands for the wildcard in a subject that the filter let through; nothing without one.
    #[must_use]
    pub fn rest<'a>(&self, subject: &'a str) -> &'a str {
        let fixed = self.as_str().trim_end_matches('*');
        subject.strip_prefix(fixed).unwrap_or_default()
    }

    pub(super) fn to_nats(&self) -> async_nats::Subject {
        self.0.clone()
    }
}

impl Subjects {
    /// Checks and keeps `prefix`.
    ///
    /// # Errors
    /// When the prefix is too long or is not plain tokens joined by dots.
    pub fn new(prefix: &str) -> Result<Self, SubjectError> {
        if prefix.len() > PREFIX_MAX {
            return Err(SubjectError::TooLong(prefix.len()));
        }
        if !prefix.split('.').all(is_token) {
            return Err(SubjectError::Form(prefix.to_owned()));
        }
        Ok(Self { prefix: prefix.into() })
    }

    /// Where workers take the hub's events of this kind.
    #[must_use]
    pub fn event(&self, hub: &HubName, kind: EventKind) -> Subject {
        Subject(format!("{}.{hub}.in.{}", self.prefix, kind.as_str()).into())
    }

    /// Pushes to connections of the node; the wildcard is the second token of the connection's id.
    #[must_use]
    pub fn push_connections(&self, hub: &HubName, node: NodeId) -> Filter {
        self.push(hub, format_args!("conn.{node}.*"))
    }

    /// Pushes to users; the wildcard is the user's token. A subscription costs some 5 KiB, and a node
    /// has about as many users as connections.
    #[must_use]
    pub fn push_users(&self, hub: &HubName) -> Filter {
        self.push(hub, format_args!("user.*"))
    }

    /// Pushes to a group.
    #[must_use]
    pub fn push_group(&self, hub: &HubName, group: &GroupName) -> Filter {
        self.push(hub, format_args!("group.{}", group.token()))
    }

    /// Pushes to all connections of the hub.
    #[must_use]
    pub fn push_all(&self, hub: &HubName) -> Filter {
        self.push(hub, format_args!("all"))
    }

    fn push(&self, hub: &HubName, target: fmt::Arguments<'_>) -> Filter {
        Filter(format!("{}.{hub}.out.{target}", self.prefix).into())
    }

    /// What the names of this fleet's buckets begin with: a bucket's name has no dots, so each becomes
    /// two underscores.
    #[must_use]
    pub fn bucket_prefix(&self) -> String {
        self.prefix.replace('.', "__")
    }

    /// Whether we may publish an answer to this subject of a stranger's choice: not where our own
    /// permissions reach further than the stranger's might.
    #[must_use]
    pub fn is_inbox(&self, reply: &str) -> bool {
        let below = reply.strip_prefix(&*self.prefix);
        !reply.starts_with('$')
            && !below.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn is_token(token: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    !token.is_empty() && token.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_goes_below_the_prefix_and_the_hub() {
        let hub = HubName::try_from("app".to_owned()).unwrap();
        let subject = |prefix| Subjects::new(prefix).unwrap().event(&hub, EventKind::Message);
        assert_eq!(subject("moorline").as_str(), "moorline.app.in.message");
        assert_eq!(subject("eu.fleet-2").as_str(), "eu.fleet-2.app.in.message");
    }

    #[test]
    fn a_push_goes_below_the_hub_and_its_name_is_one_token() {
        let subjects = Subjects::new("eu.fleet").unwrap();
        let (hub, node) = (HubName::default(), NodeId::random());
        let group = |name| subjects.push_group(&hub, &GroupName::new(name).unwrap());
        assert_eq!(group("red").as_str(), "eu.fleet.default.out.group.red");
        assert_eq!(group("a.*.>").as_str(), "eu.fleet.default.out.group.a=2E=2A=2E=3E");
        assert_eq!(subjects.push_all(&hub).as_str(), "eu.fleet.default.out.all");
        let users = subjects.push_users(&hub);
        assert_eq!(users.as_str(), "eu.fleet.default.out.user.*");
        assert_eq!(users.rest("eu.fleet.default.out.user.a=2Eb"), "a=2Eb");
        let connections = subjects.push_connections(&hub, node);
        assert_eq!(connections.rest(&format!("eu.fleet.default.out.conn.{node}.abc")), "abc");
        assert_eq!(connections.rest("eu.fleet.default.out.all"), "");
    }

    #[test]
    fn answers_go_to_inboxes_only() {
        let subjects = Subjects::new("eu.fleet").unwrap();
        for inbox in ["_INBOX.x.y", "answers", "eu.fleet2.x", "eu"] {
            assert!(subjects.is_inbox(inbox), "{inbox}");
        }
        for other in ["eu.fleet", "eu.fleet.default.out.all", "$JS.ACK.x", "$SYS.REQ", "$KV.b.k"] {
            assert!(!subjects.is_inbox(other), "{other}");
        }
    }

    #[test]
    fn a_prefix_that_could_lose_or_catch_messages_is_refused() {
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a\t", "a\r\nPUB x 0", "*", "a.>", "$SYS"] {
            assert!(matches!(Subjects::new(bad), Err(SubjectError::Form(_))), "{bad:?}");
        }
        assert_eq!(Subjects::new(&"x".repeat(65)), Err(SubjectError::TooLong(65)));
        assert!(Subjects::new(&"x".repeat(64)).is_ok());
    }
}
