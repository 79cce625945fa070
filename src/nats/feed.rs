//! Subscriptions, on a connection of their own: neither a flood of messages nor one that breaks the
//! client holds up a reply.
//!
//! A subscription outlives its connection and its client: the library subscribes again after a
//! reconnect, and who reads it on the next client when one has ended. What is published in between is
//! missed, as is what there is no room for; [`Feed::gaps`] tells of both.

use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use futures_util::stream::AbortHandle;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::backlog::{Backlog, ROOM, Room};
use super::link::Link;
use super::options::Options;
use super::reading::{Newcomer, Reading, Source, read_all};
use super::status::Status;
use super::{Filter, Member, NatsError, Reply, RequestError};
use crate::config;
use crate::id::NodeId;
use crate::message;
use crate::metrics::Metrics;
use crate::task::{Backoff, Tasks};

/// The node's connection for subscriptions. Clones share it.
#[derive(Debug, Clone)]
pub struct Feed {
    pub(super) link: Arc<Link>,
    /// Apart from that of the connections for requests: it is no way for a request.
    status: Arc<Status>,
    /// For all messages that wait.
    room: Arc<Room>,
    /// To the task that reads subscriptions.
    newcomers: mpsc::Sender<Newcomer>,
}

/// Messages on the subjects that a filter lets through. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription {
    backlog: Arc<Backlog>,
    reading: AbortHandle,
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
    /// Its payload, not in the connection's read buffer unless it is large.
    pub payload: Bytes,
}

/// What the library reads at once. It does so up to 128 times, as often as the runtime lets it, before
/// anybody else has a turn: a megabyte in all, or some 16 of the largest messages, for its buffer doubles
/// until a message is whole.
const READ: u16 = 8 * 1024;
/// Messages of one subscription that the library holds: the smallest ones that it reads in one turn.
const CAPACITY: usize = 16 * 1024;
/// Subscriptions on their way to the task that reads them. It takes them at once.
const NEWCOMERS: usize = 64;
/// How long to wait until the client takes a subscription. It has no room only while it cannot write,
/// and then whoever reads the subscription asks for it.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(1);

impl Feed {
    pub(super) async fn open(
        index: usize,
        node: NodeId,
        options: &Options,
        name: String,
        stop: CancellationToken,
        tasks: &Tasks,
        metrics: &Metrics,
    ) -> Self {
        let options = options.clone();
        let connect = options.connect.name(name);
        let connect = connect.subscription_capacity(CAPACITY).read_buffer_capacity(READ);
        let status = Arc::new(Status::of_feed(metrics));
        let options = Arc::new(Options { connect, ..options });
        let link = Link::new(index, node, options, Arc::clone(&status));
        let replies = link.open().await;
        let (newcomers, new) = mpsc::channel(NEWCOMERS);
        // The subscriptions would stay with the client that nobody follows any more.
        tasks.need("nats feed", Arc::clone(&link).run(replies, stop.clone()));
        tasks.need("nats subscriptions", read_all(new, stop));
        Self { link, status, room: Room::new(ROOM), newcomers }
    }

    /// The only connection of a bridge, which asks nothing of NATS but messages. Returns at once, also
    /// while no server can be reached; kept up until `stop`.
    ///
    /// # Errors
    /// When the config names no usable server or identity.
    pub async fn of_bridge(
        config: &config::Nats,
        id: NodeId,
        tls: Option<rustls::ClientConfig>,
        stop: CancellationToken,
        tasks: &Tasks,
        metrics: &Metrics,
    ) -> Result<Self, NatsError> {
        let options = Options::read(config, id, tls)?.of_bridge(id);
        let name = format!("moorline bridge {id}");
        // Boxed, for the options are large and this is done once.
        Ok(Box::pin(Self::open(0, id, &options, name, stop, tasks, metrics)).await)
    }

    /// Subscribes, also while the connection is down. Every copy of a message comes once.
    ///
    /// Cancel safe.
    pub async fn subscribe(&self, filter: Filter) -> Subscription {
        let (reading, backlog) = self.reading(Source { filter, queue: None }).await;
        let (newcomer, reading) = reading.into_newcomer();
        // The task that takes it ends with the connection only.
        let _ = self.newcomers.send(newcomer).await;
        Subscription { backlog, reading }
    }

    /// Joins a queue group, also while the connection is down: of each message one member of the group has
    /// a copy.
    ///
    /// Cancel safe.
    pub async fn join(&self, filter: Filter, queue: &str) -> Member {
        let (reading, backlog) = self.reading(Source { filter, queue: Some(queue.into()) }).await;
        let (newcomer, member) = reading.into_member(backlog);
        let _ = self.newcomers.send(newcomer).await;
        member
    }

