//! Subjects, valid by construction: the operator's prefix, a hub's name and fixed words. The client
//! library checks next to nothing of what it publishes (a wildcard or an empty token is accepted
//! and the message lost), so there is no other way to a [`Subject`].

use std::{fmt, sync::Arc};

use crate::config::EventKind;
use crate::id::{ConnectionId, GroupName, HubName, NodeId, UserId};

/// A subject that can be published to: no wildcard, no empty token, no white space.
#[derive(Clone, PartialEq, Eq)]
pub struct Subject(async_nats::Subject);

/// What a subscription is for: a subject, or all subjects that go on with one more token.
#[derive(Clone, PartialEq, Eq)]
pub struct Filter(async_nats::Subject);

/// What connections, users and groups are told on subjects of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Pushes to their clients.
    Out,
    /// Commands about them.
    Ctl,
}

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

impl From<Subject> for Filter {
    fn from(subject: Subject) -> Self {
        Self(subject.0)
    }
}

impl Channel {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::Ctl => "ctl",
        }
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

    /// Where workers take the hub's messages of this action, a name of one token.
    #[must_use]
    pub fn action(&self, hub: &HubName, action: &str) -> Subject {
        Subject(format!("{}.{hub}.in.message.{action}", self.prefix).into())
    }

    /// All events of the hub.
    #[must_use]
    pub fn events(&self, hub: &HubName) -> Filter {
        Filter(format!("{}.{hub}.in.>", self.prefix).into())
    }

    /// To a connection.
    #[must_use]
    pub fn connection(&self, hub: &HubName, channel: Channel, id: ConnectionId) -> Subject {
        self.of(hub, channel, format_args!("conn.{id}"))
    }

    /// To the connections of a user.
    #[must_use]
    pub fn user(&self, hub: &HubName, channel: Channel, user: &UserId) -> Subject {
        self.of(hub, channel, format_args!("user.{}", user.token()))
    }

    /// To the members of a group.
    #[must_use]
    pub fn group(&self, hub: &HubName, channel: Channel, group: &GroupName) -> Subject {
        self.of(hub, channel, format_args!("group.{}", group.token()))
    }

    /// To all connections of the hub.
    #[must_use]
    pub fn all(&self, hub: &HubName, channel: Channel) -> Subject {
        self.of(hub, channel, format_args!("all"))
    }

    /// To each connection of the node; the wildcard is the second token of the connection's id.
    #[must_use]
    pub fn connections(&self, hub: &HubName, channel: Channel, node: NodeId) -> Filter {
        Filter(self.of(hub, channel, format_args!("conn.{node}.*")).0)
    }

    /// To each user; the wildcard is the user's token.
    #[must_use]
    pub fn users(&self, hub: &HubName, channel: Channel) -> Filter {
        Filter(self.of(hub, channel, format_args!("user.*")).0)
    }

    /// To each group; the wildcard is the group's token.
    #[must_use]
    pub fn groups(&self, hub: &HubName, channel: Channel) -> Filter {
        Filter(self.of(hub, channel, format_args!("group.*")).0)
    }

    fn of(&self, hub: &HubName, channel: Channel, target: fmt::Arguments<'_>) -> Subject {
        Subject(format!("{}.{hub}.{}.{target}", self.prefix, channel.as_str()).into())
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
    fn what_is_told_goes_below_the_hub_and_a_name_is_one_token() {
        let subjects = Subjects::new("eu.fleet").unwrap();
        let (hub, out, ctl) = (HubName::default(), Channel::Out, Channel::Ctl);
        let group = |name| subjects.group(&hub, out, &GroupName::new(name).unwrap());
        assert_eq!(group("red").as_str(), "eu.fleet.default.out.group.red");
        assert_eq!(group("a.*.>").as_str(), "eu.fleet.default.out.group.a=2E=2A=2E=3E");
        assert_eq!(subjects.all(&hub, ctl).as_str(), "eu.fleet.default.ctl.all");
        let user = subjects.user(&hub, ctl, &UserId::new("a.b").unwrap());
        assert_eq!(user.as_str(), "eu.fleet.default.ctl.user.a=2Eb");
        let users = subjects.users(&hub, ctl);
        assert_eq!(users.as_str(), "eu.fleet.default.ctl.user.*");
        assert_eq!(users.rest(user.as_str()), "a=2Eb");
        assert_eq!(Filter::from(user.clone()).rest(user.as_str()), "");
        assert_eq!(subjects.groups(&hub, out).rest(group("a.b").as_str()), "a=2Eb");
        let id = ConnectionId::random(NodeId::random());
        let connection = subjects.connection(&hub, out, id);
        assert_eq!(connection.as_str(), format!("eu.fleet.default.out.conn.{id}"));
        let connections = subjects.connections(&hub, out, id.node());
        assert_eq!(
            format!("{}.{}", id.node(), connections.rest(connection.as_str())),
            id.to_string()
        );
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
