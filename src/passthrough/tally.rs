//! One request from its head to the end of its answer: the one line in the log and the one count that it
//! leaves, whatever becomes of it.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Method, Request, StatusCode};
use tokio::time::Instant;

use super::upload::Progress;
use super::{Origin, Refusal, class};
use crate::id::ConnectionId;
use crate::metrics::Metrics;

/// What is known of a request. Dropped before the end of its answer, it counts as one whose client left.
#[derive(Debug)]
pub(super) struct Tally {
    id: ConnectionId,
    client: SocketAddr,
    method: Method,
    /// Without the query, which may hold a secret.
    path: Box<str>,
    since: Instant,
    /// Once there is an answer.
    status: Option<StatusCode>,
    /// Once the answer is through, or will not be.
    result: Option<&'static str>,
    /// Bytes of the answer's body so far.
    sent: u64,
    progress: Arc<Progress>,
    metrics: Metrics,
}

/// The client left before the end of the answer.
const VANISHED: &str = "vanished";
/// The upstream broke off its answer.
const BROKEN: &str = "broken";

impl Tally {
    /// The results beside refusals.
    pub(super) const RESULTS: [&'static str; 6] = ["2xx", "3xx", "4xx", "5xx", BROKEN, VANISHED];

    pub(super) fn new<B>(
        id: ConnectionId,
        request: &Request<B>,
        origin: Origin,
        metrics: &Metrics,
    ) -> Self {
        Self {
            id,
            client: origin.client,
            method: request.method().clone(),
            path: request.uri().path().into(),
            since: Instant::now(),
            status: None,
            result: None,
            sent: 0,
            progress: Arc::new(Progress::new()),
            metrics: metrics.clone(),
        }
    }

    /// How far the request is.
    pub(super) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// The head of an answer is here.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
        self.metrics.passthrough_answered(self.since.elapsed().as_secs_f64());
    }

    /// There is no answer of the upstream.
    pub(super) fn refused(&mut self, refusal: &Refusal) {
        self.answered(refusal.status());
        self.result = Some(refusal.result());
    }

    /// More of the answer is on its way.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// All of the answer is.
    pub(super) fn done(&mut self) {
        self.result = self.status.map(class);
    }

    /// The answer is not whole.
    pub(super) fn broken(&mut self) {
        self.result = Some(BROKEN);
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.progress.over();
        let result = self.result.unwrap_or(VANISHED);
        self.metrics.passthrough(result);
        tracing::debug!(
            connection = %self.id,
            remote = %self.client,
            method = %self.method,
            path = &*self.path,
            status = self.status.map(|status| status.as_u16()),
            result,
            received = self.progress.bytes(),
            sent = self.sent,
            duration_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            "request passed through"
        );
    }
}
