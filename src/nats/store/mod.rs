//! Key-value buckets of JetStream, on a connection of their own: neither a flood of messages nor a slow
//! disk holds up the other.
//!
//! Every write is a compare-and-set or may be done twice, and says for certain whether it was done,
//! unless the answer was lost. Reads page by revision, so a reader that was away goes on where it was.
//! The library's own buckets leave an entry in memory for each request that times out, and a watch of
//! theirs that stalls looks like one that has nothing to tell; so only its types are used here.

mod bucket;
mod key;
mod wire;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_nats::HeaderMap;
use bytes::Bytes;
use tokio::time::Instant;

use super::link::Link;
use super::options::Options;
use super::slots::Replies;
use super::status::Status;
use super::{Nats, RequestError, Subject, keep};
use crate::metrics::Metrics;
use crate::task::Tasks;

pub(crate) use bucket::REQUEST_TIMEOUT;
pub use bucket::{Bucket, Page, Record, Revision};
pub use key::Key;

/// The node's way to JetStream. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    link: Arc<Link>,
    status: Arc<Status>,
    /// Before the names of all buckets: the subjects' prefix, made a bucket's name.
    prefix: Arc<str>,
    replicas: usize,
}

/// Why something was not read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nothing was done: no connection is up, or there was no room on the way.
    #[error("not connected to NATS")]
    Away,
    /// Nothing was done: the servers have no JetStream, not for this account, or no leader now.
    #[error("JetStream is not there: {0}")]
    NoJetStream(String),
    /// Nothing was done: there is no such bucket.
    #[error("there is no bucket {0}")]
    NoBucket(String),
    /// Nothing was done: the key has another revision than was said.
    #[error("the key was changed by somebody else")]
    Conflict,
    /// It may have been done: no answer came in time.
    #[error("JetStream gave no answer in time")]
    Unknown,
    /// Nothing was done: JetStream refused it.
    #[error("JetStream refused it: {description} (error {code})")]
    Refused {
        /// JetStream's number for it.
        code: u64,
        /// JetStream's word for it.
        description: String,
    },
    /// Nothing was done: the bucket is not as moorline makes it, and is never altered.
    #[error("the stream {bucket} is there with another {what}; remove it, or give it moorline's")]
    Differs {
        /// Its stream.
        bucket: String,
        /// The setting.
        what: &'static str,
    },
    /// An answer that cannot be read.
    #[error("JetStream's answer cannot be read: {0}")]
    Answer(&'static str),
}

impl Store {
    /// Starts the connection; once a node. It lives as long as the others of `nats`.
    pub async fn open(nats: &Nats, replicas: usize, tasks: &Tasks, metrics: &Metrics) -> Self {
        let inner = &nats.inner;
        let connect = inner.options.connect.clone().name(format!("moorline {} store", inner.node));
        let options = Arc::new(Options { connect, ..Options::clone(&inner.options) });
        let status = Arc::new(Status::new(metrics));
        // After those for requests and the feed: its inbox is its own.
        let index = inner.links.len() + 1;
        let link = Link::new(index, inner.node, options, Arc::clone(&status));
        let replies = link.open().await;
        keep(tasks, "nats store", &link, replies, &inner.stop);
        Self { link, status, prefix: inner.subjects.bucket_prefix().into(), replicas }
    }

    /// A bucket of this fleet; [`Bucket::ensure`] makes it.
    #[must_use]
    pub fn bucket(&self, name: &'static str) -> Bucket {
        Bucket::new(self.clone(), &format!("{}_{name}", self.prefix))
    }

    /// Waits, without end, until the connection is up. Cancel safe.
    pub async fn up(&self) {
        self.status.up().await;
    }

    /// Whether the connection is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.link.is_up()
    }

    /// Asks whether there is JetStream for this account.
    ///
    /// # Errors
    /// `NoJetStream`, or one of those of any request.
    pub async fn is_there(&self, deadline: Instant) -> Result<(), StoreError> {
        let subject = Subject::of_store("$JS.API.INFO".to_owned());
        let asked =
            self.link.send(Replies::One, &subject, HeaderMap::new(), Bytes::new(), deadline);
        let answer = asked.await?.reply(deadline).await?;
        wire::checked(&answer.payload)
    }

    /// The streams that store what is published to `subject`.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn streams_on(
        &self,
        subject: &Subject,
        deadline: Instant,
    ) -> Result<Vec<String>, StoreError> {
        let api = Subject::of_store("$JS.API.STREAM.NAMES".to_owned());
        let request = serde_json::json!({ "subject": subject.as_str() }).to_string();
        let asked = self.link.send(Replies::One, &api, HeaderMap::new(), request.into(), deadline);
        let answer = asked.await?.reply(deadline).await?;
        wire::checked(&answer.payload)?;
        wire::parse::<wire::Names>(&answer.payload).map(|names| names.streams.unwrap_or_default())
    }

    /// The version of the server that the connection is, or was last, up to.
    #[must_use]
    pub fn server_version(&self) -> Option<String> {
        self.link.server_version()
    }

    /// Waits until everything written is on its way. Cancel safe.
    pub async fn flush(&self, deadline: Instant) -> bool {
        tokio::time::timeout_at(deadline, self.link.flush()).await.is_ok()
    }
}

impl From<RequestError> for StoreError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::NotConnected | RequestError::Full => Self::Away,
            RequestError::NoResponders => Self::NoJetStream("nobody answers".to_owned()),
            RequestError::TimedOut | RequestError::Lost => Self::Unknown,
            RequestError::TooLarge { .. } | RequestError::Invalid => {
                Self::Refused { code: 400, description: error.to_string() }
            }
        }
    }
}
