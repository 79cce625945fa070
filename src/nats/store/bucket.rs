//! One bucket: keys, each with a value and the revision that it has it since.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use tokio::time::Instant;

use super::key::Key;
use super::wire::{self, Info};
use super::{Store, StoreError};
use crate::nats::slots::Replies;
use crate::nats::{Answers, Reply, RequestError, Subject};

/// A bucket. Clones share it.
#[derive(Debug, Clone)]
pub struct Bucket {
    store: Store,
    name: Arc<str>,
}

/// The number of a write; all writes to a bucket have one, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub(super) u64);

/// A key, and what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The key as text.
    pub key: String,
    /// None when it was forgotten.
    pub value: Option<Bytes>,
    /// The last write to it.
    pub revision: Revision,
}

/// What was written after a revision, the oldest first; of each key the last write only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The records.
    pub records: Vec<Record>,
    /// Whether there are more after the last of them.
    pub has_more: bool,
}

/// What is written to a key.
struct Write<'a> {
    value: Bytes,
    /// How long it is kept; for ever without one.
    lifetime: Option<&'a str>,
    is_forgotten: bool,
}

/// How long it stays known that a key was forgotten. Who reads the bucket reads more often.
const FORGOTTEN_FOR: &str = "60s";
/// Records of a page.
const PAGE: usize = 256;

impl Revision {
    /// Before every write.
    pub const NONE: Self = Self(0);

    #[cfg(test)]
    pub(crate) const fn test(number: u64) -> Self {
        Self(number)
    }
}

impl Write<'_> {
    fn of(value: Bytes) -> Self {
        Self { value, lifetime: None, is_forgotten: false }
    }
}

impl Bucket {
    pub(super) fn new(store: Store, name: &str) -> Self {
        Self { store, name: name.into() }
    }

    /// Makes the bucket unless there is one; which one it is: one that was made anew has another word.
    /// One that is there is never altered: what
    /// differs from what is wanted is an error where it matters, else a line in the log.
    ///
    /// # Errors
    /// `NoJetStream`, or one of those of any request.
    pub async fn ensure(&self, deadline: Instant) -> Result<String, StoreError> {
        // Boxed, for a stream's config is large and this is rare.
        Box::pin(self.make(deadline)).await
    }

    async fn make(&self, deadline: Instant) -> Result<String, StoreError> {
        let wanted = || wire::config(&self.name, self.store.replicas);
        let info = match self.info(deadline).await {
            Err(StoreError::NoBucket(_)) => {
                let request = wire::to_json(&wanted());
                let made = self.api("STREAM.CREATE", request, deadline).await;
                // Another node may have been faster.
                match made {
                    Err(StoreError::Refused { code: wire::NAME_IN_USE, .. }) => {
                        self.info(deadline).await?
                    }
                    made => wire::parse::<Info>(&made?)?,
                }
            }
            info => info?,
        };
        wire::compare(&wanted(), &info.config)?;
        Ok(info.created)
    }

    /// Writes a key that has no value.
    ///
    /// # Errors
    /// `Conflict` when it has one.
    pub async fn create(
        &self,
        key: &Key,
        value: Bytes,
        deadline: Instant,
    ) -> Result<Revision, StoreError> {
        match self.write(key, Write::of(value.clone()), Some(Revision::NONE), deadline).await {
            Err(StoreError::Conflict) => match self.get(key, deadline).await? {
                // It is still known that it was forgotten.
                Some(Record { value: None, revision, .. }) => {
                    self.update(key, value, revision, deadline).await
                }
                Some(_) => Err(StoreError::Conflict),
                None => self.write(key, Write::of(value), Some(Revision::NONE), deadline).await,
            },
            written => written,
        }
    }

    /// Writes a key whose last write is `revision`.
    ///
    /// # Errors
    /// `Conflict` when it is another.
    pub async fn update(
        &self,
        key: &Key,
        value: Bytes,
        revision: Revision,
        deadline: Instant,
    ) -> Result<Revision, StoreError> {
        self.write(key, Write::of(value), Some(revision), deadline).await
    }

    /// Writes a key whose last write is `revision`, for `lifetime` only.
    ///
    /// # Errors
    /// `Conflict` when it is another.
    pub async fn update_for(
        &self,
        lifetime: Duration,
        key: &Key,
        value: Bytes,
        revision: Revision,
        deadline: Instant,
    ) -> Result<Revision, StoreError> {
        let lifetime = format!("{}s", lifetime.as_secs().max(1));
        self.write(
            key,
            Write { value, lifetime: Some(&lifetime), is_forgotten: false },
            Some(revision),
            deadline,
        )
        .await
    }

