//! Subscriptions, on a connection of their own: neither a flood of messages nor one that breaks the
//! client holds up a reply.
//!
//! A subscription outlives its connection and its client: the library subscribes again after a
//! reconnect, and this module on the next client when one has ended. What is published in between is
//! missed, as is what a full subscription has no room for; [`Feed::gaps`] tells of both.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::link::Link;
use super::options::Options;
use super::status::Status;
use super::{Filter, RequestError};
use crate::id::NodeId;
use crate::metrics::Metrics;
use crate::task::{Backoff, Tasks};

/// The node's connection for subscriptions. Clones share it.
#[derive(Debug, Clone)]
pub struct Feed {
    pub(super) link: Arc<Link>,
    /// Apart from that of the connections for requests: it is no way for a request.
    status: Arc<Status>,
}

/// Messages on the subjects that a filter lets through. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription {
    link: Arc<Link>,
    filter: Filter,
    /// None while no client has it.
    subscriber: Option<Subscriber>,
}

/// A message that was published to a subscription.
#[derive(Debug)]
pub struct Delivery {
    /// Where it was published.
    pub subject: async_nats::Subject,
    /// Where an answer is waited for.
    pub reply: Option<async_nats::Subject>,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its payload, a slice of the connection's read buffer.
    pub payload: Bytes,
}

/// Messages that wait in one subscription. One connection carries some 100,000 small messages a second
/// into a busy process, so this is a pause of 80 ms; more would be more memory for whoever publishes
/// large ones faster than they can be given out.
const CAPACITY: usize = 8192;
/// How long to wait until the client takes a subscription. It has no room only while it cannot write,
/// and then the subscription is asked for when it is first looked at.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(1);

impl Feed {
    pub(super) async fn open(
        index: usize,
        node: NodeId,
        options: &Options,
        stop: CancellationToken,
        tasks: &Tasks,
        metrics: &Metrics,
    ) -> Self {
        let servers = options.servers.clone();
        let connect = options.connect.clone().subscription_capacity(CAPACITY);
        let connect = connect.name(format!("moorline {node} feed"));
        let status = Arc::new(Status::of_feed(metrics));
        let options = Arc::new(Options { servers, connect });
        let link = Link::new(index, node, options, Arc::clone(&status));
        let replies = link.open().await;
        tasks.spawn("nats feed", Arc::clone(&link).run(replies, stop));
        Self { link, status }
    }

    /// Subscribes, also while the connection is down. Every copy of a message comes once.
    ///
    /// Cancel safe.
    pub async fn subscribe(&self, filter: Filter) -> Subscription {
        let subscriber = timeout(SUBSCRIBE_TIMEOUT, self.link.subscribe(&filter.to_nats())).await;
        Subscription { link: Arc::clone(&self.link), filter, subscriber: subscriber.ok() }
    }

    /// Waits until the server has every subscription that was made before; false when that is not
    /// known at the deadline. Other servers of a cluster may need a moment more. Cancel safe.
    pub async fn confirmed(&self, deadline: Instant) -> bool {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        let confirming = async {
            loop {
                self.status.up().await;
                match self.round(deadline).await {
                    Ok(()) => return,
                    Err(error) => tracing::debug!(%error, "subscriptions not confirmed"),
                }
                sleep(backoff.delay()).await;
            }
        };
        timeout_at(deadline, confirming).await.is_ok()
    }

    async fn round(&self, deadline: Instant) -> Result<(), RequestError> {
        self.link.send_round(deadline).await?.reply(deadline).await.map(drop)
    }

    /// Publishes an answer to a message; false when it was not, until `deadline`. Cancel safe.
    pub async fn answer(
        &self,
        reply: async_nats::Subject,
        payload: impl Into<Bytes>,
        deadline: Instant,
    ) -> bool {
        self.link.publish(reply, payload.into(), deadline).await
    }

    /// Changes whenever messages may have been missed: a subscription was full, or the connection was
    /// away. Whoever can read them elsewhere does so then.
    #[must_use]
    pub fn gaps(&self) -> watch::Receiver<u64> {
        self.status.gaps()
    }

    /// The most bytes of headers and payload together that the server takes.
    #[must_use]
    pub fn max_payload(&self) -> usize {
        self.link.max_payload().unwrap_or(usize::MAX)
    }

    /// Whether the connection is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.link.is_up()
    }
}

impl Subscription {
    /// The next message. Cancel safe.
    pub async fn next(&mut self) -> Delivery {
        loop {
            if let Some(subscriber) = &mut self.subscriber
                && let Some(message) = subscriber.next().await
            {
                return Delivery::of_message(message);
            }
            // The client has ended, or never had it.
            self.subscriber = None;
            self.subscriber = Some(self.link.subscribe(&self.filter.to_nats()).await);
        }
    }
}

