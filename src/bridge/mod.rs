//! A worker that gives the events of a hub to an HTTP service: it is a member of a queue group on NATS as
//! long as the service can be reached, and replies with what the service answers.
//!
//! Each event that comes has one reply, and goes to the service at most once: by the same relay as a
//! node's own events over HTTP, with the same outcomes.

mod event;
mod reply;
mod room;

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{HeaderMap, HeaderValue};
use http::StatusCode;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{self, AuthMode, Route};
use crate::event::{Event, Outcome};
use crate::metrics::{BridgeMetrics, Metrics, NOT_AN_EVENT, NOT_CARRIED};
use crate::nats::{Delivery, Feed, LogLimit, Reply, RequestError, Subjects};
use crate::relay::{Fence, Gates, Hold, Relay, RelayError};
use crate::task::Tasks;
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
    /// Whether it has ever been in the group.
    has_joined: AtomicBool,
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
    _place: Place,
}

/// The bridge's route in metrics and logs.
const ROUTE: &str = "bridge";
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
            has_joined: AtomicBool::new(false),
            tasks: tasks.clone(),
            not_events: LogLimit::new(),
            not_carried: LogLimit::new(),
            lost: LogLimit::new(),
        })
    }

    /// Takes events whenever the service can be reached, until `stop`. When it ends the bridge has left the
    /// group and everything that it was given has a task.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(self.relay.reached()).await.is_some() {
            self.be_a_member(&stop).await;
        }
    }

    /// Whether it has ever been in its group.
    #[must_use]
    pub fn has_joined(&self) -> bool {
        self.has_joined.load(Ordering::Acquire)
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

    /// Is in the group until the service cannot be reached, or `stop`.
    async fn be_a_member(self: &Arc<Self>, stop: &CancellationToken) {
        let (hub, queue) = (self.route.hub.as_str(), &*self.queue);
        let mut group = self.feed.join(self.subjects.events(&self.route.hub), queue).await;
        self.has_joined.store(true, Ordering::Release);
        self.metrics.joined.set(1);
        tracing::info!(hub, queue, "joined the queue group");
        let shut = self.relay.shut();
        tokio::pin!(shut);
        let is_stopping = loop {
            tokio::select! {
                () = stop.cancelled() => break true,
                () = &mut shut => break false,
                Some(delivery) = group.next() => self.take(delivery).await,
            }
        };
        group.leave(Instant::now() + LEAVE_TIMEOUT);
        while let Some(delivery) = group.next().await {
            self.take(delivery).await;
        }
        self.metrics.joined.set(0);
        tracing::info!(hub, queue, is_stopping, "left the queue group");
    }

    /// Begins what is to be done for a message.
    async fn take(self: &Arc<Self>, delivery: Delivery) {
        let Delivery { reply, headers, payload, .. } = delivery;
        let Some(reply) = reply.filter(|reply| self.subjects.is_inbox(reply)) else {
            return self.not_an_event(&"it has no reply subject that is an inbox");
        };
        let Some(place) = self.room.enter(payload.len() + size(&headers)) else {
            self.metrics.event(Outcome::Overloaded.as_str());
            return self.fail(&reply, StatusCode::SERVICE_UNAVAILABLE, &"the bridge is full").await;
        };
        match event::read(&headers, payload, &self.route) {
            Ok(event) => {
                let (bridge, asked) = (Arc::clone(self), Asked { event, reply, _place: place });
                self.tasks.spawn("event", async move { bridge.give(asked).await });
            }
            Err(error) => {
                self.not_an_event(&error);
                self.fail(&reply, StatusCode::BAD_GATEWAY, &error).await;
            }
        }
    }

    /// Gives an event to the service and replies with what came of it.
    async fn give(&self, asked: Asked) {
        let id = asked.event.id();
        let outcome = self.relay.request(asked.event).await;
        let carried = match reply::write(&outcome) {
            Ok(reply) => self.send(&asked.reply, reply, REPLY_TIMEOUT).await,
            Err(error) => Err(error),
        };
        let Err(error) = carried else { return self.metrics.event(outcome.as_str()) };
        self.metrics.event(NOT_CARRIED);
        if let Some(left_out) = self.not_carried.admit(Instant::now()) {
            tracing::warn!(event_id = id, %error, left_out, "answer cannot be carried over NATS");
        }
        self.fail(&asked.reply, StatusCode::BAD_GATEWAY, &error).await;
    }

    /// Replies with a failure of the bridge's own.
    async fn fail(&self, to: &async_nats::Subject, status: StatusCode, why: &(dyn Display + Sync)) {
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
                self.metrics.lost_replies.inc();
                if let Some(left_out) = self.lost.admit(Instant::now()) {
                    tracing::warn!(%error, left_out, "reply lost");
                }
                Ok(())
            }
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
