//! Rate limits by name: what one connection may do, and all connections of one user together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Size;

/// The plan of a route that names none, and its name.
pub const DEFAULT_PLAN: &str = "default";

/// A set of rate limits. A plan that does not write a limit has the built-in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Plan {
    /// What each connection may do.
    pub connection: ConnectionRates,
    /// What all connections of a user to this node may do together. Default: no limit.
    pub user: UserRates,
}

/// What a connection may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionRates {
    /// What its client sends.
    pub inbound: InboundRates,
    /// What is sent to its client. Default: no limit.
    pub outbound: Rates,
}

/// What the connections of a user may do together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UserRates {
    /// What their clients send.
    pub inbound: Rates,
    /// What is sent to their clients.
    pub outbound: Rates,
}

/// What one client may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InboundRates {
    /// Messages. Default: 1000 in a second, 2000 at once.
    pub messages: Rate<u32>,
    /// Payload bytes of messages. Default: `4MiB` in a second, `8MiB` at once.
    pub bytes: Rate<Size>,
    /// Frames beside the one that a message needs: pings, pongs, fragments. `drop` has no meaning
    /// here. Default: 200 in a second, 5000 at once, then `close`.
    pub frames: Rate<u32>,
}

/// Limits of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rates {
    /// Messages. Default: no limit.
    pub messages: Rate<u32>,
    /// Payload bytes of messages. Default: no limit.
    pub bytes: Rate<Size>,
}

/// One rate limit: a token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RateOf_{N}")]
pub struct Rate<N> {
    /// What a second allows on average; `0` is no limit.
    pub per_second: N,
    /// What may come at once after a pause. Default: as much as a second allows. For bytes from the
    /// client it is never less than one message of the route's `max_message`.
    #[serde(default)]
    pub burst: Option<N>,
    /// What happens above it. Default: `throttle`.
    #[serde(default)]
    pub action: LimitAction,
    /// Whether it is only counted. Default: `false`.
    #[serde(default)]
    pub dry_run: bool,
}

/// What happens above a rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LimitAction {
    /// Wait: inbound, the client is not read, so that TCP slows it down; outbound, messages wait in
    /// the outbox.
    #[default]
    Throttle,
    /// The message is dropped and counted.
    Drop,
    /// The connection is closed with 4429.
    Close,
}

impl<N: Copy> Rate<N> {
    /// What may come at once.
    pub fn burst(&self) -> N {
        self.burst.unwrap_or(self.per_second)
    }
}

impl Default for InboundRates {
    fn default() -> Self {
        Self {
            messages: Rate { per_second: 1000, burst: Some(2000), ..Rate::default() },
            bytes: Rate {
                per_second: Size::kib(4 * 1024),
                burst: Some(Size::kib(8 * 1024)),
                ..Rate::default()
            },
            frames: Rate {
                per_second: 200,
                burst: Some(5000),
                action: LimitAction::Close,
                dry_run: false,
            },
        }
    }
}

impl<N: Default> Default for Rate<N> {
    fn default() -> Self {
        let action = LimitAction::default();
        Self { per_second: N::default(), burst: None, action, dry_run: false }
    }
}
