//! `disconnected`, the last event of a connection: offered to the backend until it is accepted.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::registry::Entry;
use crate::event::{Event, EventBody, Outcome};
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

/// What came of a last event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// A backend accepted it.
    Accepted,
    /// It is too old.
    GivenUp,
    /// There was no place for it.
    Dropped,
    /// This node stops; others go on with it.
    Left,
    /// Another node has taken the connection over.
    Taken,
}

/// How long an event is offered until it is given up.
pub(super) const OFFERED_FOR: Duration = Duration::from_secs(300);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

impl Farewells {
    /// Offers `event` until it is accepted, it is too old, the node stops, or there is no place for
    /// it, and counts what came of it. What has an `entry` and was not accepted when the node stops,
    /// others go on with.
    pub async fn deliver(&self, relay: &Relay, event: &Event, entry: Option<Entry>) {
        if let (Some(entry), EventBody::Disconnected(ended)) = (&entry, &event.body) {
            entry.end(ended);
        }
        let told = match self.places.take() {
            _ if entry.as_ref().is_some_and(Entry::is_lost) => Told::Taken,
            Some(_place) => self.offer(relay, event, entry.as_ref()).await,
            None => Told::Dropped,
        };
        told.count(relay, event);
        match told {
            Told::Accepted | Told::GivenUp | Told::Taken => drop(entry),
            Told::Dropped | Told::Left => entry.map_or((), Entry::leave),
        }
    }

    /// Offers the event again and again. A node that stops offers it once more.
    async fn offer(&self, relay: &Relay, event: &Event, entry: Option<&Entry>) -> Told {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let give_up = Instant::now() + OFFERED_FOR;
        loop {
            let (is_late, is_stopping) = (Instant::now() > give_up, self.tasks.is_stopping());
            if is_accepted(relay, event).await {
                return Told::Accepted;
            }
            if entry.is_some_and(Entry::is_lost) {
                return Told::Taken;
            }
            if is_late {
                return Told::GivenUp;
            }
            if is_stopping {
                return if entry.is_some() { Told::Left } else { Told::GivenUp };
            }
            tokio::select! {
                () = sleep(backoff.delay()) => {}
                () = self.tasks.stopping() => {}
            }
        }
    }
}

/// Offers the event of a connection that was another node's, until `give_up`. Cancel safe.
pub(super) async fn tell(relay: &Relay, event: &Event, give_up: Instant) -> Told {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let is_late = Instant::now() > give_up;
        if is_accepted(relay, event).await {
            return Told::Accepted;
        }
        if is_late {
            return Told::GivenUp;
        }
        sleep(backoff.delay()).await;
    }
}

async fn is_accepted(relay: &Relay, event: &Event) -> bool {
    matches!(Box::pin(relay.request(event.clone())).await, Outcome::Replied(_))
}

impl Told {
    /// Counts it, and says in the log what was not accepted.
    pub(super) fn count(self, relay: &Relay, event: &Event) {
        let result = self.as_str();
        relay.metrics().disconnect_event(result);
        if self != Self::Accepted {
            tracing::warn!(event = %event.id(), result, "disconnected was not accepted");
        }
    }

    /// The word in metrics and logs.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::GivenUp => "given-up",
            Self::Dropped => "dropped",
            Self::Left => "left",
            Self::Taken => "taken",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_is_counted_from_the_start() {
        let metrics = String::from_utf8(crate::metrics::Metrics::new().to_text()).unwrap();
        for told in [Told::Accepted, Told::GivenUp, Told::Dropped, Told::Left, Told::Taken] {
            let series =
                format!("moorline_disconnect_events_total{{result=\"{}\"}} 0", told.as_str());
            assert!(metrics.contains(&series), "{series}");
        }
    }
}
