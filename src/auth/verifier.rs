//! Checks tokens: the shape, the signature, then the claims. Keys and rules never change; another
//! configuration has a verifier of its own, so a check sees one of them whole.

use std::{sync::Arc, time::SystemTime};

use serde_json::{Map, Value};

use crate::config::{Jwks, Jwt};
use crate::http_client::Client;
use crate::task::Tasks;

use super::claims::Rules;
use super::jwks::JwksCache;
use super::jws::Jws;
use super::key::{self, Key};
use super::keys::Keys;
use super::{AuthError, Denied, Identity, JwksError, KeyInfo, Token};

/// Checks tokens against one configuration. Clones share it.
#[derive(Debug, Clone)]
pub struct Verifier {
    checks: Arc<Checks>,
    /// Where key sets are kept fresh.
    tasks: Tasks,
}

/// What tokens are checked with.
#[derive(Debug)]
struct Checks {
    rules: Rules,
    /// From files, read once.
    keys: Keys,
    jwks: Option<(Jwks, Arc<JwksCache>)>,
}

impl Verifier {
    /// Reads the keys that `config` names. `client` fetches a key set whose location is a URL
    /// ([`Jwks::is_url`]) and is not needed otherwise. A key set is kept fresh on `tasks`, so with one
    /// this must run in a runtime; a URL is also fetched there the first time, and until that succeeds
    /// tokens that need it are [`Denied::Unavailable`].
    ///
    /// # Errors
    /// When a key is missing, malformed, or does not fit its algorithms.
    pub fn new(config: &Jwt, client: Option<Client>, tasks: &Tasks) -> Result<Self, AuthError> {
        let checks = Checks::new(config, client, tasks, None)?;
        Ok(Self { checks: Arc::new(checks), tasks: tasks.clone() })
    }

    /// Checks tokens with the keys of a set that is at hand, for the fuzz targets.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn with_key_set(config: &Jwt, jwks: &Jwks, set: &[u8]) -> Result<Self, JwksError> {
        let keys = super::jwks::keys_of(set, jwks)?;
        let checks = Checks { rules: Rules::new(config), keys, jwks: None };
        Ok(Self { checks: Arc::new(checks), tasks: Tasks::new() })
    }

    /// A verifier for `config` that takes the place of this one. All files are read again; keys
    /// already fetched from a URL stay, unless `jwt.jwks` is another. `client` makes the next fetch.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn renewed(&self, config: &Jwt, client: Option<Client>) -> Result<Self, AuthError> {
        let checks = Checks::new(config, client, &self.tasks, self.checks.jwks.as_ref())?;
        Ok(Self { checks: Arc::new(checks), tasks: self.tasks.clone() })
    }

    /// Who the bearer of `token` is. May wait for a key set, at most its `timeout` and a second.
    /// Cancel safe.
    ///
    /// # Errors
    /// When the token is no good, or nothing is there to check it with.
    pub async fn verify(&self, token: &Token) -> Result<Identity, Denied> {
        self.verify_at(token, SystemTime::now()).await
    }

    /// [`verify`](Self::verify) as if it was `now`. Cancel safe.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub async fn verify_at(&self, token: &Token, now: SystemTime) -> Result<Identity, Denied> {
        let claims = self.checks.genuine(token).await?;
        self.checks.rules.check(claims, now)
    }

    /// Waits until the key set's first fetch has ended, for `moorline check`. Cancel safe.
    ///
    /// # Errors
    /// Why the last fetch failed.
    pub async fn fetched(&self) -> Result<(), Arc<JwksError>> {
        match &self.checks.jwks {
            Some((_, jwks)) => jwks.fetched().await,
            None => Ok(()),
        }
    }

    /// Every key, and why some of a key set are not used.
    #[must_use]
    pub fn describe(&self) -> Vec<KeyInfo> {
        let mut all = self.checks.keys.describe(place);
        if let Some((_, jwks)) = &self.checks.jwks {
            all.extend(jwks.describe());
        }
        all
    }
}

impl Checks {
    fn new(
        config: &Jwt,
        client: Option<Client>,
        tasks: &Tasks,
        old: Option<&(Jwks, Arc<JwksCache>)>,
    ) -> Result<Self, AuthError> {
        if config.keys.is_empty() && config.jwks.is_none() {
            return Err(AuthError::NoKeys);
        }
        let key = |(i, entry)| {
            Key::from_config(entry)
                .map_err(|(at, problem)| AuthError::Key { key: place(i) + at, problem })
        };
        let keys: Vec<Key> = config.keys.iter().enumerate().map(key).collect::<Result<_, _>>()?;
        let jwks = match (&config.jwks, old) {
            (None, _) => None,
            (Some(new), Some((same, cache))) if new == same && new.is_url() => {
                if let Some(client) = client {
                    cache.fetch_with(client);
                }
                Some((new.clone(), Arc::clone(cache)))
            }
            (Some(new), _) => Some((new.clone(), Arc::new(JwksCache::new(new, client, tasks)?))),
        };
        Ok(Self { rules: Rules::new(config), keys: Keys::new(keys), jwks })
    }

    /// The claims of a token that one of our keys has signed.
    async fn genuine(&self, token: &Token) -> Result<Map<String, Value>, Denied> {
        let jws = Jws::parse(token)?;
        let jwks = self.jwks.as_ref().filter(|(config, _)| {
            config.algorithms.iter().any(|allowed| key::algorithm(*allowed) == jws.algorithm)
        });
        if jwks.is_none() && !self.keys.know(&jws) {
            return Err(Denied::ALGORITHM);
        }
        self.rules.check_type(&jws)?;
        let verdict = self.keys.verdict(&jws);
        match jwks {
            Some((_, jwks)) if verdict.result().is_err() => jwks.check(&jws, verdict).await?,
            _ => verdict.result()?,
        }
        jws.claims()
    }
}

fn place(i: usize) -> String {
    format!("jwt.keys[{i}]")
}
