//! stub until merged
use crate::event::*;
/// r
#[derive(Debug, Clone)]
pub enum Relay {
    /// e
    Echo,
}
impl Relay {
    /// e
    pub fn echo() -> Self {
        Self::Echo
    }

    /// r
    pub async fn request(&self, e: Event) -> Outcome {
        match e.body {
            EventBody::Message(m) => Outcome::Replied(vec![Action::Send(m)]),
            EventBody::Connect(_) => Outcome::Accepted(Box::default()),
            _ => Outcome::Replied(vec![]),
        }
    }
}