    /// Writes a key, whatever it has.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn put(
        &self,
        key: &Key,
        value: Bytes,
        deadline: Instant,
    ) -> Result<Revision, StoreError> {
        self.write(key, Write::of(value), None, deadline).await
    }

    /// Forgets a key; with a revision, only if that is its last write.
    ///
    /// # Errors
    /// `Conflict` when it is another.
    pub async fn forget(
        &self,
        key: &Key,
        revision: Option<Revision>,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        let forgotten =
            Write { value: Bytes::new(), lifetime: Some(FORGOTTEN_FOR), is_forgotten: true };
        self.write(key, forgotten, revision, deadline).await.map(drop)
    }

    /// What the key has, by the word of the bucket's leader; none when it was never written, or was
    /// forgotten long ago.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn get(&self, key: &Key, deadline: Instant) -> Result<Option<Record>, StoreError> {
        let request = serde_json::json!({ "last_by_subj": self.subject_of(key.as_str()) });
        let answer = self.api("STREAM.MSG.GET", request.to_string().into(), deadline).await;
        match answer {
            Err(StoreError::Refused { code: wire::NO_MESSAGE, .. }) => Ok(None),
            Err(StoreError::Refused { code: wire::NO_STREAM, .. }) => {
                Err(StoreError::NoBucket(self.name.to_string()))
            }
            answer => wire::stored(&answer?, &self.subject_of("")).map(Some),
        }
    }

    /// What was written after `after`, of the keys below `below` or of all. Another server than the
    /// leader may answer, which may not have heard of the last writes yet.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn changes(
        &self,
        after: Revision,
        below: Option<&Key>,
        deadline: Instant,
    ) -> Result<Page, StoreError> {
        let below = below.map_or(">".to_owned(), |key| format!("{key}.>"));
        let request = serde_json::json!({
            "seq": after.0 + 1,
            "next_by_subj": self.subject_of(&below),
            "batch": PAGE,
        });
        let subject = Subject::of_store(format!("$JS.API.DIRECT.GET.KV_{}", self.name));
        let answers = self.request_many(&subject, request.to_string().into(), deadline).await;
        wire::page(answers.map_err(|error| self.no_bucket(error.into()))?, &self.subject_of(""))
    }

    /// Everything below `below`, or all.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn all(
        &self,
        below: Option<&Key>,
        deadline: Instant,
    ) -> Result<Vec<Record>, StoreError> {
        let (mut all, mut after) = (Vec::new(), Revision::NONE);
        loop {
            let page = self.changes(after, below, deadline).await?;
            after = page.records.last().map_or(after, |record| record.revision);
            all.extend(page.records.into_iter().filter(|record| record.value.is_some()));
            if !page.has_more {
                return Ok(all);
            }
        }
    }

    async fn info(&self, deadline: Instant) -> Result<Info, StoreError> {
        match self.api("STREAM.INFO", Bytes::new(), deadline).await {
            Err(StoreError::Refused { code: wire::NO_STREAM, .. }) => {
                Err(StoreError::NoBucket(self.name.to_string()))
            }
            answer => wire::parse(&answer?),
        }
    }

    async fn write(
        &self,
        key: &Key,
        write: Write<'_>,
        revision: Option<Revision>,
        deadline: Instant,
    ) -> Result<Revision, StoreError> {
        let mut headers = HeaderMap::new();
        if let Some(Revision(revision)) = revision {
            headers.insert(wire::EXPECTED, revision.to_string());
        }
        if write.is_forgotten {
            headers.insert(wire::OPERATION, "DEL");
        }
        if let Some(lifetime) = write.lifetime {
            headers.insert(wire::TTL, lifetime);
        }
        let subject = Subject::of_store(self.subject_of(key.as_str()));
        let answer = self.request(&subject, headers, write.value, deadline).await;
        let answer = answer.map_err(|error| self.no_bucket(error))?;
        wire::acknowledged(&answer.payload)
    }

    /// A request of JetStream's own API.
    async fn api(
        &self,
        operation: &str,
        request: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, StoreError> {
        let subject = Subject::of_store(format!("$JS.API.{operation}.KV_{}", self.name));
        let answer = self.request(&subject, HeaderMap::new(), request, deadline).await?;
        wire::checked(&answer.payload)?;
        Ok(answer.payload)
    }

    async fn request(
        &self,
        subject: &Subject,
        headers: HeaderMap,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Reply, StoreError> {
        let link = &self.store.link;
        let mut pending = link.send(Replies::One, subject, headers, payload, deadline).await?;
        Ok(pending.reply(deadline).await?)
    }

    /// All answers to a request for many, to the one that is the last.
    async fn request_many(
        &self,
        subject: &Subject,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Vec<Reply>, RequestError> {
        let (link, headers) = (&self.store.link, HeaderMap::new());
        let mut answers =
            Answers(link.send(Replies::Many, subject, headers, payload, deadline).await?);
        let mut all = Vec::new();
        while all.len() <= PAGE {
            let answer = answers.next(deadline).await?;
            let is_last = wire::is_last(&answer);
            all.push(answer);
            if is_last {
                break;
            }
        }
        Ok(all)
    }

    /// Where no stream takes what is published or asked, there is no bucket.
    fn no_bucket(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::NoJetStream(_) => StoreError::NoBucket(self.name.to_string()),
            error => error,
        }
    }

    fn subject_of(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.name)
    }
}

/// How long a request to JetStream may take. A leader is elected within some seconds; who asks meanwhile
/// asks again.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
