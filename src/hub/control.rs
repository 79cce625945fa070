//! Commands over NATS, from the subscriptions to the hubs. A task of their own takes them, so that
//! neither they nor pushes hold each other up.
//!
//! Commands take effect one after the other, in the order in which they come; their answers come as they
//! can, for that to a join waits until NATS knows of it. What others are to do takes effect as it can.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, SelectAll, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::answer::{Answer, Failure};
use super::command::{Command, CommandError, Done};
use super::demand::Demanded;
use super::intake::{Origin, Source};
use super::interest::Interest;
use super::push::Target;
use super::received::Refused;
use crate::metrics::Metrics;
use crate::nats::{Delivery, LogLimit};

/// Has the hubs obey commands, and answers them.
#[derive(Debug)]
pub(super) struct Control {
    interest: Interest,
    metrics: Metrics,
    refused: LogLimit,
}

/// Why a command is not obeyed.
#[derive(Debug, thiserror::Error)]
enum NotObeyed {
    /// It says wrongly whom it is for or who waits for the answer.
    #[error(transparent)]
    Address(#[from] Refused),
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("the connection is gone")]
    Gone,
}

/// What came of a command, and what its answer waits for.
enum Came {
    Done(Done),
    /// NATS is to know of it.
    Joined(Done),
    /// Others do it.
    Demanded(Demanded),
}

type Obeyed = Result<Came, NotObeyed>;

/// Answers that wait for NATS, or for room on the way. Meanwhile more commands wait in their
/// subscriptions.
const UNDER_WAY: usize = 64;
/// How long an answer waits until NATS knows of a join.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer waits for room on the way.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// What the headers of an answer may take of the room that NATS has.
const SPARE: usize = 1024;

impl Control {
    pub(super) fn new(interest: Interest, metrics: &Metrics) -> Self {
        Self { interest, metrics: metrics.clone(), refused: LogLimit::new() }
    }

    /// Takes all that comes from `newcomers`, until it is dropped.
    pub(super) async fn run(self, mut newcomers: mpsc::Receiver<Source>) {
        let (mut sources, mut answers) = (SelectAll::new(), FuturesUnordered::new());
        loop {
            tokio::select! {
                Some(source) = newcomers.recv() => sources.push(source),
                Some(()) = answers.next() => {}
                Some((origin, delivery)) = sources.next(), if answers.len() < UNDER_WAY => {
                    let obeyed = self.obey(&origin, &delivery).await;
                    answers.push(self.answer(origin, delivery, obeyed));
                }
                else => return,
            }
        }
    }

    async fn obey(&self, origin: &Origin, delivery: &Delivery) -> Obeyed {
        let target = origin.scope.target(origin.filter.rest(&delivery.subject))?;
        let subjects = &self.interest.node().subjects;
        if delivery.reply.as_ref().is_some_and(|reply| !subjects.is_inbox(reply)) {
            return Err(Refused::Reply.into());
        }
        let command = Command::parse(&delivery.payload)?;
        command.check_for(&target)?;
        if let Some(demanded) = origin.hub.demand(&target, &command) {
            self.metrics.command(command.as_str());
            return Ok(Came::Demanded(demanded));
        }
        let done = origin.hub.obey(&target, &command).await;
        let is_one = matches!(target, Target::Connection(_));
        if is_one && done.connections == 0 && origin.hub.count(&target) == 0 {
            return Err(NotObeyed::Gone);
        }
        self.metrics.command(command.as_str());
        let has_joined = matches!(command, Command::Join { .. }) && done.connections > 0;
        Ok(if has_joined { Came::Joined(done) } else { Came::Done(done) })
    }

    async fn answer(&self, origin: Arc<Origin>, delivery: Delivery, obeyed: Obeyed) {
        if let Err(error) = &obeyed {
            self.note_refused(&origin, error);
        }
        let Some(reply) = delivery.reply else { return };
        let result = match obeyed {
            Ok(Came::Done(done)) => Ok(done),
            Ok(Came::Joined(done)) => Ok(self.known(done).await),
            Ok(Came::Demanded(demanded)) => Ok(demanded.done().await),
            Err(NotObeyed::Address(Refused::Reply)) => return,
            Err(error) => {
                Err(Failure { code: error.reason().to_owned(), message: error.to_string() })
            }
        };
        let node = self.interest.node();
        let nodes = node.roster.nodes().map(|nodes| nodes.len());
        let most = node.feed.max_payload().saturating_sub(SPARE);
        let answer = Answer { node: node.id, nodes, result }.into_json(most);
        if !node.feed.answer(reply, answer, Instant::now() + ANSWER_TIMEOUT).await {
            tracing::debug!("command not answered");
        }
    }

    /// What came of a join, when NATS knows of it or has not said so in time.
    async fn known(&self, mut done: Done) -> Done {
        if !self.interest.confirmed(Instant::now() + CONFIRM_TIMEOUT).await {
            done.refused.get_or_insert_with(|| "not confirmed by NATS in time".to_owned());
        }
        done
    }

    fn note_refused(&self, origin: &Origin, error: &NotObeyed) {
        self.metrics.command_refused(error.reason());
        // That somebody has just gone is nobody's mistake.
        let is_wrong = !matches!(error, NotObeyed::Gone);
        if let Some(left_out) = is_wrong.then(|| self.refused.admit(Instant::now())).flatten() {
            let (hub, scope) = (origin.hub.name(), origin.filter.as_str());
            tracing::warn!(%hub, scope, %error, left_out, "command refused");
        }
    }
}

impl NotObeyed {
    /// The word in answers and metrics.
    const fn reason(&self) -> &'static str {
        match self {
            Self::Address(Refused::Reply) => "reply",
            Self::Address(_) => "bad-request",
            Self::Command(error) => error.reason(),
            Self::Gone => "gone",
        }
    }
}
