//! Every metric family, and handles resolved once, so that counting costs one atomic addition.
//!
//! Labels are closed sets: hubs, routes and fixed words; never a user, a connection, a subject or a
//! path. (The library hashes label values without a separator, which is safe only for fixed words.)

mod families;
mod route;
mod circuits;
mod bridge;

use prometheus::{
    Encoder, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    TextEncoder,
};

pub use bridge::{BridgeMetrics, NOT_AN_EVENT, NOT_CARRIED};
pub use circuits::Circuits;
pub use route::RouteMetrics;

/// The families of one node. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// Open connections after the 101, by hub and route.
    connections: IntGaugeVec,
    connections_opened: IntCounterVec,
    connections_closed: IntCounterVec,
    connection_duration: HistogramVec,
    messages: IntCounterVec,
    message_bytes: IntCounterVec,
    backend_requests: IntCounterVec,
    backend_duration: HistogramVec,
    backend_in_flight: IntGaugeVec,
    backend_held: IntGaugeVec,
    circuits_open: IntGaugeVec,
    circuits_opened: IntCounterVec,
    bridge_events: IntCounterVec,
    bridge_joined: IntGaugeVec,
    bridge_lost_replies: IntCounterVec,
    ping_rtt: HistogramVec,
    limited: IntCounterVec,
    outbox_bytes: IntGaugeVec,
    outbox_overflow: IntCounterVec,
    outbox_expired: IntCounterVec,
    groups: IntGauge,
    registry_entries: IntGauge,
    leases_taken_over: IntCounter,
    user_slots_left_out: IntCounter,
    users: IntGauge,
    pushes: IntCounterVec,
    push_deliveries: IntCounterVec,
    pushes_refused: IntCounterVec,
    commands: IntCounterVec,
    commands_refused: IntCounterVec,
    management_requests: IntCounterVec,
    management_duration: HistogramVec,
    handshakes: IntCounterVec,
    handshake_duration: HistogramVec,
    tls_handshakes: IntCounterVec,
    proxy_protocol: IntCounterVec,
    certificate_expiry: IntGaugeVec,
    nats_connected: IntGauge,
    nats_reconnects: IntCounter,
    nats_slow_consumer: IntCounter,
    config_reloads: IntCounterVec,
    accept_errors: IntCounter,
    late_replies: IntCounter,
    memory_used: IntGauge,
    memory_limit: IntGauge,
    memory_shed: IntCounter,
    panics: IntCounter,
    task_panics: IntCounter,
    passthrough_requests: IntCounterVec,
    passthrough_duration: Histogram,
    passthrough_in_flight: IntGauge,
    disconnect_events: IntCounterVec,
    drain_remaining: IntGauge,
    drain_eta: IntGauge,
}

impl Metrics {
    /// The families, at zero.
    #[must_use]
    pub fn new() -> Self {
        families::register()
    }

    /// The handles of one route.
    #[must_use]
    pub fn route(&self, hub: &str, route: &str, transport: &'static str) -> RouteMetrics {
        RouteMetrics::new(self, hub, route, transport)
    }

    /// The handles of one route's servers.
    #[must_use]
    pub fn circuits(&self, hub: &str, route: &str) -> Circuits {
        Circuits::new(self, hub, route)
    }

    /// The handles of a bridge.
    #[must_use]
    pub fn bridge(&self, hub: &str) -> BridgeMetrics {
        BridgeMetrics::new(self, hub)
    }

    /// One handshake ended: `result` is `accepted`, a refusal's word, or `vanished`.
    pub fn handshake(&self, result: &'static str, seconds: f64) {
        self.handshakes.with_label_values(&[result]).inc();
        self.handshake_duration.with_label_values::<&str>(&[]).observe(seconds);
    }

    /// One handshake ended before its head was read: nothing is known of how long it took.
    pub fn handshake_unread(&self, result: &'static str) {
        self.handshakes.with_label_values(&[result]).inc();
    }

    /// Makes the counters of all `results`, at zero.
    pub fn declare_handshakes(&self, results: impl IntoIterator<Item = &'static str>) {
        for result in results {
            self.handshakes.with_label_values(&[result]);
        }
    }

