//! New connections to the upstream: TCP, TLS or a Unix socket, as the config says and nothing else. What
//! a request names has no part in it.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::uri::Authority;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tower_service::Service;

use crate::config::{Upstream, UpstreamUrl};
use crate::tls::{self, TlsError};

/// Makes connections to one upstream. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Connector(Arc<Way>);

#[derive(Debug)]
struct Way {
    to: Target,
    /// For look-up, TCP and TLS together.
    timeout: Duration,
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
    #[error("no connection")]
    Io(#[from] io::Error),
}

/// A connection to the upstream.
pub(super) struct Stream(Box<dyn Io>);

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Whether a connection failed by time; none when the failure is not that of a connection.
pub(super) fn is_timeout(error: &legacy::Error) -> Option<bool> {
    let causes = std::iter::successors(error.source(), |error| (*error).source());
    let mut connect = causes.filter_map(|error| error.downcast_ref::<ConnectError>());
    let is_timeout = connect.any(|error| matches!(error, ConnectError::Timeout(_)));
    error.is_connect().then_some(is_timeout)
}

impl Connector {
    /// Blocks while it reads the authorities of an https upstream.
    pub(super) fn open(settings: &Upstream) -> Result<Self, TlsError> {
        let to = match &settings.url {
            UpstreamUrl::Http(place) => Target::Tcp(host(place), port(place, 80)),
            UpstreamUrl::Https(place) => {
                let mut config = tls::client_config(settings.ca.as_deref(), None)?;
                config.alpn_protocols = vec![b"http/1.1".to_vec()];
                Target::Tls(host(place), port(place, 443), TlsConnector::from(Arc::new(config)))
            }
            UpstreamUrl::Unix(path) => Target::Unix(path.clone()),
        };
        Ok(Self(Arc::new(Way { to, timeout: settings.connect_timeout.get() })))
    }
}

/// The host, IPv6 without its brackets, as a look-up and a certificate have it.
fn host(place: &Authority) -> Box<str> {
    let host = place.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    bare.unwrap_or(host).into()
}

fn port(place: &Authority, default: u16) -> u16 {
    place.port_u16().unwrap_or(default)
}

impl Way {
    async fn connect(&self) -> Result<Stream, ConnectError> {
        let connected = timeout(self.timeout, self.stream()).await;
        Ok(Stream(connected.map_err(|_| ConnectError::Timeout(self.timeout))??))
    }

    async fn stream(&self) -> io::Result<Box<dyn Io>> {
        Ok(match &self.to {
            Target::Tcp(host, port) => Box::new(tcp(host, *port).await?),
            Target::Tls(host, port, connector) => {
                let name = ServerName::try_from(host.to_string()).map_err(io::Error::other)?;
                Box::new(connector.connect(name, tcp(host, *port).await?).await?)
            }
            Target::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect((host, port)).await?;
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
        Connected::new()
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

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
