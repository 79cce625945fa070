//! Taking slots out of the bucket: those that connections give back, and those of nodes that are no more.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::time::{Instant, sleep};

use super::returned::Work;
use super::slots::{Holder, Slots};
use crate::cluster::lease::LeaseId;
use crate::id::ConnectionId;
use crate::nats::{Key, LogLimit, REQUEST_TIMEOUT, Revision, StoreError};
use crate::task::Backoff;

/// Slots that are taken out at the same time.
const AT_ONCE: usize = 64;
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Short enough for some tries while a node stops.
const PAUSE_MAX: Duration = Duration::from_secs(1);

impl Slots {
    /// Takes out what is given back, for ever.
    pub(super) async fn forget_returned(&self) {
        let (failed, mut backoff) = (LogLimit::new(), Backoff::new(PAUSE_FIRST, PAUSE_MAX));
        self.0.returned.begin();
        loop {
            let work = self.0.returned.take(AT_ONCE).await;
            let done = join_all(work.into_iter().map(|work| async {
                let done = self.forget(&work).await;
                (work, done)
            }));
            let (mut undone, mut failure) = (Vec::new(), None);
            for (work, done) in done.await {
                if let Err(error) = done {
                    undone.push(work);
                    failure = Some(error);
                }
            }
            self.0.returned.done(undone);
            let Some(error) = failure else {
                backoff.reset();
                continue;
            };
            if let Some(left_out) = failed.admit(Instant::now()) {
                tracing::warn!(%error, left_out, "users' slots are given back later");
            }
            sleep(backoff.delay()).await;
        }
    }

    /// Takes out the slots that connections of a dead node had.
    ///
    /// # Errors
    /// Those of any request; some are left then.
    pub(super) async fn forget_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        // Whoever needs a slot of a dead node takes it anyway; this is for users who never return.
        self.forget_where(|holder| holder.lease == lease).await
    }

    /// Does one thing.
    pub(super) async fn forget(&self, work: &Work) -> Result<(), StoreError> {
        match work {
            Work::Forget(key, revision) => self.forget_one(key, *revision).await,
            Work::Look(key, connection) => self.look(key, *connection).await,
            Work::Sweep => {
                let is_own = |holder: &Holder| holder.lease.node == self.0.node;
                self.forget_where(|holder| is_own(holder) && !self.has(holder.connection)).await
            }
        }
    }

    /// Takes out a slot unless somebody else has it by now.
    async fn forget_one(&self, key: &Key, revision: Revision) -> Result<(), StoreError> {
        match self.0.bucket.forget(key, Some(revision), deadline()).await {
            Err(StoreError::Conflict | StoreError::NoBucket(_)) => Ok(()),
            forgotten => forgotten,
        }
    }

    /// Takes out a slot if this connection has it.
    async fn look(&self, key: &Key, connection: ConnectionId) -> Result<(), StoreError> {
        let found = match self.0.bucket.get(key, deadline()).await {
            Err(StoreError::NoBucket(_)) => return Ok(()),
            found => found?,
        };
        let Some(record) = found else { return Ok(()) };
        let holder = record.value.as_deref().and_then(Holder::parse);
        if holder.is_none_or(|holder| holder.connection != connection) {
            return Ok(());
        }
        self.forget_one(key, record.revision).await
    }

    /// Takes out the slots of all that are no more.
    async fn forget_where(&self, is_over: impl Fn(&Holder) -> bool) -> Result<(), StoreError> {
        // It takes several requests.
        let all = match self.0.bucket.all(None, Instant::now() + 5 * REQUEST_TIMEOUT).await {
            Err(StoreError::NoBucket(_)) => return Ok(()),
            all => all?,
        };
        let is_over = |record: &crate::nats::Record| {
            record.value.as_deref().and_then(Holder::parse).is_some_and(|holder| is_over(&holder))
        };
        let over: Vec<_> = all.into_iter().filter(is_over).collect();
        let forgotten = stream::iter(over).map(async |record| {
            let tokens: Vec<&str> = record.key.split('.').collect();
            self.forget_one(&Key::of(&tokens), record.revision).await
        });
        forgotten.buffer_unordered(AT_ONCE).try_collect().await
    }
}

fn deadline() -> Instant {
    Instant::now() + REQUEST_TIMEOUT
}
