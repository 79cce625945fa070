//! Events as HTTP requests: one relay for every dialect, with its connections, its bounds and what it
//! knows of the servers. A dialect is a pure map, from an event to a request and from an answer to an
//! outcome.

mod health;
mod gate;
mod cloudevents;
mod websocket_over_http;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use tokio::time::{Instant, sleep, timeout_at};

use super::dispatch::{Asked, Carrier, Dispatch, Tried};
use super::hold::Hold;
use super::measure::Measure;
use super::ways::Ways;
use super::{Fence, RelayError, reply};
use crate::config::{Dialect, EventKind, HttpBackend, Route};
use crate::event::{Event, EventBody, Outcome};
use crate::http_client::{Connection, ExchangeError, Server};
use crate::metrics::Metrics;
use crate::task::Backoff;
use crate::tls;

pub use gate::Gates;
use gate::{Gate, InVain, Key, Place};
use health::{Failure, Pass};
use websocket_over_http::Signer;

/// An HTTP service.
#[derive(Debug)]
pub struct HttpRelay {
    dialect: Dialect,
    /// By the place of its URL in the config.
    servers: Box<[Server]>,
    gate: Arc<Gate>,
    /// What shows the service that a request is moorline's.
    secret: Option<HeaderValue>,
    signer: Option<Signer>,
    ways: Ways<Targets>,
    dispatch: Dispatch,
}

/// The path and query of requests, by the place of each server.
type Targets = Box<[PathAndQuery]>;

/// An event that a server may have. Dropping it closes the connection.
pub(in crate::relay) struct Sent {
    answer: Pin<Box<dyn Future<Output = Result<Response<Bytes>, ExchangeError>> + Send>>,
    deadline: Instant,
    /// None once there is a verdict.
    pass: Option<Pass>,
    _place: Place,
}

