//! A worker that gives the events of a hub to an HTTP service: it is a member of a queue group on NATS as
//! long as the service can be reached, and replies with what the service answers.
//!
//! Each event that comes has one reply, and goes to the service at most once: by the same relay as a
//! node's own events over HTTP, with the same outcomes.

mod event;
mod reply;
mod room;

use std::fmt::Display;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{HeaderMap, HeaderValue};
use http::StatusCode;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::config::{self, AuthMode, Route};
use crate::event::{Event, Outcome};
use crate::metrics::{BridgeMetrics, Metrics, NOT_AN_EVENT, NOT_CARRIED};
use crate::nats::{Delivery, Feed, LogLimit, Reply, RequestError, Subjects};
use crate::relay::{Fence, Gates, Hold, Relay, RelayError};
use crate::task::{Backoff, Tasks};
use reply::NotCarried;
use room::{Place, Room};

/// The way from a queue group to a service.
#[derive(Debug)]
pub struct Bridge {
    /// Stands for the routes of the nodes, which the events do not name.
    route: Arc<Route>,
    queue: String,
    subjects: Subjects,
    feed: Feed,
    relay: Relay,
    room: Room,
    /// Why it is not ready. Held for an assignment.
    waits_for: Mutex<Option<&'static str>>,
    metrics: BridgeMetrics,
    /// One for each event.
    tasks: Tasks,
    not_events: LogLimit,
    not_carried: LogLimit,
    lost: LogLimit,
}

/// An event, and who waits for what comes of it.
struct Asked {
    event: Event,
    reply: async_nats::Subject,
    place: Place,
}

/// Why a bridge is in its group no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Stopped,
    /// The service is left alone.
    Unreachable,
    /// NATS refuses the subscription.
    Refused,
}

const NOT_REACHED: &str = "the service or NATS was not reached yet\n";
const REFUSED: &str = "NATS refuses the bridge a subscription\n";
/// The first pause and the longest one before NATS is asked again for what it has refused.
const REFUSED_FIRST: Duration = Duration::from_secs(1);
const REFUSED_MAX: Duration = Duration::from_secs(10);
/// The bridge's route in metrics and logs.
const ROUTE: &str = "bridge";
/// How long the server may take to know that the bridge is in the group.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
/// How long the server may take to know that the bridge has left the group.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a reply waits for NATS to be back. A server that was restarted is found within 2 s.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// The same of a failure, behind which events may wait.
const FAILURE_TIMEOUT: Duration = Duration::from_millis(100);

impl Bridge {
    /// A bridge that is in no group yet. Events are taken from `feed` below `subjects`, and each has a task
    /// of `tasks`. Blocks while it reads the files of the backend.
    ///
    /// # Errors
    /// When the service's URLs or files cannot be used.
    pub fn new(
        config: &config::Bridge,
        subjects: Subjects,
        feed: Feed,
        gates: &Gates,
        metrics: &Metrics,
        tasks: &Tasks,
    ) -> Result<Self, RelayError> {
        let route = Route {
            hub: config.hub.clone(),
            backend: config.backend.clone(),
            request_timeout: config.request_timeout,
            hold: config.hold,
            ..Route::new(ROUTE, AuthMode::None)
        };
        let bytes = config.max_bytes.bytes();
        let hold = Hold::new(bytes);
        let relay = Relay::new(&route, None, gates, &hold, &Fence::open(), metrics)?;
        Ok(Self {
            metrics: metrics.bridge(route.hub.as_str()),
            route: Arc::new(route),
            queue: config.queue.clone(),
            subjects,
            feed,
            relay,
            room: Room::new(config.max_events, bytes),
            waits_for: Mutex::new(Some(NOT_REACHED)),
            tasks: tasks.clone(),
            not_events: LogLimit::new(),
            not_carried: LogLimit::new(),
            lost: LogLimit::new(),
        })
    }

