//! A wish to revoke, as those who may wish it write it in JSON.

use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::{RevocationError, Revoked};
use crate::id::UserId;

/// `{"jti"}`, `{"user"}`, `{"user","before"}` or `{"before"}`, and `until` beside it; times are in seconds
/// since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RevocationWish {
    /// One token, by its id.
    pub jti: Option<String>,
    /// A user's tokens.
    pub user: Option<UserId>,
    /// What was made before; of a user, now when it is left out.
    pub before: Option<u64>,
    /// When the tokens have ended; after `jwt.revocation_lifetime` when it is left out.
    pub until: Option<u64>,
}

impl RevocationWish {
    /// What is to be revoked, and until when.
    ///
    /// # Errors
    /// When it says nothing, or more than one thing, or a time that no clock shows.
    pub fn read(self) -> Result<(Revoked, Option<SystemTime>), RevocationError> {
        let time = |at: u64| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at));
        let before = |at| time(at).ok_or(RevocationError::Before(at));
        let what = match (self.jti, self.user, self.before) {
            (Some(id), None, None) => Revoked::Token(id),
            (None, Some(user), at) => {
                let before = at.map_or_else(|| Ok(SystemTime::now()), before)?;
                Revoked::User { user, before }
            }
            (None, None, Some(at)) => Revoked::Before(before(at)?),
            _ => return Err(RevocationError::What),
        };
        let until = self.until.map(|at| time(at).ok_or(RevocationError::Until(at)));
        Ok((what, until.transpose()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<(Revoked, Option<SystemTime>), String> {
        let wish: RevocationWish = serde_json::from_str(json).map_err(|error| error.to_string())?;
        wish.read().map_err(|error| error.to_string())
    }

    #[test]
    fn a_wish_names_one_thing() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let ann = UserId::new("ann").unwrap();
        assert_eq!(read(r#"{"jti":"7"}"#), Ok((Revoked::Token("7".into()), None)));
        let of_ann = Revoked::User { user: ann.clone(), before: at(7) };
        let json = r#"{"user":"ann","before":7,"until":9}"#;
        assert_eq!(read(json), Ok((of_ann, Some(at(9)))));
        assert_eq!(read(r#"{"before":7}"#), Ok((Revoked::Before(at(7)), None)));
        let Ok((Revoked::User { user, before }, None)) = read(r#"{"user":"ann"}"#) else {
            panic!("a user's tokens of before now")
        };
        assert_eq!(user, ann);
        assert!(before.elapsed().unwrap() < Duration::from_secs(60));
        for (json, part) in [
            ("{}", "expected one of"),
            (r#"{"until":7}"#, "expected one of"),
            (r#"{"jti":"7","before":7}"#, "expected one of"),
            (r#"{"jti":"7","user":"ann"}"#, "expected one of"),
            (r#"{"user":""}"#, "must not be empty"),
            (r#"{"user":"ann","befor":7}"#, "unknown field `befor`"),
            (r#"{"before":-1}"#, "expected u64"),
            (r#"{"before":18446744073709551615}"#, "before: "),
            (r#"{"jti":"7","until":18446744073709551615}"#, "until: "),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
