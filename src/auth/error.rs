//! What is wrong: with the configuration (the operator must act), or with a token (the client must).

use crate::config::JwtAlgorithm;
use crate::http_client::FetchError;

use super::jwks::JwksError;

/// Why tokens cannot be checked as the configuration says. Names the key to change.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Neither a file nor a key set.
    #[error("jwt: no token can be checked: set jwt.keys or jwt.jwks")]
    NoKeys,
    /// One of `jwt.keys`.
    #[error("{key}: {problem}")]
    Key {
        /// Where in the configuration, as `jwt.keys[1].public_key`.
        key: String,
        /// What is wrong there.
        problem: KeyProblem,
    },
    /// A value that makes no sense, as a key set that is never refreshed.
    #[error("{key}: {expected}")]
    Value {
        /// Where in the configuration.
        key: &'static str,
        /// What was expected.
        expected: String,
    },
    /// The key set's URL; not said again, because it may hold a password.
    #[error("jwt.jwks.location: {0}")]
    Location(FetchError),
    /// The key set's file.
    #[error("jwt.jwks.location: {0}: {1}")]
    KeySet(String, JwksError),
    /// A token could not be made.
    #[error("a token is made with HS256, HS384 or HS512, not {0:?}")]
    Mint(JwtAlgorithm),
}

/// What is wrong with one of `jwt.keys`.
#[derive(Debug, thiserror::Error)]
pub enum KeyProblem {
    /// A key is a secret or a public key.
    #[error("set either secret or public_key")]
    NotOne,
    /// A key without algorithms is never used.
    #[error("name at least one algorithm")]
    NoAlgorithms,
    /// An algorithm of another kind of key.
    #[error("{algorithm:?} does not work with {kind}")]
    Algorithm {
        /// The algorithm.
        algorithm: JwtAlgorithm,
        /// What the key is.
        kind: String,
    },
    /// A secret that can be guessed (RFC 7518 section 3.2).
    #[error("the secret has {len} bytes, {algorithm:?} needs at least {min}")]
    ShortSecret {
        /// The secret's length in bytes.
        len: usize,
        /// The algorithm that asks for more.
        algorithm: JwtAlgorithm,
        /// The least length in bytes.
        min: usize,
    },
    /// A shared key that no `Authorization` header can carry (RFC 6750 section 2.1).
    #[error("expected a key of A-Z a-z 0-9 - . _ ~ + /, as `openssl rand -hex 32` makes one")]
    NotBearer,
    /// A PEM file as a shared secret is a public key that everybody knows.
    #[error("holds a PEM file, which is no shared secret: set public_key")]
    PemSecret,
    /// The file or variable, as the system says.
    #[error("{0}")]
    Read(String),
    /// No public key in the file.
    #[error("{0}: not a PEM public key or certificate")]
    NotPublic(String),
    /// A private key has no place on a node that only checks.
    #[error("{0}: holds a private key; give the public key only")]
    Private(String),
    /// A public key of a kind that no algorithm here uses.
    #[error(
        "{0}: expected an RSA key of 2048 to 8192 bits, an EC key on P-256 or P-384, or Ed25519"
    )]
    Kind(String),
}

/// Why a token does not let its bearer in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Denied {
    /// The token is no good: 401 with `invalid_token`. One of [`Denied::REASONS`].
    #[error("the token is refused: {0}")]
    Invalid(&'static str),
    /// No key to check it with was ever loaded, or all are too old: 503.
    #[error("no keys to check the token with")]
    Unavailable,
}

impl Denied {
    /// Not the shape of a signed token, or not strict JSON.
    pub const MALFORMED: Self = Self::Invalid("malformed");
    /// An algorithm that no key, or not the named key, may be used with.
    pub const ALGORITHM: Self = Self::Invalid("algorithm");
    /// The signature does not fit.
    pub const SIGNATURE: Self = Self::Invalid("signature");
    /// `exp` is past.
    pub const EXPIRED: Self = Self::Invalid("expired");
    /// `nbf` is to come.
    pub const NOT_YET_VALID: Self = Self::Invalid("not-yet-valid");
    /// `iss` is missing or another.
    pub const ISSUER: Self = Self::Invalid("issuer");
    /// `aud` is missing, another, or not expected at all.
    pub const AUDIENCE: Self = Self::Invalid("audience");
    /// A token made for another use.
    pub const TYPE: Self = Self::Invalid("type");
    /// A claim is missing, of a wrong type or out of range.
    pub const CLAIMS: Self = Self::Invalid("claims");
    /// The token asks for an extension (`crit`, `b64`).
    pub const CRITICAL: Self = Self::Invalid("critical");
    /// No key has the token's `kid`.
    pub const UNKNOWN_KEY: Self = Self::Invalid("unknown-key");
    /// More than [`Token::MAX`](super::Token::MAX) bytes.
    pub const TOO_LARGE: Self = Self::Invalid("too-large");

    /// Every word that [`reason`](Self::reason) says.
    pub const REASONS: [&'static str; 13] = [
        "malformed",
        "algorithm",
        "signature",
        "expired",
        "not-yet-valid",
        "issuer",
        "audience",
        "type",
        "claims",
        "critical",
        "unknown-key",
        "too-large",
        "unavailable",
    ];

    /// The word in logs and metrics.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Invalid(reason) => reason,
            Self::Unavailable => "unavailable",
        }
    }
}