    /// Takes events whenever the service can be reached, until `stop`. When it ends the bridge has left the
    /// group and everything that it was given has a task.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut pauses = Backoff::new(REFUSED_FIRST, REFUSED_MAX);
        while stop.run_until_cancelled(self.relay.reached()).await.is_some() {
            if Box::pin(self.be_a_member(&stop)).await == End::Refused {
                // Who may do so can permit it while the bridge runs.
                stop.run_until_cancelled(sleep(pauses.delay())).await;
            } else {
                pauses.reset();
            }
        }
    }

    /// What it waits for until it was in its group once, so that the one that it takes the place of goes on
    /// until then. A later outage does not end it, for whoever asks cannot do anything about that; that NATS
    /// refuses it does.
    #[must_use]
    pub fn waits_for(&self) -> Option<&'static str> {
        *self.waits_for.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for(&self, what: Option<&'static str>) {
        *self.waits_for.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// The longest that it may take to leave the group and answer all that is here.
    #[must_use]
    pub fn longest(&self) -> Duration {
        let event = self.route.hold.get() + self.route.request_timeout.get();
        LEAVE_TIMEOUT + event + REPLY_TIMEOUT + FAILURE_TIMEOUT
    }

    /// How many events are here.
    #[must_use]
    pub fn events(&self) -> usize {
        self.tasks.len()
    }

    /// Is in the group until something ends that.
    async fn be_a_member(self: &Arc<Self>, stop: &CancellationToken) -> End {
        let (hub, queue) = (self.route.hub.as_str(), &*self.queue);
        let mut refusals = self.feed.refusals();
        let mut group = self.feed.join(self.subjects.events(&self.route.hub), queue).await;
        let mut shut = pin!(self.relay.shut());
        let mut known = pin!(self.known());
        let mut is_known = false;
        let end = loop {
            let delivery = tokio::select! {
                biased;
                () = stop.cancelled() => break End::Stopped,
                () = &mut shut => break End::Unreachable,
                // It cannot be an error: the sender is in `self`.
                _ = refusals.changed() => break End::Refused,
                () = &mut known, if !is_known => None,
                Some(delivery) = group.next() => Some(delivery),
            };
            if !is_known {
                is_known = true;
                self.wait_for(None);
                self.metrics.joined.set(1);
                tracing::info!(hub, queue, "joined the queue group");
            }
            if let Some(delivery) = delivery {
                self.take(delivery).await;
            }
        };
        if end == End::Refused {
            self.wait_for(Some(REFUSED));
            tracing::warn!(hub, queue, "NATS refuses the bridge a subscription");
        }
        group.leave(Instant::now() + LEAVE_TIMEOUT);
        while let Some(delivery) = group.next().await {
            self.take(delivery).await;
        }
        self.metrics.joined.set(0);
        if is_known {
            tracing::info!(hub, queue, is_stopping = end == End::Stopped, "left the queue group");
        }
        end
    }

    /// Ends when the server has taken what was subscribed to. Had it refused, it would have said so before it
    /// answers, but the library tells of that by another task: the second round is the time for it.
    async fn known(&self) {
        for _ in 0..2 {
            self.feed.confirmed(Instant::now() + FOR_EVER).await;
        }
    }

    /// Begins what is to be done for a message.
    async fn take(self: &Arc<Self>, delivery: Delivery) {
        let Delivery { reply, headers, payload, .. } = delivery;
        let Some(reply) = reply.filter(|reply| self.subjects.is_inbox(reply)) else {
            return self.not_an_event(&"it has no reply subject that is an inbox");
        };
        let Some(place) = self.room.enter(payload.len() + size(&headers)) else {
            self.metrics.event(Outcome::Overloaded.as_str());
            let failing = self.fail(&reply, StatusCode::SERVICE_UNAVAILABLE, &"the bridge is full");
            return Box::pin(failing).await;
        };
        match event::read(&headers, payload, &self.route) {
            Ok(event) => {
                let asked = Asked { event, reply, place };
                self.tasks.spawn("event", Arc::clone(self).give(asked));
            }
            Err(error) => {
                self.not_an_event(&error);
                Box::pin(self.fail(&reply, StatusCode::BAD_GATEWAY, &error)).await;
            }
        }
    }

    /// Gives an event to the service and replies with what came of it.
    async fn give(self: Arc<Self>, asked: Asked) {
        let Asked { event, reply: to, mut place } = asked;
        let id = event.id();
        let outcome = self.relay.request(event).await;
        let carried = match reply::write(&outcome) {
            // One that would have to wait, and has no room to.
            Ok(Reply { headers, payload, .. })
                if !self.feed.is_up() && !place.fits(payload.len() + size(&headers)) =>
            {
                self.is_lost(RequestError::Full);
                Ok(())
            }
            Ok(reply) => self.send(&to, reply, REPLY_TIMEOUT).await,
            Err(error) => Err(error),
        };
        let Err(error) = carried else { return self.metrics.event(outcome.as_str()) };
        self.metrics.event(NOT_CARRIED);
        if let Some(left_out) = self.not_carried.admit(Instant::now()) {
            tracing::warn!(event_id = id, %error, left_out, "answer cannot be carried over NATS");
        }
        Box::pin(self.fail(&to, StatusCode::BAD_GATEWAY, &error)).await;
    }

    /// Replies with a failure of the bridge's own, unless NATS is away.
    async fn fail(&self, to: &async_nats::Subject, status: StatusCode, why: &(dyn Display + Sync)) {
        if !self.feed.is_up() {
            return self.is_lost(RequestError::NotConnected);
        }
        // It is small enough for any server.
        let _ = self.send(to, reply::failed(status, why), FAILURE_TIMEOUT).await;
    }

    /// A reply that NATS does not take in time is lost.
    async fn send(
        &self,
        to: &async_nats::Subject,
        reply: Reply,
        timeout: Duration,
    ) -> Result<(), NotCarried> {
        match self.feed.reply(to, reply, Instant::now() + timeout).await {
            Ok(()) => Ok(()),
            Err(RequestError::TooLarge { maximum, .. }) => Err(NotCarried::TooLarge(maximum)),
            Err(error) => {
                self.is_lost(error);
                Ok(())
            }
        }
    }

    /// A reply did not go to NATS.
    fn is_lost(&self, error: RequestError) {
        self.metrics.lost_replies.inc();
        if let Some(left_out) = self.lost.admit(Instant::now()) {
            tracing::warn!(%error, left_out, "reply lost");
        }
    }

    fn not_an_event(&self, error: &dyn Display) {
        self.metrics.event(NOT_AN_EVENT);
        if let Some(left_out) = self.not_events.admit(Instant::now()) {
            let hub = self.route.hub.as_str();
            tracing::warn!(hub, %error, left_out, "a message is no event");
        }
    }
}

fn size(headers: &HeaderMap) -> usize {
    let of =
        |values: &[HeaderValue]| values.iter().map(|value| value.as_str().len()).sum::<usize>();
    headers.iter().map(|(_, values)| of(values)).sum()
}
