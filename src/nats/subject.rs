//! Subjects, valid by construction: the operator's prefix, a hub's name and fixed words. The client
//! library checks next to nothing of what it publishes (a wildcard or an empty token is accepted
//! and the message lost), so there is no other way to a [`Subject`].

use std::{fmt, sync::Arc};

use crate::config::EventKind;
use crate::id::HubName;

/// A subject that can be published to: no wildcard, no empty token, no white space.
#[derive(Clone, PartialEq, Eq)]
pub struct Subject(async_nats::Subject);

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
    fn a_prefix_that_could_lose_or_catch_messages_is_refused() {
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a\t", "a\r\nPUB x 0", "*", "a.>", "$SYS"] {
            assert!(matches!(Subjects::new(bad), Err(SubjectError::Form(_))), "{bad:?}");
        }
        assert_eq!(Subjects::new(&"x".repeat(65)), Err(SubjectError::TooLong(65)));
        assert!(Subjects::new(&"x".repeat(64)).is_ok());
    }
}
