//! Which backends may manage: bearers of a key that they share with the node. A request shows the key
//! itself, or a token signed with it for that one request, as the Azure server SDKs make them.

use std::time::{Duration, SystemTime};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::claims::{audience, date};
use super::jws::Jws;
use super::{AuthError, Denied, KeyProblem, Token};
use crate::config::{JwtAlgorithm, SecretSource};

/// The keys whose bearers may manage. Nothing of them can be printed.
#[derive(Debug)]
pub struct AccessKeys(Vec<AccessKey>);

#[derive(Debug)]
struct AccessKey {
    /// Of the key, so that comparing takes as long for any other text, whatever its length.
    digest: Digest,
    /// The same key, for signatures.
    key: DecodingKey,
}

/// RFC 7518 section 3.2: as long as the hash that signs.
const LEAST: usize = 32;
/// Clocks of backends may differ by so much from ours. The tokens of the SDKs live for a minute or an
/// hour.
const LEEWAY: Duration = Duration::from_secs(10);

impl AccessKeys {
    /// Reads the keys of the list at `place` in the config. Blocks.
    ///
    /// # Errors
    /// When one cannot be read, is short, or is none that a header can carry.
    pub fn read(place: &str, sources: &[SecretSource]) -> Result<Self, AuthError> {
        let keys = sources.iter().enumerate().map(|(i, source)| {
            AccessKey::read(source)
                .map_err(|problem| AuthError::Key { key: format!("{place}[{i}]"), problem })
        });
        Ok(Self(keys.collect::<Result<_, _>>()?))
    }

    /// Whether `token` lets its bearer ask for `path`, which is percent-encoded as it came.
    ///
    /// # Errors
    /// When it is no key, and no token signed with one for that path.
    pub fn admit(&self, token: &Token, path: &str, now: SystemTime) -> Result<(), Denied> {
        self.admit_with(token, |claims| {
            check_time(claims, now).and_then(|()| check_path(claims, path))
        })
    }

    /// Whether `token` lets its bearer publish at `path`: one that says for what it is, only there; and
    /// those of GRIP libraries, which say nothing of it. A `Grip-Sig` says that it is for something else.
    ///
    /// # Errors
    /// When it is no key, and no token signed with one for that.
    pub fn admit_publisher(
        &self,
        token: &Token,
        path: &str,
        now: SystemTime,
    ) -> Result<(), Denied> {
        self.admit_with(token, |claims| {
            check_time(claims, now)?;
            if claims.contains_key("use") {
                return Err(Denied::TYPE);
            }
            if claims.contains_key("aud") { check_path(claims, path) } else { Ok(()) }
        })
    }

    fn admit_with(
        &self,
        token: &Token,
        check: impl FnOnce(&Map<String, Value>) -> Result<(), Denied>,
    ) -> Result<(), Denied> {
        let shown = digest(&SHA256, token.as_str().as_bytes());
        let is_shown =
            |key: &&AccessKey| verify_slices_are_equal(key.digest.as_ref(), shown.as_ref()).is_ok();
        // All are compared, so that the time says nothing of which one fits.
        if self.0.iter().filter(is_shown).count() > 0 {
            return Ok(());
        }
        if token.as_str().matches('.').count() != 2 {
            return Err(Denied::UNKNOWN_KEY);
        }
        check(&self.genuine(token)?)
    }

    /// The claims of a token that was signed with one of the keys.
    fn genuine(&self, token: &Token) -> Result<Map<String, Value>, Denied> {
        let jws = Jws::parse(token)?;
        if jws.algorithm != Algorithm::HS256 {
            return Err(Denied::ALGORITHM);
        }
        let has_signed = |key: &AccessKey| {
            crypto::verify(jws.signature, jws.message, &key.key, jws.algorithm)
                .is_ok_and(|fits| fits)
        };
        if self.0.iter().any(has_signed) { jws.claims() } else { Err(Denied::SIGNATURE) }
    }
}

