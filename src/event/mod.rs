//! What happens on a connection and what came of it: the types every dialect, control command and
//! API call turns into.

mod peer;
mod trace;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use peer::{Certificate, Forwarded, Offer, Params, Peer, TokenFacts};
pub use trace::Trace;

use crate::close::{Cause, Close};
use crate::config::EventKind;
use crate::id::{GroupName, UserId};
use crate::message::Message;

/// One thing that happened on a connection, on its way to a backend.
#[derive(Debug, Clone)]
pub struct Event {
    /// Whose it is.
    pub peer: Arc<Peer>,
    /// 1, 2, 3 ... per connection, over all kinds of events; 0 where it is not known, for the connection
    /// was another node's.
    pub sequence: u64,
    /// When it happened.
    pub time: SystemTime,
    /// The backend's own state of the connection, given back with every event.
    pub state: Option<State>,
    /// W3C trace context.
    pub trace: Trace,
    /// What happened.
    pub body: EventBody,
    /// Its data as another node wrote them, which may say more than `body`. Boxed, for only a bridge has them.
    pub written: Option<Box<Bytes>>,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum EventBody {
    /// A client asks to come in.
    Connect(Box<Offer>),
    /// A client came in.
    Connected,
    /// A client sent a message.
    Message(Message),
    /// A client is gone.
    Disconnected(Box<Ended>),
    /// Nothing for a while, after which the backend wants to be asked. Only some dialects have it; in
    /// all else it is a message that says nothing.
    Poll,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Code, cause and reason.
    pub close: Close,
    /// From the 101 to the end.
    pub duration: Duration,
}

/// What came of an event. Exactly one for each, and counted.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The backend answered: these actions, in this order.
    Replied(Vec<Action>),
    /// The backend lets a client in (connect events only).
    Accepted(Box<Grant>),
    /// The backend said no.
    Refused(Refusal),
    /// Certainly not processed: no backend was there.
    Unavailable,
    /// May have been processed: no answer in time, or the way was cut.
    Unknown,
    /// Never sent: moorline had no room for it.
    Overloaded,
}

/// What a backend's answer does to the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a message to the client.
    Send(Message),
    /// Join the connection to a group.
    Join(GroupName),
    /// Take the connection out of a group.
    Leave(GroupName),
    /// Keep this state, or none, from now on.
    State(Option<State>),
    /// Close the connection.
    Close(Close),
    /// Cut the connection, without a word to the client.
    Cut,
    /// Send a ping of at most 125 bytes to the client.
    Ping(Bytes),
    /// Ask the backend whenever there was no event for so long, or no more.
    PollEvery(Option<Duration>),
    /// Send this to the client whenever it is due, or no more.
    KeepAlive(Option<Box<KeepAlive>>),
    /// Send this to the client after so long; what was to be sent later until now goes at once.
    SendLater(Duration, Box<Content>),
    /// Send at once what was to be sent later.
    SendNow,
}

/// What a backend can have sent to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A message.
    Message(Message),
    /// A ping of at most 125 bytes.
    Ping(Bytes),
}

/// What is sent to a client so that the way to it stays open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepAlive {
    /// What it is.
    pub content: Content,
    /// How long after the last message to the client, or after the one before.
    pub after: Duration,
    /// Whether it comes at this pace also while other messages are sent.
    pub is_steady: bool,
}

/// A backend's yes to a connect event; all of it optional.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Grant {
    /// Who the client is.
    pub user: Option<UserId>,
    /// Groups that the connection joins at once.
    pub groups: Vec<GroupName>,
    /// One of the offered subprotocols.
    pub subprotocol: Option<String>,
    /// The connection's first state.
    pub state: Option<State>,
    /// Headers for the 101.
    pub headers: Vec<(http::HeaderName, http::HeaderValue)>,
    /// What is done on the connection as soon as it is open.
    pub actions: Vec<Action>,
}

/// A backend's no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The status the backend gave, 400 to 599; to a connect event it may lead elsewhere, from 300 on.
    pub status: u16,
    /// What the client may see of it.
    pub message: Option<Message>,
    /// Headers for the client whose handshake is refused.
    pub headers: Vec<(http::HeaderName, http::HeaderValue)>,
    /// Whether it was no answer that can be understood.
    pub is_broken: bool,
}

/// Opaque text of a backend about one connection, at most [`State::MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State(Arc<str>);

impl State {
    /// The most bytes of a state.
    pub const MAX: usize = 4096;

