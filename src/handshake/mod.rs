//! The opening handshake (RFC 6455 section 4.2): a request comes in, and either a connection starts
//! behind a 101 or a refusal goes out. Nothing reaches a backend before every check that needs none.
//!
//! ```text
//! request -> count -> route -> opening -> admission -> origin -> identity (token, certificate) -> connect event -> 101
//! ```

mod attempt;
mod routes;
mod request;
mod origin;
mod repeated;
mod identity;
mod refusal;
mod plans;
mod upgrade;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body_util::Full;
use tokio::time::sleep;

use crate::auth::{Revocations, Verifier};
use crate::cluster::{Cluster, Farewells, UserQuota, Way};
use crate::config::{Heartbeat, JwtSources, Route};
use crate::connection::Unwrap;
use crate::event::{Certificate, Trace};
use crate::hub::Table;
use crate::id::{ConnectionId, NodeId};
use crate::limits::{Admission, Permits, Users};
use crate::metrics::Metrics;
use crate::relay::Relay;

use attempt::Attempt;
use identity::Admitted;
use origin::{Origins, Trust};
use refusal::Refusal;

pub use plans::Plans;
pub use refusal::{BadHead, retry_after};
pub use request::is_plain;
pub use routes::Routes;

/// The 101 and refusals name the connection, so that a user's report leads to the log line.
const CONNECTION_ID: HeaderName = HeaderName::from_static("moorline-connection-id");

/// How often addresses and users are forgotten that may do anything again.
const TIDY_INTERVAL: Duration = Duration::from_secs(10);

/// Who answers opening handshakes. One for the node.
#[derive(Debug)]
pub struct Doorkeeper {
    /// This node.
    pub node: NodeId,
    /// Who is looked at at all.
    pub admission: Arc<Admission>,
    /// Places for refused clients that are told so by a close frame: few, because they cost more than
    /// a status, and apart from those of connections, because a refused client must not keep one.
    pub refused: Permits,
    /// Where accepted connections are entered.
    pub table: Table,
    /// Where those are entered whose end their backend must hear of, whatever becomes of this node.
    pub cluster: Cluster,
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
    heartbeat: Arc<Heartbeat>,
    plans: Plans,
    quota: UserQuota,
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
        /// What is no good any more.
        revocations: Revocations,
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
    /// How it speaks to us, or to the trusted proxy before us: `http` or `https`.
    pub scheme: &'static str,
    /// Its TLS certificate, checked.
    pub certificate: Option<Certificate>,
    /// Bytes of read buffer that its connection should have.
    pub read_buffer: usize,
    /// Takes its stream out of what HTTP had around it.
    pub unwrap: Unwrap,
}

impl Door {
    /// A door for `route`, whose heartbeat is `heartbeat` unless it has its own.
    #[must_use]
    pub fn new(
        route: Arc<Route>,
        relay: Relay,
        gate: Gate,
        heartbeat: Heartbeat,
        plans: Plans,
        quota: UserQuota,
    ) -> Self {
        let trust = match &gate {
            Gate::Jwt { sources, .. } if sources.cookie.is_some() => Trust::Cookie,
            Gate::Connect | Gate::Open if route.decides_by("cookie") => Trust::Cookie,
            // Programs show a token or a certificate of their own.
            Gate::Certificate => Trust::Ambient,
            _ if route.decides_by("cookie") || route.decides_by("authorization") => Trust::Ambient,
            Gate::Jwt { .. } | Gate::Connect | Gate::Open => Trust::Shown,
        };
        let origins = Origins::new(&route.origins, trust);
        let heartbeat = Arc::new(route.heartbeat.unwrap_or(heartbeat));
        Self { route, relay, gate, origins, heartbeat, plans, quota }
    }

    /// The route, and the way to its backend.
    #[must_use]
    pub fn way(&self) -> Way {
        (Arc::clone(&self.route), self.relay.clone())
    }
}

