//! Names that people choose (hubs, users, groups) and their encoding into one NATS subject token:
//! bytes outside `A-Za-z0-9_-` become `=XX`, two upper-case hex digits.

use std::{fmt, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A namespace of connections, users and groups. Written by the operator, so it needs no encoding:
/// 1 to 64 of `A-Za-z0-9_-`.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct HubName(Arc<str>);

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and keeps `name`.
            ///
            /// # Errors
            /// When the name is empty, too long once encoded, or has control characters.
            pub fn new(name: &str) -> Result<Self, NameError> {
                check(name)?;
                Ok(Self(Arc::from(name)))
            }

            /// The name that was encoded as this token.
            ///
            /// # Errors
            /// When nothing is encoded so.
            pub fn from_token(token: &str) -> Result<Self, NameError> {
                Self::new(&decode(token)?)
            }

            /// The name as it was given.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The name as one NATS subject token.
            #[must_use]
            pub fn token(&self) -> String {
                encode(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(&name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    )*};
}

names! {
    /// Who a connection belongs to, as the token or the backend said: any text that is not empty, has
    /// no control characters and fits 200 bytes once encoded.
    UserId;
    /// A group of connections, by the same rule as users.
    GroupName;
}

/// Why a name was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No bytes at all.
    #[error("a name must not be empty")]
    Empty,
    /// Longer than a subject token may be.
    #[error("a name has at most {TOKEN_MAX} bytes once encoded, this one has {0}")]
    TooLong(usize),
    /// A control character, which no log, header or terminal should ever see.
    #[error("a name must not have control characters")]
    Control,
    /// A token that no name is encoded as.
    #[error("a token has A-Z a-z 0-9 _ - and =XX, two upper-case hex digits, for all other bytes")]
    Token,
    /// A hub name with a character that would need encoding.
    #[error("a hub name is 1 to 64 of A-Z a-z 0-9 _ -")]
    Hub,
}

/// The longest encoded name in bytes. NATS subjects are best kept under 256 bytes in all.
const TOKEN_MAX: usize = 200;

impl HubName {
    /// The name as text, which is also its token.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for HubName {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        let fits = (1..=64).contains(&name.len());
        if fits && name.bytes().all(is_plain) { Ok(Self(name.into())) } else { Err(NameError::Hub) }
    }
}

impl From<HubName> for String {
    fn from(name: HubName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl Default for HubName {
    fn default() -> Self {
        Self(Arc::from("default"))
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

fn check(name: &str) -> Result<(), NameError> {
    let encoded: usize = name.bytes().map(|b| if is_plain(b) { 1 } else { 3 }).sum();
    match encoded {
        0 => Err(NameError::Empty),
        n if n > TOKEN_MAX => Err(NameError::TooLong(n)),
        _ if name.chars().any(char::is_control) => Err(NameError::Control),
        _ => Ok(()),
    }
}

fn encode(name: &str) -> String {
    use fmt::Write;
    name.bytes().fold(String::with_capacity(name.len()), |mut token, b| {
        if is_plain(b) {
            token.push(char::from(b));
        } else {
            let _ = write!(token, "={b:02X}");
        }
        token
    })
}

/// The one name that [`encode`] makes `token` of.
fn decode(token: &str) -> Result<String, NameError> {
    let mut bytes = Vec::with_capacity(token.len());
    let mut rest = token.bytes();
    while let Some(b) = rest.next() {
        bytes.push(match b {
            b'=' => match (rest.next().and_then(digit), rest.next().and_then(digit)) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err(NameError::Token),
            },
            b => b,
        });
    }
    let name = String::from_utf8(bytes).map_err(|_| NameError::Token)?;
    // What has a shorter form, or none, would be a second token of the same name.
    if encode(&name) == token { Ok(name) } else { Err(NameError::Token) }
}

/// An upper-case hex digit.
fn digit(b: u8) -> Option<u8> {
    match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'A'..=b'F' => Some(b - b'A' + 10),
        _ => None,
    }
}

fn is_plain(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'-'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_becomes_one_token() {
        let token = |name| UserId::new(name).unwrap().token();
        assert_eq!(token("alice"), "alice");
        assert_eq!(token("alice@example.com"), "alice=40example=2Ecom");
        assert_eq!(token("*"), "=2A");
        assert_eq!(token(">"), "=3E");
        assert_eq!(token("a b"), "a=20b");
        assert_eq!(token("ü"), "=C3=BC");
        assert_eq!(token("a=2E"), "a=3D2E");
    }

    #[test]
    fn bad_names_are_refused() {
        assert_eq!(UserId::new(""), Err(NameError::Empty));
        assert_eq!(UserId::new("a\r\nPUB x 0"), Err(NameError::Control));
        assert_eq!(UserId::new("a\0"), Err(NameError::Control));
        assert_eq!(UserId::new(&"x".repeat(201)), Err(NameError::TooLong(201)));
        assert_eq!(UserId::new(&".".repeat(67)), Err(NameError::TooLong(201)));
        assert!(UserId::new(&".".repeat(66)).is_ok());
        assert!(HubName::try_from("a.b".to_owned()).is_err());
        assert!(HubName::try_from(String::new()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_two_names_share_a_token(a in "[ -~]{1,12}", b in "[ -~]{1,12}") {
            let (x, y) = (UserId::new(&a).unwrap().token(), UserId::new(&b).unwrap().token());
            assert_eq!(a == b, x == y);
            assert!(x.bytes().all(|c| is_plain(c) || c == b'='));
            assert_eq!(UserId::from_token(&x), UserId::new(&a));
        }

        #[test]
        fn a_token_is_of_one_name_or_none(token in "[A-Za-z=0-9.*>]{0,12}") {
            if let Ok(name) = GroupName::from_token(&token) {
                assert_eq!(name.token(), token);
            }
        }
    }
}
