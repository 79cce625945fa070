//! A client's byte stream behind the 101: what TLS or TCP gave, with nothing of HTTP around it any more.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::rt;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::progress::{Counted, Progress};

/// The stream of one client.
#[derive(Debug)]
pub enum Stream {
    /// Without TLS.
    Plain(Counted<TcpStream>),
    /// With TLS.
    Tls(Box<TlsStream<Counted<TcpStream>>>),
    /// As HTTP left it.
    Http(Box<Counted<TokioIo<Upgraded>>>),
}

/// Takes a stream out of what HTTP had around it.
pub type Unwrap = fn(Upgraded) -> (Stream, Bytes);

impl Stream {
    /// The stream that HTTP was spoken on as a `T`, and what came behind the request already.
    pub fn of<T>(upgraded: Upgraded, bare: impl FnOnce(T) -> Self) -> (Self, Bytes)
    where
        T: rt::Read + rt::Write + Unpin + 'static,
    {
        match upgraded.downcast::<T>() {
            Ok(parts) => (bare(parts.io), parts.read_buf),
            Err(other) => Self::wrapped(other),
        }
    }

    /// The stream as HTTP left it.
    #[must_use]
    pub fn wrapped(upgraded: Upgraded) -> (Self, Bytes) {
        (Self::Http(Box::new(Counted::new(TokioIo::new(upgraded)))), Bytes::new())
    }
}

impl From<Counted<TcpStream>> for Stream {
    fn from(tcp: Counted<TcpStream>) -> Self {
        Self::Plain(tcp)
    }
}

impl From<TlsStream<Counted<TcpStream>>> for Stream {
    fn from(tls: TlsStream<Counted<TcpStream>>) -> Self {
        Self::Tls(Box::new(tls))
    }
}

impl Progress for Stream {
    fn written(&self) -> u64 {
        match self {
            Self::Plain(tcp) => tcp.written(),
            Self::Tls(tls) => tls.get_ref().0.written(),
            Self::Http(http) => http.written(),
        }
    }
}

/// Calls a method of the stream that there is.
macro_rules! each {
    ($stream:expr, $method:ident($($argument:expr),*)) => {
        match $stream.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).$method($($argument),*),
            Stream::Tls(tls) => Pin::new(tls).$method($($argument),*),
            Stream::Http(http) => Pin::new(http).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, poll_shutdown(cx))
    }
}
