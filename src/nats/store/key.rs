//! Names of what is kept in a bucket: tokens, joined by dots, so that all below a token can be read or
//! forgotten together.

use std::fmt::{self, Write};

/// One key. Valid by construction: a byte that no token may hold is written `=XX`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

impl Key {
    /// The key of these tokens; none of them is empty.
    #[must_use]
    pub fn of(tokens: &[&str]) -> Self {
        let mut key = String::with_capacity(tokens.iter().map(|token| token.len() + 1).sum());
        for token in tokens {
            if !key.is_empty() {
                key.push('.');
            }
            for byte in token.bytes() {
                if byte.is_ascii_alphanumeric() || b"_-=".contains(&byte) {
                    key.push(char::from(byte));
                } else {
                    let _ = write!(key, "={byte:02X}");
                }
            }
        }
        Self(key)
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_token_ends_it() {
        assert_eq!(Key::of(&["node-1", "abc"]).as_str(), "node-1.abc");
        assert_eq!(Key::of(&["a=40b", "*", "a.>\r\n"]).as_str(), "a=40b.=2A.a=2E=3E=0D=0A");
    }
}
