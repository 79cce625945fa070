//! `<node>.<random>`: where a connection lives, and a part that nobody can guess.

use std::fmt;
use std::str::FromStr;

use rand::RngExt;
use serde::{Deserialize, Serialize};

/// One moorline process: random for each start, so a restarted node is another node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId([u8; NODE_LEN]);

/// One WebSocket connection: two subject tokens, the second holds 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ConnectionId {
    node: NodeId,
    random: u128,
}

/// A text that is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id as moorline makes them")]
pub struct IdError;

const NODE_LEN: usize = 12;
/// Lower case and digits only: legal in a NATS token, a URL, a DNS label and a file name.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// 128 bits at 5 bits a letter.
const RANDOM_LEN: usize = 26;

impl NodeId {
    /// A new random node id (60 bits).
    #[must_use]
    pub fn random() -> Self {
        let mut rng = rand::rng();
        Self(std::array::from_fn(|_| letter(rng.random_range(0..32u32) as usize)))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl ConnectionId {
    /// A new id for a connection of `node`.
    #[must_use]
    pub fn random(node: NodeId) -> Self {
        Self { node, random: rand::rng().random() }
    }

    /// Some of the random bits, for choosing a shard or a NATS connection.
    #[must_use]
    pub fn spread(&self) -> u32 {
        (self.random >> 96) as u32
    }

    /// The node that accepted the connection.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }
}

impl FromStr for NodeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let bytes: [u8; NODE_LEN] = text.as_bytes().try_into().map_err(|_| IdError)?;
        if bytes.iter().all(|b| ALPHABET.contains(b)) { Ok(Self(bytes)) } else { Err(IdError) }
    }
}

impl FromStr for ConnectionId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (node, letters) = text.split_once('.').ok_or(IdError)?;
        let mut random = 0;
        for (i, b) in letters.bytes().enumerate() {
            let five_bits = ALPHABET.iter().position(|letter| *letter == b).ok_or(IdError)?;
            random |= u128::try_from(five_bits).unwrap_or_default().unbounded_shl(5 * i as u32);
        }
        let id = Self { node: node.parse()?, random };
        // Too few or too many letters, or bits that an id has not, would be a second text of the same.
        if id.to_string() == text { Ok(id) } else { Err(IdError) }
    }
}

impl TryFrom<String> for NodeId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for ConnectionId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<ConnectionId> for String {
    fn from(id: ConnectionId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters: [u8; RANDOM_LEN] =
            std::array::from_fn(|i| letter((self.random >> (5 * i)) as usize & 31));
        write!(f, "{}.{}", self.node, std::str::from_utf8(&letters).unwrap_or_default())
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn letter(five_bits: usize) -> u8 {
    ALPHABET.get(five_bits).copied().unwrap_or(b'a')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_two_tokens_and_every_bit_counts() {
        let node = NodeId::random();
        let text = ConnectionId::random(node).to_string();
        let (left, right) = text.split_once('.').unwrap();
        assert_eq!(left, node.as_str());
        assert_eq!(right.len(), RANDOM_LEN);
        assert!(right.bytes().all(|b| ALPHABET.contains(&b)));
        assert_eq!(text.parse::<ConnectionId>().map(|id| id.to_string()), Ok(text.clone()));
        for bad in
            ["", "a.b", "a", &text[1..], &text[..38], &format!("{text}a"), &text.to_uppercase()]
        {
            assert_eq!(bad.parse::<ConnectionId>(), Err(IdError), "{bad}");
        }
        for bit in 0..128 {
            let a = ConnectionId { node, random: 0 }.to_string();
            let b = ConnectionId { node, random: 1 << bit }.to_string();
            assert_ne!(a, b, "bit {bit}");
        }
    }
}
