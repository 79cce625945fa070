//! From the files of a `tls` section to what rustls serves.

use std::{sync::Arc, time::SystemTime};

use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs::Ticketer,
    server::{
        ProducesTickets, ServerSessionMemoryCache, StoresServerSessions, WebPkiClientVerifier,
        danger::ClientCertVerifier,
    },
    version::{TLS12, TLS13},
};

use super::{
    error::{Part, TlsError},
    facts::CertificateFacts,
    identity::{Identities, Identity},
    pem::{PemFile, digest},
    provider,
};
use crate::config::{self, ClientCertificate, TlsVersion};

/// Everything on disk that TLS is served with, as read at one moment.
pub(super) struct Files {
    /// Certificate and key; served when no name fits.
    first: (PemFile, PemFile),
    /// More of them.
    others: Vec<(PemFile, PemFile)>,
    /// Authorities of client certificates.
    authorities: Option<PemFile>,
}

/// What is served between two reloads. Every part of it passed its checks.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) config: Arc<ServerConfig>,
    /// Of every certificate, in the order of the config.
    pub(super) facts: Vec<CertificateFacts>,
    /// Over all files: another digest means that they changed.
    pub(super) digest: Vec<u8>,
    /// Over the authorities.
    authorities: Option<Vec<u8>>,
    resumption: Resumption,
}

/// Settings that no file holds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Policy {
    client_certificate: ClientCertificate,
    min_version: TlsVersion,
}

/// The memory of earlier sessions. One set hands it to the next, so that clients resume across a
/// reload.
#[derive(Debug, Clone)]
struct Resumption {
    /// Encrypts what clients bring back; changes its keys every 6 hours.
    tickets: Arc<dyn ProducesTickets>,
    /// For TLS 1.2 clients without tickets.
    sessions: Arc<dyn StoresServerSessions>,
}

/// Sessions of TLS 1.2 clients without tickets; there are next to none.
const SESSIONS: usize = 256;

/// Reads the files of a `tls` section and checks all that `serve` checks: one entry a certificate, in
/// the order of the section. Blocks while it reads.
///
/// # Errors
/// When a file cannot be used; expired certificates are errors too.
pub fn inspect(tls: &config::Tls) -> Result<Vec<CertificateFacts>, TlsError> {
    Ok(Files::read(tls)?.serve(tls.into(), None, SystemTime::now())?.facts)
}

impl Files {
    /// Reads every file that `tls` names. Blocks.
    ///
    /// # Errors
    /// When one cannot be read.
    pub(super) fn read(tls: &config::Tls) -> Result<Self, TlsError> {
        let pair = |certificate, key| {
            Ok((PemFile::read(Part::Certificate, certificate)?, PemFile::read(Part::Key, key)?))
        };
        let authorities = tls.client_ca.as_deref();
        Ok(Self {
            first: pair(&tls.certificate, &tls.key)?,
            others: tls
                .additional
                .iter()
                .map(|other| pair(&other.certificate, &other.key))
                .collect::<Result<_, TlsError>>()?,
            authorities: authorities
                .map(|file| PemFile::read(Part::Authorities, file))
                .transpose()?,
        })
    }

    /// One certificate that never was on disk.
    pub(super) fn in_memory(certificate: &str, key: &str) -> Self {
        let certificate = PemFile::in_memory(Part::Certificate, certificate);
        Self {
            first: (certificate, PemFile::in_memory(Part::Key, key)),
            others: Vec::new(),
            authorities: None,
        }
    }

    /// A digest over all files.
    pub(super) fn digest(&self) -> Vec<u8> {
        let pairs = std::iter::once(&self.first).chain(&self.others);
        digest(pairs.flat_map(|(certificate, key)| [certificate, key]).chain(&self.authorities))
    }

    /// Checks everything at `now` and makes what is served next, after `before`.
    ///
    /// # Errors
    /// When any part cannot be used.
    pub(super) fn serve(
        &self,
        policy: Policy,
        before: Option<&Served>,
        now: SystemTime,
    ) -> Result<Served, TlsError> {
        let load = |(certificate, key): &(PemFile, PemFile)| {
            let identity = Identity::load(certificate, key)?;
            identity.check_dates(now)?;
            Ok(identity)
        };
        let first = load(&self.first)?;
        let others = self.others.iter().map(load).collect::<Result<Vec<_>, TlsError>>()?;
        let verifier = match (&self.authorities, policy.client_certificate) {
            (Some(file), asked) => Some(verifier(file, asked)?),
            // Serving on would let everybody in where the operator wants nobody unknown.
            (None, ClientCertificate::Required) => return Err(TlsError::NoClientAuthorities),
            (None, ClientCertificate::Optional) => None,
        };

        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions(policy.min_version))
            .map_err(TlsError::Setup)?;
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(Identities::new(&first, &others)));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A WebSocket client opens one connection at a time, so it needs no second ticket.
        config.send_tls13_tickets = 1;
        // Early data can be replayed (RFC 8446 section 8).
        config.max_early_data_size = 0;

        let authorities = self.authorities.as_ref().map(|file| digest(std::iter::once(file)));
        let resumption = Resumption::after(before, authorities.as_ref())?;
        config.ticketer = Arc::clone(&resumption.tickets);
        config.session_storage = Arc::clone(&resumption.sessions);

        Ok(Served {
            config: Arc::new(config),
            facts: std::iter::once(first).chain(others).map(|identity| identity.facts).collect(),
            digest: self.digest(),
            authorities,
            resumption,
        })
    }
}

impl Resumption {
    /// The memory of `before`, unless the authorities changed: a resumed session brings a client
    /// certificate that nobody checks again, and it may come from an authority that is out.
    fn after(before: Option<&Served>, authorities: Option<&Vec<u8>>) -> Result<Self, TlsError> {
        match before {
            Some(before) if before.authorities.as_ref() == authorities => {
                Ok(before.resumption.clone())
            }
            _ => Ok(Self {
                tickets: Ticketer::new().map_err(TlsError::Setup)?,
                sessions: ServerSessionMemoryCache::new(SESSIONS),
            }),
        }
    }
}

impl From<&config::Tls> for Policy {
    fn from(tls: &config::Tls) -> Self {
        Self { client_certificate: tls.client_certificate, min_version: tls.min_version }
    }
}

/// The certificates of `file` as authorities.
///
/// # Errors
/// When there is none, or one cannot be used.
pub(super) fn authorities(file: &PemFile) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in file.certificates()? {
        roots.add(certificate).map_err(|error| file.bad_certificate(&error))?;
    }
    Ok(roots)
}

fn verifier(
    file: &PemFile,
    client_certificate: ClientCertificate,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let roots = Arc::new(authorities(file)?);
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
    let builder = match client_certificate {
        ClientCertificate::Optional => builder.allow_unauthenticated(),
        ClientCertificate::Required => builder,
    };
    builder.build().map_err(|error| file.bad_certificate(&error))
}

fn versions(min: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static FROM_1_2: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    static FROM_1_3: [&SupportedProtocolVersion; 1] = [&TLS13];
    match min {
        TlsVersion::V1_2 => &FROM_1_2,
        TlsVersion::V1_3 => &FROM_1_3,
    }
}
