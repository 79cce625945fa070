//! Whether a slow client still takes anything. TLS takes up to 64 KiB from the connection at once and
//! writes it bit by bit, so progress shows only below it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream whose written bytes are counted.
#[derive(Debug)]
pub struct Counted<S> {
    io: S,
    written: Written,
}

/// Bytes written to a stream so far, wrapping. Clones see the same count.
#[derive(Debug, Clone, Default)]
pub struct Written(Arc<AtomicU64>);

impl<S> Counted<S> {
    /// Counts from now on.
    pub fn new(io: S) -> (Self, Written) {
        let written = Written::default();
        (Self { io, written: written.clone() }, written)
    }
}

impl Written {
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.written.0.fetch_add(n as u64, Ordering::Relaxed);
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // TLS writes each record so, and the system call for one slice is the cheaper one.
        if let [slice] = slices {
            return self.poll_write(cx, slice);
        }
        let n = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
        self.written.0.fetch_add(n as u64, Ordering::Relaxed);
        Poll::Ready(Ok(n))
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
