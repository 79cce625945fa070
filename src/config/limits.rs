//! Bounds of the whole node: who is taken in, and how much memory all of it may need.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Period, Size, error::quoted};

/// Bounds of the whole node.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open client connections, from the decision about their handshake on. Default: 50000. More are
    /// refused with 503. Each takes a file descriptor; so does each of `max_pending`.
    pub max_connections: usize,
    /// Open connections of one address: an IPv4 address, or an IPv6 network of 64 bits, which is what
    /// one customer gets. Default: 5000. More are refused with 429. The address is the one that a
    /// trusted proxy says, else the connection's own.
    pub max_connections_per_ip: usize,
    /// Opening handshakes in the whole node. Default: 2000 a second, 4000 at once. More are refused
    /// with 503 before a token is looked at or a backend asked.
    pub handshakes: HandshakeRate,
    /// Open connections of one user in one hub, on all nodes together: 0 to 100, and 0 is no limit.
    /// Default: 0. It takes JetStream; while that cannot be reached, and without it, each node counts its
    /// own only. A client without a user is not counted.
    pub max_connections_per_user: u16,
    /// What becomes of one more connection of a user. `reject-new`: its handshake is refused with 429.
    /// `evict-oldest`: the user's oldest connection is closed with 4409. Default: `reject-new`.
    pub when_user_full: WhenUserFull,
    /// Requests of one address, as for `max_connections_per_ip`. Default: 100 a second, 500 at once.
    /// More opening handshakes are refused with 429 and do not count against `handshakes`; a request
    /// that is none keeps its own status, such as 404, and counts here, too. Four times as many TCP
    /// connections are taken of an address before TLS; more are ended and counted as `dropped`. Those
    /// of proxies in `forwarded.trusted` are not counted; behind `proxy_protocol` the address in the
    /// header is.
    pub handshakes_per_ip: HandshakeRate,
    /// Clients whose TLS handshake or request head is not here yet; they come on top of
    /// `max_connections`. Default: 4096. Beyond it, the one that has been at it longest makes room: of
    /// the address that has the most, where that is more than a quarter of all and not a trusted
    /// proxy's, else of all. As long as that is less than a second, newcomers wait in the kernel's
    /// queue.
    pub max_pending: usize,
    /// Time for a TLS handshake, from when there is room for the client and its PROXY header, where
    /// there is to be one, is here. Default: `10s`.
    pub tls_timeout: Period,
    /// Time for a whole HTTP request head, after TLS; and as much for the client to take the answer.
    /// Default: `10s`.
    pub head_timeout: Period,
    /// Bytes of an HTTP request head. Default: `16KiB`.
    pub max_head: Size,
    /// Header fields of a request. Default: 64.
    pub max_headers: usize,
    /// Groups that a connection may be in. Default: 100. Each costs about 200 bytes.
    pub max_groups_per_connection: usize,
    /// Members that a group may have on a node. Default: 50000.
    pub max_group_members: usize,
    /// Bytes of messages that wait for a backend, in the whole node. Default: `64MiB`.
    pub max_held: Size,
    /// What happens when the node's memory runs short.
    pub memory: Memory,
}

/// What becomes of one more connection of a user who has as many as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhenUserFull {
    /// It is refused.
    #[default]
    RejectNew,
    /// It takes the place of the oldest.
    EvictOldest,
}

/// How many opening handshakes are looked at: a token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HandshakeRate {
    /// How many a second on average; `0` is no limit.
    pub per_second: u32,
    /// How many at once after a quiet time. Default: as many as in a second.
    #[serde(default)]
    pub burst: Option<u32>,
}

/// What happens when the node's memory runs short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// What counts as all of it. `auto`: the limit of the control group (version 1 or 2), else the
    /// machine's memory. A size: that much resident memory of the process. Default: `auto`.
    pub max: MemoryMax,
    /// Percent of `max` above which opening handshakes are refused with 503. Default: 85.
    pub refuse_above: u8,
    /// Percent of `max` above which the connections with the most unread bytes are closed with 1013.
    /// Default: 92.
    pub shed_above: u8,
}

/// What counts as all of the node's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("type" = ["string", "integer"]))]
pub enum MemoryMax {
    /// The limit of the control group, else the machine's memory.
    Auto,
    /// So much resident memory of the process.
    Size(Size),
}

impl Limits {
    /// Clients that have a file descriptor at the same time.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.max_connections.saturating_add(self.max_pending)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 50_000,
            max_connections_per_ip: 5_000,
            max_connections_per_user: 0,
            when_user_full: WhenUserFull::RejectNew,
            handshakes: HandshakeRate { per_second: 2_000, burst: Some(4_000) },
            handshakes_per_ip: HandshakeRate { per_second: 100, burst: Some(500) },
            max_pending: 4_096,
            tls_timeout: Period::secs(10),
            head_timeout: Period::secs(10),
            max_head: Size::kib(16),
            max_headers: 64,
            max_groups_per_connection: 100,
            max_group_members: 50_000,
            max_held: Size::kib(64 * 1024),
            memory: Memory::default(),
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self { max: MemoryMax::Auto, refuse_above: 85, shed_above: 92 }
    }
}

impl fmt::Display for MemoryMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str(AUTO),
            Self::Size(size) => size.fmt(f),
        }
    }
}

impl FromStr for MemoryMax {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == AUTO {
            return Ok(Self::Auto);
        }
        text.parse().map(Self::Size).map_err(|_: String| {
            format!("expected `auto` or a size such as 512MiB, found {}", quoted(text))
        })
    }
}

impl TryFrom<String> for MemoryMax {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<MemoryMax> for String {
    fn from(max: MemoryMax) -> Self {
        max.to_string()
    }
}

const AUTO: &str = "auto";
