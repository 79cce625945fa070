//! A node's right to speak for its connections, as the bucket of leases holds it.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{IdError, NodeId};
use crate::nats::Key;

/// One lease of a node. A node that lost one takes another, so that nobody takes its new connections
/// for those that were taken from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LeaseId {
    pub(super) node: NodeId,
    /// 1, 2, 3 ... for each node.
    pub(super) number: u32,
}

/// What has become of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(super) enum Lease {
    /// Its node renews it.
    Held,
    /// Its node has stopped; what is left of its connections is anybody's to finish.
    Released,
    /// The holder of another lease finishes what is left of its connections.
    Taken {
        /// That lease.
        by: LeaseId,
    },
    /// Nothing is left of its connections. Kept for a while, for a node that wakes up late.
    Finished,
}

impl LeaseId {
    /// Its key, and the first token of the keys of its connections.
    pub(super) fn key(self) -> Key {
        Key::of(&[&self.to_string()])
    }
}

impl Lease {
    /// As it is written.
    pub(super) fn to_json(self) -> Bytes {
        // An enum of plain fields has a JSON form.
        serde_json::to_vec(&self).unwrap_or_default().into()
    }

    /// What was written; none when that was not by moorline.
    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.node, self.number)
    }
}

impl FromStr for LeaseId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (node, number) = text.split_once('-').ok_or(IdError)?;
        let id = Self { node: node.parse()?, number: number.parse().map_err(|_| IdError)? };
        if id.to_string() == text { Ok(id) } else { Err(IdError) }
    }
}

impl Serialize for LeaseId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LeaseId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_read_as_it_was_written() {
        let id = LeaseId { node: NodeId::random(), number: 7 };
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.key().as_str(), format!("{}-7", id.node));
        for bad in ["", "x-1", &format!("{}", id.node), &format!("{}-07", id.node)] {
            assert_eq!(bad.parse::<LeaseId>(), Err(IdError), "{bad}");
        }
        for lease in [Lease::Held, Lease::Released, Lease::Taken { by: id }, Lease::Finished] {
            assert_eq!(Lease::parse(&lease.to_json()), Some(lease));
        }
        assert_eq!(Lease::Held.to_json(), r#"{"state":"held"}"#);
        assert_eq!(Lease::parse(b"{}"), None);
    }
}
