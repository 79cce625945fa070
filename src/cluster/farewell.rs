//! `disconnected`, the last event of a connection: offered to the backend until it is accepted.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

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

/// How long an event is offered until it is given up, while its backend can be reached.
pub(super) const OFFERED_FOR: Duration = Duration::from_secs(300);
/// How long a node that cannot renew its lease leaves it to others to speak for its connections: by then
/// one would have.
const LEFT_TO_OTHERS: Duration = Duration::from_secs(60);
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
        if let (Told::Left, Some(entry)) = (told, entry) {
            entry.leave();
        }
    }

    /// Offers the event again and again. A node that stops offers it once more.
    async fn offer(&self, relay: &Relay, event: &Event, entry: Option<&Entry>) -> Told {
        if let Some(entry) = entry {
            let decided = timeout(LEFT_TO_OTHERS, entry.may_speak());
            tokio::select! {
                _ = decided => {}
                () = self.tasks.stopping() => if !entry.is_spoken_for() { return Told::Left },
            }
        }
        let mut offers = Offers::until(Instant::now() + OFFERED_FOR);
        loop {
            let is_stopping = self.tasks.is_stopping();
            if let Some(told) = offers.next(relay, event).await {
                return told;
            }
            if entry.is_some_and(Entry::is_lost) {
                return Told::Taken;
            }
            if is_stopping {
                return if entry.is_some() { Told::Left } else { Told::GivenUp };
            }
            tokio::select! {
                () = offers.pause(relay) => {}
                () = self.tasks.stopping() => {}
            }
        }
    }
}

/// Offers the event of a connection that was another node's, until `give_up`. Cancel safe.
pub(super) async fn tell(relay: &Relay, event: &Event, give_up: Instant) -> Told {
    let mut offers = Offers::until(give_up);
    loop {
        if let Some(told) = offers.next(relay, event).await {
            return told;
        }
        offers.pause(relay).await;
    }
}

/// Tries to get an event accepted.
struct Offers {
    give_up: Instant,
    /// When the last one was made.
    began: Instant,
    backoff: Backoff,
}

impl Offers {
    fn until(give_up: Instant) -> Self {
        let backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        Self { give_up, began: Instant::now(), backoff }
    }

    /// One offer; what came of the event, if this was the last one.
    async fn next(&mut self, relay: &Relay, event: &Event) -> Option<Told> {
        self.began = Instant::now();
        let is_late = self.began > self.give_up;
        match Box::pin(relay.request(event.clone())).await {
            Outcome::Replied(_) => Some(Told::Accepted),
            _ if is_late && relay.is_reachable() => Some(Told::GivenUp),
            _ => None,
        }
    }

    /// Waits for the time of the next. The time in which nobody could be asked does not count.
    async fn pause(&mut self, relay: &Relay) {
        let was_away = !relay.is_reachable();
        sleep(self.backoff.delay()).await;
        if was_away {
            self.give_up += self.began.elapsed();
        }
    }
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
    pub(super) const fn as_str(self) -> &'static str {
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
