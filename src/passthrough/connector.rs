//! New connections to the upstream: TCP, TLS or a Unix socket, as the config says and nothing else. What
//! a request names has no part in it. And what became of one, when there is no answer.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::uri::Authority;
use http::{Extensions, Uri};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep, sleep, timeout_at};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use crate::config::{Upstream, UpstreamUrl};
use crate::http_client::{self, bare, dial};
use crate::tls::{self, TlsError};

/// Makes connections to one upstream. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Connector(Arc<Way>);

#[derive(Debug)]
struct Way {
    to: Target,
    /// For look-up, TCP and TLS together.
    timeout: Duration,
    /// Time for a write to make progress.
    write_timeout: Duration,
}

enum Target {
    Tcp(Box<str>, u16),
    Tls(Box<str>, u16, TlsConnector),
    Unix(PathBuf),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("no connection in {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    #[error(transparent)]
    Dial(#[from] http_client::ConnectError),
    #[error("no connection")]
    Io(#[from] io::Error),
}

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is no connection.
    Unreachable,
    /// None in time.
    ConnectTimeout,
    /// The connection had been kept, and was closed before a byte of the answer.
    Stale,
    /// The upstream took nothing more of the request.
    Late,
    /// The connection broke, or what came is no answer.
    Broken,
}

/// A connection to the upstream.
pub(super) struct Stream {
    io: Box<dyn Io>,
    heard: Arc<Heard>,
    write_timeout: Duration,
    /// When that is over, for a write that waits.
    wait: Option<Pin<Box<Sleep>>>,
}

/// What was heard on a connection. The pool hands it out with the connection's failure.
#[derive(Debug, Default)]
struct Heard {
    ever: AtomicBool,
    /// Since something was last said.
    again: AtomicBool,
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

impl Failure {
    pub(super) fn of(error: &legacy::Error) -> Self {
        let mut causes = std::iter::successors(error.source(), |error| (*error).source());
        if error.is_connect() {
            let is_late =
                causes.any(|error| error.downcast_ref().is_some_and(ConnectError::is_late));
            return if is_late { Self::ConnectTimeout } else { Self::Unreachable };
        }
        let mut extras = Extensions::new();
        error.connect_info().inspect(|info| info.get_extras(&mut extras));
        match causes.find_map(|error| error.downcast_ref::<io::Error>()) {
            Some(error) if error.kind() == io::ErrorKind::TimedOut => Self::Late,
            _ if extras.get().is_some_and(|heard: &Arc<Heard>| heard.is_stale()) => Self::Stale,
            _ => Self::Broken,
        }
    }
}

impl Heard {
    fn something(&self) {
        self.ever.store(true, Ordering::Relaxed);
        self.again.store(true, Ordering::Relaxed);
    }

    /// For a request that is said at once, whether it got nothing from a connection that had answered
    /// another. Of a request with a body this says nothing: an answer may come before its end.
    fn is_stale(&self) -> bool {
        self.ever.load(Ordering::Relaxed) && !self.again.load(Ordering::Relaxed)
    }
}

impl ConnectError {
    fn is_late(&self) -> bool {
        matches!(self, Self::Timeout(_) | Self::Dial(http_client::ConnectError::Timeout))
    }
}

impl Connector {
    /// Blocks while it reads the authorities of an https upstream.
    pub(super) fn open(settings: &Upstream) -> Result<Self, TlsError> {
        let to = match &settings.url {
            UpstreamUrl::Http(place) => Target::Tcp(bare(place.host()).into(), port(place, 80)),
            UpstreamUrl::Https(place) => {
                let mut config = tls::client_config(settings.ca.as_deref(), None)?;
                config.alpn_protocols = vec![b"http/1.1".to_vec()];
                let connector = TlsConnector::from(Arc::new(config));
                Target::Tls(bare(place.host()).into(), port(place, 443), connector)
            }
            UpstreamUrl::Unix(path) => Target::Unix(path.clone()),
        };
        // Before the answer, the time to the first byte of it counts.
        let write_timeout = settings.idle_timeout.get().max(settings.first_byte_timeout.get());
        Ok(Self(Arc::new(Way { to, timeout: settings.connect_timeout.get(), write_timeout })))
    }
}

fn port(place: &Authority, default: u16) -> u16 {
    place.port_u16().unwrap_or(default)
}

impl Way {
    async fn connect(&self) -> Result<Stream, ConnectError> {
        let until = Instant::now() + self.timeout;
        let connected = timeout_at(until, self.open(until)).await;
        let io = connected.map_err(|_| ConnectError::Timeout(self.timeout))??;
        Ok(Stream { io, heard: Arc::default(), write_timeout: self.write_timeout, wait: None })
    }

    async fn open(&self, until: Instant) -> Result<Box<dyn Io>, ConnectError> {
        Ok(match &self.to {
            Target::Tcp(host, port) => Box::new(tcp(host, *port, until).await?),
            Target::Tls(host, port, connector) => {
                let name = ServerName::try_from(host.to_string()).map_err(io::Error::other)?;
                Box::new(connector.connect(name, tcp(host, *port, until).await?).await?)
            }
            Target::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }
}

async fn tcp(host: &str, port: u16, until: Instant) -> Result<TcpStream, ConnectError> {
    let tcp = dial(host, port, until).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let way = Arc::clone(&self.0);
        Box::pin(async move { way.connect().await.map(TokioIo::new) })
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().extra(Arc::clone(&self.heard))
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "tcp {host}:{port}"),
            Self::Tls(host, port, _) => write!(f, "tls {host}:{port}"),
            Self::Unix(path) => write!(f, "unix {}", path.display()),
        }
    }
}

impl Stream {
    /// What comes of a write that waits or not.
    fn progress<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.wait = None;
            return write;
        }
        let timeout = self.write_timeout;
        let wait = self.wait.get_or_insert_with(|| Box::pin(sleep(timeout)));
        wait.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.heard.something();
            // It is at work, if not on what it is told.
            self.wait = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.heard.again.store(false, Ordering::Relaxed);
        let write = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.progress(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.heard.again.store(false, Ordering::Relaxed);
        let write = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.progress(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flush = Pin::new(&mut self.io).poll_flush(cx);
        self.progress(cx, flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shutdown = Pin::new(&mut self.io).poll_shutdown(cx);
        self.progress(cx, shutdown)
    }
}
