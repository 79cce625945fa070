//! What a bridge counts, beside what every relay does.

use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::Metrics;
use crate::event::Outcome;

/// The resolved handles of one bridge.
#[derive(Debug, Clone)]
pub struct BridgeMetrics {
    hub: String,
    events: IntCounterVec,
    /// Whether the bridge is in its queue group: 1 or 0.
    pub joined: IntGauge,
    /// Replies that did not go to NATS.
    pub lost_replies: IntCounter,
}

/// What an event's end is called that has no outcome, for it is none.
pub const NOT_AN_EVENT: &str = "not-an-event";
/// The same of one whose answer a reply cannot carry.
pub const NOT_CARRIED: &str = "not-carried";

impl BridgeMetrics {
    pub(super) fn new(metrics: &Metrics, hub: &str) -> Self {
        for outcome in Outcome::WORDS.into_iter().chain([NOT_AN_EVENT, NOT_CARRIED]) {
            metrics.bridge_events.with_label_values(&[hub, outcome]);
        }
        Self {
            hub: hub.to_owned(),
            events: metrics.bridge_events.clone(),
            joined: metrics.bridge_joined.with_label_values(&[hub]),
            lost_replies: metrics.bridge_lost_replies.with_label_values(&[hub]),
        }
    }

    /// An event was answered, by the word of what came of it.
    pub fn event(&self, outcome: &'static str) {
        self.events.with_label_values(&[&*self.hub, outcome]).inc();
    }
}