    /// Makes the counters of all rate `limits` and `actions`, at zero.
    pub fn declare_limits(
        &self,
        limits: impl IntoIterator<Item = &'static str>,
        actions: [&'static str; 4],
    ) {
        for limit in limits {
            for action in actions {
                self.limited.with_label_values(&[limit, action]);
            }
        }
    }

    /// One TLS handshake ended: `ok`, `failed`, `timeout` or `evicted`.
    pub fn tls_handshake(&self, result: &'static str) {
        self.tls_handshakes.with_label_values(&[result]).inc();
    }

    /// A PROXY header was read or not: `ok`, `local` when it named no address, or why its connection
    /// was closed: `untrusted`, `malformed`, `timeout`, `closed`, `evicted`.
    pub fn proxy_protocol(&self, result: &'static str) {
        self.proxy_protocol.with_label_values(&[result]).inc();
    }

    /// Groups that have members on this node.
    #[must_use]
    pub fn groups(&self) -> &IntGauge {
        &self.groups
    }

    /// Connections of this node in the registry.
    #[must_use]
    pub fn registry_entries(&self) -> &IntGauge {
        &self.registry_entries
    }

    /// Leases of other nodes that this node took over.
    #[must_use]
    pub fn leases_taken_over(&self) -> &IntCounter {
        &self.leases_taken_over
    }

    /// Slots of users for which there was no room on their way back.
    #[must_use]
    pub fn user_slots_left_out(&self) -> &IntCounter {
        &self.user_slots_left_out
    }

    /// Counts an event of the end of a connection on a route that this node does not have.
    pub fn disconnect_event(&self, result: &str) {
        self.disconnect_events.with_label_values(&[result]).inc();
    }

    /// Users that have connections to this node.
    #[must_use]
    pub fn users(&self) -> &IntGauge {
        &self.users
    }

    /// A push to this kind of target was taken by so many connections.
    pub fn push(&self, target: &'static str, deliveries: usize) {
        self.pushes.with_label_values(&[target]).inc();
        self.push_deliveries.with_label_values(&[target]).inc_by(deliveries as u64);
    }

    /// A push was refused: `name`, `header`, `ttl` or `reply` is what breaks the contract.
    pub fn push_refused(&self, reason: &'static str) {
        self.pushes_refused.with_label_values(&[reason]).inc();
    }

    /// A command over NATS was obeyed.
    pub fn command(&self, command: &'static str) {
        self.commands.with_label_values(&[command]).inc();
    }

    /// A command was refused: `bad-request`, `too-large`, `gone` or `reply` says why.
    pub fn command_refused(&self, reason: &'static str) {
        self.commands_refused.with_label_values(&[reason]).inc();
    }

    /// One request of a backend was answered, so long after its head.
    pub fn management(&self, operation: &'static str, result: &'static str, seconds: f64) {
        self.management_requests.with_label_values(&[operation, result]).inc();
        self.management_duration.with_label_values(&[operation]).observe(seconds);
    }

    /// Makes the counters of all `operations` and `results`, at zero.
    pub fn declare_management(
        &self,
        operations: impl IntoIterator<Item = &'static str>,
        results: [&'static str; 5],
    ) {
        for operation in operations {
            self.management_duration.with_label_values(&[operation]);
            for result in results {
                self.management_requests.with_label_values(&[operation, result]);
            }
        }
    }

    /// One request to the upstream ended: its status's class, or why there was none.
    pub fn passthrough(&self, result: &'static str) {
        self.passthrough_requests.with_label_values(&[result]).inc();
    }

    /// The head of an answer to a request to the upstream, ours or its own, came so long after the
    /// request's.
    pub fn passthrough_answered(&self, seconds: f64) {
        self.passthrough_duration.observe(seconds);
    }

    /// Requests at the upstream.
    #[must_use]
    pub fn passthrough_in_flight(&self) -> &IntGauge {
        &self.passthrough_in_flight
    }

    /// Makes the counters of all `results`, at zero.
    pub fn declare_passthrough(&self, results: impl IntoIterator<Item = &'static str>) {
        for result in results {
            self.passthrough_requests.with_label_values(&[result]);
        }
    }

    /// When the certificates of the section at `place` in the config end, in seconds since 1970: the
    /// first one, and the additional ones.
    pub fn certificate_expiries(&self, place: &str, ends: impl IntoIterator<Item = i64>) {
        let label = |i: usize| match i.checked_sub(1) {
            None => place.to_owned(),
            Some(additional) => format!("{place}.additional.{additional}"),
        };
        let mut next = 0;
        for end in ends {
            self.certificate_expiry.with_label_values(&[label(next).as_str()]).set(end);
            next += 1;
        }
        // Those that were served before and are no more.
        while self.certificate_expiry.remove_label_values(&[label(next).as_str()]).is_ok() {
            next += 1;
        }
    }

    /// 1 while the NATS connection is up, else 0.
    #[must_use]
    pub fn nats_connected(&self) -> &IntGauge {
        &self.nats_connected
    }

    /// Connections to NATS that came up again.
    #[must_use]
    pub fn nats_reconnects(&self) -> &IntCounter {
        &self.nats_reconnects
    }

    /// Times that the NATS client dropped messages because a subscription was full.
    #[must_use]
    pub fn nats_slow_consumer(&self) -> &IntCounter {
        &self.nats_slow_consumer
    }

    /// Files or settings were looked at again: `ok` or `failed`.
    pub fn config_reload(&self, result: &'static str) {
        self.config_reloads.with_label_values(&[result]).inc();
    }

    /// Failed accepts (file descriptors or memory ran out).
    #[must_use]
    pub fn accept_errors(&self) -> &IntCounter {
        &self.accept_errors
    }

    /// Replies that came after their request had an outcome.
    #[must_use]
    pub fn late_replies(&self) -> &IntCounter {
        &self.late_replies
    }

    /// Tasks that ended by a bug.
    #[must_use]
    pub fn task_panics(&self) -> &IntCounter {
        &self.task_panics
    }

    /// How much memory is used, and how much there is, in bytes.
    pub fn memory(&self, used: u64, limit: u64) {
        self.memory_used.set(i64::try_from(used).unwrap_or(i64::MAX));
        self.memory_limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    /// Connections closed because the node was short of memory.
    #[must_use]
    pub fn memory_shed(&self) -> &IntCounter {
        &self.memory_shed
    }

    /// How many connections a stopping node still waits for, and about how long.
    pub fn drain(&self, connections: usize, eta_seconds: u64) {
        self.drain_remaining.set(i64::try_from(connections).unwrap_or(i64::MAX));
        self.drain_eta.set(i64::try_from(eta_seconds).unwrap_or(i64::MAX));
    }

    /// All families in the Prometheus text format 0.0.4.
    #[must_use]
    pub fn to_text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be written");
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
