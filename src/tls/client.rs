//! TLS where moorline is the client: towards NATS servers and key servers.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{
    error::{Part, TlsError},
    identity::Identity,
    pem::PemFile,
    provider,
    served::authorities,
};

/// Settings that check servers against the authorities in the PEM file `ca`, or the system's without
/// one, and show the certificate and key of `identity` to servers that ask. Blocks while it reads: for
/// the start, not for each connection.
///
/// # Errors
/// When a file cannot be used, or the system has no authorities.
pub fn client_config(
    ca: Option<&Path>,
    identity: Option<(&Path, &Path)>,
) -> Result<ClientConfig, TlsError> {
    let roots = match ca {
        Some(file) => authorities(&PemFile::read(Part::Authorities, file)?)?,
        None => system_authorities()?,
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .with_root_certificates(roots);
    Ok(match identity {
        Some((certificate, key)) => {
            let certified = certified(certificate, key)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
        None => builder.with_no_client_auth(),
    })
}

/// Dates are left to the server: it refuses an expired certificate, and refusing it here too would keep
/// a node from starting where the server does not care.
fn certified(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, TlsError> {
    let certificate = PemFile::read(Part::Certificate, certificate)?;
    let key = PemFile::read(Part::Key, key)?;
    Ok(Identity::load(&certificate, &key)?.certified)
}

fn system_authorities() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems carry odd old certificates; the others are enough.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let problem = found.errors.first().map_or("none installed".to_owned(), ToString::to_string);
        return Err(TlsError::NoSystemAuthorities { problem });
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tls::self_signed;

    #[test]
    fn bad_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let made = self_signed(&["nats"]).unwrap();
        let other = self_signed(&["nats"]).unwrap();
        let write = |name: &str, text: &str| {
            let file = folder.path().join(name);
            fs::write(&file, text).unwrap();
            file
        };
        let certificate = write("c.pem", &made.certificate_pem);
        let key = write("k.pem", &made.key_pem);
        let wrong = write("wrong.pem", &other.key_pem);

        client_config(Some(&certificate), Some((&certificate, &key))).unwrap();
        let said = |ca, identity| client_config(Some(ca), identity).unwrap_err().to_string();
        assert_eq!(
            said(&key, None),
            format!(
                "authorities {}: no certificate found in the file, expected PEM with \
                 \"BEGIN CERTIFICATE\"",
                key.display()
            )
        );
        assert_eq!(
            said(&certificate, Some((&certificate, &wrong))),
            format!(
                "key {} does not belong to certificate {}",
                wrong.display(),
                certificate.display()
            )
        );
    }
}