    /// Checks and keeps `text`; none when it is empty.
    ///
    /// # Errors
    /// When it is too long, or has characters that no header may have: `Err` holds its length.
    pub fn new(text: &str) -> Result<Option<Self>, usize> {
        if text.is_empty() {
            return Ok(None);
        }
        let fits = text.len() <= Self::MAX && !text.bytes().any(|b| b < b' ' || b == 0x7f);
        if fits { Ok(Some(Self(text.into()))) } else { Err(text.len()) }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Refusal {
    /// A no without headers.
    #[must_use]
    pub const fn new(status: u16, message: Option<Message>) -> Self {
        Self { status, message, headers: Vec::new(), is_broken: false }
    }

    /// An answer that breaks the contract, told to clients as this status and without a word.
    #[must_use]
    pub const fn broken(status: u16) -> Self {
        Self { status, message: None, headers: Vec::new(), is_broken: true }
    }

    /// Whether the backend may have meant a yes: by an answer that nobody understands, or by one that a
    /// gateway before it had no use for or did not wait for (RFC 9110 sections 15.6.3 and 15.6.5).
    #[must_use]
    pub fn may_be_yes(&self) -> bool {
        self.is_broken || matches!(self.status, 502 | 504)
    }
}

impl Event {
    /// The event's kind.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        self.body.kind()
    }

    /// The event's data.
    #[must_use]
    pub fn data(&self) -> Bytes {
        self.written.as_deref().cloned().unwrap_or_else(|| self.body.data())
    }

    /// The CloudEvents `id`: the same when the event is sent again.
    #[must_use]
    pub fn id(&self) -> String {
        self.id_of(&self.peer.id.to_string())
    }

    /// The same, for who has the connection's id as text already.
    #[must_use]
    pub fn id_of(&self, connection: &str) -> String {
        match self.body {
            EventBody::Disconnected(_) => format!("{connection}-end"),
            _ => format!("{connection}-{}", self.sequence),
        }
    }
}

impl EventBody {
    /// The event's kind.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        match self {
            Self::Connect(_) => EventKind::Connect,
            Self::Connected => EventKind::Connected,
            Self::Message(_) | Self::Poll => EventKind::Message,
            Self::Disconnected(_) => EventKind::Disconnected,
        }
    }

    /// The event's data, as the contract lays it down.
    #[must_use]
    pub fn data(&self) -> Bytes {
        match self {
            Self::Connect(offer) => offer.to_json(),
            Self::Connected => Bytes::from_static(b"{}"),
            Self::Message(message) => message.data().clone(),
            Self::Disconnected(ended) => ended.to_json(),
            Self::Poll => Bytes::new(),
        }
    }

    /// The data's content type.
    #[must_use]
    pub fn content_type(&self) -> &'static str {
        match self {
            Self::Message(message) => message.kind().content_type(),
            _ => "application/json",
        }
    }
}

/// The data of a disconnected event.
#[derive(Debug, Serialize, Deserialize)]
struct End<'a> {
    code: u16,
    cause: Cow<'a, str>,
    reason: Cow<'a, str>,
    duration_ms: u64,
}

impl Ended {
    fn to_json(&self) -> Bytes {
        let end = End {
            code: self.close.code,
            cause: self.close.cause.as_str().into(),
            reason: self.close.reason.as_ref().into(),
            duration_ms: u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX),
        };
        // A struct of plain fields has a JSON form.
        Bytes::from(serde_json::to_vec(&end).unwrap_or_default())
    }

    /// The end of a disconnected event's data, if they are one.
    #[must_use]
    pub fn parse(json: &[u8]) -> Option<Self> {
        let end: End<'_> = serde_json::from_slice(json).ok()?;
        let cause = Cause::ALL.iter().find(|cause| cause.as_str() == end.cause);
        // A newer node may know more causes. What is handed on is what it wrote.
        let cause = cause.copied().unwrap_or(Cause::NodeLost);
        let close = Close::said(cause, end.code, &end.reason);
        Some(Self { close, duration: Duration::from_millis(end.duration_ms) })
    }
}

impl Outcome {
    /// The word in metrics, logs and the failure template.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Replied(_) | Self::Accepted(_) => "replied",
            Self::Refused(_) => "refused",
            Self::Unavailable => "unavailable",
            Self::Unknown => "unknown",
            Self::Overloaded => "overloaded",
        }
    }

    /// Every word that [`as_str`](Self::as_str) says.
    pub const WORDS: [&'static str; 5] =
        ["replied", "refused", "unavailable", "unknown", "overloaded"];
}
