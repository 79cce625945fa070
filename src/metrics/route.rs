//! What is counted for each message and connection of one route.

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use super::Metrics;
use crate::close::Cause;
use crate::event::Outcome;
use crate::message::{Kind, Message};

/// The resolved handles of one route.
#[derive(Debug, Clone)]
pub struct RouteMetrics {
    hub: String,
    route: String,
    /// Open connections.
    pub connections: IntGauge,
    opened: IntCounter,
    closed: IntCounterVec,
    duration: Histogram,
    inbound: Direction,
    outbound: Direction,
    outcomes: Outcomes,
    backend_duration: Histogram,
    /// Events without an outcome yet.
    pub in_flight: IntGauge,
    /// Events that wait for a backend.
    pub held: IntGauge,
    ping_rtt: Histogram,
    limited: IntCounterVec,
    outbox_bytes: IntGauge,
    outbox_closed: IntCounter,
    outbox_dropped: IntCounter,
    outbox_expired: IntCounter,
    panics: IntCounter,
    disconnect_events: IntCounterVec,
}

#[derive(Debug, Clone)]
struct Direction {
    text: IntCounter,
    binary: IntCounter,
    bytes: IntCounter,
}

#[derive(Debug, Clone)]
struct Outcomes {
    replied: IntCounter,
    refused: IntCounter,
    unavailable: IntCounter,
    unknown: IntCounter,
    overloaded: IntCounter,
}

impl RouteMetrics {
    pub(super) fn new(metrics: &Metrics, hub: &str, route: &str, transport: &str) -> Self {
        let place = [hub, route];
        let direction = |word| Direction {
            text: metrics.messages.with_label_values(&[hub, route, word, Kind::Text.as_str()]),
            binary: metrics.messages.with_label_values(&[hub, route, word, Kind::Binary.as_str()]),
            bytes: metrics.message_bytes.with_label_values(&[hub, route, word]),
        };
        let outcome =
            |word| metrics.backend_requests.with_label_values(&[hub, route, transport, word]);
        let backend = [hub, route, transport];
        let overflow = |policy| metrics.outbox_overflow.with_label_values(&[hub, route, policy]);
        Self {
            hub: hub.to_owned(),
            route: route.to_owned(),
            connections: metrics.connections.with_label_values(&place),
            opened: metrics.connections_opened.with_label_values(&place),
            closed: metrics.connections_closed.clone(),
            duration: metrics.connection_duration.with_label_values(&place),
            inbound: direction("inbound"),
            outbound: direction("outbound"),
            outcomes: Outcomes {
                replied: outcome("replied"),
                refused: outcome("refused"),
                unavailable: outcome("unavailable"),
                unknown: outcome("unknown"),
                overloaded: outcome("overloaded"),
            },
            backend_duration: metrics.backend_duration.with_label_values(&backend),
            in_flight: metrics.backend_in_flight.with_label_values(&backend),
            held: metrics.backend_held.with_label_values(&backend),
            ping_rtt: metrics.ping_rtt.with_label_values(&place),
            limited: metrics.limited.clone(),
            outbox_bytes: metrics.outbox_bytes.with_label_values(&place),
            outbox_closed: overflow("close"),
            outbox_dropped: overflow("drop-oldest"),
            outbox_expired: metrics.outbox_expired.with_label_values(&place),
            panics: metrics.panics.clone(),
            disconnect_events: metrics.disconnect_events.clone(),
        }
    }

    /// A connection was accepted.
    pub fn opened(&self) {
        self.opened.inc();
        self.connections.inc();
    }

    /// A connection ended.
    pub fn closed(&self, code: u16, cause: Cause, seconds: f64) {
        self.connections.dec();
        self.duration.observe(seconds);
        let labels = [&*self.hub, &*self.route, code_label(code), cause.as_str()];
        self.closed.with_label_values(&labels).inc();
    }

    /// A message came from the client.
    pub fn inbound(&self, message: &Message) {
        self.inbound.count(message);
    }

    /// A message was given to the client's socket.
    pub fn outbound(&self, message: &Message) {
        self.outbound.count(message);
    }

    /// An event has its outcome.
    pub fn outcome(&self, outcome: &Outcome, seconds: f64) {
        self.backend_duration.observe(seconds);
        match outcome {
            Outcome::Replied(_) | Outcome::Accepted(_) => &self.outcomes.replied,
            Outcome::Refused(_) => &self.outcomes.refused,
            Outcome::Unavailable => &self.outcomes.unavailable,
            Outcome::Unknown => &self.outcomes.unknown,
            Outcome::Overloaded => &self.outcomes.overloaded,
        }
        .inc();
    }

    /// How many events have an outcome.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn outcomes(&self) -> u64 {
        self.backend_duration.get_sample_count()
    }

    /// A connection ended by a bug.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// A `disconnected` event was `accepted`, `given-up`, `dropped` for want of a place, `left` to other
    /// nodes by one that stops, or `taken` by one that took the connection for dead.
    pub fn disconnect_event(&self, result: &'static str) {
        self.disconnect_events.with_label_values(&[result]).inc();
    }

    /// Something of a connection was over a limit: the limit's word and what was done.
    pub fn limited(&self, limit: &'static str, action: &'static str) {
        self.limited.with_label_values(&[limit, action]).inc();
    }

    /// An outbox that held `before` bytes holds `after`.
    pub fn outbox(&self, before: usize, after: usize) {
        let number = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.outbox_bytes.add(number(after) - number(before));
    }

    /// Messages made room for newer ones, or came too late to be sent.
    pub fn outbox_lost(&self, dropped: usize, expired: usize) {
        self.outbox_dropped.inc_by(dropped as u64);
        self.outbox_expired.inc_by(expired as u64);
    }

    /// A connection is closed because its outbox was full.
    pub fn outbox_full(&self) {
        self.outbox_closed.inc();
    }

    /// A pong came `seconds` after its ping.
    pub fn ping_rtt(&self, seconds: f64) {
        self.ping_rtt.observe(seconds);
    }
}

impl Direction {
    fn count(&self, message: &Message) {
        match message.kind() {
            Kind::Text => self.text.inc(),
            Kind::Binary => self.binary.inc(),
        }
        self.bytes.inc_by(message.data().len() as u64);
    }
}

/// Clients and backends choose close codes freely, so those without a meaning here share a label.
fn code_label(code: u16) -> &'static str {
    const KNOWN: [(u16, &str); 19] = [
        (1000, "1000"),
        (1001, "1001"),
        (1002, "1002"),
        (1003, "1003"),
        (1005, "1005"),
        (1006, "1006"),
        (1007, "1007"),
        (1008, "1008"),
        (1009, "1009"),
        (1011, "1011"),
        (1012, "1012"),
        (1013, "1013"),
        (4401, "4401"),
        (4403, "4403"),
        (4408, "4408"),
        (4409, "4409"),
        (4429, "4429"),
        (4508, "4508"),
        (4510, "4510"),
    ];
    match KNOWN.iter().find(|(known, _)| *known == code) {
        Some((_, label)) => label,
        None if (3000..4000).contains(&code) => "3xxx",
        None if (4000..5000).contains(&code) => "4xxx",
        None => "other",
    }
}
