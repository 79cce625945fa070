//! One route: which handshakes it takes, who may come in, and what happens to their messages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Backend, DEFAULT_PLAN, Dialect, Heartbeat, Period, Size};
use crate::id::HubName;

/// A path pattern and everything that holds for the connections accepted on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Path pattern: `/ws`, `/ws/{room}` (one segment), `/ws/{*rest}` (all that follows). The most
    /// specific route wins.
    pub path: String,
    /// The route's name in metrics and logs. Default: its path.
    #[serde(default)]
    pub name: Option<String>,
    /// The namespace of its connections, users and groups. Default: `default`.
    #[serde(default)]
    pub hub: HubName,
    /// How a client shows who it is. No default: `jwt`, `connect`, `certificate` or `none`.
    pub auth: AuthMode,
    /// With `auth: jwt`: whether a client without a token gets in, without a user. A token that is
    /// shown must still be good. Default: `false`.
    #[serde(default)]
    pub anonymous: bool,
    /// How a refused handshake is told to the client. Default: `status`.
    #[serde(default)]
    pub refuse: RefuseMode,
    /// Exact origins (`https://example.com`) that a browser page may come from. Default: none listed,
    /// which lets every origin in. Where the browser itself shows who its user is, pages that are not
    /// listed are refused: with `auth: certificate`, and where a backend that hears of `connect` sees
    /// `Authorization`. Where a cookie authenticates, or such a backend sees it, the list is needed.
    #[serde(default)]
    pub origins: Vec<String>,
    /// Subprotocols that may be selected, best first. Default: none listed, which selects the
    /// client's first offer (messages pass as they are).
    #[serde(default)]
    pub subprotocols: Vec<String>,
    /// Where its events go. Default: NATS under the prefix of the `nats` section.
    #[serde(default)]
    pub backend: Backend,
    /// Which events are sent. Default: `[message]`.
    #[serde(default = "default_events")]
    pub events: Vec<EventKind>,
    /// Messages that go to places of their own at the backend, by what they say they are. Default: none.
    #[serde(default)]
    pub actions: Actions,
    /// Request headers that the connect event carries. With `auth: connect` and a backend behind HTTP,
    /// every event repeats them as headers of its own. Default: none, for credentials
    /// (`Authorization`, `Cookie`) only pass when they are named here; in the latter case those two.
    #[serde(default)]
    pub forward_headers: Option<Vec<String>>,
    /// How long a backend may take to answer an event. Default: `10s`.
    #[serde(default = "default_request_timeout")]
    pub request_timeout: Period,
    /// How long a message waits for a backend to appear when none took it. Default: `3s`; `0s` turns
    /// waiting off.
    #[serde(default = "default_hold")]
    pub hold: Period,
    /// Messages of one connection that may be at the backend at once. Default: 1, which keeps their
    /// order; more gives the order up. At most 256.
    #[serde(default = "default_in_flight")]
    pub in_flight: u16,
    /// What the client sees when a message fails. Default: `close`.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// The largest message from the client, whole or in fragments. Default: `64KiB`.
    #[serde(default = "default_max_message")]
    pub max_message: Size,
    /// Groups that each connection joins; `{name}` in them is what the path parameter of that name
    /// stands for, as `room-{room}`. Default: none.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Its rate limits, by name. Default: `default`.
    #[serde(default = "default_plan")]
    pub plan: String,
    /// What waits for a client to read it.
    #[serde(default)]
    pub outbox: Outbox,
    /// Ping, pong and age. Default: the `heartbeat` section.
    #[serde(default)]
    pub heartbeat: Option<Heartbeat>,
}

/// What may wait for one client to read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Outbox {
    /// Payload bytes that wait. One message may always wait, whatever its size. Default: `1MiB`.
    pub max_bytes: Size,
    /// Messages that wait. Default: 1024.
    pub max_messages: usize,
    /// What happens when one more does not fit. Default: `close`.
    pub when_full: WhenFull,
}

/// What happens when an outbox is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// The connection is closed with 4508.
    #[default]
    Close,
    /// The messages that wait longest are dropped and counted.
    DropOldest,
}

/// How a client shows who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// By a JWT, checked against the `jwt` section.
    Jwt,
    /// The backend decides on the blocking connect event.
    Connect,
    /// By a TLS client certificate.
    Certificate,
    /// Not at all.
    None,
}

/// How a refusal is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RefuseMode {
    /// By an HTTP status, before any upgrade.
    #[default]
    Status,
    /// By accepting and closing at once with 4401, 4403, 4429 or 1013, which a browser can read. Still
    /// by an HTTP status where the whole node is at a limit or stops, or very many are being told.
    Close,
}

/// Routing by content: a text message that is JSON and has one of these names at `pointer` goes to the
/// place of that name instead of the one of all messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Actions {
    /// Where the name is: a JSON pointer (RFC 6901). Default: `/action`.
    pub pointer: String,
    /// The names that have a place of their own, at most 256, each 1 to 64 of `A-Z a-z 0-9 _ -`.
    /// Default: none.
    pub names: Vec<String>,
}

