//! Certificates made for a test.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

/// An authority of the test's own, with files in a folder of its own.
pub(crate) struct Certificates {
    folder: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "moorline test authority");
        let key = KeyPair::generate().unwrap();
        let authority = CertifiedIssuer::self_signed(params, key).unwrap();
        let made = Self { folder: tempfile::tempdir().unwrap(), authority };
        std::fs::write(made.path("ca.pem"), made.authority.pem()).unwrap();
        made
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes `<file>.pem` and `<file>-key.pem` for a server or client of this name.
    pub(crate) fn issue(&self, file: &str, name: &str) -> (PathBuf, PathBuf) {
        self.issue_until(file, name, 2100)
    }

    /// The same, with an end in the given year.
    pub(crate) fn issue_until(&self, file: &str, name: &str, year: i32) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        let paths = (self.path(&format!("{file}.pem")), self.path(&format!("{file}-key.pem")));
        replace(&paths.1, &key.serialize_pem());
        replace(&paths.0, &certificate.pem());
        paths
    }

    /// A client that trusts the authority, and shows `identity` if there is one.
    pub(crate) fn client(&self, identity: Option<&str>) -> Arc<ClientConfig> {
        moorline::tls::install_provider();
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots);
        Arc::new(match identity {
            None => config.with_no_client_auth(),
            Some(name) => {
                let (certificate, key) = self.issue(name, name);
                let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
                let key = PrivateKeyDer::from_pem_file(key).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        })
    }

    /// A `public` listener with the certificate `name`, as YAML.
    pub(crate) fn listener(&self, file: &str, more: &str) -> String {
        let (certificate, key) =
            (self.path(&format!("{file}.pem")), self.path(&format!("{file}-key.pem")));
        format!(
            "public: {{address: '127.0.0.1:0', tls: {{certificate: {}, key: {}{more}}}}}",
            certificate.display(),
            key.display()
        )
    }
}

/// Writes a file in one step, as a secret mount or a certificate manager does.
pub(crate) fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(&next, path).unwrap();
}
