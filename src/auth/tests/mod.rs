//! Tokens against keys of every family, good claims and bad ones, and a table of hostile tokens.

mod claims;
mod hostile;
mod keys;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::forge::{NOW, P256, RSA, SECRET, token};
use super::*;
use crate::config::{Jwt, JwtAlgorithm, JwtKey, SecretSource};
use crate::task::Tasks;

/// `NOW` as the clock shows it, `seconds` later.
fn clock(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW.checked_add_signed(seconds).unwrap())
}

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

fn secret_key(kid: Option<&str>, path: PathBuf, algorithms: &[JwtAlgorithm]) -> JwtKey {
    JwtKey {
        kid: kid.map(str::to_owned),
        algorithms: algorithms.to_vec(),
        secret: Some(SecretSource::File(path)),
        public_key: None,
    }
}

fn public_key(kid: Option<&str>, path: PathBuf, algorithms: &[JwtAlgorithm]) -> JwtKey {
    JwtKey {
        kid: kid.map(str::to_owned),
        algorithms: algorithms.to_vec(),
        secret: None,
        public_key: Some(path),
    }
}

/// Keys `rsa` (RS256), `ec` (ES256) and `hs` (HS256); tokens are from `issuer` and for `edge`.
fn config(folder: &Path) -> Jwt {
    let rsa = write(folder, "rsa.pem", RSA.pair.public_key_pem());
    let ec = write(folder, "ec.pem", P256.pair.public_key_pem());
    let hs = write(folder, "hs", SECRET);
    Jwt {
        keys: vec![
            public_key(Some("rsa"), rsa, &[JwtAlgorithm::RS256]),
            public_key(Some("ec"), ec, &[JwtAlgorithm::ES256]),
            secret_key(Some("hs"), hs, &[JwtAlgorithm::HS256]),
        ],
        issuer: Some("issuer".to_owned()),
        audience: vec!["edge".to_owned(), "other-edge".to_owned()],
        ..Jwt::default()
    }
}

fn verifier(config: &Jwt) -> Verifier {
    Verifier::new(config, None, &Tasks::new()).unwrap()
}

async fn verify(verifier: &Verifier, text: &str) -> Result<Identity, Denied> {
    verifier.verify_at(&token(text), clock(0)).await
}
