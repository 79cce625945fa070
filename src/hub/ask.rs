//! One question to the nodes that have the connections, and when enough of them have answered.

use std::collections::HashSet;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use tokio::time::Instant;

use super::answer::Answer;
use super::command::Done;
use super::fleet::FleetError;
use super::interest::Interest;
use super::push::Target;
use crate::id::{HubName, NodeId};
use crate::nats::{Channel, RequestError};

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answering {
    /// The node that has the connection.
    One,
    /// Every node.
    All,
    /// Nodes that have somebody who is meant: which ones, nobody knows.
    Some,
}

/// After this long without another answer, no more are expected where nobody knows how many come.
/// Nodes answer within a millisecond or two; one in another region takes its round trip.
const SILENCE: Duration = Duration::from_millis(50);

impl Interest {
    /// Asks all nodes that may have a part in it, this one included, and adds up what they answer.
    ///
    /// Cancel safe in that dropping the future leaves nothing behind; whether it was published is then
    /// not known.
    pub(super) async fn ask(
        &self,
        hub: &HubName,
        channel: Channel,
        target: &Target,
        headers: HeaderMap,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Done, FleetError> {
        let node = self.node();
        let subject = match target {
            Target::Connection(id) => node.subjects.connection(hub, channel, *id),
            Target::User(user) => node.subjects.user(hub, channel, user),
            Target::Group(group) => node.subjects.group(hub, channel, group),
            Target::All => node.subjects.all(hub, channel),
        };
        let answering = match target {
            Target::Connection(_) => Answering::One,
            _ if channel == Channel::Ctl || self.takes_all(target) => Answering::All,
            _ => Answering::Some,
        };
        let mut answers = node.feed.ask(&subject, headers, payload, deadline).await?;
        let (mut done, mut answered) = (Done::default(), HashSet::new());
        let mut until = deadline;
        loop {
            let answer = match answers.next(until).await {
                Ok(reply) => Answer::parse(&reply.payload),
                Err(RequestError::NoResponders) if answering == Answering::One => {
                    return Err(FleetError::Gone);
                }
                Err(error) => {
                    // Silence is the end only where nobody knows who else may speak.
                    let is_end = answering == Answering::Some
                        && (error == RequestError::NoResponders || until < deadline);
                    done.is_partial = !is_end || error == RequestError::Lost;
                    return Ok(done);
                }
            };
            let Some(answer) = answer.filter(|answer| answered.insert(answer.node)) else {
                continue;
            };
            match answer.result {
                Ok(more) => done.add(more),
                Err(failure) if failure.is_gone() && answering == Answering::One => {
                    return Err(FleetError::Gone);
                }
                Err(failure) => drop(done.refused.get_or_insert(failure.message)),
            }
            if answering == Answering::One || self.are_all(&answered) {
                return Ok(done);
            }
            if answering == Answering::Some || node.roster.nodes().is_none() {
                until = deadline.min(Instant::now() + SILENCE);
            }
        }
    }

    /// Whether no other node is alive.
    fn are_all(&self, answered: &HashSet<NodeId>) -> bool {
        self.node().roster.nodes().is_some_and(|nodes| nodes.is_subset(answered))
    }
}

impl From<RequestError> for FleetError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::TooLarge { size, maximum } => Self::TooLarge { size, maximum },
            _ => Self::Unreachable,
        }
    }
}
