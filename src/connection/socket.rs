//! The WebSocket over the wire: whole messages in, messages and control frames out.
//!
//! Thin around tungstenite, which answers pings and the peer's close frame by itself, but sends
//! nothing on a violation and never gives back a buffer that once grew.

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::{
    self, Error,
    error::{CapacityError, ProtocolError},
    protocol::{
        CloseFrame, Role, WebSocketConfig, WebSocketContext,
        frame::{
            Frame,
            coding::{CloseCode, Data, OpCode},
        },
    },
};

use super::frames::Violation;
use super::progress::Progress;
use super::wire::Wire;
use crate::close::{Cause, Close, is_sendable};
use crate::message::{Kind, Message};

/// One client's WebSocket.
#[derive(Debug)]
pub(super) struct Socket<S> {
    ws: WebSocketContext,
    wire: Wire<S>,
    /// Whether the stream ended or broke: there is nothing to read any more.
    ended: bool,
    /// Whether something was sent that is not flushed yet.
    dirty: bool,
    /// Whether a write had to wait, and has not been tried again since.
    blocked: bool,
    /// Whether a large message went through since the buffers were new.
    grown: bool,
    /// Whether the last read was pending: all that came in was handed up, as far as it is whole.
    drained: bool,
}

/// What came in.
#[derive(Debug)]
pub(super) enum Received {
    Message(Message),
    /// The library has its pong ready; the next flush sends it.
    Ping,
    Pong(Bytes),
    /// The library has its answer ready; the next flush sends it.
    Close(Close),
    Violation(Close),
    /// The stream ended or broke.
    Gone,
}

/// A write failed for good.
#[derive(Debug)]
pub(super) struct Broken;

/// Messages above this size make the library's buffers worth replacing.
const LARGE: usize = 16 * 1024;
/// Frames gather here until a flush; one TLS record takes them all.
const WRITE_BUFFER: usize = 4096;

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// A socket over `io` after the 101, behind which `early` has come already. `read_buffer` is held
    /// for the life of the connection.
    pub(super) fn new(io: S, early: Bytes, max_message: usize, read_buffer: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(read_buffer)
            .write_buffer_size(WRITE_BUFFER)
            .max_write_buffer_size(usize::MAX)
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        Self {
            ws: WebSocketContext::new(Role::Server, Some(config)),
            wire: Wire::new(io, early, max_message),
            ended: false,
            dirty: false,
            blocked: false,
            grown: false,
            drained: false,
        }
    }

    /// The next thing that comes in. Pings and a close are answered by the next flush.
    pub(super) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        if self.ended {
            return Poll::Ready(Received::Gone);
        }
        let read = self.ws.read(&mut self.wire.polled(cx));
        self.drained = read.as_ref().is_err_and(has_to_wait);
        let message = match read {
            Ok(message) => message,
            Err(_) if self.drained => return Poll::Pending,
            Err(error) => {
                self.ended = true;
                return Poll::Ready(classify(&error, self.wire.violation()));
            }
        };
        Poll::Ready(match message {
            tungstenite::Message::Text(text) => {
                self.received(Message::of_kind(Kind::Text, text.into()))
            }
            tungstenite::Message::Binary(data) => self.received(Message::binary(data)),
            tungstenite::Message::Ping(_) => {
                self.dirty = true;
                Received::Ping
            }
            tungstenite::Message::Pong(payload) => Received::Pong(payload),
            tungstenite::Message::Close(frame) => {
                self.dirty = true;
                Received::Close(frame.map_or_else(no_status, |frame| said(&frame)))
            }
            tungstenite::Message::Frame(_) => Received::Gone,
        })
    }

    /// Whether bytes of any kind came in since the last call.
    pub(super) fn take_heard(&mut self) -> bool {
        self.wire.take_heard()
    }

    /// Frames beside the one that each message needs, since the last call.
    pub(super) fn take_extra(&mut self) -> u32 {
        self.wire.take_extra()
    }

    /// Whether what came in so far leaves a message unfinished.
    pub(super) fn is_partial(&self) -> bool {
        !self.wire.is_between_messages()
    }

    /// Ready when the next [`send`](Self::send) would not pile up behind a blocked write.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.blocked { self.poll_flush(cx) } else { Poll::Ready(Ok(())) }
    }

    /// Queues a message. Call only after [`poll_ready`](Self::poll_ready).
    pub(super) fn send(&mut self, cx: &mut Context<'_>, message: Message) -> Result<(), Broken> {
        self.grown |= message.data().len() > LARGE;
        // As a frame: the library would look a second time whether a text is one.
        let data = match message.kind() {
            Kind::Binary => Data::Binary,
            Kind::Text => Data::Text,
        };
        let frame = Frame::message(message.into_data(), OpCode::Data(data), true);
        self.start_send(cx, tungstenite::Message::Frame(frame))
    }

    /// Queues a ping.
    pub(super) fn ping(&mut self, cx: &mut Context<'_>, payload: Bytes) -> Result<(), Broken> {
        self.start_send(cx, tungstenite::Message::Ping(payload))
    }

    /// Queues the close frame.
    pub(super) fn close(
        &mut self,
        cx: &mut Context<'_>,
        code: u16,
        reason: &str,
    ) -> Result<(), Broken> {
        let frame = is_sendable(code)
            .then(|| CloseFrame { code: CloseCode::from(code), reason: reason.into() });
        self.start_send(cx, tungstenite::Message::Close(frame))
    }

    /// Writes what is queued.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if !self.dirty {
            return Poll::Ready(Ok(()));
        }
        match self.ws.flush(&mut self.wire.polled(cx)) {
            Ok(()) | Err(Error::ConnectionClosed) => {}
            Err(error) if has_to_wait(&error) => return Poll::Pending,
            Err(_) => return Poll::Ready(Err(Broken)),
        }
        (self.dirty, self.blocked) = (false, false);
        Poll::Ready(Ok(()))
    }

    /// Gives large buffers back while nothing is going on: all is flushed, the last read was pending,
    /// and the bytes so far are whole messages, so the library's buffers are empty. Does nothing
    /// otherwise.
    pub(super) fn shrink(&mut self) {
        if self.grown && !self.dirty && self.drained && self.wire.is_between_messages() {
            self.ws = WebSocketContext::new(Role::Server, Some(*self.ws.get_config()));
            self.grown = false;
        }
    }

    /// Bytes that the kernel took so far, wrapping.
    pub(super) fn written(&self) -> u64
    where
        S: Progress,
    {
        self.wire.io().written()
    }

    /// The stream below, for its end.
    pub(super) fn io_mut(&mut self) -> &mut S {
        self.wire.io_mut()
    }

    fn start_send(
        &mut self,
        cx: &mut Context<'_>,
        message: tungstenite::Message,
    ) -> Result<(), Broken> {
        self.dirty = true;
        match self.ws.write(&mut self.wire.polled(cx), message) {
            Ok(()) => {}
            Err(error) if has_to_wait(&error) => self.blocked = true,
            Err(_) => return Err(Broken),
        }
        Ok(())
    }

    fn received(&mut self, message: Message) -> Received {
        self.grown |= message.data().len() > LARGE;
        Received::Message(message)
    }
}