impl AccessKey {
    fn read(source: &SecretSource) -> Result<Self, KeyProblem> {
        let text = source.read().map_err(|error| KeyProblem::Read(error.to_string()))?;
        let key = text.trim_ascii();
        if key.len() < LEAST {
            let (len, algorithm) = (key.len(), JwtAlgorithm::HS256);
            return Err(KeyProblem::ShortSecret { len, algorithm, min: LEAST });
        }
        let bearer = str::from_utf8(key).ok().filter(|_| key.len() <= Token::MAX);
        bearer.and_then(Token::new).ok_or(KeyProblem::NotBearer)?;
        Ok(Self { digest: digest(&SHA256, key), key: DecodingKey::from_secret(key) })
    }
}

/// Checks that a token is good now.
fn check_time(claims: &Map<String, Value>, now: SystemTime) -> Result<(), Denied> {
    let latest = now.checked_add(LEEWAY).ok_or(Denied::CLAIMS)?;
    let expires = date(claims, "exp")?.ok_or(Denied::CLAIMS)?;
    if expires.checked_add(LEEWAY).is_none_or(|end| end <= now) {
        return Err(Denied::EXPIRED);
    }
    let is_early = date(claims, "nbf")?.is_some_and(|not_before| not_before > latest);
    if is_early { Err(Denied::NOT_YET_VALID) } else { Ok(()) }
}

/// Checks that a token is for a path. The audience is the URL of the request, as the SDKs write it; only
/// its path is compared, because a proxy in front has another scheme and host than the node knows of.
fn check_path(claims: &Map<String, Value>, path: &str) -> Result<(), Denied> {
    let named = audience(claims)?.unwrap_or_default();
    let is_named = named.iter().filter_map(|url| path_of(url)).any(|named| is_same(named, path));
    if is_named { Ok(()) } else { Err(Denied::AUDIENCE) }
}

/// The path of an absolute http URL.
fn path_of(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let start = rest.find('/')?;
    rest.get(start..)?.split(['?', '#']).next()
}

