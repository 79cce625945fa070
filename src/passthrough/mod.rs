//! Everything at the public door that asks for no WebSocket goes to the operator's own HTTP server, the
//! upstream, and its answer back, both streamed.
//!
//! What goes there is one plain HTTP/1.1 request in a framing of our own: nothing is tunnelled, nothing
//! that changes anything is sent twice, and no header of the client's can be taken for what moorline
//! itself says.
//!
//! ```text
//! request -> checks -> headers -> place -> connection (pool) -> upstream
//!                                                 answer <- headers <-
//! ```

mod refusal;
mod headers;
mod guard;
mod places;
mod connector;
mod upload;
mod download;
mod tally;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderName, Request, Response, StatusCode, Uri};
use http_body_util::{Either, Full};
use hyper::body::{Body as _, Incoming};
use hyper::rt::Executor;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::TokioTimer;
use tokio::time::{Instant, sleep_until};

use crate::config::Upstream;
use crate::id::{ConnectionId, NodeId};
use crate::limits::{Permit, Permits};
use crate::metrics::Metrics;
use crate::nats::LogLimit;
use crate::task::Tasks;
use crate::tls::TlsError;

use connector::{Connector, Failure};
use guard::Guarded;
use places::Places;
use tally::Tally;
use upload::{Progress, Upload};

pub use download::Download;
pub use headers::to_upstream;
pub use refusal::Refusal;

/// The way to the upstream. One for each config that names another.
#[derive(Debug)]
pub struct Passthrough {
    settings: Upstream,
    node: NodeId,
    pool: Client<Connector, Upload>,
    /// Makes a connection for each request.
    single: Client<Connector, Upload>,
    /// Requests at the upstream.
    places: Places,
    /// Clients whose stream stays open for further requests.
    clients: Permits,
    /// Where events for backends go, which clients must not forge.
    guarded: Guarded,
    metrics: Metrics,
    /// The gate before log lines about an upstream in trouble.
    trouble: LogLimit,
}

/// What the edge knows of the client whose request is passed through.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// Its address.
    pub client: SocketAddr,
    /// How it speaks to us, or to the trusted proxy before us: `http` or `https`.
    pub scheme: &'static str,
}

/// An answer: our own, or the upstream's.
pub type Body = Either<Full<Bytes>, Download>;

/// Refusals name the request by this, so that a user's report leads to the log line.
const CONNECTION_ID: HeaderName = HeaderName::from_static("moorline-connection-id");

/// Idle connections to the upstream live shorter than most servers keep them, or requests would often be
/// written to connections that it is just about to close.
const IDLE: Duration = Duration::from_secs(1);
/// The largest answer head in bytes, and the most fields in it.
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 128;

