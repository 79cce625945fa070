//! What is counted about one event: exactly one outcome, also when its request is dropped.

use tokio::time::Instant;

use crate::event::Outcome;
use crate::metrics::RouteMetrics;

/// Counts an event as in flight, and its outcome at the end.
#[derive(Debug)]
pub(super) struct Measure<'a> {
    metrics: &'a RouteMetrics,
    since: Instant,
    /// What is counted when the request is dropped now: `Unknown` while a backend may have the
    /// event.
    if_dropped: Option<Outcome>,
}

/// Counts an event as held while it lives.
#[derive(Debug)]
pub(super) struct Held<'a>(&'a RouteMetrics);

impl<'a> Measure<'a> {
    pub(super) fn start(metrics: &'a RouteMetrics) -> Self {
        metrics.in_flight.inc();
        Self { metrics, since: Instant::now(), if_dropped: Some(Outcome::Unavailable) }
    }

    /// A backend may have the event from now on, or certainly does not.
    pub(super) fn may_be_processed(&mut self, it_may: bool) {
        self.if_dropped = Some(if it_may { Outcome::Unknown } else { Outcome::Unavailable });
    }

    /// The event waits for a backend to appear.
    pub(super) fn held(&self) -> Held<'a> {
        self.metrics.held.inc();
        Held(self.metrics)
    }

    /// The outcome is known.
    pub(super) fn end(mut self, outcome: Outcome) -> Outcome {
        self.if_dropped = None;
        self.metrics.outcome(&outcome, self.since.elapsed().as_secs_f64());
        outcome
    }
}

impl Drop for Measure<'_> {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        if let Some(outcome) = self.if_dropped.take() {
            self.metrics.outcome(&outcome, self.since.elapsed().as_secs_f64());
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held.dec();
    }
}