impl Doorkeeper {
    /// Answers a request at one of `doors`. Its connection, if there will be one, runs as a task of
    /// its own. Dropped before the answer, because the client left, it takes nothing back that a
    /// backend may have heard of: a backend that lets the client in then hears of its end.
    pub async fn answer<B>(
        &self,
        doors: &Routes<Door>,
        mut request: Request<B>,
        caller: Caller,
    ) -> Response<Full<Bytes>> {
        let id = ConnectionId::random(self.node);
        let path = request.uri().path().to_owned();
        let mut attempt = Attempt::new(id, caller, &path, self.metrics.clone());
        let answer = self.decide(doors, &mut request, &mut attempt, &path).await;
        answer.unwrap_or_else(|refusal| {
            attempt.refused(&refusal);
            refusal.to_response(id)
        })
    }

    /// Counts and logs a client whose request head could not be read; it had its answer already.
    /// `source` is the address that this counts for.
    pub fn unread(&self, remote: SocketAddr, source: Option<IpAddr>, fault: BadHead) {
        // Whether it is one too many makes no difference any more.
        let _ = source.map(|ip| self.admission.count_request(ip));
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

    /// Counts a TCP connection of this address: whether it may go on. One that may not is counted as a
    /// result, without a line, because there may be very many.
    #[must_use]
    pub fn may_begin(&self, ip: IpAddr) -> bool {
        let counted = self.admission.count_stream(ip);
        if counted.is_err() {
            self.metrics.handshake_unread(DROPPED);
        }
        counted.is_ok()
    }

    /// Keeps the tables of addresses and users small, for ever. Cancel safe.
    pub async fn tidy(&self) {
        loop {
            sleep(TIDY_INTERVAL).await;
            self.admission.tidy();
            self.users.tidy();
        }
    }

    /// Makes the counters of all results, because a rate over a series that begins with its first
    /// event misses that event.
    pub fn declare_results(&self) {
        let others = ["accepted", attempt::VANISHED, DROPPED];
        self.metrics.declare_handshakes(others.into_iter().chain(Refusal::RESULTS));
    }

    async fn decide<B>(
        &self,
        doors: &Routes<Door>,
        request: &mut Request<B>,
        attempt: &mut Attempt,
        path: &str,
    ) -> Result<Response<Full<Bytes>>, Refusal> {
        let counted = self.admission.count_request(attempt.caller.remote.ip());
        request::check_request(request)?;
        let found = doors.find(path);
        let (door, params) = found
            .map_err(|_| Refusal::BadRequest("the path has a bad escape or a dot segment"))?
            .ok_or(Refusal::NotFound)?;
        attempt.route = Some(Arc::clone(&door.route));
        let opening = request::check_opening(request)?;
        let admitted = match counted {
            Ok(()) => self.admit(door, request, attempt, &params, &opening).await,
            Err(denied) => Err(denied.into()),
        };
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                let closing = self.upgrade_to_close(request, door, &opening, attempt.id, &refusal);
                let Some(response) = closing else { return Err(refusal) };
                attempt.refused(&refusal);
                return Ok(response);
            }
        };
        attempt.accepted();
        Ok(self.upgrade(request, door, &opening, admitted, &attempt.caller))
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
        let seat = self.admission.admit(attempt.caller.remote.ip())?;
        let origins = request.headers().get_all(http::header::ORIGIN).iter();
        if !door.origins.allow(origins.map(http::HeaderValue::as_bytes)) {
            return Err(Refusal::Origin);
        }
        identity::admit(self, door, request, attempt, params, opening, seat).await
    }
}

/// The result of a client over every bound.
const DROPPED: &str = "dropped";

/// The client's trace, or a new one.
fn trace_of<B>(request: &Request<B>) -> Trace {
    let header = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
    header.and_then(Trace::parse).unwrap_or_else(Trace::start)
}
