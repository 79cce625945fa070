//! How a JSON Web Token is found in a handshake and checked (RFC 7519, RFC 8725, RFC 6750).

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Period, SecretSource, Size};

/// How tokens are found and checked. At least one of `keys` and `jwks` is needed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Jwt {
    /// Keys from files. A token's signature must fit one of them.
    pub keys: Vec<JwtKey>,
    /// A JSON Web Key Set (RFC 7517), from a file or an https URL.
    pub jwks: Option<Jwks>,
    /// The `iss` a token must carry. Default: not checked.
    pub issuer: Option<String>,
    /// The `aud` a token must carry, one of these. Default: not checked, and a token that has an
    /// `aud` is refused (RFC 7519 section 4.1.3).
    pub audience: Vec<String>,
    /// The `typ` header a token must carry, as `at+jwt`, so that a token made for another use is not
    /// taken (RFC 8725 section 3.11). Default: not checked.
    pub typ: Option<String>,
    /// Clock difference allowed for `exp` and `nbf`. Default: `5s`.
    pub leeway: Period,
    /// How long a revocation is kept that does not say until when: at least the longest life of a token.
    /// Default: `24h`.
    pub revocation_lifetime: Period,
    /// Where in the handshake a token is looked for.
    pub sources: JwtSources,
    /// Which claims mean what.
    pub claims: JwtClaims,
}

/// A key from a file, bound to the algorithms it may be used with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JwtKey {
    /// The `kid` a token names it by. Default: none, which fits every token of its algorithms.
    #[serde(default)]
    pub kid: Option<String>,
    /// The only algorithms a token may name with this key.
    pub algorithms: Vec<JwtAlgorithm>,
    /// The shared secret: a file or `env:NAME`, at least as long as the hash (HS256 32 bytes, HS384 48,
    /// HS512 64). This or `public_key`.
    #[serde(default)]
    pub secret: Option<SecretSource>,
    /// A PEM file with an RSA, EC or Ed25519 public key or certificate.
    #[serde(default)]
    pub public_key: Option<PathBuf>,
}

/// A signature algorithm (RFC 7518 section 3.1, RFC 8037). `none` is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "their names are the registered ones")]
pub enum JwtAlgorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

/// A JSON Web Key Set. Symmetric keys in it are never used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Jwks {
    /// A file path, or an https URL (http only to a loopback address). Redirects are not followed.
    pub location: String,
    /// PEM file with the authorities the URL's certificate is checked against. Default: the system's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// The only algorithms its keys may be used with. Default: `RS256, ES256, EdDSA`.
    #[serde(default = "default_jwks_algorithms")]
    pub algorithms: Vec<JwtAlgorithm>,
    /// How often it is fetched again. Default: `10m`.
    #[serde(default = "default_refresh")]
    pub refresh: Period,
    /// The shortest time between two fetches that unknown `kid`s may cause. Default: `30s`.
    #[serde(default = "default_min_refresh")]
    pub min_refresh: Period,
    /// How long keys are used when no fetch succeeds. Default: `24h`; after that handshakes get 503.
    #[serde(default = "default_max_stale")]
    pub max_stale: Period,
    /// Time for a fetch, at most `1m`, because a handshake may wait for it. Default: `5s`.
    #[serde(default = "default_fetch_timeout")]
    pub timeout: Period,
    /// The largest answer taken. Default: `256KiB`.
    #[serde(default = "default_max_size")]
    pub max_size: Size,
}

/// Where in the handshake a token is looked for. A handshake that has one in two places is refused
/// with 400 (RFC 6750 section 2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JwtSources {
    /// `Authorization: Bearer <token>`. Default: `true`.
    pub header: bool,
    /// The cookie of this name. Routes must then list `origins`. Default: none.
    pub cookie: Option<String>,
    /// The offered subprotocol that starts with this prefix, as `bearer.<token>`; it is never the one
    /// selected, so a browser offers a second one beside it. Default: `bearer.`; empty turns it off.
    pub subprotocol: Option<String>,
    /// The query parameter of this name. URLs end up in logs and histories (RFC 6750 section 2.3), so
    /// it is off by default.
    pub query: Option<String>,
}

/// Which claims mean what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JwtClaims {
    /// The user. Default: `sub`, which a token must then carry.
    pub user: String,
    /// The name of the plan that holds in place of the route's. Default: `plan`, if a token carries it.
    pub plan: String,
    /// The groups that the connection joins: a list of names, or one. Default: `groups`, if a token
    /// carries it.
    pub groups: String,
}

impl JwtAlgorithm {
    /// Whether whoever can check a signature can also make one.
    #[must_use]
    pub const fn is_symmetric(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }
}

impl Jwks {
    /// Whether `location` is a URL, not a file.
    #[must_use]
    pub fn is_url(&self) -> bool {
        ["http://", "https://"].iter().any(|scheme| {
            self.location
                .get(..scheme.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        })
    }
}

impl Default for Jwt {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            jwks: None,
            issuer: None,
            audience: Vec::new(),
            typ: None,
            leeway: Period::secs(5),
            revocation_lifetime: Period::secs(24 * 3600),
            sources: JwtSources::default(),
            claims: JwtClaims::default(),
        }
    }
}

impl Default for JwtSources {
    fn default() -> Self {
        Self { header: true, cookie: None, subprotocol: Some("bearer.".to_owned()), query: None }
    }
}

impl Default for JwtClaims {
    fn default() -> Self {
        Self { user: "sub".to_owned(), plan: "plan".to_owned(), groups: "groups".to_owned() }
    }
}

fn default_jwks_algorithms() -> Vec<JwtAlgorithm> {
    vec![JwtAlgorithm::RS256, JwtAlgorithm::ES256, JwtAlgorithm::EdDSA]
}

fn default_refresh() -> Period {
    Period::secs(600)
}

fn default_min_refresh() -> Period {
    Period::secs(30)
}

fn default_max_stale() -> Period {
    Period::secs(24 * 3600)
}

fn default_fetch_timeout() -> Period {
    Period::secs(5)
}

fn default_max_size() -> Size {
    Size::kib(256)
}
