//! The one task that takes messages from the client library as they come, into the backlogs of their
//! subscriptions.
//!
//! The library bounds a subscription by the number of its messages, whatever their size, and all that it
//! reads in one go is in there before anybody else has a turn. One task, woken by the first of them, has
//! the next turn after the library's own, however many others are waiting for theirs; so what the library
//! holds is what it reads in one go, and the rest is in the backlogs, which are bounded in bytes.

use std::pin::Pin;
use std::sync::Arc;

use async_nats::Subscriber;
use futures_util::StreamExt;
use futures_util::stream::{AbortHandle, Abortable, FuturesUnordered};
use tokio::sync::mpsc;
use tokio::task::{unconstrained, yield_now};
use tokio_util::sync::CancellationToken;

use super::Filter;
use super::backlog::Backlog;
use super::feed::{Delivery, Feed};

/// One subscription, read until it is aborted.
pub(super) type Newcomer = Abortable<Pin<Box<dyn Future<Output = ()> + Send>>>;

/// What one subscription is read from and into.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) feed: Feed,
    pub(super) source: Source,
    /// None while no client has it.
    pub(super) subscriber: Option<Subscriber>,
    pub(super) backlog: Arc<Backlog>,
}

/// What is subscribed to.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) filter: Filter,
    /// Each message comes to one member of a queue group only.
    pub(super) queue: Option<Arc<str>>,
}

/// Messages of one subscription until others have their turn: more than the library reads in one of its.
const TURN: usize = 32 * 1024;

/// Reads all `newcomers` until `stop`.
pub(super) async fn read_all(mut newcomers: mpsc::Receiver<Newcomer>, stop: CancellationToken) {
    let mut all = FuturesUnordered::new();
    let reading = async {
        loop {
            tokio::select! {
                Some(newcomer) = newcomers.recv() => all.push(newcomer),
                // Its subscription was dropped.
                Some(_) = all.next() => {}
                else => return,
            }
        }
    };
    // The runtime would end a turn after 128 messages, and the library reads thousands in one.
    stop.run_until_cancelled(unconstrained(reading)).await;
}

impl Reading {
    /// Itself, for the task, and what ends it.
    pub(super) fn into_newcomer(mut self) -> (Newcomer, AbortHandle) {
        let (handle, registration) = AbortHandle::new_pair();
        (Abortable::new(Box::pin(async move { self.run().await }), registration), handle)
    }

    /// Reads without end. Cancel safe.
    pub(super) async fn run(&mut self) {
        let mut taken = 0_usize;
        loop {
            if let Some(subscriber) = &mut self.subscriber
                && let Some(message) = subscriber.next().await
            {
                self.offer(message);
                taken = taken.wrapping_add(1);
                if taken.is_multiple_of(TURN) {
                    yield_now().await;
                }
                continue;
            }
            // The client has ended, or never had it.
            self.subscriber = None;
            self.subscriber = Some(self.feed.link.subscribe(&self.source).await);
        }
    }

    pub(super) fn offer(&self, message: async_nats::Message) {
        if !self.backlog.offer(Delivery::of_message(message)) {
            self.feed.was_slow();
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.backlog.close();
    }
}
