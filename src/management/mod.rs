//! The backends' door: the management API, by which they reach clients that did not ask, close
//! connections, manage groups, and ask who is there.
//!
//! ```text
//! HTTP -> key or certificate -> place (what the path names) -> action -> desk -> hub::Fleet -> answer
//! ```
//!
//! The shape of paths and answers is that of the Azure Web PubSub data plane, so that its server SDKs
//! work. Who showed neither a key nor a certificate learns nothing but the API's description. Every wait
//! has a deadline, and so many streams and requests are served at a time and no more.

mod stream;
mod place;
mod action;
mod query;
mod body;
mod desk;
mod revoke;
mod publish;
mod seen;
mod answer;
mod refusal;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::auth::{AccessKeys, Denied, Minter, Revocations, Token, Verifier, find};
use crate::config::{JwtSources, Limits};
use crate::hub::Fleet;
use crate::id::HubName;
use crate::limits::Permits;
use crate::metrics::Metrics;
use crate::nats::LogLimit;
use crate::task::Tasks;
use crate::tls::Acceptor;

use action::Operation;
use answer::Answer;
use body::{Body, Payload};
use desk::Desk;
use place::Place;
use query::Query;
use refusal::Refusal;

/// The backends' door. One for the node.
#[derive(Debug)]
pub struct Management {
    fleet: Fleet,
    /// What is no good any more, of the tokens of clients.
    revocations: Revocations,
    /// What backends meet, swapped whole when the config changes.
    rules: ArcSwap<Rules>,
    /// Places for streams: backends keep theirs open between requests.
    streams: Permits,
    /// Places for requests that were let in, each of which may hold a body.
    requests: Permits,
    metrics: Metrics,
    /// Where the tasks of this door run.
    tasks: Tasks,
    /// What was published just now.
    published: seen::Seen,
    /// The gate before log lines about those who are not let in.
    denied: LogLimit,
}

/// What backends meet by the config.
#[derive(Debug)]
pub struct Rules {
    /// Keys that let their bearers in.
    pub keys: AccessKeys,
    /// The certificates; none without TLS.
    pub acceptor: Option<Acceptor>,
    /// Who checks the fresh tokens of clients; none without a `jwt` section.
    pub verifier: Option<Verifier>,
    /// Who makes tokens for clients; none without a shared secret there.
    pub minter: Option<Minter>,
    /// Bounds of the time and size of what comes before a request's body.
    pub limits: Limits,
    /// Bytes of a request's body.
    pub max_body: usize,
    /// The hubs whose channels GRIP libraries publish to.
    pub published: Vec<HubName>,
    /// Cancelled once others are in force.
    pub replaced: CancellationToken,
}

const REQUESTS: usize = 256;
/// The description of the API, for people and generators.
const OPENAPI: &str = include_str!("openapi.json");

impl Management {
    /// Streams at the same time, each of which takes a file descriptor.
    pub const STREAMS: usize = 1024;

    /// The door to the connections of `fleet`, and to `revocations`.
    #[must_use]
    pub fn new(
        fleet: Fleet,
        revocations: Revocations,
        rules: Arc<Rules>,
        metrics: &Metrics,
        tasks: &Tasks,
    ) -> Self {
        metrics.declare_management(Operation::ALL.map(Operation::as_str), Answer::RESULTS);
        Self {
            fleet,
            revocations,
            rules: ArcSwap::new(rules),
            streams: Permits::new(Self::STREAMS),
            requests: Permits::new(REQUESTS),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            published: seen::Seen::default(),
            denied: LogLimit::new(),
        }
    }

    /// Serves by other rules from the next request on. Streams whose certificate was looked at by the
    /// old ones end.
    pub fn set_rules(&self, rules: Arc<Rules>) {
        self.rules.swap(rules).replaced.cancel();
    }

