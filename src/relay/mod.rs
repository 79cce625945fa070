//! From an event to its one outcome, by whichever backend the route has. Sees neither hub nor
//! connection: the handshake calls it for a connect event, a connection for its messages.

mod actions;
mod cloudevent;
mod reply;
mod hold;
mod measure;
mod fence;
mod ways;
mod dispatch;
mod nats;
mod http;
mod echo;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

pub use echo::EchoRelay;
pub use fence::Fence;
pub use hold::Hold;
pub use http::{Gates, HttpRelay};
pub use nats::NatsRelay;

use crate::config::{Backend, Route};
use crate::event::{Event, Outcome};
use crate::metrics::{Metrics, RouteMetrics};
use crate::nats::{Nats, SubjectError};
use crate::tls::TlsError;
#[cfg(any(test, fuzzing))]
use crate::{event::EventBody, nats::Reply};
use dispatch::Carrier;
use measure::Measure;

/// The way to one route's backend. Clones share it.
#[derive(Debug, Clone)]
pub struct Relay {
    way: Way,
    metrics: Arc<RouteMetrics>,
}

#[derive(Debug, Clone)]
enum Way {
    Nats(Arc<NatsRelay>),
    Http(Arc<HttpRelay>),
    Echo(EchoRelay),
}

/// Why a route has no way to its backend.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Events go over NATS, and no NATS is configured.
    #[error("its backend is behind NATS, and there is no nats section")]
    NoNats,
    /// The route's own prefix is no subject.
    #[error("backend.nats cannot be used")]
    Prefix(#[source] SubjectError),
    /// The service has no URL, or one that is none.
    #[error("backend.http is not 1 to 64 URLs of HTTP servers")]
    Url,
    /// What shows the service that a request is moorline's cannot be used.
    #[error("backend.secret_file cannot be used")]
    Secret(#[source] io::Error),
    /// What requests to the service are signed with cannot be used.
    #[error("backend.grip.key_file cannot be used")]
    Grip(#[source] io::Error),
    /// The authorities for the service cannot be used.
    #[error("backend.ca cannot be used")]
    Tls(#[source] TlsError),
}

impl Relay {
    /// The way to the route's backend. Routes of one node share `gates`, `hold` and `fence`; the last holds
    /// for routes whose clients' ends are told by another node when this one cannot. Blocks while it reads
    /// the files of a backend behind HTTP.
    ///
    /// # Errors
    /// When what the backend needs is missing or wrong: NATS and the route's prefix, or URLs and files.
    pub fn new(
        route: &Route,
        nats: Option<&Nats>,
        gates: &Gates,
        hold: &Hold,
        fence: &Fence,
        metrics: &Metrics,
    ) -> Result<Self, RelayError> {
        let way = match &route.backend {
            Backend::Nats(_) => Way::Nats(Arc::new(NatsRelay::new(route, nats, hold, fence)?)),
            Backend::Http(backend) => {
                Way::Http(Arc::new(HttpRelay::new(route, backend, gates, hold, fence, metrics)?))
            }
            Backend::Echo(_) => Way::Echo(EchoRelay),
        };
        let metrics = metrics.route(route.hub.as_str(), route.name(), transport(&route.backend));
        Ok(Self { way, metrics: Arc::new(metrics) })
    }

    /// Gives the event to the backend and waits for what comes of it, for the route's `hold` and
    /// `request_timeout` at most.
    ///
    /// Dropping the future gives the answer up and leaves nothing behind; the event is then counted as
    /// `unknown` if a backend may have it, else as `unavailable`.
    pub async fn request(&self, event: Event) -> Outcome {
        if let Way::Http(relay) = &self.way
            && relay.is_unheard(&event)
        {
            return Outcome::Replied(Vec::new());
        }
        let mut measure = Measure::start(&self.metrics);
        let outcome = match &self.way {
            Way::Nats(relay) => relay.request(&event, &mut measure).await,
            Way::Http(relay) => relay.request(&event, &mut measure).await,
            Way::Echo(relay) => relay.answer(&event.body),
        };
        measure.end(outcome)
    }

    /// Ends when the backend can be reached, as far as that can be found out without an event; a worker may
    /// still be missing. Cancel safe.
    pub async fn reached(&self) {
        match &self.way {
            Way::Nats(relay) => relay.up().await,
            Way::Http(relay) => relay.reached().await,
            Way::Echo(_) => {}
        }
    }

    /// Ends when a backend behind HTTP is left alone, because no server of it answers. Cancel safe.
    pub async fn shut(&self) {
        match &self.way {
            Way::Http(relay) => relay.shut().await,
            Way::Nats(_) | Way::Echo(_) => std::future::pending().await,
        }
    }

    /// The route's counters.
    #[must_use]
    pub fn metrics(&self) -> &RouteMetrics {
        &self.metrics
    }

    /// Whether the backend can be reached as far as is known; a worker may still be missing.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        match &self.way {
            Way::Nats(relay) => relay.is_connected(),
            Way::Http(relay) => relay.is_reachable(),
            Way::Echo(_) => true,
        }
    }
}

/// What a worker's reply comes to, when it keeps to the contract.
#[cfg(any(test, fuzzing))]
pub(crate) fn outcome_of(asked: &EventBody, reply: &Reply) -> Option<Outcome> {
    reply::outcome(asked, reply).ok()
}

/// What the answer of a service that speaks WebSocket-over-HTTP comes to, when it keeps to the protocol.
#[cfg(any(test, fuzzing))]
pub(crate) fn websocket_over_http_outcome(
    event: &Event,
    answer: &::http::Response<bytes::Bytes>,
) -> Option<Outcome> {
    http::websocket_over_http_outcome(event, answer)
}

/// The metric label of how events come to this backend.
#[must_use]
pub const fn transport(backend: &Backend) -> &'static str {
    match backend {
        Backend::Nats(_) => "nats",
        Backend::Http(_) => "http",
        Backend::Echo(_) => "echo",
    }
}
