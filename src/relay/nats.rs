//! Events as NATS requests.

use std::sync::Arc;

use tokio::time::Instant;

use super::dispatch::{Asked, ByKind, Carrier, Dispatch, Tried};
use super::hold::{Hold, Line};
use super::measure::Measure;
use super::{Fence, RelayError, cloudevent, reply};
use crate::config::{Backend, Route};
use crate::event::{Event, Outcome};
use crate::nats::{Nats, Pending, RequestError, Subject, Subjects};

/// Workers behind NATS.
#[derive(Debug)]
pub struct NatsRelay {
    nats: Nats,
    ways: ByKind<Way>,
    dispatch: Dispatch,
}

/// Where one kind of event goes, and those who wait to go there.
#[derive(Debug)]
struct Way {
    subject: Subject,
    line: Arc<Line>,
}

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
        let way = |kind| {
            let subject = subjects.event(&route.hub, kind);
            Way { line: hold.line(subject.as_str()), subject }
        };
        Ok(Self {
            nats: nats.clone(),
            ways: ByKind::new(way),
            dispatch: Dispatch::new(route, fence),
        })
    }

    pub(super) fn is_connected(&self) -> bool {
        self.nats.is_connected()
    }

    /// Cancel safe in that dropping the future leaves nothing behind.
    pub(super) async fn request(&self, event: &Event, measure: &mut Measure<'_>) -> Outcome {
        let asked =
            Asked { event, data: event.body.data(), line: &self.ways.of(event.kind()).line };
        self.dispatch.request(self, &asked, measure).await
    }
}

impl Carrier for NatsRelay {
    type Sent = Pending;

    async fn up(&self) {
        self.nats.up().await;
    }

    async fn send(&self, asked: &Asked<'_>, deadline: Instant) -> Result<Pending, Tried> {
        let event = asked.event;
        let headers = match cloudevent::headers(event) {
            Ok(headers) => headers,
            Err(error) => return Err(self.dispatch.not_sent(event, &error)),
        };
        let (subject, data) = (&self.ways.of(event.kind()).subject, asked.data.clone());
        let sent = self.nats.send(event.peer.id, subject, headers, data, deadline).await;
        sent.map_err(|error| match error {
            RequestError::NotConnected | RequestError::NoResponders => Tried::NotProcessed,
            RequestError::TimedOut | RequestError::Lost => Tried::Done(Outcome::Unknown),
            RequestError::Full | RequestError::TooLarge { .. } | RequestError::Invalid => {
                self.dispatch.not_sent(event, &error)
            }
        })
    }

    async fn ended(
        &self,
        asked: &Asked<'_>,
        pending: &mut Pending,
        until: Instant,
    ) -> Option<Tried> {
        match pending.reply(until).await {
            Ok(reply) => {
                let outcome = reply::outcome(&asked.event.body, &reply);
                let broken = |broken| self.dispatch.broken(asked.event, &broken);
                Some(Tried::Done(outcome.unwrap_or_else(broken)))
            }
            Err(RequestError::NoResponders) => Some(Tried::NotProcessed),
            Err(RequestError::TimedOut) => None,
            Err(_) => Some(Tried::Done(Outcome::Unknown)),
        }
    }
}