    /// Answers one request, of a stream on which a certificate was shown or not.
    async fn answer<B: Payload>(
        &self,
        request: Request<B>,
        is_certified: bool,
    ) -> Response<Full<Bytes>> {
        let started = Instant::now();
        let rules = self.rules.load_full();
        let (head, body) = request.into_parts();
        let mut body = Body::new(&head.headers, body, rules.max_body);
        let mut operation = Operation::Unknown;
        let answered = self.handle(&rules, &head, &mut body, is_certified, &mut operation).await;
        // A client that still writes would not see an answer that closes the stream under it.
        body.discard().await;
        let seconds = started.elapsed().as_secs_f64();
        let (result, refused) = match &answered {
            Ok(answer) => (answer.result(), None),
            Err(refusal) => (refusal.result(), Some(refusal.code())),
        };
        let mut response = match &answered {
            Ok(answer) => answer.to_response(),
            Err(refusal) => refusal.to_response(),
        };
        if matches!(answered, Err(Refusal::NoCredentials | Refusal::Denied(_))) {
            // Who is not let in keeps no stream.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let operation = operation.as_str();
        self.metrics.management(operation, result, seconds);
        let status = response.status().as_u16();
        tracing::debug!(
            operation,
            status,
            refused,
            duration_ms = seconds * 1e3,
            "management request"
        );
        response
    }

    /// What comes of a request; `operation` becomes what it is, as far as that is found out.
    async fn handle<B: Payload>(
        &self,
        rules: &Rules,
        head: &Parts,
        body: &mut Body<B>,
        is_certified: bool,
        operation: &mut Operation,
    ) -> Result<Answer, Refusal> {
        if is_of_a_page(&head.headers) {
            return Err(Refusal::Browser);
        }
        let (hub, resource) = match Place::find(head.uri.path()) {
            Ok(Place::InHub(hub, resource)) => (hub, resource),
            Ok(Place::Health) => {
                *operation = Operation::Health;
                place::only_read(&head.method)?;
                return Ok(Answer::empty(StatusCode::OK));
            }
            Ok(Place::Description) => {
                *operation = Operation::Description;
                place::only_read(&head.method)?;
                return Ok(Answer::json(StatusCode::OK, OPENAPI));
            }
            Ok(Place::Revocations) => {
                self.admit(rules, head, is_certified)?;
                place::only_post(&head.method)?;
                *operation = Operation::Revoke;
                let _place = self.requests.take().ok_or(Refusal::Crowded)?;
                return Box::pin(revoke::revoke(&self.revocations, body)).await;
            }
            Ok(Place::Publish) => {
                self.admit_publisher(rules, head, is_certified)?;
                if rules.published.is_empty() {
                    return Err(Refusal::NoChannels);
                }
                place::only_post(&head.method)?;
                *operation = Operation::Publish;
                let _place = self.requests.take().ok_or(Refusal::Crowded)?;
                let (fleet, hubs, seen) = (&self.fleet, &rules.published, &self.published);
                return Box::pin(publish::publish(fleet, hubs, seen, &head.headers, body)).await;
            }
            Err(refusal) => {
                self.admit(rules, head, is_certified)?;
                return Err(refusal);
            }
        };
        self.admit(rules, head, is_certified)?;
        let action = resource.action(&head.method)?;
        *operation = action.operation();
        let _place = self.requests.take().ok_or(Refusal::Crowded)?;
        if !self.fleet.has_hub(&hub) {
            return Err(Refusal::NoHub(hub));
        }
        let query = Query::parse(head.uri.query().unwrap_or_default())?;
        query.check_version()?;
        let (fleet, revocations) = (&self.fleet, &self.revocations);
        let desk = Desk { fleet, revocations, rules, hub: &hub, query: &query };
        Box::pin(desk.perform(action, body)).await
    }

    /// Whether the request may ask for anything.
    fn admit(&self, rules: &Rules, head: &Parts, is_certified: bool) -> Result<(), Refusal> {
        let admit = |token: &Token, now| rules.keys.admit(token, head.uri.path(), now);
        self.admit_by(head, is_certified, || None, admit)
    }

    /// Whether the request may publish. The tokens of GRIP libraries do not say for what they are.
    fn admit_publisher(
        &self,
        rules: &Rules,
        head: &Parts,
        is_certified: bool,
    ) -> Result<(), Refusal> {
        let admit = |token: &Token, now| rules.keys.admit_publisher(token, head.uri.path(), now);
        self.admit_by(head, is_certified, || publish::basic(&head.headers), admit)
    }

    fn admit_by(
        &self,
        head: &Parts,
        is_certified: bool,
        otherwise: impl FnOnce() -> Option<Token>,
        admit: impl FnOnce(&Token, SystemTime) -> Result<(), Denied>,
    ) -> Result<(), Refusal> {
        if is_certified {
            return Ok(());
        }
        let only_header = JwtSources { subprotocol: None, ..JwtSources::default() };
        let shown = find(&head.headers, "", &only_header).map_err(Refusal::Credentials)?;
        let denied = match shown.token.or_else(otherwise) {
            None => Refusal::NoCredentials,
            Some(token) => match admit(&token, SystemTime::now()) {
                Ok(()) => return Ok(()),
                Err(denied) => Refusal::Denied(denied.reason()),
            },
        };
        if let Some(left_out) = self.denied.admit(Instant::now()) {
            tracing::warn!(reason = %denied, left_out, "a backend was not let in");
        }
        Err(denied)
    }
}

/// Whether a page in a browser sent a request. A page that happens to be open on a machine that reaches
/// this door must not get through it, by whatever name it came here, nor with a certificate that the
/// browser shows. Browsers say which page a request comes from (RFC 6454 section 7, Fetch Metadata).
fn is_of_a_page(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site");
    headers.contains_key(ORIGIN) || site.is_some_and(|site| site != "none")
}
