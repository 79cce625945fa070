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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::StreamExt;
    use futures_util::future::join_all;

    use super::*;
    use crate::metrics::Metrics;
    use crate::nats::testing::{NatsServer, within};
    use crate::task::Tasks;

    #[tokio::test]
    async fn all_who_wait_share_a_round_and_none_is_told_without_one() {
        let (mut server, metrics, tasks) = (NatsServer::start(), Metrics::new(), Tasks::new());
        let nats = server.nats(&metrics).await;
        let feed = nats.feed(&tasks, &metrics).await;
        assert!(feed.confirmed(within(10)).await);
        let client = server.client().await;
        let mut rounds = client.subscribe("_INBOX_moorline.>").await.unwrap();
        let _ = client.request("nobody", "".into()).await;

        let confirmations = Arc::new(Confirmations::new());
        let (running, its_feed) = (Arc::clone(&confirmations), feed.clone());
        tasks.spawn("confirmations", async move { running.run(&its_feed).await });
        assert!(confirmations.wait(0, Instant::now()).await, "there is nothing to confirm");
        let soon = || Instant::now() + Duration::from_millis(50);
        assert!(!confirmations.wait(1, soon()).await, "nothing is subscribed to");
        confirmations.subscribed(2);
        let all = (0..100).map(|n| confirmations.wait(1 + n % 2, within(10)));
        assert_eq!(join_all(all).await, [true; 100]);
        client.publish("_INBOX_moorline.end", "end".into()).await.unwrap();
        let mut seen = 0;
        while rounds.next().await.unwrap().payload != "end" {
            seen += 1;
        }
        assert!((1..=2).contains(&seen), "{seen} rounds");

        server.freeze();
        confirmations.subscribed(3);
        assert!(confirmations.wait(2, soon()).await, "it is known already");
        assert!(!confirmations.wait(3, soon()).await, "the server says nothing");
    }
}
