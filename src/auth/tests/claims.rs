//! Claims: what each must be, and time exact to the leeway.

use serde_json::{Map, Value, json};

use super::*;
use crate::auth::claims::Rules;

/// Claims that fit, with `change` over them; null takes one away.
fn claims(change: &Value) -> Map<String, Value> {
    let mut claims = json!({"sub": "alice", "exp": NOW + 60, "iss": "issuer", "aud": "edge"});
    let members = claims.as_object_mut().unwrap();
    for (name, value) in change.as_object().unwrap() {
        match value {
            Value::Null => drop(members.remove(name)),
            value => drop(members.insert(name.clone(), value.clone())),
        }
    }
    members.clone()
}

fn check(change: &Value, now: i64) -> Result<Identity, Denied> {
    let config = Jwt {
        issuer: Some("issuer".to_owned()),
        audience: vec!["edge".to_owned(), "other-edge".to_owned()],
        ..Jwt::default()
    };
    Rules::new(&config).check(claims(change), clock(now))
}

#[test]
fn an_identity_is_what_the_claims_say() {
    let identity = check(&json!({"jti": "7", "iat": NOW - 5, "role": ["a"]}), 0).unwrap();
    assert_eq!(identity.user.as_str(), "alice");
    assert_eq!(identity.id.as_deref(), Some("7"));
    assert_eq!(identity.issued_at, Some(clock(-5)));
    assert_eq!(identity.expires_at, clock(65));
    assert_eq!(identity.claims["role"], json!(["a"]));
    let bare = check(&json!({}), 0).unwrap();
    assert_eq!((bare.id, bare.issued_at), (None, None));
}

#[test]
fn time_is_exact_to_the_leeway() {
    for (change, now, expected) in [
        (json!({}), 59, Ok(())),
        (json!({}), 64, Ok(())),
        (json!({}), 65, Err(Denied::EXPIRED)),
        (json!({"exp": NOW}), 4, Ok(())),
        (json!({"exp": NOW}), 5, Err(Denied::EXPIRED)),
        (json!({"exp": NOW as f64 + 0.5}), 5, Ok(())),
        (json!({"exp": NOW as f64 + 0.5}), 6, Err(Denied::EXPIRED)),
        (json!({"nbf": NOW}), -5, Ok(())),
        (json!({"nbf": NOW}), -6, Err(Denied::NOT_YET_VALID)),
        (json!({"nbf": NOW + 61}), 62, Ok(())),
        // A token from a clock that is ahead is not refused for it (RFC 7519 section 4.1.6).
        (json!({"iat": NOW + 1000}), 0, Ok(())),
        (json!({"exp": 253_402_300_799_u64}), 0, Ok(())),
        (json!({"exp": 253_402_300_800_u64}), 0, Err(Denied::CLAIMS)),
    ] {
        assert_eq!(check(&change, now).map(|_| ()), expected, "{change} at {now}");
    }
}

#[test]
fn issuer_and_audience_are_compared_exactly() {
    for (change, expected) in [
        (json!({"aud": ["x", "edge"]}), Ok(())),
        (json!({"aud": "other-edge"}), Ok(())),
        (json!({"aud": []}), Err(Denied::AUDIENCE)),
        (json!({"aud": "Edge"}), Err(Denied::AUDIENCE)),
        (json!({"aud": "edge "}), Err(Denied::AUDIENCE)),
        (json!({"aud": ["edge", 1]}), Err(Denied::CLAIMS)),
        (json!({"aud": null}), Err(Denied::AUDIENCE)),
        (json!({"iss": "issuer/"}), Err(Denied::ISSUER)),
        (json!({"iss": null}), Err(Denied::ISSUER)),
        (json!({"iss": ["issuer"]}), Err(Denied::CLAIMS)),
    ] {
        assert_eq!(check(&change, 0).map(|_| ()), expected, "{change}");
    }
    let open = Rules::new(&Jwt::default());
    let at = |change| open.check(claims(&change), clock(0)).map(|_| ());
    assert_eq!(at(json!({"aud": null, "iss": "anybody"})), Ok(()));
    assert_eq!(at(json!({"aud": "edge"})), Err(Denied::AUDIENCE));
    assert_eq!(at(json!({"aud": []})), Err(Denied::AUDIENCE));
}

#[test]
fn the_user_is_the_claim_that_the_configuration_names() {
    let named = crate::config::JwtClaims {
        user: "https://example.com/uid".to_owned(),
        ..Default::default()
    };
    let rules = Rules::new(&Jwt { claims: named, ..Jwt::default() });
    let user = |change| rules.check(claims(&change), clock(0)).map(|identity| identity.user);
    let other = json!({"aud": null, "sub": null, "https://example.com/uid": "bob"});
    assert_eq!(user(other).unwrap().as_str(), "bob");
    assert_eq!(user(json!({"aud": null})), Err(Denied::CLAIMS));
    let mistyped = json!({"aud": null, "sub": 1, "https://example.com/uid": "bob"});
    assert_eq!(user(mistyped), Err(Denied::CLAIMS));
}

#[test]
fn an_absurd_leeway_is_cut() {
    let config = Jwt { leeway: crate::config::Period::secs(u64::MAX), ..Jwt::default() };
    let at = |now| Rules::new(&config).check(claims(&json!({"aud": null})), clock(now));
    assert!(at(3600).is_ok());
    assert_eq!(at(3660).map(|_| ()), Err(Denied::EXPIRED));
}
