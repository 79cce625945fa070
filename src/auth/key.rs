//! One key and the algorithms it may be used with. The binding is made here, once, from what the
//! operator or the key set says, so that no token can make an RSA key into an HMAC secret.

use std::{fmt, fs, path::Path};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ParsedPublicKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ED25519,
};
use x509_parser::prelude::{FromDer, Pem, SubjectPublicKeyInfo, X509Certificate};
use x509_parser::public_key::RSAPublicKey;

use crate::config::{JwtAlgorithm, JwtKey};

use super::KeyProblem;
use super::jws::Jws;

/// A key that signatures are checked with.
#[derive(Debug)]
pub(super) struct Key {
    kid: Option<String>,
    kind: Kind,
    /// Never empty, and all of them fit `kind`.
    algorithms: Vec<JwtAlgorithm>,
    key: DecodingKey,
}

/// A key as `moorline check` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Where it comes from, as `jwt.keys[0]`.
    pub place: String,
    /// The `kid` a token names it by.
    pub kid: Option<String>,
    /// What it is, as `RSA 2048`.
    pub kind: String,
    /// The algorithms it is used with; none when it is not used.
    pub algorithms: Vec<JwtAlgorithm>,
    /// Why it is not used.
    pub unused: Option<&'static str>,
}

/// What a key is; decides which algorithms make sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Secret { bytes: usize },
    Rsa { bits: usize },
    P256,
    P384,
    Ed25519,
}

impl Key {
    /// The key of a `jwt.keys` entry. An error names the entry's key after `jwt.keys[i]`.
    pub(super) fn from_config(config: &JwtKey) -> Result<Self, (&'static str, KeyProblem)> {
        let (place, (kind, key)) = match (&config.secret, &config.public_key) {
            (Some(secret), None) => {
                let read = secret.read().map_err(|e| KeyProblem::Read(e.to_string()));
                (
                    ".secret",
                    read.and_then(|secret| from_secret(&secret)).map_err(|e| (".secret", e))?,
                )
            }
            (None, Some(path)) => {
                (".public_key", from_pem_file(path).map_err(|e| (".public_key", e))?)
            }
            _ => return Err(("", KeyProblem::NotOne)),
        };
        if config.algorithms.is_empty() {
            return Err((".algorithms", KeyProblem::NoAlgorithms));
        }
        for algorithm in config.algorithms.iter().copied() {
            if !kind.is_for(algorithm) {
                let problem = KeyProblem::Algorithm { algorithm, kind: kind.to_string() };
                return Err((".algorithms", problem));
            }
            if let Kind::Secret { bytes: len } = kind
                && let min = secret_min(algorithm)
                && len < min
            {
                return Err((place, KeyProblem::ShortSecret { len, algorithm, min }));
            }
        }
        Ok(Self { kid: config.kid.clone(), kind, algorithms: config.algorithms.clone(), key })
    }

    /// A key of a key set, for as many of `allowed` as it says it is for.
    ///
    /// # Errors
    /// Why it is not used. Private parts, if somebody published them, are not looked at.
    pub(super) fn from_jwk(jwk: &Jwk, allowed: &[JwtAlgorithm]) -> Result<Self, &'static str> {
        if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return Err("its use is not sig");
        }
        let operations = jwk.common.key_operations.as_ref();
        if operations.is_some_and(|operations| !operations.contains(&KeyOperations::Verify)) {
            return Err("its key_ops do not have verify");
        }
        let (kind, key) = from_parameters(&jwk.algorithm)?;
        let own = jwk.common.key_algorithm.map(Algorithm::try_from);
        let algorithms: Vec<JwtAlgorithm> = allowed
            .iter()
            .copied()
            .filter(|allowed| kind.is_for(*allowed))
            .filter(|allowed| match &own {
                Some(Ok(own)) => *own == algorithm(*allowed),
                Some(Err(_)) => false,
                None => true,
            })
            .collect();
        if algorithms.is_empty() {
            return Err("none of the algorithms allowed fits it");
        }
        Ok(Self { kid: jwk.common.key_id.clone(), kind, algorithms, key })
    }

    /// The `kid` a token names it by.
    pub(super) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Whether the key may be used with what a token names.
    pub(super) fn is_for(&self, named: Algorithm) -> bool {
        self.algorithms.iter().any(|own| algorithm(*own) == named)
    }

    /// Whether the token was signed with this key. Call it only when [`is_for`](Self::is_for) says so.
    pub(super) fn has_signed(&self, jws: &Jws<'_>) -> bool {
        jsonwebtoken::crypto::verify(jws.signature, jws.message, &self.key, jws.algorithm)
            .is_ok_and(|fits| fits)
    }

    /// The key as `moorline check` shows it.
    pub(super) fn info(&self, place: String) -> KeyInfo {
        KeyInfo {
            place,
            kid: self.kid.clone(),
            kind: self.kind.to_string(),
            algorithms: self.algorithms.clone(),
            unused: None,
        }
    }
}

