//! What one connection did, for its closing log line.

use tokio::time::Instant;

use crate::event::Outcome;
use crate::message::Message;

/// Counts of one connection.
#[derive(Debug)]
pub(super) struct Stats {
    pub(super) since: Instant,
    pub(super) inbound: Traffic,
    pub(super) outbound: Traffic,
    /// The most payload bytes that waited for the client to read.
    pub(super) outbox_peak: usize,
    /// The last outcome's word; empty when no event was sent.
    pub(super) last_outcome: &'static str,
}

/// Messages and their payload bytes in one direction.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

impl Stats {
    pub(super) fn new() -> Self {
        Self {
            since: Instant::now(),
            inbound: Traffic::default(),
            outbound: Traffic::default(),
            outbox_peak: 0,
            last_outcome: "",
        }
    }

    pub(super) fn inbound(&mut self, message: &Message) {
        self.inbound.count(message);
    }

    pub(super) fn outbound(&mut self, message: &Message) {
        self.outbound.count(message);
    }

    pub(super) fn outcome(&mut self, outcome: &Outcome) {
        self.last_outcome = outcome.as_str();
    }
}

impl Traffic {
    fn count(&mut self, message: &Message) {
        self.messages += 1;
        self.bytes += message.data().len() as u64;
    }
}
