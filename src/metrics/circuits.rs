//! What is counted of the servers behind HTTP that are left alone for a while.

use prometheus::{IntCounter, IntGauge};

use super::Metrics;

/// The resolved handles of one route's servers.
#[derive(Debug, Clone)]
pub struct Circuits {
    open: IntGauge,
    opened: IntCounter,
}

impl Circuits {
    pub(super) fn new(metrics: &Metrics, hub: &str, route: &str) -> Self {
        Self {
            open: metrics.circuits_open.with_label_values(&[hub, route]),
            opened: metrics.circuits_opened.with_label_values(&[hub, route]),
        }
    }

    /// A server failed too often and is left alone.
    pub fn opened(&self) {
        self.opened.inc();
        self.open.inc();
    }

    /// It is asked again, or not known any more.
    pub fn closed(&self) {
        self.open.dec();
    }
}
