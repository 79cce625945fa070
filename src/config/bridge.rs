//! A bridge: a worker that gives the events of a hub to an HTTP service.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Backend, Period, Size};
use crate::id::HubName;

/// What `moorline bridge` does: it joins a queue group on NATS, gives each event to an HTTP service, and
/// replies with what that answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bridge {
    /// The hub whose events it takes. Default: `default`.
    #[serde(default)]
    pub hub: HubName,
    /// The queue group: each event goes to one of its members. Default: `workers`.
    #[serde(default = "default_queue")]
    pub queue: String,
    /// The service, with `http`. No default.
    pub backend: Backend,
    /// How long the service may take to answer an event. Default: `6s`, with which an event that waited as
    /// long as it may is answered within the `10s` of the nodes' routes.
    #[serde(default = "default_request_timeout")]
    pub request_timeout: Period,
    /// How long an event that is here waits for a service that takes no connections; then it is refused
    /// with 503. Default: `3s`. While no server of the service can be asked the bridge is not in the
    /// group, so other members get the events, or the nodes hold them.
    #[serde(default = "default_hold")]
    pub hold: Period,
    /// Events that are here at once, those at the service included. Default: 1000. More are refused with
    /// 503 at once.
    #[serde(default = "default_max_events")]
    pub max_events: usize,
    /// Bytes of those events, with 1 KiB on top of each. Default: `64MiB`. More are refused with 503 at
    /// once. Answers that wait while NATS is away take the place of their events; one that is larger and
    /// finds no room is lost.
    #[serde(default = "default_max_bytes")]
    pub max_bytes: Size,
}

impl Bridge {
    /// A bridge to a service, with every default.
    #[must_use]
    pub fn new(backend: Backend) -> Self {
        Self {
            hub: HubName::default(),
            queue: default_queue(),
            backend,
            request_timeout: default_request_timeout(),
            hold: default_hold(),
            max_events: default_max_events(),
            max_bytes: default_max_bytes(),
        }
    }
}

fn default_queue() -> String {
    "workers".to_owned()
}

fn default_request_timeout() -> Period {
    Period::secs(6)
}

fn default_hold() -> Period {
    Period::secs(3)
}

fn default_max_events() -> usize {
    1000
}

fn default_max_bytes() -> Size {
    Size::kib(64 * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AuthMode, HttpBackend, Route, Urls};

    #[test]
    fn by_default_it_answers_while_a_node_waits() {
        let service = HttpBackend::new(Urls::One(String::new()));
        let queue_timeout = service.queue_timeout;
        let bridge = Bridge::new(Backend::Http(Box::new(service)));
        let longest = bridge.hold.get() + queue_timeout.get() + bridge.request_timeout.get();
        assert!(longest <= Route::new("chat", AuthMode::None).request_timeout.get());
    }
}