/// Whether the library only has to wait for the stream.
fn has_to_wait(error: &Error) -> bool {
    matches!(error, Error::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
}

fn classify(error: &Error, violation: Option<Violation>) -> Received {
    // A violation comes up as an error of the stream; the library's own is about earlier bytes.
    let violation = violation.filter(|_| matches!(error, Error::Io(_)));
    match (violation, error) {
        (_, Error::Utf8(_)) | (Some(Violation::Utf8), _) => not_utf8(),
        (Some(Violation::TooBig), _) => Received::Violation(Close::of(Cause::TooBig)),
        (Some(_), _) => Received::Violation(Close::of(Cause::Protocol)),
        (None, Error::Capacity(CapacityError::MessageTooLong { .. })) => {
            Received::Violation(Close::of(Cause::TooBig))
        }
        (None, Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => Received::Gone,
        (None, Error::Protocol(_) | Error::Capacity(_)) => {
            Received::Violation(Close::of(Cause::Protocol))
        }
        (None, _) => Received::Gone,
    }
}

fn not_utf8() -> Received {
    Received::Violation(Close::with_code(Cause::Protocol, 1007))
}

/// What the peer's close frame says. The library answers a code that may not be sent with 1002 (RFC
/// 6455 section 7.4.1) and hands up its own answer in place of the code.
fn said(frame: &CloseFrame) -> Close {
    if frame.code == CloseCode::Protocol && frame.reason.as_str() == ILLEGAL_CODE {
        return Close::of(Cause::Protocol);
    }
    Close::said(Cause::Client, frame.code.into(), frame.reason.as_str())
}

/// A close frame without a code (RFC 6455 section 7.1.5).
fn no_status() -> Close {
    Close::said(Cause::Client, 1005, "")
}

/// The reason that the library gives in its answer to an illegal code.
const ILLEGAL_CODE: &str = "Protocol violation";
