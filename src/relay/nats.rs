//! Events as NATS requests. Each is published at most once; only one that certainly came to no
//! worker is held and published again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::actions::Actions;
use super::hold::{Hold, Line, Place};
use super::measure::{Held, Measure};
use super::{Fence, RelayError, cloudevent, reply};
use crate::config::{Backend, EventKind, Route};
use crate::event::{Event, EventBody, Outcome, Refusal};
use crate::nats::{LogLimit, Nats, Pending, Reply, RequestError, Subject, Subjects};

/// Workers behind NATS.
#[derive(Debug)]
pub struct NatsRelay {
    nats: Nats,
    connect: Way,
    connected: Way,
    message: Way,
    /// The messages that have a subject of their own.
    actions: Actions<Way>,
    disconnected: Way,
    /// How long an event waits for a backend to appear.
    hold: Duration,
    /// How long a backend may take to answer.
    request_timeout: Duration,
    /// For log lines.
    route: String,
    broken: LogLimit,
    unsendable: LogLimit,
}

/// Where one kind of event goes, and those who wait to go there.
#[derive(Debug)]
struct Way {
    subject: Subject,
    line: Arc<Line>,
    /// Whether the node may speak for the route's connections; none where nobody else would, and for
    /// the last event, which others tell as well.
    fence: Option<Fence>,
}

/// An event on its way.
struct Asked<'a> {
    way: &'a Way,
    event: &'a Event,
    data: Bytes,
}

/// What came of one try.
enum Tried {
    /// The event has its outcome.
    Done(Outcome),
    /// Certainly no worker has it; it may be sent again.
    NotProcessed,
}

/// Silence after a try until it counts as taken by a worker. The server says that nobody listens
/// within a fraction of a millisecond, or some for each hop of a large NATS network.
const TAKEN_AFTER: Duration = Duration::from_millis(100);

impl NatsRelay {
    pub(super) fn new(
        route: &Route,
        nats: Option<&Nats>,
        hold: &Hold,
        fence: &Fence,
    ) -> Result<Self, RelayError> {
        let name = || route.name().to_owned();
        let nats = nats.ok_or_else(|| RelayError::NoNats { route: name() })?;
        let subjects = match &route.backend {
            Backend::Nats(prefix) if !prefix.is_empty() => Subjects::new(prefix)
                .map_err(|source| RelayError::Prefix { route: name(), source })?,
            _ => nats.subjects().clone(),
        };
        let way_to = |kind, subject: Subject| {
            let is_fenced = kind != EventKind::Disconnected && route.wants(EventKind::Disconnected);
            let line = hold.line(&subject, is_fenced);
            Way { subject, line, fence: is_fenced.then(|| fence.clone()) }
        };
        let way = |kind| way_to(kind, subjects.event(&route.hub, kind));
        Ok(Self {
            nats: nats.clone(),
            connect: way(EventKind::Connect),
            connected: way(EventKind::Connected),
            message: way(EventKind::Message),
            actions: Actions::new(&route.actions, |action| {
                way_to(EventKind::Message, subjects.action(&route.hub, action))
            }),
            disconnected: way(EventKind::Disconnected),
            hold: route.hold.get(),
            request_timeout: route.request_timeout.get(),
            route: name(),
            broken: LogLimit::new(),
            unsendable: LogLimit::new(),
        })
    }

    pub(super) fn is_connected(&self) -> bool {
        self.nats.is_connected()
    }

    /// Cancel safe in that dropping the future leaves nothing behind.
    pub(super) async fn request(&self, event: &Event, measure: &mut Measure<'_>) -> Outcome {
        let until = Instant::now() + self.hold;
        let asked = Asked { way: self.way(&event.body), event, data: event.body.data() };
        // While others wait on the subject, a newcomer stands behind them and does not overtake.
        if asked.way.line.is_empty() || self.hold.is_zero() {
            match self.try_once(&asked, measure).await {
                Tried::Done(outcome) => return outcome,
                Tried::NotProcessed if self.hold.is_zero() => return Outcome::Unavailable,
                Tried::NotProcessed => {}
            }
        }
        // Boxed, for few events come here and every event's future has room for it.
        Box::pin(self.request_later(&asked, until, measure)).await
    }

    async fn try_once(&self, asked: &Asked<'_>, measure: &mut Measure<'_>) -> Tried {
        let deadline = Instant::now() + self.request_timeout;
        match self.send(asked, deadline, measure).await {
            Ok(mut pending) => self.tried(asked.event, pending.reply(deadline).await, measure),
            Err(tried) => tried,
        }
    }

    /// Waits for a backend to appear until `until`, in line with all others that do.
    async fn request_later(
        &self,
        asked: &Asked<'_>,
        until: Instant,
        measure: &mut Measure<'_>,
    ) -> Outcome {
        let state = asked.event.state.as_ref().map_or(0, |state| state.as_str().len());
        let size = asked.data.len() + state;
        // Certainly not processed, as if `Unavailable`; but it is the node that has no room, and
        // its operator who can give it more.
        let Some(place) = asked.way.line.join(size, Instant::now()) else {
            return Outcome::Overloaded;
        };
        loop {
            let held = measure.held();
            if timeout_at(until, self.may_try(&place)).await.is_err() {
                return Outcome::Unavailable;
            }
            match self.try_in_line(asked, &place, held, measure).await {
                Tried::Done(outcome) => return outcome,
                Tried::NotProcessed if Instant::now() >= until => return Outcome::Unavailable,
                Tried::NotProcessed => {}
            }
        }
    }