/// How an answer broke the contract, beside what an answer over NATS can.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the answer is {0}, which leads elsewhere")]
    Status(StatusCode),
    #[error("the answer has a Content-Encoding, and none was asked for")]
    Coding,
    #[error(transparent)]
    Reply(#[from] reply::Broken),
    #[error(transparent)]
    WebsocketOverHttp(#[from] websocket_over_http::Broken),
}

/// The most bytes of an answer's body: as much as a NATS server takes by default.
const MAX_ANSWER: usize = 1024 * 1024;
/// Pauses between connections that are tried to find out whether a server takes any. A server that is
/// left alone is not tried each time.
const KNOCK_FIRST: Duration = Duration::from_millis(25);
const KNOCK_MAX: Duration = Duration::from_millis(250);
/// More than any `connect_timeout`, which is what counts.
const KNOCK_TIMEOUT: Duration = Duration::from_secs(120);
const SECRET: HeaderName = HeaderName::from_static("moorline-secret");

impl HttpRelay {
    /// Blocks while it reads the secret and the authorities.
    pub(super) fn new(
        route: &Route,
        backend: &HttpBackend,
        gates: &Gates,
        hold: &Hold,
        fence: &Fence,
        metrics: &Metrics,
    ) -> Result<Self, RelayError> {
        let urls = backend.urls.as_slice();
        let tls = if urls.iter().any(|url| url.to_ascii_lowercase().starts_with("https:")) {
            let config = tls::client_config(backend.ca.as_deref(), None);
            Some(Arc::new(config.map_err(RelayError::Tls)?))
        } else {
            None
        };
        let server = |url: &String| {
            let url: Uri = url.parse().ok()?;
            let timeout = backend.connect_timeout.get();
            Server::new(&url, tls.as_ref(), timeout, &gates.tasks).ok()
        };
        let servers: Option<Box<[Server]>> = urls.iter().map(server).collect();
        let servers = servers.filter(|servers| (1..=InVain::MAX).contains(&servers.len()));
        let servers = servers.ok_or(RelayError::Url)?;
        let key = Key {
            hub: route.hub.as_str().to_owned(),
            route: route.name().to_owned(),
            backend: backend.clone(),
        };
        let place = |kind: EventKind, action: Option<&str>| {
            let (hub, route, urls) = (route.hub.as_str(), route.name(), urls.join(" "));
            // No subject has a space.
            let name = format!("{hub} {route} {} {} {urls}", kind.as_str(), action.unwrap_or(""));
            (name, servers.iter().map(|server| target(server.target(), action)).collect())
        };
        let ways = Ways::new(route, hold, fence, place);
        let names: Vec<&str> = servers.iter().map(Server::name).collect();
        let circuits = metrics.circuits(route.hub.as_str(), route.name());
        Ok(Self {
            dialect: backend.dialect,
            gate: gates.gate(key, &names, &circuits),
            ways,
            servers,
            secret: secret(backend)?,
            signer: signer(backend)?,
            dispatch: Dispatch::new(route),
        })
    }

    /// Whether any server may be asked, as far as is known.
    pub(super) fn is_reachable(&self) -> bool {
        self.gate.is_open(Instant::now())
    }

    /// Ends when no server may be asked. Cancel safe.
    pub(super) async fn shut(&self) {
        self.gate.shut().await;
    }

    /// Ends when a server takes a connection, which is asked nothing. Cancel safe.
    pub(super) async fn reached(&self) {
        let mut pauses = Backoff::new(KNOCK_FIRST, KNOCK_MAX);
        loop {
            let deadline = Instant::now() + KNOCK_TIMEOUT;
            if let Some((_, _, pass)) = self.connection(deadline).await {
                return pass.connected();
            }
            sleep(pauses.delay()).await;
        }
    }

    /// Whether the service does not want to hear of it.
    pub(super) fn is_unheard(&self, event: &Event) -> bool {
        self.dialect == Dialect::WebsocketOverHttp && websocket_over_http::is_unheard(event)
    }

    /// Cancel safe in that dropping the future leaves nothing behind.
    pub(super) async fn request(&self, event: &Event, measure: &mut Measure<'_>) -> Outcome {
        let data = match self.dialect {
            Dialect::Cloudevents => event.data(),
            Dialect::WebsocketOverHttp => websocket_over_http::body(&event.body),
        };
        let asked = Asked { event, data, way: self.ways.of(&event.body) };
        self.dispatch.request(self, &asked, measure).await
    }

    fn request_to(
        &self,
        target: &PathAndQuery,
        asked: &Asked<'_, Targets>,
    ) -> http::Result<Request<Bytes>> {
        let mut request = Request::new(asked.data.clone());
        *request.method_mut() = Method::POST;
        let (event, peer) = (asked.event, &asked.event.peer);
        *request.uri_mut() = match self.dialect {
            Dialect::Cloudevents => target.clone().into(),
            Dialect::WebsocketOverHttp => websocket_over_http::target(peer)?.into(),
        };
        let headers = request.headers_mut();
        for (name, value) in &peer.forwarded {
            headers.append(name, value.clone());
        }
        match self.dialect {
            Dialect::Cloudevents => cloudevents::write(event, headers)?,
            Dialect::WebsocketOverHttp => {
                websocket_over_http::write(event, self.signer.as_ref(), headers);
            }
        }
        // The client library leaves it out where nothing follows (RFC 9110 section 8.6).
        headers.insert(CONTENT_LENGTH, asked.data.len().into());
        if let Some(secret) = &self.secret {
            headers.insert(SECRET, secret.clone());
        }
        Ok(request)
    }

    fn outcome(&self, event: &Event, answer: &Response<Bytes>) -> Outcome {
        let coding = answer.headers().get(CONTENT_ENCODING);
        let is_coded =
            coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"));
        let outcome = match self.dialect {
            // The answer to the last event is not read.
            _ if is_coded && !matches!(event.body, EventBody::Disconnected(_)) => {
                Err(Broken::Coding)
            }
            Dialect::Cloudevents => cloudevents::outcome(event, answer),
            Dialect::WebsocketOverHttp => {
                websocket_over_http::outcome(event, answer).map_err(Broken::from)
            }
        };
        outcome.unwrap_or_else(|broken| self.dispatch.broken(event, &broken))
    }

    /// A connection to a server that takes one before `deadline`. Each is asked once, and those that are
    /// not asked any more have failed at nothing.
    async fn connection(&self, deadline: Instant) -> Option<(usize, Connection, Pass)> {
        let mut in_vain = InVain::default();
        while Instant::now() < deadline {
            let (place, pass) = self.gate.choose(Instant::now(), in_vain)?;
            let server = self.servers.get(place)?;
            match timeout_at(deadline, server.connection()).await {
                Ok(Ok(connection)) => return Some((place, connection, pass)),
                Ok(Err(error)) => {
                    let (server, cause) = (server.name(), error.source().map(ToString::to_string));
                    tracing::debug!(server, %error, cause, "backend cannot be reached");
                }
                Err(_) => {}
            }
            pass.failed(Instant::now(), Failure::Unreachable);
            in_vain.add(place);
        }
        None
    }
}

impl Carrier for HttpRelay {
    type Place = Targets;
    type Sent = Sent;

    async fn up(&self) {}

    async fn send(&self, asked: &Asked<'_, Targets>, deadline: Instant) -> Result<Sent, Tried> {
        if !self.is_reachable() {
            return Err(Tried::NotProcessed);
        }
        let Some(mut place) = self.gate.enter(deadline).await else {
            return Err(match self.gate.is_full() {
                true => self.dispatch.not_sent(asked.event, &"max_requests are at the backend"),
                false => Tried::NotProcessed,
            });
        };
        let Some((server, connection, pass)) = self.connection(deadline).await else {
            return Err(Tried::NotProcessed);
        };
        asked.may_go()?;
        let target = asked.way.place.get(server).ok_or(Tried::NotProcessed)?;
        let request = self
            .request_to(target, asked)
            .map_err(|error| self.dispatch.not_sent(asked.event, &error))?;
        let max = match self.dialect {
            Dialect::Cloudevents => MAX_ANSWER,
            Dialect::WebsocketOverHttp => websocket_over_http::MAX_ANSWER,
        };
        place.ask();
        let answer = Box::pin(connection.exchange(request, max));
        Ok(Sent { answer, deadline, pass: Some(pass), _place: place })
    }

    async fn ended(
        &self,
        asked: &Asked<'_, Targets>,
        sent: &mut Sent,
        until: Instant,
    ) -> Option<Tried> {
        let ended = timeout_at(until, &mut sent.answer).await;
        if ended.is_err() && until < sent.deadline {
            return None;
        }
        let broken = |error| Tried::Done(self.dispatch.broken(asked.event, &error));
        let (failure, tried) = match ended {
            Ok(Ok(answer)) => (None, Tried::Done(self.outcome(asked.event, &answer))),
            Ok(Err(error @ (ExchangeError::TooLarge(_) | ExchangeError::HeadTooLarge))) => {
                (None, broken(error))
            }
            Ok(Err(error @ ExchangeError::NotHttp(_))) => (Some(Failure::NoAnswer), broken(error)),
            Ok(Err(ExchangeError::NotWritten)) => (Some(Failure::Unreachable), Tried::NotProcessed),
            Ok(Err(ExchangeError::Lost(_))) | Err(_) => {
                (Some(Failure::NoAnswer), Tried::Done(Outcome::Unknown))
            }
        };
        match (sent.pass.take(), failure) {
            (Some(pass), None) => pass.succeeded(),
            (Some(pass), Some(failure)) => pass.failed(Instant::now(), failure),
            (None, _) => {}
        }
        Some(tried)
    }
}

impl fmt::Debug for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sent").field("pass", &self.pass).finish_non_exhaustive()
    }
}

