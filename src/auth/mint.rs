//! Making tokens that the node's own checks accept: for `moorline token`, the page of `moorline dev`, and
//! backends that ask for one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{AlgorithmFamily, EncodingKey, Header};
use serde_json::{Map, Value};

use crate::config::{Jwt, JwtAlgorithm};

use super::{AuthError, KeyProblem, key};

/// Makes tokens with a shared secret of a `jwt` section. The secret cannot be printed.
#[derive(Debug)]
pub struct Minter {
    header: Header,
    key: EncodingKey,
    algorithm: JwtAlgorithm,
    issuer: Option<String>,
    audience: Option<String>,
    /// Names of the claims that say who it is, and which groups the connection joins.
    user: String,
    groups: String,
}

impl Minter {
    /// A minter for `jwt`; none when it has no shared secret: tokens then come from their issuer.
    /// Blocks while it reads.
    ///
    /// # Errors
    /// When the secret cannot be read.
    pub fn new(jwt: &Jwt) -> Result<Option<Self>, AuthError> {
        let found = jwt.keys.iter().enumerate().find_map(|(i, key)| {
            let algorithm = key.algorithms.iter().copied().find(|named| named.is_symmetric())?;
            Some((i, key.secret.as_ref()?, algorithm, key.kid.clone()))
        });
        let Some((i, secret, algorithm, kid)) = found else { return Ok(None) };
        let secret = secret.read().map_err(|error| AuthError::Key {
            key: format!("jwt.keys[{i}].secret"),
            problem: KeyProblem::Read(error.to_string()),
        })?;
        let mut header = Header { kid, ..Header::new(key::algorithm(algorithm)) };
        if jwt.typ.is_some() {
            header.typ.clone_from(&jwt.typ);
        }
        Ok(Some(Self {
            header,
            key: EncodingKey::from_secret(&secret),
            algorithm,
            issuer: jwt.issuer.clone(),
            audience: jwt.audience.first().cloned(),
            user: jwt.claims.user.clone(),
            groups: jwt.claims.groups.clone(),
        }))
    }

    /// The name of the claim that says which groups the connection joins.
    #[must_use]
    pub fn groups_claim(&self) -> &str {
        &self.groups
    }

    /// A token for `user` that is good for `life`, with more `claims`, which go before its own.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn mint(
        &self,
        user: &str,
        life: Duration,
        mut claims: Map<String, Value>,
    ) -> Result<String, AuthError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut set = |name: &str, value: Value| {
            claims.entry(name.to_owned()).or_insert(value);
        };
        set(&self.user, user.into());
        set("iat", now.into());
        set("exp", now.saturating_add(life.as_secs()).into());
        if let Some(issuer) = &self.issuer {
            set("iss", issuer.as_str().into());
        }
        if let Some(audience) = &self.audience {
            set("aud", audience.as_str().into());
        }
        jsonwebtoken::encode(&self.header, &claims, &self.key)
            .map_err(|_| AuthError::Mint(self.algorithm))
    }
}

/// A token with these claims, signed with a shared secret.
///
/// # Errors
/// When `algorithm` is not one of HS256, HS384, HS512: a private key has no place on a node.
pub fn mint(
    algorithm: JwtAlgorithm,
    secret: &[u8],
    kid: Option<&str>,
    claims: &Map<String, Value>,
) -> Result<String, AuthError> {
    let named = key::algorithm(algorithm);
    if named.family() != AlgorithmFamily::Hmac {
        return Err(AuthError::Mint(algorithm));
    }
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(named) };
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(secret))
        .map_err(|_| AuthError::Mint(algorithm))
}