    /// Ends when the event stands first, its line's pause is over and NATS is connected. Cancel
    /// safe.
    async fn may_try(&self, place: &Place) {
        place.turn().await;
        if let Some(at) = place.try_at() {
            sleep_until(at).await;
        }
        self.nats.up().await;
    }

    /// One try of the first in line. The line goes on as soon as the event is as good as taken: at
    /// once when the one before was, else when there was an answer or a while of silence.
    async fn try_in_line(
        &self,
        asked: &Asked<'_>,
        place: &Place,
        held: Held<'_>,
        measure: &mut Measure<'_>,
    ) -> Tried {
        let was_open = place.try_at().is_none();
        let sent = Instant::now();
        let deadline = sent + self.request_timeout;
        let mut pending = match self.send(asked, deadline, measure).await {
            Ok(pending) => pending,
            Err(Tried::NotProcessed) => {
                place.close(Instant::now());
                return Tried::NotProcessed;
            }
            Err(done @ Tried::Done(_)) => return done,
        };
        let silence = if was_open { sent } else { deadline.min(sent + TAKEN_AFTER) };
        let mut ended = pending.reply(silence).await;
        let is_silent = matches!(ended, Err(RequestError::TimedOut));
        if !was_open && (is_silent || ended.is_ok()) {
            place.open();
        }
        if is_silent {
            place.leave();
            drop(held);
            ended = pending.reply(deadline).await;
        }
        match self.tried(asked.event, ended, measure) {
            Tried::NotProcessed if is_silent => place.come_back(Instant::now()),
            Tried::NotProcessed => place.close(Instant::now()),
            done @ Tried::Done(_) => return done,
        }
        Tried::NotProcessed
    }

    async fn send(
        &self,
        asked: &Asked<'_>,
        deadline: Instant,
        measure: &mut Measure<'_>,
    ) -> Result<Pending, Tried> {
        if asked.way.fence.as_ref().is_some_and(Fence::is_shut) {
            return Err(Tried::NotProcessed);
        }
        if asked.event.peer.is_disowned() {
            return Err(Tried::Done(Outcome::Unavailable));
        }
        let headers = match cloudevent::headers(asked.event) {
            Ok(headers) => headers,
            Err(error) => return Err(self.not_sent(asked.event, &error)),
        };
        let (key, data) = (asked.event.peer.id, asked.data.clone());
        match self.nats.send(key, &asked.way.subject, headers, data, deadline).await {
            Ok(pending) => {
                measure.may_be_processed(true);
                Ok(pending)
            }
            Err(RequestError::NotConnected | RequestError::NoResponders) => {
                Err(Tried::NotProcessed)
            }
            Err(RequestError::TimedOut | RequestError::Lost) => Err(Tried::Done(Outcome::Unknown)),
            Err(
                error
                @ (RequestError::Full | RequestError::TooLarge { .. } | RequestError::Invalid),
            ) => Err(self.not_sent(asked.event, &error)),
        }
    }

    /// What the end of a published request means.
    fn tried(
        &self,
        event: &Event,
        ended: Result<Reply, RequestError>,
        measure: &mut Measure<'_>,
    ) -> Tried {
        match ended {
            Ok(reply) => Tried::Done(self.outcome(event, &reply)),
            Err(RequestError::NoResponders) => {
                measure.may_be_processed(false);
                Tried::NotProcessed
            }
            Err(_) => Tried::Done(Outcome::Unknown),
        }
    }

    /// A reply that breaks the contract counts as a refusal without a word for the client, for the
    /// backend has had the event and what it wanted cannot be told.
    fn outcome(&self, event: &Event, reply: &Reply) -> Outcome {
        reply::outcome(&event.body, reply).unwrap_or_else(|broken| {
            if let Some(left_out) = self.broken.admit(Instant::now()) {
                let (route, event_id) = (&*self.route, event.id());
                tracing::warn!(route, event_id, %broken, left_out, "backend broke the contract");
            }
            Outcome::Refused(Refusal { status: reply::BAD_GATEWAY, message: None })
        })
    }

    /// The event could never be sent.
    fn not_sent(&self, event: &Event, error: &dyn std::fmt::Display) -> Tried {
        if let Some(left_out) = self.unsendable.admit(Instant::now()) {
            let (route, event_id) = (&*self.route, event.id());
            tracing::warn!(route, event_id, %error, left_out, "event cannot be sent");
        }
        Tried::Done(Outcome::Overloaded)
    }

    fn way(&self, event: &EventBody) -> &Way {
        match event {
            EventBody::Connect(_) => &self.connect,
            EventBody::Connected => &self.connected,
            EventBody::Message(message) => self.actions.place(message).unwrap_or(&self.message),
            EventBody::Disconnected(_) => &self.disconnected,
        }
    }
}
