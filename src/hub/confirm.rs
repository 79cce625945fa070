//! Whether NATS knows of a subscription, for whoever says so to others: all who wait share one round
//! to the server and back.

use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use crate::nats::Feed;

/// How far the node's subscriptions have come, as versions of what they follow.
#[derive(Debug)]
pub(super) struct Confirmations {
    /// What is subscribed to.
    subscribed: watch::Sender<u64>,
    /// What the server knows.
    confirmed: watch::Sender<u64>,
    /// Somebody waits.
    wanted: Notify,
}

/// One round; whoever waits then begins another.
const ROUND_TIMEOUT: Duration = Duration::from_secs(2);

impl Confirmations {
    pub(super) fn new() -> Self {
        let (subscribed, confirmed) = (watch::Sender::new(0), watch::Sender::new(0));
        Self { subscribed, confirmed, wanted: Notify::new() }
    }

    /// All changes up to the version are subscribed to.
    pub(super) fn subscribed(&self, version: u64) {
        self.subscribed.send_replace(version);
    }

    /// Waits until the server knows of all changes up to the version; false when it is not known to, at
    /// the deadline. Cancel safe.
    pub(super) async fn wait(&self, version: u64, deadline: Instant) -> bool {
        let (mut subscribed, mut confirmed) =
            (self.subscribed.subscribe(), self.confirmed.subscribe());
        if *confirmed.borrow() >= version {
            return true;
        }
        let waiting = async {
            // They cannot end with an error: the senders are in `self`.
            let _ = subscribed.wait_for(|now| *now >= version).await;
            self.wanted.notify_one();
            let _ = confirmed.wait_for(|now| *now >= version).await;
        };
        timeout_at(deadline, waiting).await.is_ok()
    }

    /// Goes to the server and back whenever somebody waits.
    pub(super) async fn run(&self, feed: &Feed) {
        loop {
            self.wanted.notified().await;
            let version = *self.subscribed.borrow();
            if feed.confirmed(Instant::now() + ROUND_TIMEOUT).await {
                self.confirmed.send_replace(version);
            }
        }
    }
}
