//! Giving an event to a backend: at once, or in line with all others until one is there. The same for
//! every kind of backend; a [`Carrier`] makes the single try.
//!
//! Each event is given away at most once; only one that certainly came to no backend is held and tried
//! again.

use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Fence;
use super::hold::Place;
use super::measure::{Held, Measure};
use super::reply::BAD_GATEWAY;
use super::ways::Way;
use crate::config::Route;
use crate::event::{Event, EventBody, Outcome, Refusal};
use crate::nats::LogLimit;

/// What is the same for every event of a route.
#[derive(Debug)]
pub(super) struct Dispatch {
    /// How long an event waits for a backend to appear.
    hold: Duration,
    /// How long a backend may take to answer.
    request_timeout: Duration,
    /// For log lines.
    route: String,
    broken: LogLimit,
    unsendable: LogLimit,
}

/// An event on its way.
pub(super) struct Asked<'a, P> {
    pub(super) event: &'a Event,
    pub(super) data: Bytes,
    pub(super) way: &'a Way<P>,
}

impl<P> Asked<'_, P> {
    /// Whether the node may still speak for the connection. A carrier that waits before it sends looks
    /// again after that.
    pub(super) fn may_go(&self) -> Result<(), Tried> {
        if self.way.fence.as_ref().is_some_and(Fence::is_shut) {
            return Err(Tried::NotProcessed);
        }
        if self.event.peer.is_disowned() {
            return Err(Tried::Done(Outcome::Unavailable));
        }
        Ok(())
    }
}

/// What came of one try.
pub(super) enum Tried {
    /// The event has its outcome.
    Done(Outcome),
    /// Certainly no backend has it; it may be sent again.
    NotProcessed,
}

/// The way to one kind of backend.
pub(super) trait Carrier: Sync {
    /// Where it brings events.
    type Place: Sync;
    /// An event that a backend may have from now on.
    type Sent: Send;

    /// Ends when a try has a chance at all. Cancel safe.
    fn up(&self) -> impl Future<Output = ()> + Send;

    /// Begins a try, or says what came of it when it did not begin until `deadline`.
    fn send(
        &self,
        asked: &Asked<'_, Self::Place>,
        deadline: Instant,
    ) -> impl Future<Output = Result<Self::Sent, Tried>> + Send;

    /// What came of a try, when that is known before `until`. Cancel safe: it can be asked again.
    fn ended(
        &self,
        asked: &Asked<'_, Self::Place>,
        sent: &mut Self::Sent,
        until: Instant,
    ) -> impl Future<Output = Option<Tried>> + Send;
}

/// Silence after a try until it counts as taken by a backend. A NATS server says that nobody listens
/// within a fraction of a millisecond, or some for each hop of a large network.
const TAKEN_AFTER: Duration = Duration::from_millis(100);

impl Dispatch {
    pub(super) fn new(route: &Route) -> Self {
        Self {
            hold: route.hold.get(),
            request_timeout: route.request_timeout.get(),
            route: route.name().to_owned(),
            broken: LogLimit::new(),
            unsendable: LogLimit::new(),
        }
    }

    /// Cancel safe in that dropping the future leaves nothing behind.
    pub(super) async fn request<C: Carrier>(
        &self,
        carrier: &C,
        asked: &Asked<'_, C::Place>,
        measure: &mut Measure<'_>,
    ) -> Outcome {
        let until = Instant::now() + self.hold;
        // While others wait, a newcomer stands behind them and does not overtake.
        if asked.way.line.is_empty() || self.hold.is_zero() {
            match self.try_once(carrier, asked, measure).await {
                Tried::Done(outcome) => return outcome,
                Tried::NotProcessed if self.hold.is_zero() => return Outcome::Unavailable,
                Tried::NotProcessed => {}
            }
        }
        // Boxed, for few events come here and every event's future has room for it.
        Box::pin(self.request_later(carrier, asked, until, measure)).await
    }

    async fn try_once<C: Carrier>(
        &self,
        carrier: &C,
        asked: &Asked<'_, C::Place>,
        measure: &mut Measure<'_>,
    ) -> Tried {
        let deadline = Instant::now() + self.request_timeout;
        match self.send(carrier, asked, deadline, measure).await {
            Ok(mut sent) => tried(carrier.ended(asked, &mut sent, deadline).await, measure),
            Err(tried) => tried,
        }
    }

