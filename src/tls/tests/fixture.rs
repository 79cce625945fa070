//! Authorities, files and clients for the stories.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::{
    ClientConfig, HandshakeKind,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, client, server};

use crate::config::{self, Period};
use crate::tls::pem::PemFile;
use crate::tls::served::authorities;
use crate::tls::{AcceptError, Acceptor, Part, client_config, provider};

/// Far above what a handshake on loopback takes.
pub(super) const ENOUGH: Duration = Duration::from_secs(20);

/// An authority with a folder for the files it signs.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate and its key as files.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// Both ends of a connection after its handshake.
pub(super) struct Connected {
    pub(super) client: Box<client::TlsStream<TcpStream>>,
    pub(super) server: Box<server::TlsStream<TcpStream>>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        Self { issuer, folder: tempfile::tempdir().unwrap() }
    }

    /// Its own certificate as a file.
    pub(super) fn file(&self) -> PathBuf {
        self.write("ca.pem", &self.issuer.as_ref().pem())
    }

    /// Signs a certificate for `names` and writes it as `<file>.pem` and `<file>.key`.
    pub(super) fn sign(&self, file: &str, names: &[&str]) -> Pair {
        self.sign_until(file, names, SystemTime::now() + Duration::from_secs(86_400))
    }

    /// The same, with its last moment.
    pub(super) fn sign_until(&self, file: &str, names: &[&str], end: SystemTime) -> Pair {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = end.into();
        self.sign_params(file, &params)
    }

    /// A client's certificate, with an organisation, an e-mail address and a URI.
    pub(super) fn sign_client(&self, file: &str, name: &str) -> Pair {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, "Acme");
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.push(SanType::Rfc822Name("a@example.com".try_into().unwrap()));
        params.subject_alt_names.push(SanType::URI("spiffe://acme/a".try_into().unwrap()));
        self.sign_params(file, &params)
    }

    fn sign_params(&self, file: &str, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair {
            certificate: self.write(&format!("{file}.pem"), &certificate.pem()),
            key: self.write(&format!("{file}.key"), &key.serialize_pem()),
        }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.folder.path().join(name);
        fs::write(&file, text).unwrap();
        file
    }

    /// Settings of a client that trusts this authority and remembers its sessions.
    pub(super) fn client(&self) -> ClientConfig {
        client_config(Some(&self.file()), None).unwrap()
    }

    /// The same, with TLS 1.2 only.
    pub(super) fn client_with_tls_1_2(&self) -> ClientConfig {
        let file = PemFile::read(Part::Authorities, &self.file()).unwrap();
        ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(authorities(&file).unwrap())
            .with_no_client_auth()
    }

    /// The same, with a certificate.
    pub(super) fn client_as(&self, pair: &Pair) -> ClientConfig {
        client_config(Some(&self.file()), Some((&pair.certificate, &pair.key))).unwrap()
    }
}

impl Pair {
    /// A `tls` section with this pair.
    pub(super) fn section(&self) -> config::Tls {
        config::Tls {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            additional: Vec::new(),
            client_ca: None,
            client_certificate: config::ClientCertificate::Optional,
            min_version: config::TlsVersion::V1_2,
            reload_interval: Period::millis(10),
        }
    }

    /// Overwrites this pair's files with `other`'s.
    pub(super) fn become_like(&self, other: &Self) {
        replace(&self.certificate, &fs::read(&other.certificate).unwrap());
        replace(&self.key, &fs::read(&other.key).unwrap());
    }
}

/// Gives `file` new contents in one step, so that nobody reads half of them.
pub(super) fn replace(file: &Path, contents: &[u8]) {
    let next = file.with_extension("next");
    fs::write(&next, contents).unwrap();
    fs::rename(next, file).unwrap();
}

/// Opens what `section` says.
pub(super) async fn open(section: &config::Tls) -> Acceptor {
    Acceptor::open("listeners.public.tls", section).await.unwrap()
}

/// Does a handshake for `name`; the ends of both sides.
pub(super) async fn ends(
    acceptor: &Acceptor,
    config: &ClientConfig,
    name: &str,
) -> (
    Result<Box<client::TlsStream<TcpStream>>, io::Error>,
    Result<Box<server::TlsStream<TcpStream>>, AcceptError>,
) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let connector = TlsConnector::from(Arc::new(config.clone()));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let client = Box::pin(async {
        let tcp = TcpStream::connect(address).await.unwrap();
        connector.connect(name, tcp).await.map(Box::new)
    });
    let server = Box::pin(async {
        let (tcp, _) = listener.accept().await.unwrap();
        acceptor.accept(tcp, ENOUGH).await.map(Box::new)
    });
    tokio::join!(client, server)
}

/// A handshake for `name` that succeeds, and a byte each way, after which the client has its ticket.
pub(super) async fn connect(acceptor: &Acceptor, config: &ClientConfig, name: &str) -> Connected {
    let (client, server) = ends(acceptor, config, name).await;
    let mut connected = Connected { client: client.unwrap(), server: server.unwrap() };
    connected.exchange().await;
    connected
}

impl Connected {
    /// Sends a byte each way.
    pub(super) async fn exchange(&mut self) {
        let mut byte = [0];
        self.client.write_all(b"?").await.unwrap();
        self.server.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"?");
        self.server.write_all(b"!").await.unwrap();
        self.client.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"!");
    }

    /// Whether the server showed the certificate in `file`.
    pub(super) fn was_shown(&self, file: &Path) -> bool {
        let shown = self.client.get_ref().1.peer_certificates().unwrap().first().cloned();
        shown == CertificateDer::from_pem_file(file).ok()
    }

    /// Whether it is a resumed session.
    pub(super) fn is_resumed(&self) -> bool {
        self.server.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    }
}
