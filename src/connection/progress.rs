//! Whether a slow client still takes anything. TLS takes up to 64 KiB from the connection at once and
//! writes it bit by bit, so progress shows only below it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A client's stream that knows its progress.
pub trait Progress: AsyncRead + AsyncWrite + Unpin {
    /// Bytes that the kernel took of it so far, wrapping.
    fn written(&self) -> u64;
}

/// A stream whose written bytes are counted.
#[derive(Debug)]
pub struct Counted<S> {
    io: S,
    written: u64,
}

impl<S> Counted<S> {
    /// Counts from now on.
    pub fn new(io: S) -> Self {
        Self { io, written: 0 }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Progress for Counted<S> {
    fn written(&self) -> u64 {
        self.written
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
        self.written = self.written.wrapping_add(n as u64);
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
        self.written = self.written.wrapping_add(n as u64);
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
