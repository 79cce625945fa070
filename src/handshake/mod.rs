//! The opening handshake (RFC 6455 section 4.2): a request comes in, and either a connection starts
//! behind a 101 or a refusal goes out. Nothing reaches a backend before every check that needs none.
//!
//! ```text
//! request -> route -> opening -> origin -> identity (token, certificate) -> connect event -> 101
//! ```

mod attempt;
mod routes;
mod request;
mod origin;
mod identity;
mod refusal;
mod plans;
mod upgrade;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body_util::Full;

use crate::auth::Verifier;
use crate::config::{Heartbeat, JwtSources, RefuseMode, Route};
use crate::connection::Farewells;
use crate::event::{Certificate, Peer, Trace};
use crate::hub::Table;
use crate::id::{ConnectionId, NodeId};
use crate::limits::{Permit, Users};
use crate::metrics::Metrics;
use crate::relay::Relay;

use attempt::Attempt;
use identity::Admitted;
use origin::{Origins, Trust};
use refusal::Refusal;

pub use plans::Plans;
pub use refusal::BadHead;
pub use routes::Routes;

/// The 101 and refusals name the connection, so that a user's report leads to the log line.
const CONNECTION_ID: HeaderName = HeaderName::from_static("moorline-connection-id");

/// Who answers opening handshakes. One for the node.
#[derive(Debug)]
pub struct Doorkeeper {
    /// The doors by path.
    pub routes: Routes<Door>,
    /// This node.
    pub node: NodeId,
    /// Where accepted connections are entered.
    pub table: Table,
    /// Where their tasks run, and how their last events are delivered.
    pub farewells: Farewells,
    /// The limits that connections of one user share.
    pub users: Users,
    /// Where results are counted.
    pub metrics: Metrics,
}

/// A route, ready for work.
#[derive(Debug)]
pub struct Door {
    route: Arc<Route>,
    relay: Relay,
    gate: Gate,
    origins: Origins,
    heartbeat: Heartbeat,
    plans: Arc<Plans>,
}

/// How a client shows who it is.
#[derive(Debug)]
pub enum Gate {
    /// By a token.
    Jwt {
        /// Checks it.
        verifier: Verifier,
        /// Where it is looked for.
        sources: JwtSources,
    },
    /// By what the backend says to the connect event.
    Connect,
    /// By a TLS client certificate.
    Certificate,
    /// Not at all.
    Open,
}

/// What the listener knows of a client.
#[derive(Debug)]
pub struct Caller {
    /// Its address.
    pub remote: SocketAddr,
    /// Its TLS certificate, checked.
    pub certificate: Option<Certificate>,
    /// Bytes of read buffer that its connection should have.
    pub read_buffer: usize,
    /// Its place; none once that was handed on.
    pub place: Option<Place>,
}

/// A client's place, which it keeps until it has left.
#[derive(Debug)]
pub enum Place {
    /// Among the open connections.
    Open(Permit),
    /// Among those that can only be told that there is no place.
    Waiting(Permit),
}

impl Door {
    /// A door for `route`, whose heartbeat is `heartbeat` unless it has its own.
    #[must_use]
    pub fn new(
        route: Arc<Route>,
        relay: Relay,
        gate: Gate,
        heartbeat: Heartbeat,
        plans: Arc<Plans>,
    ) -> Self {
        let forwards =
            |header| route.forward_headers.iter().any(|name| name.eq_ignore_ascii_case(header));
        let trust = match &gate {
            Gate::Jwt { sources, .. } if sources.cookie.is_some() => Trust::Cookie,
            Gate::Connect if forwards("cookie") => Trust::Cookie,
            Gate::Connect if forwards("authorization") => Trust::Ambient,
            Gate::Certificate => Trust::Ambient,
            Gate::Jwt { .. } | Gate::Connect | Gate::Open => Trust::Shown,
        };
        let origins = Origins::new(&route.origins, trust);
        let heartbeat = route.heartbeat.unwrap_or(heartbeat);
        Self { route, relay, gate, origins, heartbeat, plans }
    }
}

