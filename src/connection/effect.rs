//! The words between machine and driver: what happened, and what to do.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::close::Close;
use crate::config::EventKind;
use crate::event::Outcome;
use crate::id::GroupName;
use crate::message::Message;

/// What happened.
#[derive(Debug)]
pub(super) enum Input {
    /// A whole message came in.
    Message(Message),
    /// The peer's close frame came in; the answer to it is on its way.
    PeerClosed(Close),
    /// The stream ended or broke without a close frame.
    PeerGone,
    /// The peer broke the protocol, or a limit that is part of it.
    Violation(Close),
    /// An event of `sequence` got its outcome.
    Outcome { kind: EventKind, sequence: u64, outcome: Outcome },
    /// The node wants the connection to end, once its events are answered.
    Part(Close),
    /// The node wants the connection to end at once, whatever it waits for.
    Cut(Close),
    /// A write made no progress for too long.
    WriteStalled,
    /// A bug was caught while it worked on this connection.
    Panicked,
}

/// What to do.
#[derive(Debug, PartialEq)]
pub(super) enum Effect {
    /// Send a message.
    Send(Message),
    /// Join a group.
    Join(GroupName),
    /// Leave a group.
    Leave(GroupName),
    /// Send a ping.
    Ping(Bytes),
    /// Send a close frame; nothing is sent after it.
    SendClose(Close),
    /// Write what is left and end the TCP stream: the peer has seen our close frame.
    HangUp,
    /// Write what is left, end the TCP stream and wait for the peer to do the same.
    Linger,
    /// Drop the TCP stream at once.
    Abort,
}

/// An event to be given to the backend at once; it does not wait behind what is to be written.
#[derive(Debug, PartialEq)]
pub(super) struct Dispatch {
    pub(super) sequence: u64,
    pub(super) body: Dispatched,
}

/// The events that begin while the connection is open.
#[derive(Debug, PartialEq)]
pub(super) enum Dispatched {
    Connected,
    Message(Message),
    Poll,
}

/// What to do, in this order.
pub(super) type Effects = VecDeque<Effect>;