/// The events of the contract with backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// Before the handshake is answered; the backend accepts or refuses.
    Connect,
    /// After the handshake.
    Connected,
    /// Each message of the client.
    Message,
    /// After the end, delivered at least once.
    Disconnected,
}

/// What the client sees when a message fails.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// The connection is closed: 1013 when the message was certainly not processed, else 1011.
    #[default]
    Close,
    /// This text message; `{outcome}` and `{sequence}` in it are filled in.
    Message(String),
    /// Nothing.
    Nothing,
}

impl Route {
    /// A route with every default.
    #[must_use]
    pub fn new(path: &str, auth: AuthMode) -> Self {
        Self {
            path: path.to_owned(),
            name: None,
            hub: HubName::default(),
            auth,
            anonymous: false,
            refuse: RefuseMode::default(),
            origins: Vec::new(),
            subprotocols: Vec::new(),
            backend: Backend::default(),
            events: default_events(),
            actions: Actions::default(),
            forward_headers: None,
            request_timeout: default_request_timeout(),
            hold: default_hold(),
            in_flight: default_in_flight(),
            on_failure: OnFailure::default(),
            max_message: default_max_message(),
            groups: Vec::new(),
            plan: default_plan(),
            outbox: Outbox::default(),
            heartbeat: None,
        }
    }

    /// The route's name in metrics and logs.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.path)
    }

    /// The request headers that its backend sees, as far as they have names; a backend that speaks
    /// WebSocket-over-HTTP sees all unless some are named.
    #[must_use]
    pub fn forwarded_headers(&self) -> Vec<&str> {
        match &self.forward_headers {
            Some(names) => names.iter().map(String::as_str).collect(),
            None if self.is_websocket_over_http() => Vec::new(),
            None if self.repeats_headers() => vec!["Cookie", "Authorization"],
            None => Vec::new(),
        }
    }

    /// Whether its backend sees this header of the handshake, if there is one.
    #[must_use]
    pub fn forwards(&self, header: &str) -> bool {
        let is_whole = self.forward_headers.is_none() && self.is_websocket_over_http();
        is_whole || self.forwarded_headers().iter().any(|name| name.eq_ignore_ascii_case(header))
    }

    /// Whether its backend is asked about clients and sees this header, so that it may go by it, whatever
    /// else they show.
    #[must_use]
    pub fn decides_by(&self, header: &str) -> bool {
        self.wants(EventKind::Connect) && self.forwards(header)
    }

    /// Whether each event repeats them, so that an HTTP service's own login decides each time.
    #[must_use]
    pub fn repeats_headers(&self) -> bool {
        self.auth == AuthMode::Connect && matches!(self.backend, Backend::Http(_))
    }

    /// Whether its backend speaks WebSocket-over-HTTP, where each request is the handshake once more.
    #[must_use]
    pub fn is_websocket_over_http(&self) -> bool {
        matches!(&self.backend, Backend::Http(backend) if backend.dialect == Dialect::WebsocketOverHttp)
    }

    /// Whether the backend wants to hear of `kind`.
    #[must_use]
    pub fn wants(&self, kind: EventKind) -> bool {
        if self.is_websocket_over_http() {
            return kind != EventKind::Connected;
        }
        self.events.contains(&kind)
            || (kind == EventKind::Connect && self.auth == AuthMode::Connect)
    }
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Connect, Self::Connected, Self::Message, Self::Disconnected];

    /// The word in subjects and in the config.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Connected => "connected",
            Self::Message => "message",
            Self::Disconnected => "disconnected",
        }
    }

    /// The CloudEvents `type`.
    #[must_use]
    pub const fn ce_type(self) -> &'static str {
        match self {
            Self::Connect => "moorline.connect",
            Self::Connected => "moorline.connected",
            Self::Message => "moorline.message",
            Self::Disconnected => "moorline.disconnected",
        }
    }
}

impl WhenFull {
    /// The word in the config and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::DropOldest => "drop-oldest",
        }
    }
}

impl Default for Actions {
    fn default() -> Self {
        Self { pointer: "/action".to_owned(), names: Vec::new() }
    }
}

impl Default for Outbox {
    fn default() -> Self {
        Self { max_bytes: Size::kib(1024), max_messages: 1024, when_full: WhenFull::default() }
    }
}

fn default_events() -> Vec<EventKind> {
    vec![EventKind::Message]
}

fn default_request_timeout() -> Period {
    Period::secs(10)
}

fn default_hold() -> Period {
    Period::secs(3)
}

fn default_in_flight() -> u16 {
    1
}

fn default_max_message() -> Size {
    Size::kib(64)
}

fn default_plan() -> String {
    DEFAULT_PLAN.to_owned()
}
