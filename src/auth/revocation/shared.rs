//! The fleet's revocations, in a bucket of JetStream: written by whoever revokes, merged with what is
//! there, and read by every node once a second.
//!
//! The server drops a record when it is over, by the record's own lifetime, so no node has to.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::list::{Scope, Term};
use super::{Revocations, unix_now};
use crate::nats::{Bucket, LogLimit, REQUEST_TIMEOUT, Record, Revision, Store, StoreError};
use crate::task::Backoff;

/// The way to the bucket. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    store: Store,
    bucket: Bucket,
}

/// How far a reader is.
#[derive(Debug)]
struct Reader {
    /// Which bucket it reads; another word is another bucket of the same name.
    bucket: Option<String>,
    /// The last write that it has seen.
    after: Revision,
    /// When it is to look again which bucket it is.
    look: Instant,
    /// What may not be in the bucket, because that was made anew.
    missing: Vec<Scope>,
    unreadable: LogLimit,
}

/// Between two looks for news.
const INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks which bucket it is.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// What is written again between two looks for news.
const REWRITTEN: usize = 64;

impl Shared {
    pub(super) fn new(store: &Store) -> Self {
        Self { bucket: store.bucket("revoked"), store: store.clone() }
    }

    /// Writes a revocation, merged with what is there; what is there then. A write whose answer was lost
    /// is repeated: it may be done twice.
    pub(super) async fn write(
        &self,
        scope: &Scope,
        term: Term,
        deadline: Instant,
    ) -> Result<Term, StoreError> {
        loop {
            let attempt = deadline.min(Instant::now() + REQUEST_TIMEOUT);
            match self.merge(scope, term, attempt).await {
                Err(StoreError::NoBucket(_)) => {
                    Box::pin(self.bucket.ensure(attempt)).await?;
                }
                Err(StoreError::Conflict | StoreError::Unknown) if Instant::now() < deadline => {}
                written => return written,
            }
        }
    }

    async fn merge(
        &self,
        scope: &Scope,
        term: Term,
        deadline: Instant,
    ) -> Result<Term, StoreError> {
        let (key, now) = (scope.key(), unix_now());
        let found = self.bucket.get(&key, deadline).await?;
        let revision = found.as_ref().map_or(Revision::NONE, |record| record.revision);
        let known = found.and_then(|record| Term::of_json(&record.value?));
        let merged = term.merged(known, now);
        if known != Some(merged) {
            let kept = Duration::from_secs(merged.left(now));
            self.bucket.update_for(kept, &key, merged.to_json(), revision, deadline).await?;
        }
        Ok(merged)
    }

    /// Tells `revocations` of all that is in the bucket and of all that will be, for ever. Cancel safe.
    pub(super) async fn follow(&self, revocations: &Revocations) {
        let mut reader = Reader::new();
        let mut backoff = Backoff::new(Duration::from_millis(100), 2 * INTERVAL);
        // What was said last; a trouble that stays is said once.
        let mut told = None;
        loop {
            self.store.up().await;
            match self.read(&mut reader, revocations).await {
                Ok(()) => {
                    backoff.reset();
                    let is_first = revocations.set_read();
                    if told.take().is_some() || is_first {
                        tracing::info!("revocations loaded");
                    }
                    if reader.missing.is_empty() {
                        sleep(INTERVAL).await;
                    }
                }
                Err(error) => {
                    // The bucket may have become another one meanwhile.
                    reader.look = Instant::now();
                    if told.as_ref() != Some(&error) {
                        tracing::warn!(%error, "revocations cannot be read; trying again");
                        told = Some(error);
                    }
                    sleep(backoff.delay()).await;
                }
            }
        }
    }

    /// Reads to the end, and writes some of what is missing there.
    async fn read(&self, reader: &mut Reader, revocations: &Revocations) -> Result<(), StoreError> {
        let attempt = || Instant::now() + REQUEST_TIMEOUT;
        if reader.look <= Instant::now() {
            let bucket = Box::pin(self.bucket.ensure(attempt())).await?;
            reader.turn_to(bucket, revocations);
        }
        loop {
            let page = self.bucket.changes(reader.after, None, attempt()).await?;
            reader.after = page.records.last().map_or(reader.after, |last| last.revision);
            let read = page.records.iter().filter_map(|record| reader.parse(record)).collect();
            let news = revocations.learn(read);
            revocations.close(&news).await;
            if !page.has_more {
                break;
            }
        }
        for _ in 0..REWRITTEN {
            let Some(scope) = reader.missing.last() else { break };
            if let Some(term) = revocations.term(scope) {
                self.write(scope, term, attempt()).await?;
            }
            reader.missing.pop();
        }
        Ok(())
    }
}

impl Reader {
    fn new() -> Self {
        let unreadable = LogLimit::new();
        let (look, missing) = (Instant::now(), Vec::new());
        Self { bucket: None, after: Revision::NONE, look, missing, unreadable }
    }

    /// Begins again where it is not the bucket that was read before.
    fn turn_to(&mut self, bucket: String, revocations: &Revocations) {
        self.look = Instant::now() + LOOK_INTERVAL;
        if self.bucket.as_ref() != Some(&bucket) {
            self.bucket = Some(bucket);
            self.after = Revision::NONE;
            self.missing = revocations.scopes();
        }
    }

    /// What a record says; none of its term when it was taken back.
    fn parse(&self, record: &Record) -> Option<(Scope, Option<Term>)> {
        let term = record.value.as_deref().map(Term::of_json);
        match (Scope::of_key(&record.key), term) {
            (Some(scope), None) => Some((scope, None)),
            (Some(scope), Some(Some(term))) => Some((scope, Some(term))),
            _ => {
                if let Some(left_out) = self.unreadable.admit(Instant::now()) {
                    let key = &*record.key;
                    tracing::warn!(key, left_out, "a record is no revocation; it is passed over");
                }
                None
            }
        }
    }
}
