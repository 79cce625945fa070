//! Names, labels and help texts of every family. Names follow the Prometheus conventions: base units,
//! `_total` on counters.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

/// 250 us to 10 s: an answer of a NATS worker takes a fraction of a millisecond.
const FAST: &[f64] = &[
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// 1 s to a day: how long connections live.
const LONG: &[f64] = &[1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0];

/// Every family, by what it counts; [`Metrics`](super::Metrics) shares it.
#[derive(Debug)]
pub struct Families {
    pub(super) registry: Registry,
    /// Open connections after the 101, by hub and route.
    pub(super) connections: IntGaugeVec,
    pub(super) connections_opened: IntCounterVec,
    pub(super) connections_closed: IntCounterVec,
    pub(super) connection_duration: HistogramVec,
    pub(super) messages: IntCounterVec,
    pub(super) message_bytes: IntCounterVec,
    pub(super) backend_requests: IntCounterVec,
    pub(super) backend_duration: HistogramVec,
    pub(super) backend_in_flight: IntGaugeVec,
    pub(super) backend_held: IntGaugeVec,
    pub(super) circuits_open: IntGaugeVec,
    pub(super) circuits_opened: IntCounterVec,
    pub(super) bridge_events: IntCounterVec,
    pub(super) bridge_joined: IntGaugeVec,
    pub(super) bridge_lost_replies: IntCounterVec,
    pub(super) ping_rtt: HistogramVec,
    pub(super) limited: IntCounterVec,
    pub(super) outbox_bytes: IntGaugeVec,
    pub(super) outbox_overflow: IntCounterVec,
    pub(super) outbox_expired: IntCounterVec,
    pub(super) groups: IntGauge,
    pub(super) registry_entries: IntGauge,
    pub(super) leases_taken_over: IntCounter,
    pub(super) user_slots_left_out: IntCounter,
    pub(super) users: IntGauge,
    pub(super) pushes: IntCounterVec,
    pub(super) push_deliveries: IntCounterVec,
    pub(super) pushes_refused: IntCounterVec,
    pub(super) commands: IntCounterVec,
    pub(super) commands_refused: IntCounterVec,
    pub(super) management_requests: IntCounterVec,
    pub(super) management_duration: HistogramVec,
    pub(super) handshakes: IntCounterVec,
    pub(super) handshake_duration: HistogramVec,
    pub(super) tls_handshakes: IntCounterVec,
    pub(super) proxy_protocol: IntCounterVec,
    pub(super) certificate_expiry: IntGaugeVec,
    pub(super) nats_connected: IntGauge,
    pub(super) nats_reconnects: IntCounter,
    pub(super) nats_slow_consumer: IntCounter,
    pub(super) config_reloads: IntCounterVec,
    pub(super) accept_errors: IntCounter,
    pub(super) late_replies: IntCounter,
    pub(super) memory_used: IntGauge,
    pub(super) memory_limit: IntGauge,
    pub(super) memory_shed: IntCounter,
    pub(super) panics: IntCounter,
    pub(super) task_panics: IntCounter,
    pub(super) passthrough_requests: IntCounterVec,
    pub(super) passthrough_duration: Histogram,
    pub(super) passthrough_in_flight: IntGauge,
    pub(super) disconnect_events: IntCounterVec,
    pub(super) drain_remaining: IntGauge,
    pub(super) drain_eta: IntGauge,
}

/// Makes and registers every family.
#[expect(clippy::too_many_lines, reason = "one table of all families")]
pub(super) fn register() -> Families {
    let registry = Registry::new();
    let r = &registry;
    let place = ["hub", "route"];
    let metrics = Families {
        connections: gauges(r, "connections", "Open WebSocket connections.", &place),
        connections_opened: counters(
            r,
            "connections_opened_total",
            "WebSocket connections accepted.",
            &place,
        ),
        connections_closed: counters(
            r,
            "connections_closed_total",
            "WebSocket connections ended, by close code and cause.",
            &["hub", "route", "code", "cause"],
        ),
        connection_duration: histograms(
            r,
            "connection_duration_seconds",
            "How long ended connections lived.",
            &place,
            LONG,
        ),
        messages: counters(
            r,
            "messages_total",
            "Messages, inbound from or outbound to clients.",
            &["hub", "route", "direction", "kind"],
        ),
        message_bytes: counters(
            r,
            "message_bytes_total",
            "Payload bytes of messages, inbound from or outbound to clients.",
            &["hub", "route", "direction"],
        ),
        backend_requests: counters(
            r,
            "backend_requests_total",
            "Events given to a backend, by their one outcome.",
            &["hub", "route", "transport", "outcome"],
        ),
        backend_duration: histograms(
            r,
            "backend_request_duration_seconds",
            "Time from an event to its outcome, waiting for a backend included.",
            &["hub", "route", "transport"],
            FAST,
        ),
        backend_in_flight: gauges(
            r,
            "backend_in_flight",
            "Events at a backend that have no outcome yet.",
            &["hub", "route", "transport"],
        ),
        backend_held: gauges(
            r,
            "backend_held",
            "Events that wait for a backend to appear.",
            &["hub", "route", "transport"],
        ),
        circuits_open: gauges(
            r,
            "backend_circuits_open",
            "Servers of a backend behind HTTP that are left alone, because they do not answer.",
            &place,
        ),
        circuits_opened: counters(
            r,
            "backend_circuits_opened_total",
            "Times that a server of a backend behind HTTP was left alone after failures in a row.",
            &place,
        ),
        bridge_events: counters(
            r,
            "bridge_events_total",
            "Events that a bridge has answered, by what came of them.",
            &["hub", "outcome"],
        ),
        bridge_joined: gauges(
            r,
            "bridge_joined",
            "Whether a bridge is in its queue group: 1, or 0 while its service cannot be reached or NATS refuses it.",
            &["hub"],
        ),
        bridge_lost_replies: counters(
            r,
            "bridge_lost_replies_total",
            "Replies of a bridge that could not be given to NATS.",
            &["hub"],
        ),
        ping_rtt: histograms(r, "ping_rtt_seconds", "Time from a ping to its pong.", &place, FAST),
        limited: counters(
            r,
            "limited_total",
            "Messages and frames over a rate limit, by what was done.",
            &["limit", "action"],
        ),
        outbox_bytes: gauges(
            r,
            "outbox_bytes",
            "Payload bytes that wait for clients to read them.",
            &place,
        ),
        outbox_overflow: counters(
            r,
            "outbox_overflow_total",
            "Connections closed (close) or messages dropped (drop-oldest) at a full outbox.",
            &["hub", "route", "policy"],
        ),
        outbox_expired: counters(
            r,
            "outbox_expired_total",
            "Pushes that came too late to be sent, by their time to live.",
            &place,
        ),
        groups: gauge(r, "groups", "Groups that have members on this node."),
        registry_entries: gauge(
            r,
            "registry_entries",
            "Connections of this node whose end another node would tell their backend.",
        ),
        leases_taken_over: counter(
            r,
            "leases_taken_over_total",
            "Nodes that were dead or had stopped, and whose connections this node finished.",
        ),
        user_slots_left_out: counter(
            r,
            "user_slots_left_out_total",
            "Slots of users for which there was no room on their way back; they are looked for later.",
        ),
        users: gauge(r, "users", "Users that have connections to this node."),
        pushes: counters(r, "pushes_total", "Pushes that reached this node.", &["target"]),
        push_deliveries: counters(
            r,
            "push_deliveries_total",
            "Connections that took a push.",
            &["target"],
        ),
        pushes_refused: counters(
            r,
            "pushes_refused_total",
            "Pushes that were given to nobody, because they break the contract.",
            &["reason"],
        ),
        commands: counters(
            r,
            "commands_total",
            "Commands that this node has obeyed.",
            &["command"],
        ),
        commands_refused: counters(
            r,
            "commands_refused_total",
            "Commands that this node has not obeyed.",
            &["reason"],
        ),
        management_requests: counters(
            r,
            "management_requests_total",
            "Requests to the management API answered, by what they ask for and the result.",
            &["operation", "result"],
        ),
        management_duration: histograms(
            r,
            "management_request_duration_seconds",
            "Time from the head of a management request to its answer.",
            &["operation"],
            FAST,
        ),
        handshakes: counters(
            r,
            "handshakes_total",
            "Opening handshakes ended, by result.",
            &["result"],
        ),
        handshake_duration: histograms(
            r,
            "handshake_duration_seconds",
            "Time from the end of the request head to the answer.",
            &[],
            FAST,
        ),
        tls_handshakes: counters(
            r,
            "tls_handshakes_total",
            "TLS handshakes ended, by result.",
            &["result"],
        ),
        proxy_protocol: counters(
            r,
            "proxy_protocol_total",
            "Connections to listeners with PROXY protocol, by what became of the header.",
            &["result"],
        ),
        certificate_expiry: gauges(
            r,
            "tls_certificate_expiry_timestamp_seconds",
            "When a served certificate ends, by its place in the config.",
            &["certificate"],
        ),
        nats_connected: gauge(r, "nats_connected", "Connections to NATS that are up."),
        nats_reconnects: counter(
            r,
            "nats_reconnects_total",
            "Times that a connection to NATS came up again.",
        ),
        nats_slow_consumer: counter(
            r,
            "nats_slow_consumer_total",
            "Times that a NATS subscription was full and dropped messages.",
        ),
        config_reloads: counters(
            r,
            "config_reloads_total",
            "Times that changed files or settings were to be taken over, by result.",
            &["result"],
        ),
        accept_errors: counter(
            r,
            "accept_errors_total",
            "Failed accepts, as when file descriptors run out.",
        ),
        late_replies: counter(
            r,
            "backend_late_replies_total",
            "Backend replies that came after their request had an outcome; they are ignored.",
        ),
        drain_remaining: gauge(
            r,
            "drain_remaining_connections",
            "Connections that a stopping node still waits for, undelivered last events included.",
        ),
        drain_eta: gauge(
            r,
            "drain_eta_seconds",
            "Estimated seconds until the last connection of a stopping node has left; 0 while it runs.",
        ),
        memory_used: gauge(r, "memory_used_bytes", "Memory used, as it is held against the limit."),
        memory_limit: gauge(
            r,
            "memory_limit_bytes",
            "Memory there is: of the control group, the machine, or as the config says.",
        ),
        memory_shed: counter(
            r,
            "memory_shed_total",
            "Connections closed because the node was short of memory.",
        ),
        panics: counter(r, "panics_total", "Connections that ended by a bug in moorline."),
        task_panics: counter(
            r,
            "task_panics_total",
            "Tasks of any kind that ended by a bug in moorline; the log names them.",
        ),
        passthrough_requests: counters(
            r,
            "passthrough_requests_total",
            "Requests for the upstream ended, by the class of its status or why there was none.",
            &["result"],
        ),
        passthrough_duration: histogram(
            r,
            "passthrough_request_duration_seconds",
            "Time from the head of a request for the upstream to the head of its answer.",
            FAST,
        ),
        passthrough_in_flight: gauge(
            r,
            "passthrough_in_flight",
            "Requests at the upstream, their answers included as long as they are sent.",
        ),
        disconnect_events: counters(
            r,
            "disconnect_events_total",
            "Disconnected events, by whether a backend accepted them.",
            &["result"],
        ),
        registry: registry.clone(),
    };
    for result in ["accepted", "given-up", "dropped", "left", "taken"] {
        metrics.disconnect_events.with_label_values(&[result]);
    }
    // Fixed words are there from the start: a rate over a series that begins with its first event
    // misses that event.
    for result in ["ok", "failed", "timeout", "evicted"] {
        metrics.tls_handshakes.with_label_values(&[result]);
    }
    for result in ["ok", "local", "untrusted", "malformed", "timeout", "closed", "evicted"] {
        metrics.proxy_protocol.with_label_values(&[result]);
    }
    for target in ["conn", "user", "group", "all"] {
        metrics.pushes.with_label_values(&[target]);
        metrics.push_deliveries.with_label_values(&[target]);
    }
    for reason in ["name", "header", "ttl", "reply"] {
        metrics.pushes_refused.with_label_values(&[reason]);
    }
    for command in ["close", "join", "leave", "info", "count", "poll", "refresh", "revoke", "trace"]
    {
        metrics.commands.with_label_values(&[command]);
    }
    for reason in ["bad-request", "too-large", "gone", "reply"] {
        metrics.commands_refused.with_label_values(&[reason]);
    }
    for result in ["ok", "failed"] {
        metrics.config_reloads.with_label_values(&[result]);
    }
    let build = gauges(r, "build_info", "The running version; always 1.", &["version"]);
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    keep(r, prometheus::process_collector::ProcessCollector::for_self());
    metrics
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    made(registry, IntCounterVec::new(opts(name, help), labels))
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    made(registry, IntCounter::with_opts(opts(name, help)))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    made(registry, IntGaugeVec::new(opts(name, help), labels))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    made(registry, IntGauge::with_opts(opts(name, help)))
}

fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> HistogramVec {
    let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
    made(registry, HistogramVec::new(opts, labels))
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
    made(registry, Histogram::with_opts(opts))
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("moorline")
}

#[expect(clippy::expect_used, reason = "the names and labels above are constants, made at start")]
fn made<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let collector = made.expect("a family's name and labels are well formed");
    keep(registry, collector.clone());
    collector
}

#[expect(clippy::expect_used, reason = "the names above are constants, registered at start")]
fn keep(registry: &Registry, collector: impl Collector + 'static) {
    registry.register(Box::new(collector)).expect("a family is registered once");
}
