//! stub until merged
use crate::event::*;
use std::sync::Arc;
/// r
#[derive(Debug, Clone)]
pub enum Relay { /// e
 Echo }
/// h
#[derive(Debug, Clone)]
pub struct Held; impl Held { /// n
 pub fn new(_: usize) -> Self { Self } }
impl Relay { /// e
 pub fn echo(_: Arc<crate::metrics::RouteMetrics>) -> Self { Self::Echo }
 /// n
 pub fn nats(_: crate::nats::Nats, _: &Arc<crate::config::Route>, _: &str, _: Held, _: Arc<crate::metrics::RouteMetrics>) -> Result<Self, crate::nats::NatsError> { Ok(Self::Echo) }
 /// r
 pub async fn request(&self, e: Event) -> Outcome { match e.body { EventBody::Message(m) => Outcome::Replied(vec![Action::Send(m)]), EventBody::Connect(_) => Outcome::Accepted(Box::default()), _ => Outcome::Replied(vec![]) } } }
