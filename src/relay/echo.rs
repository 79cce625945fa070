//! The backend inside moorline, for a first try without any other: says back what it hears.

use crate::event::{Action, EventBody, Outcome};

/// Answers every message with itself and lets everybody in.
#[derive(Debug, Clone, Copy, Default)]
pub struct EchoRelay;

impl EchoRelay {
    /// What it answers.
    pub(super) fn answer(self, body: &EventBody) -> Outcome {
        match body {
            EventBody::Connect(_) => Outcome::Accepted(Box::default()),
            EventBody::Message(message) => Outcome::Replied(vec![Action::Send(message.clone())]),
            EventBody::Connected | EventBody::Disconnected(_) | EventBody::Poll => {
                Outcome::Replied(Vec::new())
            }
        }
    }
}
