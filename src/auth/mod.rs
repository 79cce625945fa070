//! Who is it: tokens (RFC 7519, checked as RFC 8725 asks), client certificates, and the keys that
//! backends share with the node.
//!
//! ```text
//! handshake -> token::find -> Verifier::verify: jws (shape) -> keys (signature) -> claims -> Identity
//!                                                               ^ jwks (fetched, cached)
//! ```
//!
//! A token chooses nothing: not the algorithm, which is bound to the key, and not where a key comes
//! from; `jku`, `x5u`, `jwk` and `x5c` in its header are never looked at. Nothing here prints a token.

mod error;
mod token;
mod json;
mod jws;
mod key;
mod keys;
mod jwks;
mod claims;
mod verifier;
mod access;
mod mint;
mod certificate;
mod revocation;

#[cfg(test)]
mod forge;
#[cfg(test)]
mod tests;

pub use access::AccessKeys;
pub use certificate::{CertificateError, user as certificate_user};
pub use claims::Identity;
pub use error::{AuthError, Denied, KeyProblem};
pub use jwks::JwksError;
pub use key::KeyInfo;
pub use mint::{Minter, mint};
pub use revocation::{RevocationError, RevocationWish, Revocations, Revoked};
pub use token::{Presented, Token, TokenError, find};
pub use verifier::Verifier;
