//! The configuration: one typed tree, read once and handed down in sections.
//!
//! Every key has its default here; `config/moorline.yaml` repeats them for people, and a test keeps the
//! two equal. Unknown keys are refused. A config that `load` or `parse` returns has passed `validate`.

mod units;
mod secret;
mod network;
mod listeners;
mod jwt;
mod nats;
mod upstream;
mod plan;
mod backend;
mod route;
mod bridge;
mod limits;
mod load;
mod source;
mod environment;
mod reader;
mod validate;
mod files;
mod schema;
mod error;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use backend::{Backend, Dialect, Grip, HttpBackend, Urls};
pub use bridge::Bridge;
pub use environment::process_environment;
pub use error::{ConfigError, Position, Problem};
pub use jwt::{Jwks, Jwt, JwtAlgorithm, JwtClaims, JwtKey, JwtSources};
pub use limits::{HandshakeRate, Limits, Memory, MemoryMax, WhenUserFull};
pub use listeners::{
    Admin, Certificate, ClientCertificate, Forwarded, ForwardedHeader, Listeners, Management,
    Plain, ProxyProtocol, Public, Tls, TlsVersion,
};
pub use load::Format;
pub use nats::{By, Interest, JetStream, Nats, NatsTls};
pub use network::Network;
pub use plan::{
    ConnectionRates, DEFAULT_PLAN, InboundRates, LimitAction, Plan, Rate, Rates, UserRates,
};
pub use route::{Actions, AuthMode, EventKind, OnFailure, Outbox, RefuseMode, Route, WhenFull};
pub use schema::schema;
pub use secret::SecretSource;
pub use units::{Period, Size};
pub use upstream::{Upstream, UpstreamUrl};
pub(crate) use validate::{is_of_body, is_repeatable};

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where moorline listens.
    pub listeners: Listeners,
    /// The NATS servers. Absent: solo, one node without NATS.
    pub nats: Option<Nats>,
    /// How tokens are found and checked, for routes with `auth: jwt`.
    pub jwt: Option<Jwt>,
    /// The HTTP server that everything goes to which asks for no WebSocket: its URL, or a section.
    /// Absent: such requests are refused.
    #[serde(deserialize_with = "upstream::read")]
    #[schemars(with = "Option<upstream::UrlOrSection>")]
    pub upstream: Option<Upstream>,
    /// Which handshakes are taken, and what happens to their messages.
    pub routes: Vec<Route>,
    /// What `moorline bridge` does. A node does not look at it.
    pub bridge: Option<Bridge>,
    /// Rate limits by name. A route names its plan, a token may name another by its `plan` claim.
    /// `default` is the plan of a route that names none; it is there unless it is written.
    pub plans: BTreeMap<String, Plan>,
    /// Ping, pong and age of a connection, unless a route says otherwise.
    pub heartbeat: Heartbeat,
    /// Bounds of the whole node.
    pub limits: Limits,
    /// How the node stops.
    pub shutdown: Shutdown,
    /// What is logged.
    pub log: Log,
}

/// Ping, pong and age of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Heartbeat {
    /// Time without a byte from the client until it is pinged. Default: `25s`, with up to 10 % of
    /// jitter; below the 30 s to 60 s after which load balancers and mobile networks forget a flow.
    pub ping_interval: Period,
    /// Time for any byte to come after a ping. Default: `10s`.
    pub pong_timeout: Period,
    /// Time without a message in either direction until the connection is closed with 4408.
    /// Default: none.
    pub idle_timeout: Option<Period>,
    /// Age at which a connection is closed with 1012, less up to 10 % of jitter, so that clients
    /// spread again after a scale-up. Default: none.
    pub max_age: Option<Period>,
    /// Time for the client to answer a close frame, and for the end of its TCP stream. Default: `5s`.
    pub close_timeout: Period,
    /// Time without any progress of a write until the client counts as gone (4508). Default: `10s`.
    pub write_timeout: Period,
    /// Time for a whole message to come in, from its first byte on and as far as the client is read
    /// (4408). Default: `30s`.
    pub message_timeout: Period,
}

/// How the node stops on SIGTERM, or on `POST /drain` at the admin listener.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// Time between failing readiness and refusing newcomers, for load balancers to notice.
    /// Default: `5s`.
    pub lame_duck: Period,
    /// Time over which the connections are closed with 1012. Default: `30s`.
    pub drain: Period,
}

/// What is logged, on standard error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `human` or `json`. Default: `json`.
    pub format: LogFormat,
    /// A level (`error`, `warn`, `info`, `debug`, `trace`), or directives as
    /// `info,moorline::relay=debug`. Default: `info`.
    pub level: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For a terminal.
    Human,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// File descriptors that clients may take, the requests of theirs that are passed through, and those
    /// to backends.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        let upstream = self.upstream.as_ref().map_or(0, Upstream::descriptors);
        let requests = |backend: &Backend| match backend {
            Backend::Http(backend) => usize::try_from(backend.max_requests).unwrap_or(usize::MAX),
            Backend::Nats(_) | Backend::Echo(_) => 0,
        };
        if let Some(bridge) = self.bridge.as_ref().filter(|_| self.is_bridge_only()) {
            return requests(&bridge.backend);
        }
        let backends = self.routes.iter().map(|route| requests(&route.backend));
        let backends = backends.fold(0, usize::saturating_add);
        self.limits.clients().saturating_add(upstream).saturating_add(backends)
    }
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self {
            ping_interval: Period::secs(25),
            pong_timeout: Period::secs(10),
            idle_timeout: None,
            max_age: None,
            close_timeout: Period::secs(5),
            write_timeout: Period::secs(10),
            message_timeout: Period::secs(30),
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { lame_duck: Period::secs(5), drain: Period::secs(30) }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Json, level: "info".to_owned() }
    }
}
