//! The byte stream below the WebSocket library: every byte that comes in passes [`Frames`] first, and
//! the driver can ask whether bytes came at all.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{Frames, Violation};

/// A stream with a look at its frames.
#[derive(Debug)]
pub(super) struct Wire<S> {
    io: S,
    frames: Frames,
    /// What the peer did wrong; the bytes before it were still handed up.
    violation: Option<Violation>,
    /// Whether bytes came in since the driver last asked.
    heard: bool,
}

impl<S> Wire<S> {
    pub(super) fn new(io: S, max_message: usize) -> Self {
        Self { io, frames: Frames::new(max_message), violation: None, heard: false }
    }

    pub(super) fn violation(&self) -> Option<Violation> {
        self.violation
    }

    /// Whether bytes came in since the last call.
    pub(super) fn take_heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// Frames beside the one that each message needs, since the last call.
    pub(super) fn take_extra(&mut self) -> u32 {
        self.frames.take_extra()
    }

    pub(super) fn is_between_messages(&self) -> bool {
        self.frames.is_between_messages() && self.violation.is_none()
    }

    /// The stream itself, for its end.
    pub(super) fn io_mut(&mut self) -> &mut S {
        &mut self.io
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(violation) = self.violation {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let fresh = buf.filled().get(before..).unwrap_or_default();
        if fresh.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.heard = true;
        if let Err((good, violation)) = self.frames.scan(fresh) {
            self.violation = Some(violation);
            buf.set_filled(before + good);
            if good == 0 {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
