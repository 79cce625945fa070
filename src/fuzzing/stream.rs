//! A client in memory: it sends its bytes in pieces and keeps all that comes back. And the judge of
//! what a server may send: frames of RFC 6455 section 5.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, split};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

/// How the bytes come: the first byte of an input says it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// Bytes of each piece.
    pub(super) piece: usize,
    /// Whether the client ends its stream behind them, or says nothing more.
    pub(super) hangs_up: bool,
}

/// One frame of a server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) opcode: u8,
    pub(super) payload: Vec<u8>,
}

/// Bytes that are taken of an input. A piece a millisecond, all are there before any deadline.
const INPUT_MAX: usize = 4096;
/// Pieces of an input: each costs as much as a few hundred bytes.
const PIECES_MAX: usize = 128;
/// Bytes on their way in memory.
pub(super) const PIPE: usize = 64 * 1024;
/// Longer than all deadlines of a head and a silent connection together.
const LONGEST: Duration = Duration::from_secs(300);

pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;

/// The manner that an input asks for, and the bytes to send.
pub(super) fn manner(input: &[u8]) -> Option<(Manner, &[u8])> {
    let (how, bytes) = input.split_first()?;
    let bytes = &bytes[..bytes.len().min(INPUT_MAX)];
    let piece = usize::from(how >> 1).max(1 + bytes.len() / PIECES_MAX);
    Some((Manner { piece, hangs_up: how & 1 == 1 }, bytes))
}

/// A runtime whose clock jumps to the next deadline when there is nothing to do.
pub(super) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

/// Sends `bytes` while `node` works at the other end of `io`: all that came back, once both have ended.
pub(super) async fn talk(
    io: DuplexStream,
    bytes: &[u8],
    manner: Manner,
    node: impl Future<Output = ()>,
) -> Vec<u8> {
    let (mut from, mut to) = split(io);
    let sending = async {
        for piece in bytes.chunks(manner.piece) {
            if to.write_all(piece).await.is_err() {
                break;
            }
            // Nothing happens on the way to the next deadline, so the piece is dealt with by then.
            sleep(Duration::from_millis(1)).await;
        }
        if manner.hangs_up {
            let _ = to.shutdown().await;
        }
    };
    let receiving = async {
        let mut all = Vec::new();
        let _ = from.read_to_end(&mut all).await;
        all
    };
    let ((), (), all) = timeout(LONGEST, async { tokio::join!(node, sending, receiving) })
        .await
        .expect("every conversation ends in bounded time");
    all
}

/// The frames in `bytes`; panics at anything that a server must not send.
pub(super) fn server_frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let [flags, second, rest @ ..] = bytes {
        assert!(flags & 0xf0 == 0x80, "whole frames without reserved bits: {flags:#x}");
        assert!(second & 0x80 == 0, "a server's frame is not masked");
        let (len, rest) = match second {
            126 => (u64::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => (u64::from_be_bytes(rest[..8].try_into().unwrap()), &rest[8..]),
            n => (u64::from(*n), rest),
        };
        let least = [0, 126, 65_536][usize::from(*second >= 126) + usize::from(*second == 127)];
        assert!(len >= least, "the shortest form of a length");
        let (payload, rest) = rest.split_at(usize::try_from(len).unwrap());
        let frame = Frame { opcode: flags & 0x0f, payload: payload.to_owned() };
        check(&frame);
        bytes = rest;
        assert!(frame.opcode != CLOSE || bytes.is_empty(), "nothing comes after a close frame");
        frames.push(frame);
    }
    assert!(bytes.is_empty(), "no frame is cut off");
    frames
}

fn check(Frame { opcode, payload }: &Frame) {
    assert!([TEXT, BINARY, CLOSE, PING, PONG].contains(opcode), "opcode {opcode}");
    assert!(*opcode < CLOSE || payload.len() <= 125, "control frames are short");
    assert!(*opcode != TEXT || std::str::from_utf8(payload).is_ok(), "text is UTF-8");
    if *opcode == CLOSE && !payload.is_empty() {
        let code = u16::from_be_bytes([payload[0], payload[1]]);
        assert!(crate::close::is_sendable(code), "close code {code}");
        assert!(std::str::from_utf8(&payload[2..]).is_ok(), "a reason is UTF-8");
    }
}
