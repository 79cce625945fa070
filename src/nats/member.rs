//! A member of a queue group, which leaves it without losing what it was given already.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use futures_util::stream::{AbortHandle, Abortable};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::backlog::Backlog;
use super::feed::Delivery;
use super::reading::{Newcomer, Reading};

/// Messages that came to this member of a queue group. Dropping it leaves the group at once.
#[derive(Debug)]
pub struct Member {
    backlog: Arc<Backlog>,
    reading: AbortHandle,
    /// To tell until when it may take to leave.
    leave: Option<oneshot::Sender<Instant>>,
}

/// A number of messages that no member ever gets.
const NEVER: u64 = u64::MAX;

impl Member {
    /// The next message; none once the group was left and all was taken that came before. Cancel safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        poll_fn(|cx| self.backlog.poll_next(cx)).await
    }

    /// Leaves the group. What the server sends until it knows still comes; whether it knows is asked of it
    /// until `deadline`.
    pub fn leave(&mut self, deadline: Instant) {
        if let Some(leave) = self.leave.take() {
            // Who reads is gone only when the connection has ended for good.
            let _ = leave.send(deadline);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Reading {
    /// Itself, for the task, and who takes what it reads into `backlog`.
    pub(super) fn into_member(self, backlog: Arc<Backlog>) -> (Newcomer, Member) {
        let (reading, registration) = AbortHandle::new_pair();
        let (leave, leaving) = oneshot::channel();
        let newcomer = Abortable::new(Box::pin(self.run_until(leaving)) as _, registration);
        (newcomer, Member { backlog, reading, leave: Some(leave) })
    }

    async fn run_until(mut self, mut leaving: oneshot::Receiver<Instant>) {
        let deadline = tokio::select! {
            () = self.run() => return,
            Ok(deadline) = &mut leaving => deadline,
        };
        self.leave(deadline).await;
    }

    /// Unsubscribes, and reads what is under way.
    ///
    /// The library forgets a subscription at once when it unsubscribes, and drops what comes then; its own
    /// `drain` drops what comes in a second packet. But it keeps one that is to end after a number of
    /// messages until it has had so many. The server takes a number of more than nine digits for none, and
    /// ends the subscription at once. So with a number that is never reached, the server sends nothing
    /// more and the library takes all that is under way. A server that read the number would go on until
    /// the subscription is dropped, as if it was only dropped.
    async fn leave(&mut self, deadline: Instant) {
        let Some(mut subscriber) = self.subscriber.take() else { return };
        // It fails only when the client has ended, and all its subscriptions with it.
        let _ = timeout_at(deadline, subscriber.unsubscribe_after(NEVER)).await;
        let feed = self.feed.clone();
        let mut known = pin!(feed.confirmed(deadline));
        loop {
            tokio::select! {
                message = subscriber.next() => match message {
                    Some(message) => self.offer(message),
                    None => return,
                },
                _ = &mut known => break,
            }
        }
        // The answer came on the same connection, after all messages.
        while let Some(Some(message)) = subscriber.next().now_or_never() {
            self.offer(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use tokio::time::timeout;
    use tokio_util::sync::CancellationToken;

    use crate::config;
    use crate::id::{HubName, NodeId};
    use crate::metrics::Metrics;
    use crate::nats::testing::{NatsServer, within};
    use crate::nats::{Feed, Filter, Reply, Subjects};
    use crate::task::Tasks;

    /// How many messages are published and not taken, at most.
    const UNDER_WAY: u64 = 500;
    const SUBJECT: &str = "moorline.default.in.message";

    fn events() -> Filter {
        Subjects::new("moorline").unwrap().events(&HubName::default())
    }

    async fn feed(server: &NatsServer) -> (Feed, Metrics) {
        let config = config::Nats { servers: vec![server.url()], ..config::Nats::default() };
        let (metrics, stop, tasks) = (Metrics::new(), CancellationToken::new(), Tasks::new());
        let feed = Feed::of_bridge(&config, NodeId::random(), None, stop, &tasks, &metrics);
        (feed.await.unwrap(), metrics)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn members_that_come_and_go_under_load_lose_nothing() {
        let server = NatsServer::start();
        let (feed, _) = feed(&server).await;
        let client = server.client().await;
        // One stays, so that each message has somebody to go to.
        let mut stays = feed.join(events(), "workers").await;
        assert!(feed.confirmed(within(10)).await);
        let (sent, taken) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (tasks, counts) = (Tasks::new(), (Arc::clone(&sent), Arc::clone(&taken)));
        let publisher = tasks.clone();
        tasks.spawn("publisher", async move {
            let (sent, taken) = counts;
            while !publisher.is_stopping() {
                while sent.load(Ordering::SeqCst) < taken.load(Ordering::SeqCst) + UNDER_WAY {
                    client.publish(SUBJECT, "x".into()).await.unwrap();
                    sent.fetch_add(1, Ordering::SeqCst);
                }
                client.flush().await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let take = || taken.fetch_add(1, Ordering::SeqCst);
        let mut late = 0;
        while late < 10_000 {
            let mut goes = feed.join(events(), "workers").await;
            for _ in 0..50 {
                let next = async {
                    tokio::select! {
                        delivery = goes.next() => delivery,
                        delivery = stays.next() => delivery,
                    }
                };
                timeout(Duration::from_secs(10), next)
                    .await
                    .expect("all that is lost is missed here");
                take();
            }
            goes.leave(within(10));
            while goes.next().await.is_some() {
                take();
                late += 1;
            }
        }
        tasks.stop();
        tasks.ended().await;
        let sent = sent.load(Ordering::SeqCst);
        while taken.load(Ordering::SeqCst) < sent {
            let next = timeout(Duration::from_secs(10), stays.next()).await;
            let taken = take();
            assert!(next.is_ok(), "{taken} of {sent}");
        }
    }

    #[tokio::test]
    async fn who_has_left_is_not_there_any_more_and_replies_still_go() {
        let server = NatsServer::start();
        let (feed, metrics) = feed(&server).await;
        let client = server.client().await;
        let mut member = feed.join(events(), "workers").await;
        assert!(feed.confirmed(within(10)).await);
        let asking = tokio::spawn(async move {
            let reply = client.request(SUBJECT, "?".into()).await.unwrap();
            (reply, client.request(SUBJECT, "?".into()).await.unwrap_err().kind())
        });
        let asked = member.next().await.unwrap();
        member.leave(within(10));
        assert!(member.next().await.is_none());
        feed.reply(&asked.reply.unwrap(), Reply::of("!"), within(10)).await.unwrap();
        let (reply, then) = asking.await.unwrap();
        assert_eq!(reply.payload, "!");
        assert_eq!(then, async_nats::RequestErrorKind::NoResponders);
        assert_eq!(metrics.nats_slow_consumer().get(), 0);
    }
}
