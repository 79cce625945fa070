//! `Grip-Sig`: what shows a backend whose request it is. A token that is good for an hour, and the same
//! for some minutes, because making one costs more than all else in a request.

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use tokio::time::Instant;

use crate::config::Grip;

/// Who signs.
pub(in crate::relay::http) struct Signer {
    issuer: String,
    key: EncodingKey,
    /// The last one, and when it was made. Held while one is made.
    last: Mutex<Option<(Instant, HeaderValue)>>,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    exp: u64,
    /// Where the same key lets backends publish, whoever sees a signature must not get in with it. Not
    /// `aud`, for which libraries refuse a token when they expect none.
    r#use: &'static str,
}

/// How long a signature is good.
const LIFE: Duration = Duration::from_secs(3600);
/// How long it is used.
const USE: Duration = Duration::from_secs(300);

impl Signer {
    /// Reads the key. Blocks.
    pub(in crate::relay::http) fn new(grip: &Grip) -> io::Result<Self> {
        let bytes = grip.key_file.read()?;
        let key = match bytes.strip_prefix(b"base64:") {
            Some(base64) => {
                STANDARD.decode(base64).map_err(|_| io::Error::other("it is not base64"))?
            }
            None => bytes,
        };
        if key.is_empty() {
            return Err(io::Error::other("it is empty"));
        }
        let (issuer, key) = (grip.issuer.clone(), EncodingKey::from_secret(&key));
        Ok(Self { issuer, key, last: Mutex::default() })
    }

    /// The signature of a request now; none when there can be none, which would be a bug.
    pub(super) fn signature(&self) -> Option<HeaderValue> {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made, value)) = &*last
            && now < *made + USE
        {
            return Some(value.clone());
        }
        let until = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + LIFE;
        let claims = Claims { iss: &self.issuer, exp: until.as_secs(), r#use: "grip-sig" };
        let header = Header::new(Algorithm::HS256);
        let token = jsonwebtoken::encode(&header, &claims, &self.key).ok()?;
        let mut value = HeaderValue::try_from(token).ok()?;
        value.set_sensitive(true);
        *last = Some((now, value.clone()));
        Some(value)
    }
}

/// Without the key.
impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation};
    use serde_json::Value;

    use super::*;
    use crate::config::SecretSource;

    fn signer(text: &str) -> io::Result<Signer> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let key_file = SecretSource::File(file.path().to_owned());
        Signer::new(&Grip { issuer: "realm".to_owned(), key_file })
    }

    #[tokio::test(start_paused = true)]
    async fn a_signature_is_good_for_an_hour_and_used_for_minutes() {
        for text in ["a key\n", "base64:YSBrZXk=\n"] {
            let signer = signer(text).unwrap();
            let first = signer.signature().unwrap();
            let mut validation = Validation::new(Algorithm::HS256);
            validation.set_issuer(&["realm"]);
            let key = DecodingKey::from_secret(b"a key");
            let token = first.to_str().unwrap();
            let claims = jsonwebtoken::decode::<Value>(token, &key, &validation).unwrap().claims;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            assert!((3500..=3600).contains(&(claims["exp"].as_u64().unwrap() - now)), "{claims}");
            tokio::time::advance(USE - Duration::from_secs(1)).await;
            assert_eq!(signer.signature(), Some(first));
            tokio::time::advance(Duration::from_secs(1)).await;
            signer.signature().unwrap();
            assert_eq!(signer.last.lock().unwrap().as_ref().unwrap().0, Instant::now());
            assert!(!format!("{signer:?}").contains("key"));
        }
    }

    #[test]
    fn a_key_that_is_none_is_refused() {
        for (text, part) in [("\n", "empty"), ("base64:\n", "empty"), ("base64:%%", "base64")] {
            assert!(signer(text).unwrap_err().to_string().contains(part), "{text:?}");
        }
    }
}
