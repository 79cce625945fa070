//! Any token, against keys that are known here and against any key set.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderValue, SEC_WEBSOCKET_PROTOCOL};

use crate::auth::{Denied, Identity, Token, Verifier, find};
use crate::config::{Jwks, Jwt, JwtSources};

/// The public halves of the keys that signed [`GENUINE`]; the private halves are gone.
const KEY_SET: &str = include_str!("token.jwks.json");
/// What those keys have signed, a line each: header, dot, claims.
const GENUINE: &str = include_str!("token.signed.txt");
/// When all tokens are checked, in seconds since 1970: while the genuine ones hold.
const NOW: u64 = 1_800_000_000;

pub(super) static VERIFIER: LazyLock<Verifier> =
    LazyLock::new(|| Verifier::with_key_set(&jwt(), &jwks(), KEY_SET.as_bytes()).unwrap());

/// A token is taken only if its every signed byte is one that a known key has signed, and no key set
/// and no token makes the check fall. The input is a token, and maybe a key set on the lines below.
pub fn token(input: &[u8]) {
    let line = input.iter().position(|b| *b == b'\n');
    let (token, set) = input.split_at(line.unwrap_or(input.len()));
    for token in [std::str::from_utf8(token).ok().and_then(Token::new)].into_iter().flatten() {
        check(&token, set);
    }
    for place in [AUTHORIZATION, COOKIE, SEC_WEBSOCKET_PROTOCOL] {
        let Ok(value) = HeaderValue::from_bytes(token) else { continue };
        let headers = HeaderMap::from_iter([(place, value)]);
        let query = std::str::from_utf8(set).unwrap_or_default();
        if let Ok(Some(token)) = find(&headers, query, &sources()).map(|shown| shown.token) {
            check(&token, set);
        }
    }
}

fn check(token: &Token, set: &[u8]) {
    if let Ok(identity) = verify(&VERIFIER, token) {
        let signed = token.as_str().rsplit_once('.').unwrap().0;
        assert!(GENUINE.lines().any(|genuine| genuine == signed), "nobody signed {signed}");
        assert!(identity.expires_at > now());
    }
    if let Ok(theirs) = Verifier::with_key_set(&jwt(), &jwks(), set) {
        let _ = verify(&theirs, token);
        assert!(!theirs.describe().is_empty(), "a set without keys is no set");
    }
}

pub(super) fn verify(verifier: &Verifier, token: &Token) -> Result<Identity, Denied> {
    verifier.verify_at(token, now()).now_or_never().expect("there is nothing to wait for")
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
}

fn jwt() -> Jwt {
    Jwt { issuer: Some("issuer".to_owned()), audience: vec!["edge".to_owned()], ..Jwt::default() }
}

fn jwks() -> Jwks {
    serde_json::from_str(r#"{"location": "at hand"}"#).unwrap()
}

/// Every place that a token can be in.
pub(super) fn sources() -> JwtSources {
    JwtSources {
        cookie: Some("session".to_owned()),
        query: Some("token".to_owned()),
        ..JwtSources::default()
    }
}