impl Passthrough {
    /// The way to the upstream that `settings` name. Requests for `guarded` paths, and for what is
    /// below them, are not passed on. Blocks while it reads.
    ///
    /// # Errors
    /// When the authorities of an https upstream cannot be read.
    pub fn open(
        settings: &Upstream,
        guarded: &[String],
        node: NodeId,
        metrics: &Metrics,
        tasks: &Tasks,
    ) -> Result<Self, TlsError> {
        metrics.declare_passthrough(Tally::RESULTS.into_iter().chain(Refusal::RESULTS));
        let connector = Connector::open(settings)?;
        let client = |max_idle| {
            Client::builder(Spawner(tasks.clone()))
                .timer(TokioTimer::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(max_idle)
                // Only what was not written at all is tried again, on another connection.
                .retry_canceled_requests(true)
                .set_host(false)
                .http1_max_buf_size(MAX_HEAD)
                .http1_max_headers(MAX_HEADERS)
                .build(connector.clone())
        };
        Ok(Self {
            settings: settings.clone(),
            node,
            pool: client(settings.max_requests),
            single: client(0),
            places: Places::new(settings, metrics.passthrough_in_flight()),
            clients: Permits::new(settings.max_clients),
            guarded: Guarded::new(guarded),
            metrics: metrics.clone(),
            trouble: LogLimit::new(),
        })
    }

    /// Whether it was opened with these.
    #[must_use]
    pub fn is_as(&self, settings: &Upstream, guarded: &[String]) -> bool {
        self.settings == *settings && self.guarded == Guarded::new(guarded)
    }

    /// Time without a byte in a body.
    #[must_use]
    pub fn idle_timeout(&self) -> Duration {
        self.settings.idle_timeout.get()
    }

    /// A place among the clients whose stream stays open after an answer, if there is one.
    #[must_use]
    pub fn keep(&self) -> Option<Permit> {
        self.clients.take()
    }

    /// Answers a well-formed request: by the upstream, or with a refusal that ends the client's stream.
    /// `checked` is what the edge has against it. Dropped before the answer, because the client left,
    /// it takes the request back as far as that can be done: its connection to the upstream is closed.
    pub async fn answer(
        &self,
        request: Request<Incoming>,
        origin: Origin,
        checked: Result<(), Refusal>,
    ) -> Response<Body> {
        let id = ConnectionId::random(self.node);
        let mut tally = Tally::new(id, &request, origin, &self.metrics);
        let passed = match checked {
            Ok(()) => self.pass(request, origin, tally.progress()).await,
            Err(refusal) => Err(refusal),
        };
        match passed {
            Ok(answer) => {
                let status = answer.status();
                tally.answered(status);
                let idle = self.idle_timeout();
                answer.map(|body| Either::Right(Download::new(body, idle, tally)))
            }
            Err(refusal) => {
                tally.refused(&refusal);
                refusal.to_response(id).map(Either::Left)
            }
        }
    }

    async fn pass(
        &self,
        request: Request<Incoming>,
        origin: Origin,
        progress: &Arc<Progress>,
    ) -> Result<Response<Incoming>, Refusal> {
        let (mut head, body) = request.into_parts();
        self.check(&head)?;
        let method = head.method.clone();
        head.uri = target(&head.uri)?;
        to_upstream(&mut head.headers, origin);
        let body = Some(body).filter(|body| !body.is_end_stream());
        let is_chunked = body.as_ref().is_some_and(|body| body.size_hint().exact().is_none());
        if is_chunked {
            headers::set_chunked(&mut head.headers);
        }
        // What belongs to the client's stream, as its upgrade, must not get into the upstream's.
        head.extensions.clear();
        let Some(place) = self.places.take().await else {
            self.warn("too many requests are under way", None);
            return Err(Refusal::Full);
        };
        progress.takes(place);
        let again = (body.is_none() && method.is_safe()).then(|| head.clone());
        let request = |head, body| {
            Request::from_parts(head, Upload::new(body, self.idle_timeout(), progress))
        };
        // A connection that was answered in HTTP/1.0 would leave chunks out, so none is used again.
        let client = if is_chunked { &self.single } else { &self.pool };
        let mut asked = self.ask(client, request(head, body), progress).await;
        if let (Err(Unanswered::Failed(error)), Some(head)) = (&asked, again)
            && Failure::of(error) == Failure::Stale
        {
            // RFC 9112 section 9.3.1: what changes nothing may be asked again.
            asked = self.ask(&self.single, request(head, None), progress).await;
        }
        let mut answer = asked.map_err(|unanswered| self.refusal_of(&unanswered, progress))?;
        if answer.status().is_informational() {
            self.warn("the upstream switched to another protocol", None);
            return Err(Refusal::Failed);
        }
        headers::to_client(&mut answer, &method);
        Ok(answer)
    }

    /// What is wrong with a request that is well-formed and yet not passed on.
    fn check(&self, head: &http::request::Parts) -> Result<(), Refusal> {
        if self.guarded.covers(head.uri.path()) {
            return Err(Refusal::NotFound);
        }
        headers::check(&head.headers)
    }

    /// The answer's head, in time.
    async fn ask(
        &self,
        client: &Client<Connector, Upload>,
        request: Request<Upload>,
        progress: &Progress,
    ) -> Result<Response<Incoming>, Unanswered> {
        let timeout = self.settings.first_byte_timeout.get();
        // Boxed, because the pool's future is larger than all of the caller's.
        let mut answer = Box::pin(client.request(request));
        loop {
            let until = progress.last() + timeout;
            tokio::select! {
                answer = answer.as_mut() => return answer.map_err(Unanswered::Failed),
                () = sleep_until(until) => {
                    if progress.is_upstreams_turn_since(Instant::now() - timeout) {
                        return Err(Unanswered::Late);
                    }
                    progress.look_again();
                }
            }
        }
    }

    /// Whose fault it is that there is no answer.
    fn refusal_of(&self, unanswered: &Unanswered, progress: &Progress) -> Refusal {
        let (failure, error) = match unanswered {
            Unanswered::Late => (Failure::Late, None),
            Unanswered::Failed(error) => match progress.fault() {
                Some(refusal) => return refusal,
                None => (Failure::of(error), Some(error as _)),
            },
        };
        let (refusal, message) = match failure {
            Failure::ConnectTimeout => {
                (Refusal::ConnectTimeout, "the upstream cannot be reached in time")
            }
            Failure::Unreachable => (Refusal::Unreachable, "the upstream cannot be reached"),
            Failure::Late => (Refusal::Late, "the upstream did not answer in time"),
            Failure::Stale | Failure::Broken => (Refusal::Failed, "the upstream gave no answer"),
        };
        self.warn(message, error);
        refusal
    }

    fn warn(&self, reason: &'static str, error: Option<&dyn std::error::Error>) {
        if let Some(left_out) = self.trouble.admit(Instant::now()) {
            let causes = std::iter::successors(error, |error| error.source());
            let causes = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
            let error = error.map(|_| causes);
            let upstream = &self.settings.url;
            tracing::warn!(%upstream, reason, error, left_out, "request failed");
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
enum Unanswered {
    Late,
    Failed(legacy::Error),
}

/// The pool wants a URL; only its path and query get to the upstream.
fn target(uri: &Uri) -> Result<Uri, Refusal> {
    const NO_PATH: Refusal = Refusal::BadRequest("the request target is not a path");
    let given = uri.path_and_query().map_or("", PathAndQuery::as_str);
    let url = Uri::builder().scheme("http").authority("upstream");
    let url = match given.as_bytes().first() {
        Some(b'/') => url.path_and_query(given),
        // RFC 9112 section 3.2.1: an absolute form without a path means `/`.
        None | Some(b'?') if uri.scheme().is_some() => url.path_and_query(format!("/{given}")),
        _ => return Err(NO_PATH),
    };
    url.build().map_err(|_| NO_PATH)
}

/// Runs the connections to the upstream.
#[derive(Debug, Clone)]
struct Spawner(Tasks);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawner {
    fn execute(&self, future: F) {
        drop(self.0.spawn("upstream", future));
    }
}

/// The label of a status: only its class, because labels are a closed set.
fn class(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}