impl Kind {
    fn is_for(self, named: JwtAlgorithm) -> bool {
        match self {
            Self::Secret { .. } => algorithm(named).family() == AlgorithmFamily::Hmac,
            Self::Rsa { .. } => algorithm(named).family() == AlgorithmFamily::Rsa,
            Self::P256 => named == JwtAlgorithm::ES256,
            Self::P384 => named == JwtAlgorithm::ES384,
            Self::Ed25519 => named == JwtAlgorithm::EdDSA,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret { bytes } => write!(f, "a secret of {bytes} bytes"),
            Self::Rsa { bits } => write!(f, "RSA {bits}"),
            Self::P256 => f.write_str("EC P-256"),
            Self::P384 => f.write_str("EC P-384"),
            Self::Ed25519 => f.write_str("Ed25519"),
        }
    }
}

impl fmt::Display for KeyInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.kind)?;
        if let Some(kid) = &self.kid {
            write!(f, ", kid {kid:?}")?;
        }
        match self.unused {
            Some(why) => write!(f, ", not used: {why}"),
            None => write!(f, ", {:?}", self.algorithms),
        }
    }
}

/// The algorithm's name in the library.
pub(super) const fn algorithm(named: JwtAlgorithm) -> Algorithm {
    match named {
        JwtAlgorithm::HS256 => Algorithm::HS256,
        JwtAlgorithm::HS384 => Algorithm::HS384,
        JwtAlgorithm::HS512 => Algorithm::HS512,
        JwtAlgorithm::RS256 => Algorithm::RS256,
        JwtAlgorithm::RS384 => Algorithm::RS384,
        JwtAlgorithm::RS512 => Algorithm::RS512,
        JwtAlgorithm::PS256 => Algorithm::PS256,
        JwtAlgorithm::PS384 => Algorithm::PS384,
        JwtAlgorithm::PS512 => Algorithm::PS512,
        JwtAlgorithm::ES256 => Algorithm::ES256,
        JwtAlgorithm::ES384 => Algorithm::ES384,
        JwtAlgorithm::EdDSA => Algorithm::EdDSA,
    }
}

/// The size of the hash (RFC 7518 section 3.2).
const fn secret_min(named: JwtAlgorithm) -> usize {
    match named {
        JwtAlgorithm::HS512 => 64,
        JwtAlgorithm::HS384 => 48,
        _ => 32,
    }
}

fn from_secret(secret: &[u8]) -> Result<(Kind, DecodingKey), KeyProblem> {
    if secret.trim_ascii_start().starts_with(b"-----BEGIN ") {
        return Err(KeyProblem::PemSecret);
    }
    Ok((Kind::Secret { bytes: secret.len() }, DecodingKey::from_secret(secret)))
}

fn from_pem_file(path: &Path) -> Result<(Kind, DecodingKey), KeyProblem> {
    let name = path.display().to_string();
    let text = fs::read(path).map_err(|e| KeyProblem::Read(format!("{name}: {e}")))?;
    for pem in Pem::iter_from_buffer(&text) {
        let Ok(pem) = pem else { break };
        let kind = match pem.label.as_str() {
            "PUBLIC KEY" => {
                SubjectPublicKeyInfo::from_der(&pem.contents).ok().map(|(_, key)| spki(&key))
            }
            "CERTIFICATE" => X509Certificate::from_der(&pem.contents)
                .ok()
                .map(|(_, certificate)| spki(certificate.public_key())),
            "RSA PUBLIC KEY" => Some(rsa_der(&pem.contents)),
            label if label.ends_with("PRIVATE KEY") => return Err(KeyProblem::Private(name)),
            _ => continue,
        };
        return match kind {
            Some(kind) => kind.ok_or(KeyProblem::Kind(name)),
            None => Err(KeyProblem::NotPublic(name)),
        };
    }
    Err(KeyProblem::NotPublic(name))
}

