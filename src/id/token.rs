//! The id of a token (its `jti`, RFC 7519 section 4.1.7), as far as it is kept.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

/// A token's id by its SHA-256: short, whatever the issuer writes there, and fit for a subject.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenId([u8; SHA256_OUTPUT_LEN]);

/// Not a token's id: 64 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token's id is written as the 64 lower-case hex digits of its SHA-256")]
pub struct TokenIdError;

impl TokenId {
    /// The id that a token carries as this `jti`.
    #[must_use]
    pub fn of(jti: &str) -> Self {
        let hash = digest(&SHA256, jti.as_bytes());
        let mut bytes = [0; SHA256_OUTPUT_LEN];
        bytes.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
        Self(bytes)
    }
}

impl FromStr for TokenId {
    type Err = TokenIdError;

    fn from_str(text: &str) -> Result<Self, TokenIdError> {
        let mut digits = text.bytes().map(digit);
        let mut next = || digits.next().flatten().ok_or(TokenIdError);
        let mut bytes = [0; SHA256_OUTPUT_LEN];
        for byte in &mut bytes {
            *byte = next()? << 4 | next()?;
        }
        if digits.next().is_none() { Ok(Self(bytes)) } else { Err(TokenIdError) }
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A lower-case hex digit.
fn digit(b: u8) -> Option<u8> {
    match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_hash_of_what_the_issuer_wrote() {
        let id = TokenId::of("abc");
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(id.to_string(), hex);
        assert_eq!(hex.parse(), Ok(id));
        assert_ne!(TokenId::of(""), id);
    }

    #[test]
    fn what_is_no_hash_is_no_id() {
        let hex = TokenId::of("abc").to_string();
        for bad in
            ["", "abc", &hex[1..], &hex.to_uppercase(), &format!("{hex}0"), &hex.replace('b', "g")]
        {
            assert_eq!(bad.parse::<TokenId>(), Err(TokenIdError), "{bad}");
        }
    }
}
