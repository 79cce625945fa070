//! NATS: the connections to it, the subjects on it, requests over it and subscriptions to it.
//!
//! A request is published at most once and only while a connection is up. Each has exactly one end:
//! its reply, or one [`RequestError`] that says whether anything was published. Knows nothing of
//! clients, routes or what the payload means.

mod subject;
mod options;
mod link;
mod backlog;
mod reading;
mod member;
mod feed;
mod gather;
mod store;
mod slots;
mod status;
mod log_limit;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use async_nats::{HeaderMap, HeaderName};
use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use feed::{Delivery, Feed, Subscription};
pub use gather::Answers;
pub use link::Pending;
pub use log_limit::LogLimit;
pub use member::Member;
pub(crate) use store::REQUEST_TIMEOUT;
pub use store::{Bucket, Key, Page, Record, Revision, Store, StoreError};
pub use subject::{Channel, Filter, Subject, SubjectError, Subjects};

use crate::config;
use crate::id::{ConnectionId, NodeId};
use crate::metrics::Metrics;
use crate::task::Tasks;
use link::Link;
use options::Options;
use slots::Replies;
use status::Status;

/// The node's way to NATS. Clones share it.
#[derive(Debug, Clone)]
pub struct Nats {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    node: NodeId,
    /// What every connection is made from.
    options: Arc<Options>,
    /// The connections for requests; never empty.
    links: Box<[Arc<Link>]>,
    /// The subjects below the configured prefix.
    subjects: Subjects,
    /// What is known of all connections together.
    status: Arc<Status>,
    /// Ends the connections when the last clone is gone, or when drained.
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

/// What a worker answered.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// The status in the NATS header line, which few workers set.
    pub status: Option<u16>,
    /// The reply's headers.
    pub headers: HeaderMap,
    /// The reply's payload, a slice of the connection's read buffer.
    pub payload: Bytes,
}

/// Why NATS cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// An empty list of servers.
    #[error("nats.servers is empty: name at least one server")]
    NoServers,
    /// A URL that is not one.
    #[error("nats.servers: {url}: {reason}")]
    Server {
        /// The URL, without what may be a password.
        url: String,
        /// What was expected.
        reason: &'static str,
    },
    /// A prefix that is no subject.
    #[error("nats.prefix cannot be used")]
    Prefix(#[from] SubjectError),
    /// A secret that cannot be read.
    #[error("{key} cannot be read")]
    Secret {
        /// The key in the config.
        key: &'static str,
        /// What went wrong, with the file or the variable.
        source: std::io::Error,
    },
    /// A secret that is not text.
    #[error("{key} is not UTF-8 text")]
    SecretText {
        /// The key in the config.
        key: &'static str,
    },
    /// A seed that is none.
    #[error("nats.nkey is not the seed of a user nkey (58 letters, beginning with SU)")]
    Seed,
    /// A user without a password.
    #[error("nats.user needs nats.password")]
    NoPassword,
    /// A password without a user.
    #[error("nats.password needs nats.user")]
    NoUser,
    /// More than one way to say who we are.
    #[error("nats: choose one of user and password, token, credentials, nkey")]
    Identities,
    /// No server was reached in time.
    #[error("no NATS server of {servers} was reached: {reason}")]
    Unreachable {
        /// The servers' addresses.
        servers: String,
        /// What the last attempt met.
        reason: String,
    },
}

/// Why a request has no reply. Only after the last three may a worker have seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Nothing was published: no connection is up.
    #[error("not connected to NATS")]
    NotConnected,
    /// Nothing was published: there was no room on the way until the deadline.
    #[error("no room on the way to NATS")]
    Full,
    /// Nothing was published: the server would not take a message of this size.
    #[error("a payload of {size} bytes and its headers are over the server's {maximum}")]
    TooLarge {
        /// The payload's bytes.
        size: usize,
        /// The server's bound on headers and payload together.
        maximum: usize,
    },
    /// Nothing was published: the client library refused the subject.
    #[error("the subject was refused")]
    Invalid,
    /// Published, and the server answered that nobody listens: no worker has seen it.
    #[error("no worker listens")]
    NoResponders,
    /// Published, and no reply came until the deadline.
    #[error("no reply in time")]
    TimedOut,
    /// Published, and the connection was lost before the reply.
    #[error("the connection to NATS was lost before the reply")]
    Lost,
}

/// The first token of every inbox of ours. Not the usual `_INBOX`: who may subscribe to `_INBOX.>`,
/// as most clients may, must not read the replies to moorline.
const INBOX: &str = "_INBOX_moorline";
/// The same of a bridge.
const BRIDGE_INBOX: &str = "_INBOX_moorline_bridge";

