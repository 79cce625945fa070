//! A deadline for the first request head of a connection, with the answer it deserves.
//!
//! hyper bounds the time of a head, too, but only drops the stream. RFC 9110 section 15.5.9 has a
//! status for it, so the stream below hyper says it; and that another client needs the place.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::handshake::retry_after;
use crate::limits::Newcomer;

/// A stream that answers 408 and ends when no head came in time, and 503 when its client has to make
/// room before.
#[derive(Debug)]
pub(super) struct Head<S> {
    io: S,
    /// Gone once the head is here.
    wait: Option<Wait>,
}

#[derive(Debug)]
struct Wait {
    newcomer: Arc<Newcomer>,
    deadline: Pin<Box<Sleep>>,
}

impl<S> Head<S> {
    /// A stream whose first head must be whole within `timeout`.
    pub(super) fn new(io: S, timeout: Duration, newcomer: Arc<Newcomer>) -> Self {
        Self { io, wait: Some(Wait { newcomer, deadline: Box::pin(sleep(timeout)) }) }
    }

    /// The stream itself.
    pub(super) fn into_inner(self) -> S {
        self.io
    }
}

impl Wait {
    /// Ready with the answer and the error that end the wait before a head is here.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<(String, io::ErrorKind)> {
        if self.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready((answer("408 Request Timeout", ""), io::ErrorKind::TimedOut));
        }
        self.newcomer.poll_evicted(cx).map(|()| {
            let retry = format!("retry-after: {}\r\n", retry_after());
            (answer("503 Service Unavailable", &retry), io::ErrorKind::ResourceBusy)
        })
    }
}

/// The last words to a client that did not send a head.
fn answer(status: &str, fields: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{fields}connection: close\r\ncontent-length: 0\r\n\r\n")
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Head<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(wait) = &mut this.wait {
            if wait.newcomer.has_asked() {
                this.wait = None;
            } else if let Poll::Ready((answer, kind)) = wait.poll_end(cx) {
                // Best effort: a client that does not read has no room for it either.
                let _ = Pin::new(&mut this.io).poll_write(cx, answer.as_bytes());
                let _ = Pin::new(&mut this.io).poll_flush(cx);
                return Poll::Ready(Err(kind.into()));
            }
        }
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Head<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