    /// Waits for a backend to appear until `until`, in line with all others that do.
    async fn request_later<C: Carrier>(
        &self,
        carrier: &C,
        asked: &Asked<'_, C::Place>,
        until: Instant,
        measure: &mut Measure<'_>,
    ) -> Outcome {
        let state = asked.event.state.as_ref().map_or(0, |state| state.as_str().len());
        // A dialect that writes the message anew holds it twice.
        let message = match &asked.event.body {
            EventBody::Message(message) if message.data().as_ptr() != asked.data.as_ptr() => {
                message.data().len()
            }
            _ => 0,
        };
        let size = asked.data.len() + message + state;
        // Certainly not processed, as if `Unavailable`; but it is the node that has no room, and
        // its operator who can give it more.
        let Some(place) = asked.way.line.join(size, Instant::now()) else {
            return Outcome::Overloaded;
        };
        loop {
            let held = measure.held();
            if timeout_at(until, may_try(carrier, &place)).await.is_err() {
                return Outcome::Unavailable;
            }
            match self.try_in_line(carrier, asked, &place, held, measure).await {
                Tried::Done(outcome) => return outcome,
                Tried::NotProcessed if Instant::now() >= until => return Outcome::Unavailable,
                Tried::NotProcessed => {}
            }
        }
    }

    /// One try of the first in line. The line goes on as soon as the event is as good as taken: at
    /// once when the one before was, else when there was an answer or a while of silence.
    async fn try_in_line<C: Carrier>(
        &self,
        carrier: &C,
        asked: &Asked<'_, C::Place>,
        place: &Place,
        held: Held<'_>,
        measure: &mut Measure<'_>,
    ) -> Tried {
        let was_open = place.try_at().is_none();
        let deadline = Instant::now() + self.request_timeout;
        let mut sent = match self.send(carrier, asked, deadline, measure).await {
            Ok(sent) => sent,
            Err(Tried::NotProcessed) => {
                place.close(Instant::now());
                return Tried::NotProcessed;
            }
            Err(done @ Tried::Done(_)) => return done,
        };
        let now = Instant::now();
        let silence = if was_open { now } else { deadline.min(now + TAKEN_AFTER) };
        let mut ended = carrier.ended(asked, &mut sent, silence).await;
        let is_silent = ended.is_none();
        let is_answered =
            matches!(&ended, Some(Tried::Done(outcome)) if *outcome != Outcome::Unknown);
        if !was_open && (is_silent || is_answered) {
            place.open();
        }
        if is_silent {
            place.leave();
            drop(held);
            ended = carrier.ended(asked, &mut sent, deadline).await;
        }
        match tried(ended, measure) {
            Tried::NotProcessed if is_silent => place.come_back(Instant::now()),
            Tried::NotProcessed => place.close(Instant::now()),
            done @ Tried::Done(_) => return done,
        }
        Tried::NotProcessed
    }

    async fn send<C: Carrier>(
        &self,
        carrier: &C,
        asked: &Asked<'_, C::Place>,
        deadline: Instant,
        measure: &mut Measure<'_>,
    ) -> Result<C::Sent, Tried> {
        asked.may_go()?;
        let sent = carrier.send(asked, deadline).await?;
        measure.may_be_processed(true);
        Ok(sent)
    }

    /// A reply that breaks the contract counts as a refusal without a word for the client, for the
    /// backend has had the event and what it wanted cannot be told.
    pub(super) fn broken(&self, event: &Event, broken: &dyn Display) -> Outcome {
        if let Some(left_out) = self.broken.admit(Instant::now()) {
            let (route, event_id) = (&*self.route, event.id());
            tracing::warn!(route, event_id, %broken, left_out, "backend broke the contract");
        }
        Outcome::Refused(Refusal::broken(BAD_GATEWAY))
    }

    /// The event could never be sent.
    pub(super) fn not_sent(&self, event: &Event, error: &dyn Display) -> Tried {
        if let Some(left_out) = self.unsendable.admit(Instant::now()) {
            let (route, event_id) = (&*self.route, event.id());
            tracing::warn!(route, event_id, %error, left_out, "event cannot be sent");
        }
        Tried::Done(Outcome::Overloaded)
    }
}

/// What the end of a try means; none: it did not end in time.
fn tried(ended: Option<Tried>, measure: &mut Measure<'_>) -> Tried {
    match ended {
        None => Tried::Done(Outcome::Unknown),
        Some(Tried::NotProcessed) => {
            measure.may_be_processed(false);
            Tried::NotProcessed
        }
        Some(done) => done,
    }
}

/// Ends when the event stands first, its line's pause is over and a try has a chance. Cancel safe.
async fn may_try<C: Carrier>(carrier: &C, place: &Place) {
    place.turn().await;
    if let Some(at) = place.try_at() {
        sleep_until(at).await;
    }
    carrier.up().await;
}
