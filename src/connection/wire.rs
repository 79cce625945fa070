//! The byte stream below the WebSocket library: every byte that comes in passes [`Frames`] first, and
//! the driver can ask whether bytes came at all.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{Frames, Violation};

/// A stream with a look at its frames.
#[derive(Debug)]
pub(super) struct Wire<S> {
    io: S,
    /// What came before anybody read the stream, until it is read. Even empty it would keep the buffer
    /// that it came in.
    early: Option<Bytes>,
    frames: Frames,
    /// What the peer did wrong; the bytes before it were still handed up.
    violation: Option<Violation>,
    /// Whether bytes came in since the driver last asked.
    heard: bool,
}

/// The stream for the time of one poll, as the library wants it: what has to wait is an error.
pub(super) struct Polled<'a, 'b, S> {
    wire: &'a mut Wire<S>,
    cx: &'a mut Context<'b>,
}

impl<S> Wire<S> {
    pub(super) fn new(io: S, early: Bytes, max_message: usize) -> Self {
        let early = Some(early).filter(|early| !early.is_empty());
        Self { io, early, frames: Frames::new(max_message), violation: None, heard: false }
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

    pub(super) fn polled<'a, 'b>(&'a mut self, cx: &'a mut Context<'b>) -> Polled<'a, 'b, S> {
        Polled { wire: self, cx }
    }

    /// The stream itself.
    pub(super) fn io(&self) -> &S {
        &self.io
    }

    /// The stream itself, for its end.
    pub(super) fn io_mut(&mut self) -> &mut S {
        &mut self.io
    }
}

impl<S: AsyncRead + Unpin> io::Read for Polled<'_, '_, S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let wire = &mut *self.wire;
        if let Some(violation) = wire.violation {
            return Err(io::Error::new(io::ErrorKind::InvalidData, violation));
        }
        let mut buf = ReadBuf::new(bytes);
        match &mut wire.early {
            None => now(Pin::new(&mut wire.io).poll_read(self.cx, &mut buf))?,
            Some(early) => {
                buf.put_slice(&early.split_to(early.len().min(buf.remaining())));
                wire.early.take_if(|early| early.is_empty());
            }
        }
        let fresh = buf.filled();
        if fresh.is_empty() {
            return Ok(0);
        }
        wire.heard = true;
        match wire.frames.scan(fresh) {
            Ok(()) => Ok(fresh.len()),
            Err((good, violation)) => {
                wire.violation = Some(violation);
                if good == 0 {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, violation));
                }
                Ok(good)
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> io::Write for Polled<'_, '_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        now(Pin::new(&mut self.wire.io).poll_write(self.cx, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        now(Pin::new(&mut self.wire.io).poll_flush(self.cx))
    }
}

/// What there is now.
fn now<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}
