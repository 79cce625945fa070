//! Events as NATS requests.

use tokio::time::Instant;

use super::dispatch::{Asked, Carrier, Dispatch, Tried};
use super::hold::Hold;
use super::measure::Measure;
use super::ways::Ways;
use super::{Fence, RelayError, cloudevent, reply};
use crate::config::{Backend, Route};
use crate::event::{Event, Outcome};
use crate::nats::{Nats, Pending, RequestError, Subject, Subjects};

/// Workers behind NATS.
#[derive(Debug)]
pub struct NatsRelay {
    nats: Nats,
    ways: Ways<Subject>,
    dispatch: Dispatch,
}

impl NatsRelay {
    pub(super) fn new(
        route: &Route,
        nats: Option<&Nats>,
        hold: &Hold,
        fence: &Fence,
    ) -> Result<Self, RelayError> {
        let nats = nats.ok_or(RelayError::NoNats)?;
        let subjects = match &route.backend {
            Backend::Nats(prefix) if !prefix.is_empty() => {
                Subjects::new(prefix).map_err(RelayError::Prefix)?
            }
            _ => nats.subjects().clone(),
        };
        let place = |kind, action: Option<&str>| {
            let subject = match action {
                Some(action) => subjects.action(&route.hub, action),
                None => subjects.event(&route.hub, kind),
            };
            (subject.as_str().to_owned(), subject)
        };
        let ways = Ways::new(route, hold, fence, place);
        Ok(Self { nats: nats.clone(), ways, dispatch: Dispatch::new(route) })
    }

    pub(super) fn is_connected(&self) -> bool {
        self.nats.is_connected()
    }

    /// Cancel safe in that dropping the future leaves nothing behind.
    pub(super) async fn request(&self, event: &Event, measure: &mut Measure<'_>) -> Outcome {
        let asked = Asked { event, data: event.data(), way: self.ways.of(&event.body) };
        self.dispatch.request(self, &asked, measure).await
    }
}

impl Carrier for NatsRelay {
    type Place = Subject;
    type Sent = Pending;

    async fn up(&self) {
        self.nats.up().await;
    }

    async fn send(&self, asked: &Asked<'_, Subject>, deadline: Instant) -> Result<Pending, Tried> {
        let event = asked.event;
        let headers = match cloudevent::headers(event) {
            Ok(headers) => headers,
            Err(error) => return Err(self.dispatch.not_sent(event, &error)),
        };
        let (subject, data) = (&asked.way.place, asked.data.clone());
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
        asked: &Asked<'_, Subject>,
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
