//! Making tokens, for development: `moorline token` and the page of `moorline dev`.

use jsonwebtoken::{AlgorithmFamily, EncodingKey, Header};
use serde_json::{Map, Value};

use crate::config::JwtAlgorithm;

use super::{AuthError, key};

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