impl Delivery {
    fn of_message(message: async_nats::Message) -> Self {
        Self {
            subject: message.subject,
            reply: message.reply,
            headers: message.headers.unwrap_or_default(),
            payload: message.payload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{GroupName, HubName};
    use crate::nats::testing::{NatsServer, until, within};
    use crate::nats::{Channel, Nats};

    struct Scene {
        server: NatsServer,
        metrics: Metrics,
        nats: Nats,
        feed: Feed,
    }

    impl Scene {
        async fn new() -> Self {
            let (server, metrics) = (NatsServer::start(), Metrics::new());
            let nats = server.nats(&metrics).await;
            let feed = nats.feed(&Tasks::new(), &metrics).await;
            Self { server, metrics, nats, feed }
        }

        async fn subscribe(&self, group: &str) -> Subscription {
            let group = GroupName::new(group).unwrap();
            let subjects = self.nats.subjects();
            let filter = subjects.group(&HubName::default(), Channel::Out, &group).into();
            let subscription = self.feed.subscribe(filter).await;
            assert!(self.feed.confirmed(within(10)).await);
            subscription
        }
    }

    async fn publish(client: &async_nats::Client, group: &str, text: &'static str) {
        let subject = format!("moorline.default.out.group.{group}");
        client.publish(subject, text.into()).await.unwrap();
        client.flush().await.unwrap();
    }

    async fn next(subscription: &mut Subscription) -> Bytes {
        timeout(Duration::from_secs(10), subscription.next()).await.unwrap().payload
    }

    #[tokio::test]
    async fn a_confirmed_subscription_gets_what_is_published_from_then_on() {
        let scene = Scene::new().await;
        let client = scene.server.client().await;
        // Somebody who listens to everything changes nothing.
        let _watcher = client.subscribe(">").await.unwrap();
        for n in 0..20 {
            let group = format!("g{n}");
            let mut subscription = scene.subscribe(&group).await;
            publish(&client, &group, "hello").await;
            assert_eq!(next(&mut subscription).await, "hello");
        }
        assert!(scene.feed.is_up());
        assert_eq!(scene.metrics.late_replies().get(), 0);
    }

    #[tokio::test]
    async fn a_subscription_outlives_the_server_and_the_gap_is_told() {
        let mut scene = Scene::new().await;
        let mut subscription = scene.subscribe("red").await;
        let mut gaps = scene.feed.gaps();
        scene.server.kill();
        until("the connection is lost", || !scene.feed.is_up()).await;
        let soon = Instant::now() + Duration::from_millis(50);
        assert!(!scene.feed.confirmed(soon).await);
        scene.server.restart();
        timeout(Duration::from_secs(10), gaps.changed()).await.unwrap().unwrap();
        assert!(scene.feed.confirmed(within(10)).await);
        publish(&scene.server.client().await, "red", "back").await;
        assert_eq!(next(&mut subscription).await, "back");
    }

    /// A header with a bare carriage return ends the library's task by a panic.
    #[tokio::test]
    async fn a_subscription_outlives_its_client() {
        use tokio::io::AsyncWriteExt;
        let scene = Scene::new().await;
        let mut subscription = scene.subscribe("red").await;
        let mut gaps = scene.feed.gaps();
        let address = scene.server.url().replace("nats://", "");
        let mut raw = tokio::net::TcpStream::connect(address).await.unwrap();
        let head = "NATS/1.0\r\na: b\rc\r\n\r\n";
        let publish_bad = format!(
            "CONNECT {{\"verbose\":false,\"headers\":true}}\r\n\
             HPUB moorline.default.out.group.red {0} {0}\r\n{head}\r\n",
            head.len()
        );
        raw.write_all(publish_bad.as_bytes()).await.unwrap();
        let client = scene.server.client().await;
        // Only one who waits for a message notices that the client has ended.
        let publishing = async {
            gaps.changed().await.unwrap();
            loop {
                publish(&client, "red", "back").await;
                sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            payload = next(&mut subscription) => assert_eq!(payload, "back"),
            () = publishing => {}
        }
        assert!(scene.feed.is_up());
    }

    #[tokio::test]
    async fn a_full_subscription_is_counted_and_the_gap_is_told() {
        let scene = Scene::new().await;
        let mut subscription = scene.subscribe("red").await;
        let gaps = scene.feed.gaps();
        let client = scene.server.client().await;
        for _ in 0..CAPACITY + 10 {
            client.publish("moorline.default.out.group.red", "x".into()).await.unwrap();
        }
        client.flush().await.unwrap();
        until("the loss is told", || gaps.has_changed().unwrap()).await;
        until("ten are lost", || scene.metrics.nats_slow_consumer().get() >= 10).await;
        for _ in 0..CAPACITY {
            assert_eq!(next(&mut subscription).await, "x");
        }
        assert!(scene.feed.confirmed(within(10)).await);
        publish(&client, "red", "again").await;
        assert_eq!(next(&mut subscription).await, "again");
    }

    #[tokio::test]
    async fn dropping_a_subscription_unsubscribes() {
        let scene = Scene::new().await;
        drop(scene.subscribe("red").await);
        assert!(scene.feed.confirmed(within(10)).await);
        let client = scene.server.client().await;
        let asked = client.request("moorline.default.out.group.red", Bytes::new()).await;
        assert_eq!(asked.unwrap_err().kind(), async_nats::RequestErrorKind::NoResponders);
    }
}
