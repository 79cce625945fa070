//! TLS handshakes with clients, each with whatever set is served when it begins.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{HandshakeKind, ServerConnection};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    error::{AcceptError, TlsError},
    facts::{CertificateFacts, moment},
    served::{Files, Policy, Served},
};
use crate::config;

/// Accepts TLS connections. Clones share the certificates, so all of them see a reload.
#[derive(Debug, Clone)]
pub struct Acceptor(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    /// None when the certificate never was on disk.
    pub(super) source: Option<Source>,
    /// Swapped whole, so that a handshake sees one set from its beginning to its end.
    pub(super) served: ArcSwap<Served>,
    /// One permit: reloads follow each other, else one with older files could come last.
    pub(super) turn: Arc<Semaphore>,
}

/// Where the certificates come from.
#[derive(Debug)]
pub(super) struct Source {
    /// The section's path in the config, for logs and metrics.
    pub(super) place: String,
    pub(super) tls: config::Tls,
}

/// How long the disk may take. A network file system that hangs must hang neither start nor reload.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

impl Acceptor {
    /// Reads and checks the files of the `tls` section that stands at `place` in the config, such as
    /// `listeners.public.tls`.
    ///
    /// # Errors
    /// When a file cannot be used, or the disk does not answer in time.
    pub async fn open(place: &str, tls: &config::Tls) -> Result<Self, TlsError> {
        let source = Source { place: place.to_owned(), tls: tls.clone() };
        let turn = Arc::new(Semaphore::new(1));
        off_the_runtime(Arc::clone(&turn), move || {
            let files = Files::read(&source.tls)?;
            let served = files.serve((&source.tls).into(), None, SystemTime::now())?;
            Ok(Self::new(Some(source), served, turn))
        })
        .await
    }

    /// An acceptor that takes the place of this one and serves by the section `tls`: all files are read
    /// and checked again, and clients resume across the change. It is this one itself where nothing
    /// changed, so that a certificate that meanwhile ended stops no other change.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn renewed(&self, tls: &config::Tls) -> Result<Self, TlsError> {
        let Some(old) = &self.0.source else { return Ok(self.clone()) };
        let source = Source { place: old.place.clone(), tls: tls.clone() };
        let (this, turn) = (self.clone(), Arc::clone(&self.0.turn));
        off_the_runtime(Arc::clone(&turn), move || {
            let files = Files::read(&source.tls)?;
            let before = this.0.served.load();
            let is_same_section = this.0.source.as_ref().is_some_and(|old| old.tls == source.tls);
            if is_same_section && files.digest() == before.digest {
                drop(before);
                return Ok(this);
            }
            let served = files.serve((&source.tls).into(), Some(&before), SystemTime::now())?;
            Ok(Self::new(Some(source), served, turn))
        })
        .await
    }

    /// Whether both are one and the same.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Serves one certificate that is not on disk, for any name and without asking for client
    /// certificates.
    ///
    /// # Errors
    /// When the two are no usable pair.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, TlsError> {
        let files = Files::in_memory(certificate, key);
        let served = files.serve(Policy::default(), None, SystemTime::now())?;
        Ok(Self::new(None, served, Arc::new(Semaphore::new(1))))
    }

    fn new(source: Option<Source>, served: Served, turn: Arc<Semaphore>) -> Self {
        let served = ArcSwap::from_pointee(served);
        Self(Arc::new(Shared { source, served, turn }))
    }

    /// Does the server's part of a TLS handshake on `io`, within `limit`.
    ///
    /// Not cancel safe: when dropped, `io` is closed.
    ///
    /// # Errors
    /// When the client does not get through in time, or at all. `io` is then closed.
    pub async fn accept<IO>(&self, io: IO, limit: Duration) -> Result<TlsStream<IO>, AcceptError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let config = Arc::clone(&self.0.served.load().config);
        // Boxed, because the state of a handshake would weigh on the caller's future for its life.
        let handshake = Box::pin(TlsAcceptor::from(config).accept(io));
        let stream = match tokio::time::timeout(limit, handshake).await {
            Ok(done) => done.map_err(AcceptError::Failed)?,
            Err(_) => return Err(AcceptError::Timeout { limit }),
        };
        if resumed_after_its_end(stream.get_ref().1, SystemTime::now()) {
            return Err(AcceptError::Failed(io::Error::new(
                io::ErrorKind::InvalidData,
                "the client certificate of the resumed session has expired",
            )));
        }
        Ok(stream)
    }

    /// What the certificates in use say, the default first.
    #[must_use]
    pub fn certificates(&self) -> Vec<CertificateFacts> {
        self.0.served.load().facts.clone()
    }
}

/// Whether a resumed session brings a client certificate that has ended. rustls checks certificates in
/// full handshakes only, and a ticket lives for hours.
pub(super) fn resumed_after_its_end(connection: &ServerConnection, now: SystemTime) -> bool {
    if connection.handshake_kind() != Some(HandshakeKind::Resumed) {
        return false;
    }
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    certificate.is_some_and(|certificate| {
        X509Certificate::from_der(certificate)
            .map_or(true, |(_, parsed)| moment(parsed.validity().not_after) < now)
    })
}

/// Runs `work`, which blocks, on a thread that may, when it has the `turn`. The turn ends with the work
/// and not with the wait for it, so a disk that hangs holds one thread and no more.
pub(super) async fn off_the_runtime<T: Send + 'static>(
    turn: Arc<Semaphore>,
    work: impl FnOnce() -> Result<T, TlsError> + Send + 'static,
) -> Result<T, TlsError> {
    let done = async {
        let permit = turn.acquire_owned().await.map_err(|_| TlsError::CutOff)?;
        let work = move || {
            let _permit = permit;
            work()
        };
        tokio::task::spawn_blocking(work).await.unwrap_or(Err(TlsError::CutOff))
    };
    let timeout = tokio::time::timeout(READ_TIMEOUT, done).await;
    timeout.unwrap_or(Err(TlsError::Slow { limit: READ_TIMEOUT }))
}
