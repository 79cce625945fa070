//! `disconnected`, the last event of a connection: offered to the backend until it is accepted.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::event::{Event, Outcome};
use crate::limits::Permits;
use crate::relay::Relay;
use crate::task::{Backoff, Tasks};

/// What all last events of the node share. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Farewells {
    /// The tasks of all connections, which say when the node stops.
    pub tasks: Tasks,
    /// Places for events that no backend has accepted yet: workers that are away must not let them
    /// pile up without end.
    pub places: Permits,
}

/// How long an event is offered until it is given up.
const OFFERED_FOR: Duration = Duration::from_secs(300);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

impl Farewells {
    /// Offers `event` until it is accepted, it is too old, the node stops, or there is no place for
    /// it, and counts what came of it.
    pub(super) async fn deliver(&self, relay: &Relay, event: &Event) {
        let result = match self.places.take() {
            Some(_place) => self.offer(relay, event).await,
            None => "dropped",
        };
        relay.metrics().disconnect_event(result);
        if result != "accepted" {
            tracing::warn!(event = %event.id(), result, "disconnected was not accepted");
        }
    }

    /// Offers the event again and again; the result's word. A node that stops offers it once more.
    async fn offer(&self, relay: &Relay, event: &Event) -> &'static str {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let give_up = Instant::now() + OFFERED_FOR;
        loop {
            let is_last = self.tasks.is_stopping() || Instant::now() > give_up;
            if let Outcome::Replied(_) = Box::pin(relay.request(event.clone())).await {
                return "accepted";
            }
            if is_last {
                return "given-up";
            }
            tokio::select! {
                () = sleep(backoff.delay()) => {}
                () = self.tasks.stopping() => {}
            }
        }
    }
}
