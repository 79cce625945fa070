//! A revocation as the fleet keeps it: the key that names its tokens, and a value of JSON.

use bytes::Bytes;

use super::list::{Scope, Term};
use crate::id::UserId;
use crate::nats::Key;

impl Scope {
    /// Where it is kept: `jti.<SHA-256>`, `user.<token>` or `all`.
    pub(super) fn key(&self) -> Key {
        match self {
            Self::Token(id) => Key::of(&[TOKEN, &id.to_string()]),
            Self::User(user) => Key::of(&[USER, &user.token()]),
            Self::All => Key::of(&[ALL]),
        }
    }

    /// What is kept there; none when nothing of ours is.
    pub(super) fn of_key(key: &str) -> Option<Self> {
        match key.split_once('.') {
            None => (key == ALL).then_some(Self::All),
            Some((TOKEN, id)) => id.parse().ok().map(Self::Token),
            Some((USER, user)) => UserId::from_token(user).ok().map(Self::User),
            Some(_) => None,
        }
    }
}

impl Term {
    /// The value.
    pub(super) fn to_json(self) -> Bytes {
        // A struct of two numbers has a JSON form.
        serde_json::to_vec(&self).unwrap_or_default().into()
    }

    /// What a value says; none when it is not one of ours.
    pub(super) fn of_json(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }
}

const TOKEN: &str = "jti";
const USER: &str = "user";
const ALL: &str = "all";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TokenId;

    #[test]
    fn what_is_kept_is_found_again() {
        let user = |name| Scope::User(UserId::new(name).unwrap());
        let hex = TokenId::of("7").to_string();
        for (scope, key) in [
            (Scope::Token(TokenId::of("7")), format!("jti.{hex}")),
            (user("ann"), "user.ann".to_owned()),
            (user("a.*@>"), "user.a=2E=2A=40=3E".to_owned()),
            (Scope::All, "all".to_owned()),
        ] {
            assert_eq!(scope.key().as_str(), key);
            assert_eq!(Scope::of_key(&key), Some(scope));
        }
        for key in ["", "jti", "user", "all.x", "jti.7", "user.", "user.a.b", "user.=2e", "other.x"]
        {
            assert_eq!(Scope::of_key(key), None, "{key}");
        }
        let term = Term { before: 7, until: 9 };
        assert_eq!(&term.to_json()[..], br#"{"before":7,"until":9}"#);
        assert_eq!(Term::of_json(&term.to_json()), Some(term));
        assert_eq!(Term::of_json(br#"{"until":9}"#), Some(Term { before: 0, until: 9 }));
        for bad in ["", "{}", "7", r#"{"until":-1}"#, r#"{"before":"x","until":1}"#] {
            assert_eq!(Term::of_json(bad.as_bytes()), None, "{bad}");
        }
    }
}
