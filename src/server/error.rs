//! Why a node cannot start, takes no other config, or did not stop in good order.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::{AuthError, JwksError};
use crate::config::{ConfigError, Route};
use crate::nats::NatsError;
use crate::relay::RelayError;
use crate::tls::TlsError;

/// Why a node cannot start, takes no other config, or did not stop in good order. All are for the operator.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(io::Error),
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A key for tokens cannot be used.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// NATS cannot be used as configured.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// A route's backend cannot be used.
    #[error("route {route}")]
    Relay {
        /// The route's name.
        route: String,
        /// Why not.
        source: RelayError,
    },
    /// A bridge's backend cannot be used.
    #[error("bridge")]
    Bridge(#[source] RelayError),
    /// The fleet's state cannot be kept.
    #[error(
        "nats: {0}; `jetstream: optional` or `off` goes on without, see its comment in the config"
    )]
    NoFleet(String),
    /// There is nothing for a node to do.
    #[error("routes: there are none, only a bridge, which `moorline bridge` runs")]
    NoRoutes,
    /// There is nothing for a bridge to do.
    #[error("bridge: the config has no such section")]
    NoBridge,
    /// A route needs a section that is not there.
    #[error("routes[{route}]: {needs}")]
    Route {
        /// Its place in the list.
        route: usize,
        /// What it needs.
        needs: &'static str,
    },
    /// A new config is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The disk did not answer.
    #[error("{what}: its files were not read within {}", humantime::format_duration(*limit))]
    Unread {
        /// The section of the config, or the config itself.
        what: &'static str,
        /// How long it was waited.
        limit: Duration,
    },
    /// A bug in moorline, which the log tells above.
    #[error("a bug in moorline ended the reload; some of the new config may be in force")]
    Panicked,
    /// A bug in moorline, which the log tells above.
    #[error(
        "a bug in moorline ended its task {0:?}, and without that it hears of nothing; restart it"
    )]
    Broken(&'static str),
    /// A new config changes what a running node cannot.
    #[error("{0}: it cannot change while the node runs; restart the node")]
    NeedsRestart(String),
    /// The key set of a new config was not fetched.
    #[error("jwt.jwks: no keys came from the new location")]
    KeySet(#[source] Arc<JwksError>),
    /// The stop was cut short by a second signal.
    #[error("stopped at once")]
    Aborted,
    /// Events outlived every deadline of a bridge.
    #[error("{0} events were left unanswered at the end of all deadlines")]
    Unanswered(usize),
    /// Connections, or the last events of some, outlived every deadline.
    #[error("{0} connections, or their last events, were left at the end of all deadlines")]
    Undrained(usize),
}

impl ServerError {
    pub(super) fn of_route(route: &Route, source: RelayError) -> Self {
        Self::Relay { route: route.name().to_owned(), source }
    }
}
