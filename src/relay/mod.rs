//! From an event to its one outcome, by whichever backend the route has. Sees neither hub nor
//! connection: the handshake calls it for a connect event, a connection for its messages.

mod actions;
mod cloudevent;
mod reply;
mod hold;
mod measure;
mod fence;
mod nats;
mod echo;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use echo::EchoRelay;
pub use fence::Fence;
pub use hold::Hold;
pub use nats::NatsRelay;

use crate::config::{Backend, Route};
use crate::event::{Event, Outcome};
use crate::metrics::{Metrics, RouteMetrics};
use crate::nats::{Nats, SubjectError};
#[cfg(any(test, fuzzing))]
use crate::{event::EventBody, nats::Reply};
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
    Echo(EchoRelay),
}

/// Why a route has no way to its backend.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Events go over NATS, and no NATS is configured.
    #[error("route {route}: its backend is behind NATS, and there is no nats section")]
    NoNats {
        /// The route's name.
        route: String,
    },
    /// The route's own prefix is no subject.
    #[error("route {route}: backend.nats cannot be used")]
    Prefix {
        /// The route's name.
        route: String,
        /// What is wrong with it.
        source: SubjectError,
    },
}

impl Relay {
    /// The way to the route's backend. Routes of one node share `hold` and `fence`; the latter holds for
    /// routes whose clients' ends are told by another node when this one cannot.
    ///
    /// # Errors
    /// When the backend is behind NATS and NATS or the route's prefix is missing or wrong.
    pub fn new(
        route: &Route,
        nats: Option<&Nats>,
        hold: &Hold,
        fence: &Fence,
        metrics: &Metrics,
    ) -> Result<Self, RelayError> {
        let way = match &route.backend {
            Backend::Nats(_) => Way::Nats(Arc::new(NatsRelay::new(route, nats, hold, fence)?)),
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
        let mut measure = Measure::start(&self.metrics);
        let outcome = match &self.way {
            Way::Nats(relay) => relay.request(&event, &mut measure).await,
            Way::Echo(relay) => relay.answer(&event.body),
        };
        measure.end(outcome)
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
            Way::Echo(_) => true,
        }
    }
}

/// What a worker's reply comes to, when it keeps to the contract.
#[cfg(any(test, fuzzing))]
pub(crate) fn outcome_of(asked: &EventBody, reply: &Reply) -> Option<Outcome> {
    reply::outcome(asked, reply).ok()
}

/// The metric label of how events come to this backend.
#[must_use]
pub const fn transport(backend: &Backend) -> &'static str {
    match backend {
        Backend::Nats(_) => "nats",
        Backend::Echo(_) => "echo",
    }
}
