//! TLS on every side: the public door's certificates and handshakes, and the client settings towards
//! NATS and key servers.
//!
//! What is served is one immutable set, swapped whole when its files change. A set is swapped in only
//! after every part of it was checked, so a bad file never disturbs what is served. This module knows
//! nothing of HTTP or WebSockets.

mod error;
mod pem;
mod subject;
mod facts;
mod identity;
mod served;
mod acceptor;
mod reload;
mod peer;
mod client;
mod self_signed;
#[cfg(test)]
mod tests;

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use acceptor::Acceptor;
pub use client::client_config;
pub use error::{AcceptError, Part, TlsError};
pub use facts::CertificateFacts;
pub use peer::peer_certificate;
pub use reload::Reloaded;
pub use self_signed::{SelfSigned, self_signed};
pub use served::inspect;

/// Makes aws-lc-rs the process's default, for the crates that ask rustls for one. A second call does
/// nothing.
pub fn install_provider() {
    // The error only says that one is installed already.
    let _ = aws_lc_rs::default_provider().install_default();
}

/// The one provider that this module hands to rustls, whatever the process's default is.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}
