//! The opening handshake (RFC 6455 section 4.2): a request comes in, and either a connection starts
//! behind a 101 or a refusal goes out. Nothing reaches a backend before every check that needs none.
//!
//! ```text
//! request -> route -> opening -> origin -> identity (token, certificate) -> connect event -> 101
//! ```

mod routes;
mod request;
mod origin;
mod identity;
mod refusal;
mod upgrade;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body_util::Full;
use tokio::time::Instant;

use crate::auth::Verifier;
use crate::config::{Heartbeat, JwtSources, RefuseMode, Route};
use crate::event::{Certificate, Peer, Trace};
use crate::hub::Table;
use crate::id::{ConnectionId, NodeId};
use crate::limits::{Permit, Permits};
use crate::metrics::Metrics;
use crate::relay::Relay;
use crate::task::Tasks;

use identity::Admitted;
use origin::Origins;
use refusal::Refusal;

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
    /// Where their tasks run.
    pub connections: Tasks,
    /// Places for `disconnected` events that no backend has accepted yet.
    pub last_events: Permits,
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
    /// Its place among the open connections; none when all are taken.
    pub permit: Option<Permit>,
}

impl Door {
    /// A door for `route`, whose heartbeat is `heartbeat` unless it has its own.
    #[must_use]
    pub fn new(route: Arc<Route>, relay: Relay, gate: Gate, heartbeat: Heartbeat) -> Self {
        let forwards_cookies =
            route.forward_headers.iter().any(|name| name.eq_ignore_ascii_case("cookie"));
        let cookies = match &gate {
            Gate::Jwt { sources, .. } => sources.cookie.is_some(),
            Gate::Connect => forwards_cookies,
            Gate::Certificate | Gate::Open => false,
        };
        let origins = Origins::new(&route.origins, cookies);
        let heartbeat = route.heartbeat.unwrap_or(heartbeat);
        Self { route, relay, gate, origins, heartbeat }
    }
}

impl Doorkeeper {
    /// Answers a request at the public door. Its connection, if there will be one, runs as a task of
    /// its own. Not cancel safe: dropped while the backend is asked, the client gets no answer.
    pub async fn answer<B>(
        &self,
        mut request: Request<B>,
        mut caller: Caller,
    ) -> Response<Full<Bytes>> {
        let (id, started) = (ConnectionId::random(self.node), Instant::now());
        let answer = self.decide(&mut request, &mut caller, id).await;
        let (result, response) = answer.unwrap_or_else(|refusal| {
            self.log(&request, &caller, id, &refusal);
            (refusal.result(), refusal.to_response(id))
        });
        self.metrics.handshake(result, started.elapsed().as_secs_f64());
        response
    }

    async fn decide<B>(
        &self,
        request: &mut Request<B>,
        caller: &mut Caller,
        id: ConnectionId,
    ) -> Result<(&'static str, Response<Full<Bytes>>), Refusal> {
        request::check_request(request)?;
        let path = request.uri().path().to_owned();
        let found = self.routes.find(&path);
        let (door, params) = found
            .map_err(|_| Refusal::BadRequest("the path has a bad escape or a dot segment"))?
            .ok_or(Refusal::NotFound)?;
        let opening = request::check_opening(request)?;
        let admitted = match self.admit(door, request, caller, id, &params, &opening).await {
            Ok(admitted) => admitted,
            Err(refusal) => {
                let code = refusal.close_code();
                let code = code.filter(|_| door.route.refuse == RefuseMode::Close);
                let Some(code) = code else { return Err(refusal) };
                self.log(request, caller, id, &refusal);
                let response = self.upgrade_to_close(request, door, &opening, id, code, &refusal);
                return Ok((refusal.result(), response));
            }
        };
        let permit = caller.permit.take().ok_or(Refusal::Full)?;
        let peer = Arc::new(Peer {
            id,
            route: Arc::clone(&door.route),
            user: admitted.user.clone(),
            path: path.into(),
            params,
            remote: caller.remote,
            subprotocol: admitted.subprotocol.clone().map(Into::into),
            since: SystemTime::now(),
        });
        let (buffer, opening) = (caller.read_buffer, &opening);
        let response = self.upgrade(request, door, opening, admitted, peer, buffer, permit);
        Ok(("accepted", response))
    }

    /// Everything that a well-formed handshake may still be refused for.
    async fn admit<B>(
        &self,
        door: &Door,
        request: &Request<B>,
        caller: &Caller,
        id: ConnectionId,
        params: &crate::event::Params,
        opening: &request::Opening,
    ) -> Result<Admitted, Refusal> {
        if self.connections.is_stopping() {
            return Err(Refusal::Draining);
        }
        if caller.permit.is_none() {
            return Err(Refusal::Full);
        }
        let origins = request.headers().get_all(http::header::ORIGIN).iter();
        if !door.origins.allow(origins.map(http::HeaderValue::as_bytes)) {
            return Err(Refusal::Origin);
        }
        identity::admit(door, request, caller, id, params, opening).await
    }

    /// The one line of each refused handshake. Never the query, which may hold a token.
    fn log<B>(&self, request: &Request<B>, caller: &Caller, id: ConnectionId, refusal: &Refusal) {
        tracing::info!(
            connection = %id,
            remote = %caller.remote,
            path = request.uri().path(),
            status = refusal.status().as_u16(),
            result = refusal.result(),
            detail = %refusal.detail(),
            "handshake refused"
        );
    }
}

/// The client's trace, or a new one.
fn trace_of<B>(request: &Request<B>) -> Trace {
    let header = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
    header.and_then(Trace::parse).unwrap_or_else(Trace::start)
}
