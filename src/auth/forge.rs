//! Keys and tokens for tests, good ones and forged ones.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use rcgen::{KeyPair, RsaKeySize};
use serde_json::{Value, json};

use super::Token;

/// A key pair made for this run.
pub(super) struct Signer {
    pub(super) pair: KeyPair,
    key: EncodingKey,
    algorithm: Algorithm,
}

pub(super) static RSA: LazyLock<Signer> = LazyLock::new(Signer::rsa);
pub(super) static P256: LazyLock<Signer> = LazyLock::new(Signer::p256);
pub(super) static P384: LazyLock<Signer> = LazyLock::new(|| {
    Signer::new(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(), Algorithm::ES384)
});
pub(super) static ED: LazyLock<Signer> = LazyLock::new(|| {
    Signer::new(KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(), Algorithm::EdDSA)
});
pub(super) static SECRET: &[u8] =
    b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// When all test tokens are checked, in seconds since 1970.
pub(super) const NOW: u64 = 1_800_000_000;

impl Signer {
    pub(super) fn rsa() -> Self {
        let pair = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        Self::new(pair, Algorithm::RS256)
    }

    pub(super) fn p256() -> Self {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        Self::new(pair, Algorithm::ES256)
    }

    fn new(pair: KeyPair, algorithm: Algorithm) -> Self {
        let pem = pair.serialize_pem();
        let key = match algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap(),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()).unwrap(),
            _ => EncodingKey::from_ec_pem(pem.as_bytes()).unwrap(),
        };
        Self { pair, key, algorithm }
    }

    /// Signs with the key's own algorithm, whatever `header` says.
    pub(super) fn sign(&self, header: &str, claims: &str) -> String {
        self.sign_as(self.algorithm, header, claims)
    }

    pub(super) fn sign_as(&self, algorithm: Algorithm, header: &str, claims: &str) -> String {
        signed(&self.key, algorithm, header, claims)
    }

    /// The public key as a member of a key set.
    pub(super) fn jwk(&self, kid: &str) -> Value {
        // The library reads Ed25519 keys in another form than the one they are made in.
        let mut jwk = if self.algorithm == Algorithm::EdDSA {
            let x = URL_SAFE_NO_PAD.encode(self.pair.public_key_raw());
            json!({"kty": "OKP", "crv": "Ed25519", "x": x})
        } else {
            let jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
            serde_json::to_value(jwk).unwrap()
        };
        jwk["kid"] = json!(kid);
        jwk
    }
}

/// A token signed with a shared secret.
pub(super) fn hmac(algorithm: Algorithm, secret: &[u8], header: &str, claims: &str) -> String {
    signed(&EncodingKey::from_secret(secret), algorithm, header, claims)
}

/// `header` and `claims`, not signed.
pub(super) fn unsigned(header: &str, claims: &str) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
}

pub(super) fn token(text: &str) -> Token {
    Token::new(text).unwrap_or_else(|| panic!("not a bearer token: {text}"))
}

fn signed(key: &EncodingKey, algorithm: Algorithm, header: &str, claims: &str) -> String {
    let message = unsigned(header, claims);
    let signature = crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}