/// Clients escape differently before they sign and before they send, so what is escaped is compared.
fn is_same(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('/'), b.split('/'));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(a), Some(b)) if percent_decode_str(a).eq(percent_decode_str(b)) => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::forge::{NOW, SECRET, hmac, token};
    use super::*;

    const PATH: &str = "/api/hubs/app/users/a%40b/:send";
    const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

    fn keys(texts: &[&[u8]]) -> Result<AccessKeys, AuthError> {
        let folder = tempfile::tempdir().unwrap();
        let sources = texts.iter().enumerate().map(|(i, text)| {
            let path = folder.path().join(i.to_string());
            std::fs::write(&path, text).unwrap();
            SecretSource::File(path)
        });
        AccessKeys::read("key_files", &sources.collect::<Vec<_>>())
    }

    fn admit(text: &str) -> Result<(), Denied> {
        let keys = keys(&[b"another-key-of-more-than-32-bytes\n", SECRET]).unwrap();
        keys.admit(&token(text), PATH, SystemTime::UNIX_EPOCH + Duration::from_secs(NOW))
    }

    fn signed(claims: &Value) -> String {
        hmac(Algorithm::HS256, SECRET, HEADER, &claims.to_string())
    }

    #[test]
    fn a_key_lets_its_bearer_in_and_nothing_near_it_does() {
        let key = str::from_utf8(SECRET).unwrap();
        assert_eq!(admit(key), Ok(()));
        assert_eq!(admit("another-key-of-more-than-32-bytes"), Ok(()));
        for near in [&key[1..], &key[..key.len() - 1], &format!("{key}0"), &key.to_uppercase()] {
            assert_eq!(admit(near), Err(Denied::UNKNOWN_KEY), "{near}");
        }
    }

    #[test]
    fn a_token_of_the_sdks_lets_in_for_its_path_and_time() {
        for aud in [
            json!("http://127.0.0.1:8444/api/hubs/app/users/a%40b/:send?api-version=2024-12-01"),
            json!("https://proxy.example/api/hubs/app/users/a@b/%3Asend"),
            json!(["https://other/", "https://x/api/hubs/app/users/a%40b/:send#x"]),
        ] {
            assert_eq!(admit(&signed(&json!({"aud": aud, "exp": NOW + 60}))), Ok(()), "{aud}");
        }
        let aud = format!("http://x{PATH}");
        assert_eq!(admit(&signed(&json!({"aud": aud, "exp": NOW - 5}))), Ok(()), "within leeway");
        for (claims, denied) in [
            (json!({"aud": aud, "exp": NOW - 10}), Denied::EXPIRED),
            (json!({"aud": aud, "exp": NOW + 60, "nbf": NOW + 11}), Denied::NOT_YET_VALID),
            (json!({"aud": aud}), Denied::CLAIMS),
            (json!({"aud": aud, "exp": "soon"}), Denied::CLAIMS),
            (json!({"aud": 1, "exp": NOW + 60}), Denied::CLAIMS),
            (json!({"exp": NOW + 60}), Denied::AUDIENCE),
            (json!({"aud": "http://x/api/hubs/app/:send", "exp": NOW + 60}), Denied::AUDIENCE),
            (json!({"aud": PATH, "exp": NOW + 60}), Denied::AUDIENCE),
            (json!({"aud": "http://x", "exp": NOW + 60}), Denied::AUDIENCE),
            (
                json!({"aud": "http://x/api/hubs/app%2Fusers/a@b/:send", "exp": NOW + 60}),
                Denied::AUDIENCE,
            ),
        ] {
            assert_eq!(admit(&signed(&claims)), Err(denied), "{claims}");
        }
    }

    #[test]
    fn a_token_of_grip_lets_in_to_publish_and_for_nothing_else() {
        let keys = keys(&[SECRET]).unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
        let publish = |text: &str| keys.admit_publisher(&token(text), "/publish/", now);
        let grip = signed(&json!({"iss": "realm", "exp": NOW + 60}));
        assert_eq!(publish(&grip), Ok(()));
        assert_eq!(keys.admit(&token(&grip), "/publish/", now), Err(Denied::AUDIENCE));
        let seen = signed(&json!({"iss": "realm", "exp": NOW + 60, "use": "grip-sig"}));
        assert_eq!(publish(&seen), Err(Denied::TYPE));
        assert_eq!(publish(str::from_utf8(SECRET).unwrap()), Ok(()));
        let named = |path| signed(&json!({"aud": format!("http://x{path}"), "exp": NOW + 60}));
        assert_eq!(publish(&named("/publish/")), Ok(()));
        assert_eq!(publish(&named(PATH)), Err(Denied::AUDIENCE));
        assert_eq!(
            publish(&signed(&json!({"iss": "realm", "exp": NOW - 60}))),
            Err(Denied::EXPIRED)
        );
        assert_eq!(publish(&signed(&json!({"iss": "realm"}))), Err(Denied::CLAIMS));
        assert_eq!(publish("another-key-of-more-than-32-bytes"), Err(Denied::UNKNOWN_KEY));
    }

    #[test]
    fn forged_tokens_are_refused() {
        let claims = json!({"aud": format!("http://x{PATH}"), "exp": NOW + 60}).to_string();
        let forged = |algorithm, secret: &[u8], header: &str| {
            admit(&hmac(algorithm, secret, header, &claims)).unwrap_err()
        };
        let other = [b'x'; 64];
        assert_eq!(forged(Algorithm::HS256, &other, HEADER), Denied::SIGNATURE);
        let hs512 = r#"{"alg":"HS512"}"#;
        assert_eq!(forged(Algorithm::HS512, SECRET, hs512), Denied::ALGORITHM);
        let none = r#"{"alg":"none"}"#;
        assert_eq!(forged(Algorithm::HS256, SECRET, none), Denied::ALGORITHM);
        let critical = r#"{"alg":"HS256","crit":["x"],"x":1}"#;
        assert_eq!(forged(Algorithm::HS256, SECRET, critical), Denied::CRITICAL);
        assert_eq!(admit("a.b.c"), Err(Denied::MALFORMED));
    }

    #[test]
    fn a_key_that_is_none_is_named() {
        let said = |text: &[u8]| keys(&[SECRET, text]).unwrap_err().to_string();
        assert_eq!(
            said(b" 31-bytes-31-bytes-31-bytes-31-b \n"),
            "key_files[1]: the secret has 31 bytes, HS256 needs at least 32"
        );
        for text in [
            b"with a space in it, which no header takes".as_slice(),
            b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEI\n",
            &[0xff; 40],
        ] {
            let said = said(text);
            assert!(said.starts_with("key_files[1]: expected a key of A-Z a-z 0-9"), "{said}");
        }
        assert!(!format!("{:?}", keys(&[SECRET]).unwrap()).contains("0123456789"));
    }
}