fn spki(info: &SubjectPublicKeyInfo<'_>) -> Option<(Kind, DecodingKey)> {
    let bytes = info.subject_public_key.data.as_ref();
    let oid = &info.algorithm.algorithm;
    if *oid == OID_PKCS1_RSAENCRYPTION {
        rsa_der(bytes)
    } else if *oid == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = info.algorithm.parameters.as_ref()?.as_oid().ok()?;
        let kind = if curve == OID_EC_P256 {
            Kind::P256
        } else if curve == OID_NIST_EC_P384 {
            Kind::P384
        } else {
            return None;
        };
        point(kind, bytes)
    } else if *oid == OID_SIG_ED25519 && bytes.len() == ED25519_LEN {
        Some((Kind::Ed25519, DecodingKey::from_ed_der(bytes)))
    } else {
        None
    }
}

fn rsa_der(der: &[u8]) -> Option<(Kind, DecodingKey)> {
    let (rest, key) = RSAPublicKey::from_der(der).ok()?;
    let kind = rsa_kind(key.modulus)?;
    rest.is_empty().then(|| (kind, DecodingKey::from_rsa_der(der)))
}

fn rsa_kind(modulus: &[u8]) -> Option<Kind> {
    let first = modulus.iter().position(|b| *b != 0)?;
    let bits = (modulus.len() - first) * 8 - modulus.get(first)?.leading_zeros() as usize;
    RSA_BITS.contains(&bits).then_some(Kind::Rsa { bits })
}

/// An uncompressed point (SEC 1 section 2.3.3), the only form that the algorithms here take. One that is
/// not on its curve would only ever say that signatures do not fit.
fn point(kind: Kind, bytes: &[u8]) -> Option<(Kind, DecodingKey)> {
    let curve =
        if kind == Kind::P384 { &ECDSA_P384_SHA384_FIXED } else { &ECDSA_P256_SHA256_FIXED };
    let fits = bytes.len() == 1 + 2 * coordinate_len(kind)
        && bytes.first() == Some(&4)
        && ParsedPublicKey::new(curve, bytes).is_ok();
    fits.then(|| (kind, DecodingKey::from_ec_der(bytes)))
}

const fn coordinate_len(kind: Kind) -> usize {
    if matches!(kind, Kind::P384) { 48 } else { 32 }
}

fn from_parameters(parameters: &AlgorithmParameters) -> Result<(Kind, DecodingKey), &'static str> {
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| "it is malformed");
    match parameters {
        AlgorithmParameters::RSA(rsa) => {
            let (n, e) = (decode(&rsa.n)?, decode(&rsa.e)?);
            let kind = rsa_kind(&n).ok_or("RSA keys have 2048 to 8192 bits")?;
            Ok((kind, DecodingKey::from_rsa_raw_components(&n, &e)))
        }
        AlgorithmParameters::EllipticCurve(ec) => {
            let kind = match ec.curve {
                EllipticCurve::P256 => Kind::P256,
                EllipticCurve::P384 => Kind::P384,
                _ => return Err("its curve is not P-256 or P-384"),
            };
            let (x, y) = (decode(&ec.x)?, decode(&ec.y)?);
            if x.len() != coordinate_len(kind) {
                return Err("it is malformed");
            }
            point(kind, &[&[4], x.as_slice(), y.as_slice()].concat()).ok_or("it is malformed")
        }
        AlgorithmParameters::OctetKeyPair(pair) => {
            let x = decode(&pair.x)?;
            if pair.curve != EllipticCurve::Ed25519 || x.len() != ED25519_LEN {
                return Err("its curve is not Ed25519");
            }
            Ok((Kind::Ed25519, DecodingKey::from_ed_der(&x)))
        }
        // Whoever can read a key set could sign with a symmetric key in it.
        AlgorithmParameters::OctetKey(_) => Err("symmetric keys of a key set are never used"),
        _ => Err("its kty is not RSA, EC or OKP"),
    }
}

const ED25519_LEN: usize = 32;

/// RFC 7518 section 3.3 asks for 2048 or more; more than 8192 only costs time.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
