//! One key set as it was read: which of its keys can be used, and why the others cannot.

use std::io;

use jsonwebtoken::jwk::Jwk;
use serde_json::Value;
use tokio::time::Instant;

use crate::auth::key::Key;
use crate::auth::keys::Keys;
use crate::auth::{KeyInfo, json};
use crate::config;
use crate::http_client::FetchError;

/// One good answer.
#[derive(Debug)]
pub(super) struct Loaded {
    /// The keys that can be used; never none.
    pub(super) keys: Keys,
    /// The keys that cannot, and why.
    unused: Vec<KeyInfo>,
    /// When they came.
    pub(super) at: Instant,
}

/// Why a key set was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// The URL.
    #[error("the key set was not fetched")]
    Fetch(#[source] FetchError),
    /// The file.
    #[error("the key set cannot be read: {0}")]
    Read(io::Error),
    /// More than `max_size`.
    #[error("the key set has {0} bytes, at most {1} are taken")]
    TooLarge(usize, usize),
    /// Not JSON, or something else in JSON.
    #[error("not a JSON Web Key Set")]
    Malformed,
    /// More than anybody needs.
    #[error("the key set has {0} keys, at most {KEYS_MAX} are taken")]
    TooMany(usize),
    /// Keys that cannot be used do not replace keys that can.
    #[error("none of the {0} keys of the key set can be used")]
    NoUsable(usize),
}

impl Loaded {
    /// Takes the keys that can be used out of `bytes`.
    pub(super) fn parse(bytes: &[u8], config: &config::Jwks) -> Result<Self, JwksError> {
        let max = config.max_size.bytes();
        if bytes.len() > max {
            return Err(JwksError::TooLarge(bytes.len(), max));
        }
        let mut set = json::object(bytes).ok_or(JwksError::Malformed)?;
        let Some(Value::Array(entries)) = set.remove("keys") else {
            return Err(JwksError::Malformed);
        };
        if entries.len() > KEYS_MAX {
            return Err(JwksError::TooMany(entries.len()));
        }
        let count = entries.len();
        let (mut keys, mut unused) = (Vec::new(), Vec::new());
        for entry in entries {
            // RFC 7517 section 5: keys that are not understood are skipped, not the whole set.
            let (kid, kind) = (word(&entry, "kid"), word(&entry, "kty").unwrap_or_default());
            let key = serde_json::from_value::<Jwk>(entry)
                .map_err(|_| "it is malformed")
                .and_then(|jwk| Key::from_jwk(&jwk, &config.algorithms));
            match key {
                Ok(key) => keys.push(key),
                Err(why) => unused.push(KeyInfo {
                    place: PLACE.to_owned(),
                    kid,
                    kind,
                    algorithms: Vec::new(),
                    unused: Some(why),
                }),
            }
        }
        let keys = Keys::new(keys);
        if keys.is_empty() {
            return Err(JwksError::NoUsable(count));
        }
        Ok(Self { keys, unused, at: Instant::now() })
    }

    /// Every key of the set, those that are not used too.
    pub(super) fn describe(&self) -> Vec<KeyInfo> {
        let mut all = self.keys.describe(|_| PLACE.to_owned());
        all.extend(self.unused.iter().cloned());
        all
    }
}

fn word(entry: &Value, name: &str) -> Option<String> {
    entry.get(name).and_then(Value::as_str).map(str::to_owned)
}

const PLACE: &str = "jwt.jwks";

/// The most keys of a set.
const KEYS_MAX: usize = 100;
