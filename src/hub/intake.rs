//! Pushes over NATS, from the subscriptions to the hubs. One task takes all of them, so that pushes of
//! one publisher to one subject stay in order.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, AbortHandle, Abortable, SelectAll, Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::answer::Answer;
use super::hub::Hub;
use super::node::Node;
use super::received::{self, Refused, Scope};
use crate::metrics::Metrics;
use crate::nats::{Delivery, Filter, LogLimit, Subscription};

/// Gives pushes to the hubs and answers them.
#[derive(Debug)]
pub(super) struct Intake {
    node: Node,
    metrics: Metrics,
    refused: LogLimit,
}

/// A subscription's messages, each with where it comes from; they end when it is aborted.
pub(super) type Source = Abortable<Pin<Box<dyn Stream<Item = (Arc<Origin>, Delivery)> + Send>>>;

/// What a subscription is for.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) hub: Arc<Hub>,
    pub(super) scope: Scope,
    pub(super) filter: Filter,
}

/// How long an answer may wait for room on the way. There is none only while the connection cannot
/// write, and pushes that nobody waits for must not stand behind those.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(100);

/// The messages of `subscription`, and the handle that ends them and it.
pub(super) fn source(origin: Origin, subscription: Subscription) -> (Source, AbortHandle) {
    let start = (Arc::new(origin), subscription);
    let messages = stream::unfold(start, |(origin, mut subscription)| async {
        let delivery = subscription.next().await;
        Some(((Arc::clone(&origin), delivery), (origin, subscription)))
    });
    stream::abortable(messages.boxed())
}

impl Intake {
    pub(super) fn new(node: Node, metrics: &Metrics) -> Self {
        Self { node, metrics: metrics.clone(), refused: LogLimit::new() }
    }

    /// Takes all that comes from `newcomers`, until it is dropped.
    pub(super) async fn run(self, mut newcomers: mpsc::Receiver<Source>) {
        let mut sources = SelectAll::new();
        loop {
            tokio::select! {
                Some(source) = newcomers.recv() => sources.push(source),
                Some((origin, delivery)) = sources.next() => self.take(&origin, delivery).await,
                else => return,
            }
        }
    }

    async fn take(&self, origin: &Origin, delivery: Delivery) {
        match self.push(origin, &delivery).await {
            Ok(deliveries) => {
                if let Some(reply) = delivery.reply {
                    let answer = Answer::push_json(self.node.id, deliveries);
                    let deadline = Instant::now() + ANSWER_TIMEOUT;
                    if !self.node.feed.answer(reply, answer, deadline).await {
                        tracing::debug!(deliveries, "push not answered");
                    }
                }
            }
            Err(refused) => {
                self.metrics.push_refused(refused.reason());
                if let Some(left_out) = self.refused.admit(Instant::now()) {
                    let (hub, scope) = (origin.hub.name(), origin.filter.as_str());
                    tracing::warn!(%hub, scope, error = %refused, left_out, "push refused");
                }
            }
        }
    }

    async fn push(&self, origin: &Origin, delivery: &Delivery) -> Result<usize, Refused> {
        let target = origin.scope.target(origin.filter.rest(&delivery.subject))?;
        if delivery.reply.as_ref().is_some_and(|reply| !self.node.subjects.is_inbox(reply)) {
            return Err(Refused::Reply);
        }
        let push = received::read(target, delivery, self.node.id, Instant::now())?;
        let deliveries = origin.hub.push(&push).await;
        self.metrics.push(push.target.as_str(), deliveries);
        Ok(deliveries)
    }
}
