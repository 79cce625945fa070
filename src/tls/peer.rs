//! Who a client is by its certificate, for routes with `auth: certificate` and for connect events.
//!
//! The handshake has checked the certificate by then; this only reads it.

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use tokio_rustls::server::TlsStream;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{facts, subject};
use crate::event::Certificate;

/// The certificate that the client showed, if it did.
#[must_use]
pub fn peer_certificate<IO>(stream: &TlsStream<IO>) -> Option<Certificate> {
    parse(stream.get_ref().1.peer_certificates()?.first()?)
}

fn parse(certificate: &CertificateDer<'_>) -> Option<Certificate> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(Certificate {
        subject: subject::to_text(parsed.subject()),
        common_name: subject::common_name(parsed.subject()),
        names: facts::names(&parsed),
        fingerprint: subject::hex(digest(&SHA256, certificate).as_ref()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_nobody() {
        assert_eq!(parse(&CertificateDer::from(b"no certificate".as_slice())), None);
    }
}
