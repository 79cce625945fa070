//! One opening handshake from its head to its answer: what is known of it, and the one line in the log
//! and the one count that it leaves, whatever becomes of it.

use std::sync::Arc;

use tokio::time::Instant;

use super::Caller;
use super::refusal::Refusal;
use crate::config::Route;
use crate::id::{ConnectionId, UserId};
use crate::metrics::Metrics;

/// A handshake that is being decided. Dropped before its answer, it counts as one whose client left.
#[derive(Debug)]
pub(super) struct Attempt {
    /// The connection it may become.
    pub(super) id: ConnectionId,
    pub(super) caller: Caller,
    /// The route of its path, once found.
    pub(super) route: Option<Arc<Route>>,
    /// Who its token or certificate says it is, once checked.
    pub(super) user: Option<UserId>,
    /// Without the query, which may hold a token.
    path: Box<str>,
    since: Instant,
    metrics: Metrics,
    is_answered: bool,
}

/// The result of a handshake whose client left before the answer.
pub(super) const VANISHED: &str = "vanished";

impl Attempt {
    pub(super) fn new(id: ConnectionId, caller: Caller, path: &str, metrics: Metrics) -> Self {
        Self {
            id,
            caller,
            route: None,
            user: None,
            path: path.into(),
            since: Instant::now(),
            metrics,
            is_answered: false,
        }
    }

    /// The client is let in.
    pub(super) fn accepted(&mut self) {
        self.count("accepted");
    }

    /// The client is not let in.
    pub(super) fn refused(&mut self, refusal: &Refusal) {
        self.count(refusal.result());
        self.log(Some(refusal.status().as_u16()), refusal.result(), &refusal.detail());
    }

    fn count(&mut self, result: &'static str) {
        self.is_answered = true;
        self.metrics.handshake(result, self.since.elapsed().as_secs_f64());
    }

    /// The one line of each handshake that no connection came of. Nothing in it is the client's own
    /// words but the path.
    fn log(&self, status: Option<u16>, result: &'static str, detail: &str) {
        tracing::info!(
            connection = %self.id,
            user = self.user.as_ref().map(tracing::field::display),
            hub = self.route.as_ref().map(|route| tracing::field::display(&route.hub)),
            route = self.route.as_ref().map(|route| route.name()),
            remote = %self.caller.remote,
            path = &*self.path,
            status,
            result,
            detail,
            duration_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            "handshake refused"
        );
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.is_answered {
            self.count(VANISHED);
            self.log(None, VANISHED, "the client left before the answer");
        }
    }
}
