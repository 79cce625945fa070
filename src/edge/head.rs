//! A deadline for the first request head of a connection, with the answer it deserves.
//!
//! hyper bounds the time of a head, too, but only drops the stream. RFC 9110 section 15.5.9 has a
//! status for it, so the stream below hyper says it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A stream that answers 408 and ends when no head came in time.
#[derive(Debug)]
pub(super) struct Head<S> {
    io: S,
    /// Gone once the head is here.
    deadline: Option<Pin<Box<Sleep>>>,
    done: HeadDone,
}

/// Says that the head is here. Clones say it for the same stream.
#[derive(Debug, Clone, Default)]
pub(super) struct HeadDone(Arc<AtomicBool>);

const TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

impl<S> Head<S> {
    /// A stream whose first head must be whole within `timeout`.
    pub(super) fn new(io: S, timeout: Duration) -> (Self, HeadDone) {
        let done = HeadDone::default();
        let deadline = Some(Box::pin(sleep(timeout)));
        (Self { io, deadline, done: done.clone() }, done)
    }
}

impl HeadDone {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Head<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(deadline) = &mut this.deadline {
            if this.done.is_set() {
                this.deadline = None;
            } else if deadline.as_mut().poll(cx).is_ready() {
                // Best effort: a client that does not read has no room for it either.
                let _ = Pin::new(&mut this.io).poll_write(cx, TIMEOUT);
                let _ = Pin::new(&mut this.io).poll_flush(cx);
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
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
