//! What is known of all connections to NATS together: how many are up, whether one ever was, and
//! what the last failure was.

use std::sync::{Mutex, PoisonError};

use prometheus::{IntCounter, IntGauge};
use tokio::sync::watch;
use tokio::time::Instant;

use super::LogLimit;
use crate::metrics::Metrics;

/// Shared by the connections.
#[derive(Debug)]
pub(super) struct Status {
    /// How many connections are up.
    up: watch::Sender<usize>,
    /// Why the last attempt failed, for whoever waits for a connection. Held for an assignment.
    failure: Mutex<Option<String>>,
    /// Counts the times that messages may have been missed.
    gaps: watch::Sender<u64>,
    /// Counts the subscriptions that the server refused, or ended.
    refusals: watch::Sender<u64>,
    was_up: std::sync::atomic::AtomicBool,
    connected: IntGauge,
    reconnects: IntCounter,
    slow_consumer: IntCounter,
    /// None where it means nothing: who asks many does not wait for the last.
    late_replies: Option<IntCounter>,
    /// Before the log lines of each kind of trouble, for each may come in floods.
    failed: LogLimit,
    slow: LogLimit,
    refused: LogLimit,
}

impl Status {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            up: watch::Sender::new(0),
            failure: Mutex::default(),
            gaps: watch::Sender::new(0),
            refusals: watch::Sender::new(0),
            was_up: false.into(),
            connected: metrics.nats_connected().clone(),
            reconnects: metrics.nats_reconnects().clone(),
            slow_consumer: metrics.nats_slow_consumer().clone(),
            late_replies: Some(metrics.late_replies().clone()),
            failed: LogLimit::new(),
            slow: LogLimit::new(),
            refused: LogLimit::new(),
        }
    }

    /// That of a connection on which many are asked at once.
    pub(super) fn of_feed(metrics: &Metrics) -> Self {
        Self { late_replies: None, ..Self::new(metrics) }
    }

    /// Ends when a connection is up.
    pub(super) async fn up(&self) {
        // It cannot end with an error: the sender is in `self`.
        let _ = self.up.subscribe().wait_for(|up| *up > 0).await;
    }

    pub(super) fn gaps(&self) -> watch::Receiver<u64> {
        self.gaps.subscribe()
    }

    pub(super) fn refusals(&self) -> watch::Receiver<u64> {
        self.refusals.subscribe()
    }

    pub(super) fn was_up(&self) -> bool {
        self.was_up.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(super) fn last_failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A connection came up; `again` when it had been up before.
    pub(super) fn came_up(&self, connection: usize, again: bool, version: Option<&str>) {
        self.was_up.store(true, std::sync::atomic::Ordering::Relaxed);
        self.connected.inc();
        if again {
            self.reconnects.inc();
            self.gaps.send_modify(|gaps| *gaps += 1);
        }
        self.up.send_modify(|up| *up += 1);
        tracing::info!(connection, server_version = version, "NATS connected");
    }

    /// A connection went away while `pending` requests waited on it.
    pub(super) fn went_away(&self, connection: usize, pending: usize) {
        self.connected.dec();
        self.up.send_modify(|up| *up = up.saturating_sub(1));
        tracing::warn!(connection, pending, "NATS connection lost");
    }

    /// An attempt to connect failed.
    pub(super) fn failed(&self, connection: usize, error: &str) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_owned());
        if let Some(left_out) = self.failed.admit(Instant::now()) {
            tracing::warn!(connection, error, left_out, "NATS cannot be reached");
        }
    }

    /// The server refused something, as a subject that we have no permission for.
    pub(super) fn refused(&self, connection: usize, error: &str) {
        if is_of_a_subscription(error) {
            self.refusals.send_modify(|refusals| *refusals += 1);
        }
        if let Some(left_out) = self.refused.admit(Instant::now()) {
            tracing::warn!(connection, error, left_out, "NATS server reported an error");
        }
    }

    /// A reply came that nobody waits for any more.
    pub(super) fn was_late(&self) {
        self.late_replies.iter().for_each(IntCounter::inc);
    }

    /// Messages were dropped, because we did not take them fast enough.
    pub(super) fn was_slow(&self, connection: usize) {
        self.slow_consumer.inc();
        self.gaps.send_modify(|gaps| *gaps += 1);
        if let Some(left_out) = self.slow.admit(Instant::now()) {
            tracing::warn!(connection, left_out, "NATS subscription full, messages dropped");
        }
    }
}

/// Whether the server says that there is no subscription where one was asked for. Its words have no code.
fn is_of_a_subscription(error: &str) -> bool {
    let error = error.to_ascii_lowercase();
    ["permissions violation for subscription", "maximum subscriptions exceeded"]
        .iter()
        .any(|words| error.contains(words))
}