/// Where the messages of an action go: one segment below where the others go. An action is plain text, so
/// that what comes out is a path.
fn target(own: &PathAndQuery, action: Option<&str>) -> PathAndQuery {
    let Some(action) = action else { return own.clone() };
    let query = own.query().map(|query| format!("?{query}")).unwrap_or_default();
    let text = format!("{}/{action}{query}", own.path().trim_end_matches('/'));
    text.parse().unwrap_or_else(|_| own.clone())
}

/// See [`relay::websocket_over_http_outcome`](super::websocket_over_http_outcome).
#[cfg(any(test, fuzzing))]
pub(super) fn websocket_over_http_outcome(
    event: &Event,
    answer: &Response<Bytes>,
) -> Option<Outcome> {
    websocket_over_http::outcome(event, answer).ok()
}

/// Reads what requests are signed with.
fn signer(backend: &HttpBackend) -> Result<Option<Signer>, RelayError> {
    backend.grip.as_ref().map(Signer::new).transpose().map_err(RelayError::Grip)
}

/// Reads what every request carries, and that it can be carried.
fn secret(backend: &HttpBackend) -> Result<Option<HeaderValue>, RelayError> {
    let Some(source) = &backend.secret_file else { return Ok(None) };
    let wrong = RelayError::Secret;
    let bytes = source.read().map_err(wrong)?;
    if bytes.is_empty() {
        return Err(wrong(io::Error::other("it is empty")));
    }
    let value = HeaderValue::from_bytes(&bytes);
    let mut value = value.map_err(|_| wrong(io::Error::other("it is not one line of text")))?;
    value.set_sensitive(true);
    Ok(Some(value))
}