impl Nats {
    /// Starts the connections and keeps them up for as long as a clone lives. Returns at once, also
    /// while no server can be reached: [`connected`](Self::connected) waits for one. They
    /// outlive the stop signal of `tasks`, for the last requests of a drain need them:
    /// [`drain`](Self::drain) ends them.
    ///
    /// # Errors
    /// When the config names no usable server, identity or prefix.
    pub async fn connect(
        config: &config::Nats,
        node: NodeId,
        tls: Option<rustls::ClientConfig>,
        tasks: &Tasks,
        metrics: &Metrics,
    ) -> Result<Self, NatsError> {
        let subjects = Subjects::new(&config.prefix)?;
        let options = Arc::new(Options::read(config, node, tls)?);
        let status = Arc::new(Status::new(metrics));
        let stop = CancellationToken::new();
        let mut links = Vec::new();
        for index in 0..config.connections.max(1) {
            let link = Link::new(index, node, Arc::clone(&options), Arc::clone(&status));
            // The first client is there before anybody can ask for it.
            let replies = link.open().await;
            keep(tasks, "nats", &link, replies, &stop);
            links.push(link);
        }
        let inner = Inner {
            node,
            options,
            links: links.into(),
            subjects,
            status,
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Starts a connection for subscriptions, apart from those for requests; once a node. It lives as
    /// long as they do.
    pub async fn feed(&self, tasks: &Tasks, metrics: &Metrics) -> Feed {
        let inner = &self.inner;
        let stop = inner.stop.clone();
        let (index, name) = (inner.links.len(), format!("moorline {} feed", inner.node));
        Feed::open(index, inner.node, &inner.options, name, stop, tasks, metrics).await
    }

    /// Publishes a request and waits for its reply, both until `deadline`. Requests with the same
    /// `key` take the same connection while it is up.
    ///
    /// Cancel safe in that dropping the future leaves nothing behind; whether the request was
    /// published is then not known.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn request(
        &self,
        key: ConnectionId,
        subject: &Subject,
        headers: HeaderMap,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Reply, RequestError> {
        self.send(key, subject, headers, payload, deadline).await?.reply(deadline).await
    }

    /// The first half of [`request`](Self::request): ends when the request is on its way.
    ///
    /// Cancel safe: dropped before it ended, nothing was published.
    ///
    /// # Errors
    /// One of those after which nothing was published.
    pub async fn send(
        &self,
        key: ConnectionId,
        subject: &Subject,
        headers: HeaderMap,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Pending, RequestError> {
        let link = self.pick(key).ok_or(RequestError::NotConnected)?;
        link.send(Replies::One, subject, headers, payload, deadline).await
    }

    /// The subjects below the configured prefix.
    #[must_use]
    pub fn subjects(&self) -> &Subjects {
        &self.inner.subjects
    }

    /// Whether at least one connection is up.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.inner.links.iter().any(|link| link.is_up())
    }

    /// Whether a connection has ever been up.
    #[must_use]
    pub fn was_connected(&self) -> bool {
        self.inner.status.was_up()
    }

    /// Waits, without end, until a connection is up. Cancel safe.
    pub async fn up(&self) {
        self.inner.status.up().await;
    }

    /// Waits until a connection is up. Cancel safe.
    ///
    /// # Errors
    /// When none is at the deadline: names the servers and what the last attempt met.
    pub async fn connected(&self, deadline: Instant) -> Result<(), NatsError> {
        let up = tokio::time::timeout_at(deadline, self.inner.status.up()).await;
        up.map_err(|_| NatsError::Unreachable {
            servers: self.inner.links.first().map(|link| link.servers()).unwrap_or_default(),
            reason: self.inner.status.last_failure().unwrap_or_else(|| "no answer yet".to_owned()),
        })
    }

    /// The most bytes of headers and payload together that the servers take.
    #[must_use]
    pub fn max_payload(&self) -> usize {
        self.inner.links.iter().filter_map(|link| link.max_payload()).min().unwrap_or(usize::MAX)
    }

    /// The version of the server that the first connection is, or was last, up to.
    #[must_use]
    pub fn server_version(&self) -> Option<String> {
        self.inner.links.iter().find_map(|link| link.server_version())
    }

    /// How many requests wait for a reply.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.inner.links.iter().map(|link| link.pending()).sum()
    }

    /// Waits until everything published is written to the servers' sockets; false when the deadline
    /// came first. Connections that are down have nothing to write. Cancel safe.
    pub async fn flush(&self, deadline: Instant) -> bool {
        let all = futures_util::future::join_all(self.inner.links.iter().map(|link| link.flush()));
        tokio::time::timeout_at(deadline, all).await.is_ok()
    }

    /// Flushes, then ends the connections for good; requests that still wait end as lost. False
    /// when the deadline came before all was written. Cancel safe, and may be called again.
    pub async fn drain(&self, deadline: Instant) -> bool {
        let flushed = self.flush(deadline).await;
        self.inner.stop.cancel();
        flushed
    }

    /// The connection that `key` always takes, or the next one that is up while that is down.
    fn pick(&self, key: ConnectionId) -> Option<&Arc<Link>> {
        let links = &self.inner.links;
        if links.len() == 1 {
            return links.first();
        }
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let first = usize::try_from(hasher.finish() % links.len() as u64).unwrap_or_default();
        let (before, from) = links.split_at_checked(first)?;
        from.iter().chain(before).find(|link| link.is_up())
    }
}

/// Keeps a connection for requests up, until `stop`. After a panic it begins with another client.
fn keep(
    tasks: &Tasks,
    name: &'static str,
    link: &Arc<Link>,
    mut replies: Option<async_nats::Subscriber>,
    stop: &CancellationToken,
) {
    let (link, stop) = (Arc::clone(link), stop.clone());
    tasks.keep(name, move || Arc::clone(&link).run(replies.take(), stop.clone()));
}

impl Reply {
    fn of_message(message: async_nats::Message) -> Self {
        Self {
            status: message.status.map(|status| status.as_u16()),
            headers: message.headers.unwrap_or_default(),
            payload: message.payload,
        }
    }

    /// Whether it is the server's word that nobody listens: status 503 and nothing else, but that
    /// newer servers repeat the request's subject.
    fn is_no_responders(&self) -> bool {
        let is_subject =
            |name: &HeaderName| AsRef::<str>::as_ref(name).eq_ignore_ascii_case("nats-subject");
        self.status == Some(503)
            && self.payload.is_empty()
            && self.headers.iter().all(|(name, _)| is_subject(name))
    }

    #[cfg(test)]
    pub(crate) fn of(text: &'static str) -> Self {
        Self { payload: Bytes::from_static(text.as_bytes()), ..Self::default() }
    }
}
