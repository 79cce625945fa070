//! One connection to NATS and the requests that wait for replies on it.
//!
//! The client library's own `request` keeps an entry for ever when it times out, so replies come to
//! one wildcard subscription of ours. The library reconnects and subscribes again by itself; but
//! its task ends by a panic when a worker sends a header with a bare carriage return, and then this
//! module starts a new client.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_nats::client::{PublishError, PublishErrorKind};
use async_nats::connection::State;
use async_nats::{Client, ClientError, Event, HeaderMap, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::options::Options;
use super::reading::Source;
use super::slots::{Replies, Slots, Ticket};
use super::status::Status;
use super::{Reply, RequestError, Subject};
use crate::id::NodeId;
use crate::task::Backoff;

/// One connection, by whichever client holds it up at the time.
#[derive(Debug)]
pub(super) struct Link {
    index: usize,
    /// Where replies come, with the dot before the token. Its own for each connection, or every
    /// reply would come to all of them.
    inbox: String,
    options: Arc<Options>,
    /// The present client; none while it is being replaced.
    client: ArcSwapOption<Client>,
    /// Tells that there is another client.
    renewed: watch::Sender<()>,
    /// Which client it is, so that a late word of the one before is not taken for its own.
    generation: AtomicU64,
    is_up: AtomicBool,
    was_up: AtomicBool,
    slots: Arc<Slots>,
    status: Arc<Status>,
}

/// A request that is on its way. Dropping it gives its reply up.
#[derive(Debug)]
pub struct Pending {
    ticket: Ticket,
}

impl Link {
    pub(super) fn new(
        index: usize,
        node: NodeId,
        options: Arc<Options>,
        status: Arc<Status>,
    ) -> Arc<Self> {
        Arc::new(Self {
            index,
            inbox: format!("{}.{node}.{index}.", options.inbox),
            options,
            client: ArcSwapOption::empty(),
            renewed: watch::Sender::new(()),
            generation: AtomicU64::new(0),
            is_up: AtomicBool::new(false),
            was_up: AtomicBool::new(false),
            slots: Arc::default(),
            status,
        })
    }

    /// Makes a client and subscribes it to the inbox. It connects in the background.
    pub(super) async fn open(self: &Arc<Self>) -> Option<Subscriber> {
        let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
        let link = Arc::downgrade(self);
        let on_event = move |event| {
            let link = Weak::upgrade(&link);
            async move {
                if let Some(link) = link {
                    link.on_event(generation, event);
                }
            }
        };
        let opened = async {
            // Boxed, for the library's future is large and this is done once.
            let client = self.options.connect.clone().event_callback(on_event);
            let client = Box::pin(client.connect(self.options.servers.as_slice())).await?;
            let replies = client.subscribe(format!("{}*", self.inbox)).await?;
            Ok::<_, async_nats::Error>((client, replies))
        };
        match opened.await {
            Ok((client, replies)) => {
                self.client.store(Some(Arc::new(client)));
                self.renewed.send_replace(());
                Some(replies)
            }
            Err(error) => {
                self.status.failed(self.index, &error.to_string());
                None
            }
        }
    }

    /// Hands out replies and replaces the client when its task has ended, until `stop`.
    pub(super) async fn run(
        self: Arc<Self>,
        mut replies: Option<Subscriber>,
        stop: CancellationToken,
    ) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            if let Some(replies) = &mut replies {
                if stop.run_until_cancelled(self.hand_out(replies, &mut backoff)).await.is_none() {
                    break;
                }
                tracing::error!(connection = self.index, "NATS client ended, starting a new one");
            }
            // From here on the former client has no say.
            self.generation.fetch_add(1, Ordering::AcqRel);
            self.client.store(None);
            self.went_away();
            let delay = tokio::time::sleep(backoff.delay());
            if stop.run_until_cancelled(delay).await.is_none() {
                break;
            }
            replies = self.open().await;
        }
        self.client.store(None);
        self.went_away();
    }

    /// Gives each reply to its request; ends when the client's task has.
    async fn hand_out(&self, replies: &mut Subscriber, backoff: &mut Backoff) {
        while let Some(message) = replies.next().await {
            backoff.reset();
            let subject = message.subject.clone();
            let token = subject.strip_prefix(self.inbox.as_str()).unwrap_or_default();
            if !self.slots.answer(token, Reply::of_message(message)) {
                self.status.was_late();
            }
        }
    }

    fn on_event(&self, generation: u64, event: Event) {
        if generation != self.generation.load(Ordering::Acquire) {
            return;
        }
        match event {
            Event::Connected => self.came_up(),
            Event::Disconnected | Event::Closed => self.went_away(),
            Event::SlowConsumer(_) => self.status.was_slow(self.index),
            Event::ServerError(error) => self.status.refused(self.index, &error.to_string()),
            Event::ClientError(ClientError::Other(error)) => {
                self.status.failed(self.index, &error);
            }
            Event::ClientError(error) => self.status.failed(self.index, &error.to_string()),
            Event::LameDuckMode => {
                tracing::info!(connection = self.index, "NATS server is about to stop");
            }
            Event::Draining => {}
        }
    }

    fn came_up(&self) {
        // The library drops events when its queue of them is full, so the end of the connection
        // before may not have been told.
        self.went_away();
        let again = self.was_up.swap(true, Ordering::AcqRel);
        self.is_up.store(true, Ordering::Release);
        self.slots.open();
        self.status.came_up(self.index, again, self.server_version().as_deref());
    }

    fn went_away(&self) {
        let pending = self.slots.close();
        if self.is_up.swap(false, Ordering::AcqRel) {
            self.status.went_away(self.index, pending);
        }
    }

    /// Publishes a request once there is room for it, unless the connection goes away before.
    pub(super) async fn send(
        &self,
        replies: Replies,
        subject: &Subject,
        headers: HeaderMap,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Pending, RequestError> {
        let client = self.connected_client().ok_or(RequestError::NotConnected)?;
        let ticket = self.slots.take(replies)?;
        let (subject, reply, size) = (subject.to_nats(), self.inbox_of(&ticket), payload.len());
        let publish = pin!(client.publish_with_reply_and_headers(subject, reply, headers, payload));
        let published = published(&ticket, &client, publish, size);
        timeout_at(deadline, published).await.unwrap_or(Err(RequestError::Full))?;
        Ok(Pending { ticket })
    }

    /// Sends a message to ourselves. A server does what a connection asks for in order, so when it
    /// comes back every subscription that was asked for before is in force.
    pub(super) async fn send_round(&self, deadline: Instant) -> Result<Pending, RequestError> {
        let client = self.connected_client().ok_or(RequestError::NotConnected)?;
        let ticket = self.slots.take(Replies::One)?;
        let publish = pin!(client.publish(self.inbox_of(&ticket), Bytes::new()));
        let published = published(&ticket, &client, publish, 0);
        timeout_at(deadline, published).await.unwrap_or(Err(RequestError::Full))?;
        Ok(Pending { ticket })
    }

    /// Publishes what nobody answers, until `deadline`.
    pub(super) async fn publish(
        &self,
        subject: async_nats::Subject,
        headers: HeaderMap,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<(), RequestError> {
        let client = self.connected_client().ok_or(RequestError::NotConnected)?;
        let size = payload.len();
        let published = async {
            if headers.is_empty() {
                client.publish(subject, payload).await
            } else {
                client.publish_with_headers(subject, headers, payload).await
            }
        };
        let published = timeout_at(deadline, published).await.map_err(|_| RequestError::Full)?;
        published.map_err(|error| refused(&error, &client, size))
    }

    /// Asks for a subscription, or for a place in a queue group, by the present client or the next one
    /// that there is. The library asks again after each reconnect. Cancel safe.
    pub(super) async fn subscribe(&self, source: &Source) -> Subscriber {
        let mut renewed = self.renewed.subscribe();
        loop {
            if let Some(client) = self.client.load_full() {
                let subject = source.filter.to_nats();
                let subscribed = match &source.queue {
                    None => client.subscribe(subject).await,
                    Some(queue) => client.queue_subscribe(subject, queue.to_string()).await,
                };
                if let Ok(subscriber) = subscribed {
                    return subscriber;
                }
            }
            // It cannot end with an error: the sender is in `self`.
            let _ = renewed.changed().await;
        }
    }

    fn inbox_of(&self, ticket: &Ticket) -> String {
        let mut inbox = String::with_capacity(self.inbox.len() + Ticket::TOKEN_LEN);
        inbox.push_str(&self.inbox);
        ticket.write_token(&mut inbox);
        inbox
    }

    /// The client, if its connection is up as far as the library knows, which it does a moment
    /// before it tells us.
    fn connected_client(&self) -> Option<Arc<Client>> {
        let client = self.client.load_full()?;
        (client.connection_state() == State::Connected).then_some(client)
    }

    pub(super) async fn flush(&self) {
        if let Some(client) = self.connected_client() {
            // An error means that the client is gone, and what it had to write with it.
            let _ = client.flush().await;
        }
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Acquire)
    }

    pub(super) fn pending(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn max_payload(&self) -> Option<usize> {
        self.client.load().as_ref().map(|client| client.max_payload())
    }

    pub(super) fn server_version(&self) -> Option<String> {
        self.client.load().as_ref()?.try_server_info().map(|info| info.version)
    }

    pub(super) fn servers(&self) -> String {
        let address = |server: &async_nats::ServerAddr| server.as_url_str().to_owned();
        self.options.servers.iter().map(address).collect::<Vec<_>>().join(", ")
    }
}

impl Pending {
    /// The reply, waited for until `deadline`. After `TimedOut` it can be waited for again.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// `NoResponders`, `TimedOut` or `Lost`.
    pub async fn reply(&mut self, deadline: Instant) -> Result<Reply, RequestError> {
        let reply = timeout_at(deadline, poll_fn(|cx| self.ticket.poll(cx))).await;
        match reply.unwrap_or(Err(RequestError::TimedOut))? {
            reply if reply.is_no_responders() => Err(RequestError::NoResponders),
            reply => Ok(reply),
        }
    }
}

/// Publishing, as long as the connection does not go away before.
///
/// The library's queue outlives the connection: what is put in it while the connection is down would
/// be sent after the next one is up. So the ticket, which is lost with the connection, is looked at
/// before each try, also after a wait for room.
fn published<'a>(
    ticket: &'a Ticket,
    client: &'a Client,
    mut publish: Pin<&'a mut impl Future<Output = Result<(), PublishError>>>,
    size: usize,
) -> impl Future<Output = Result<(), RequestError>> + 'a {
    poll_fn(move |cx| match ticket.poll_lost(cx) {
        Poll::Ready(()) => Poll::Ready(Err(RequestError::NotConnected)),
        Poll::Pending => publish
            .as_mut()
            .poll(cx)
            .map(|published| published.map_err(|error| refused(&error, client, size))),
    })
}

/// Why the library did not publish a payload of this size.
fn refused(error: &PublishError, client: &Client, size: usize) -> RequestError {
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => {
            RequestError::TooLarge { size, maximum: client.max_payload() }
        }
        PublishErrorKind::InvalidSubject => RequestError::Invalid,
        PublishErrorKind::Send => RequestError::NotConnected,
    }
}