    async fn reading(&self, source: Source) -> (Reading, Arc<Backlog>) {
        let subscriber = timeout(SUBSCRIBE_TIMEOUT, self.link.subscribe(&source)).await.ok();
        let backlog = Arc::new(Backlog::new(&self.room));
        let (feed, taken) = (self.clone(), Arc::clone(&backlog));
        (Reading { feed, source, subscriber, backlog }, taken)
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
        self.link.publish(reply, HeaderMap::new(), payload.into(), deadline).await.is_ok()
    }

    /// Publishes a reply to a request. While the connection is away it waits for it, until `deadline`: who
    /// asked may be on another one. Cancel safe.
    ///
    /// # Errors
    /// One of those after which nothing was published.
    pub async fn reply(
        &self,
        to: &async_nats::Subject,
        reply: Reply,
        deadline: Instant,
    ) -> Result<(), RequestError> {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(250));
        loop {
            let up = timeout_at(deadline, self.status.up()).await;
            up.map_err(|_| RequestError::NotConnected)?;
            let (to, Reply { headers, payload, .. }) = (to.clone(), reply.clone());
            match self.link.publish(to, headers, payload, deadline).await {
                // The library knows of it a moment before it tells.
                Err(RequestError::NotConnected) => sleep(backoff.delay()).await,
                published => return published,
            }
        }
    }

    /// Changes whenever messages may have been missed: a subscription was full, or the connection was
    /// away. Whoever can read them elsewhere does so then.
    #[must_use]
    pub fn gaps(&self) -> watch::Receiver<u64> {
        self.status.gaps()
    }

    /// Changes whenever the server refuses a subscription, or ends one as its permissions change. That may
    /// be told after [`confirmed`](Self::confirmed) has ended.
    #[must_use]
    pub fn refusals(&self) -> watch::Receiver<u64> {
        self.status.refusals()
    }

    /// A message came that there was no room for.
    pub(super) fn was_slow(&self) {
        self.status.was_slow(self.link.index());
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
        match poll_fn(|cx| self.backlog.poll_next(cx)).await {
            Some(delivery) => delivery,
            // Only what a member reads ever ends.
            None => pending().await,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Delivery {
    pub(super) fn of_message(message: async_nats::Message) -> Self {
        Self {
            subject: message.subject,
            reply: message.reply,
            headers: message.headers.unwrap_or_default(),
            payload: message::detached(message.payload),
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
    async fn a_burst_that_nobody_takes_is_held_by_its_bytes() {
        let scene = Scene::new().await;
        let mut subscription = scene.subscribe("red").await;
        let client = scene.server.client().await;
        for n in 0..30_000 {
            let payload = format!("{n}").into();
            client.publish("moorline.default.out.group.red", payload).await.unwrap();
        }
        client.flush().await.unwrap();
        for n in 0..30_000 {
            assert_eq!(next(&mut subscription).await, n.to_string());
        }
        assert_eq!(scene.metrics.nats_slow_consumer().get(), 0);
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_is_counted_and_the_gap_is_told() {
        const LARGE: usize = 1 << 20;
        let scene = Scene::new().await;
        let mut subscription = scene.subscribe("red").await;
        let mut other = scene.subscribe("blue").await;
        let gaps = scene.feed.gaps();
        let client = scene.server.client().await;
        let large = Bytes::from(vec![b'x'; LARGE]);
        for _ in 0..ROOM / LARGE {
            client.publish("moorline.default.out.group.red", large.clone()).await.unwrap();
            // Not faster than the client reads.
            client.flush().await.unwrap();
        }
        let taken = ROOM / LARGE / 2;
        let lost = || scene.metrics.nats_slow_consumer().get();
        until("the loss is told", || gaps.has_changed().unwrap()).await;
        until("what is over half of the room is lost", || lost() >= (ROOM / LARGE - taken) as u64)
            .await;
        publish(&client, "blue", "hello").await;
        assert_eq!(next(&mut other).await, "hello");
        for _ in 0..taken {
            assert_eq!(next(&mut subscription).await.len(), LARGE);
        }
        assert!(scene.feed.confirmed(within(10)).await);
        publish(&client, "red", "again").await;
        assert_eq!(next(&mut subscription).await, "again");
        assert_eq!(lost(), (ROOM / LARGE - taken) as u64);
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