impl Doorkeeper {
    /// Answers a request at the public door. Its connection, if there will be one, runs as a task of
    /// its own. Dropped before the answer, because the client left, it takes nothing back that a
    /// backend may have heard of: a backend that lets the client in then hears of its end.
    pub async fn answer<B>(
        &self,
        mut request: Request<B>,
        caller: Caller,
    ) -> Response<Full<Bytes>> {
        let id = ConnectionId::random(self.node);
        let path = request.uri().path().to_owned();
        let mut attempt = Attempt::new(id, caller, &path, self.metrics.clone());
        let answer = self.decide(&mut request, &mut attempt, path).await;
        answer.unwrap_or_else(|refusal| {
            attempt.refused(&refusal);
            refusal.to_response(id)
        })
    }

    /// Counts and logs a client whose request head could not be read; it had its answer already.
    pub fn unread(&self, remote: SocketAddr, fault: BadHead) {
        let refusal = Refusal::Head(fault);
        self.metrics.handshake_unread(refusal.result());
        tracing::info!(
            %remote,
            status = refusal.status().as_u16(),
            result = refusal.result(),
            detail = %refusal.detail(),
            "handshake refused"
        );
    }

    /// Counts a client that found no place even to be told so. No line: there may be very many.
    pub fn dropped(&self) {
        self.metrics.handshake_unread(DROPPED);
    }

    /// Makes the counters of all results, because a rate over a series that begins with its first
    /// event misses that event.
    pub fn declare_results(&self) {
        let others = ["accepted", attempt::VANISHED, DROPPED];
        self.metrics.declare_handshakes(others.into_iter().chain(Refusal::RESULTS));
    }

    async fn decide<B>(
        &self,
        request: &mut Request<B>,
        attempt: &mut Attempt,
        path: String,
    ) -> Result<Response<Full<Bytes>>, Refusal> {
        request::check_request(request)?;
        let found = self.routes.find(&path);
        let (door, params) = found
            .map_err(|_| Refusal::BadRequest("the path has a bad escape or a dot segment"))?
            .ok_or(Refusal::NotFound)?;
        attempt.route = Some(Arc::clone(&door.route));
        let opening = request::check_opening(request)?;
        let admitted = match self.admit(door, request, attempt, &params, &opening).await {
            Ok(admitted) => admitted,
            Err(refusal) => {
                let code = refusal.close_code();
                let code = code.filter(|_| door.route.refuse == RefuseMode::Close);
                let Some(code) = code else { return Err(refusal) };
                attempt.refused(&refusal);
                return Ok(self.upgrade_to_close(request, door, &opening, attempt, code, &refusal));
            }
        };
        let Some(Place::Open(permit)) = attempt.caller.place.take() else {
            return Err(Refusal::Full);
        };
        let peer = Arc::new(Peer {
            id: attempt.id,
            route: Arc::clone(&door.route),
            user: admitted.user.clone(),
            path: path.into(),
            params,
            remote: attempt.caller.remote,
            subprotocol: admitted.subprotocol.clone().map(Into::into),
            since: SystemTime::now(),
        });
        attempt.accepted();
        let buffer = attempt.caller.read_buffer;
        Ok(self.upgrade(request, door, &opening, admitted, peer, buffer, permit))
    }

    /// Everything that a well-formed handshake may still be refused for.
    async fn admit<B>(
        &self,
        door: &Door,
        request: &Request<B>,
        attempt: &mut Attempt,
        params: &crate::event::Params,
        opening: &request::Opening,
    ) -> Result<Admitted, Refusal> {
        if self.farewells.tasks.is_stopping() {
            return Err(Refusal::Draining);
        }
        if !matches!(attempt.caller.place, Some(Place::Open(_))) {
            return Err(Refusal::Full);
        }
        let origins = request.headers().get_all(http::header::ORIGIN).iter();
        if !door.origins.allow(origins.map(http::HeaderValue::as_bytes)) {
            return Err(Refusal::Origin);
        }
        identity::admit(door, request, attempt, params, opening, &self.farewells).await
    }
}

/// The result of a client over every bound.
const DROPPED: &str = "dropped";

/// The client's trace, or a new one.
fn trace_of<B>(request: &Request<B>) -> Trace {
    let header = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
    header.and_then(Trace::parse).unwrap_or_else(Trace::start)
}
