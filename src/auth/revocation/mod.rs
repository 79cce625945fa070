//! Tokens that are no good any more, though they are genuine and have not ended.
//!
//! ```text
//! revoke -> shared (the fleet's bucket) -> list -> everybody in the table who came in by such a token: cut
//!            ^ read by all nodes              ^ asked by each handshake, before and after it is in the table
//! ```
//!
//! On a cluster a revocation is written before it counts anywhere, so none is lost with a node; who
//! starts later reads all of them before the first token is taken. Solo, and where there is no JetStream
//! and need not be, they last as long as the node and count on it only.

mod list;
mod record;
mod shared;
mod wish;
mod commands;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::close::{Cause, Close};
use crate::config::JetStream;
use crate::event::{Peer, TokenFacts};
use crate::hub::{Table, Target};
use crate::id::{TokenId, UserId};
use crate::nats::{Store, StoreError};
use crate::task::Tasks;

use list::{List, Scope, Term};
use shared::Shared;

pub use wish::RevocationWish;

/// What is revoked. Clones share it.
#[derive(Debug, Clone)]
pub struct Revocations(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Locked for a look or a move, never across an await.
    list: RwLock<List>,
    /// Whether the node must know what the fleet has revoked.
    are_required: bool,
    /// Whether it does.
    were_read: AtomicBool,
    /// How long a revocation is kept that does not say until when, in seconds.
    lifetime: AtomicU64,
    /// Whom to close.
    table: Table,
    /// Where the fleet keeps them; solo, nowhere.
    shared: Option<Shared>,
    /// Where they are carried out.
    tasks: Tasks,
}

/// Which tokens are to be no good any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revoked {
    /// The one of this id (`jti`).
    Token(String),
    /// Those of a user that were made before.
    User {
        /// The user, as the token or the backend calls the client.
        user: UserId,
        /// What was made in the same second counts as made before, for tokens say the second only.
        before: SystemTime,
    },
    /// All that were made before.
    Before(SystemTime),
}

/// Why nothing is revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    /// It was not written, or not for certain.
    #[error("the revocation may not be in force on all nodes; say it again")]
    Store(#[from] StoreError),
    /// It does not say what, or says more than one thing.
    #[error("expected one of `jti`, `user` (with or without `before`) and `before`")]
    What,
    /// A cutoff to come would lock out who gets a token meanwhile.
    #[error("before: expected a time that has passed, in seconds since 1970, found {0}")]
    Before(u64),
    /// An end that can only be a mistake.
    #[error("until: expected at most ten years ahead, in seconds since 1970, found {0}")]
    Until(u64),
    /// There is no room.
    #[error("there are {0} revocations already; revoke by user or by time")]
    Full(usize),
}

/// How far ahead of ours the clock may be that a cutoff was read from.
const AHEAD: u64 = 5 * 60;
/// The latest end, from now.
const LONGEST: u64 = 10 * 365 * 24 * 3600;
/// The most revocations: some 100 MiB.
const MOST: usize = 1_000_000;
/// Connections that are looked at until others get their turn.
const TURN: usize = 256;

impl Revocations {
    /// Those of one node, carried out on `tasks`; `lifetime` is for those that do not say until when.
    #[must_use]
    pub fn solo(lifetime: Duration, table: Table, tasks: &Tasks) -> Self {
        Self::new(lifetime, table, None, false, tasks)
    }

    /// Those of a fleet, read, kept up and carried out on `tasks`. Where JetStream is required, they are not
    /// [known](Self::are_known) before they were read.
    #[must_use]
    pub fn cluster(
        lifetime: Duration,
        table: Table,
        store: &Store,
        jetstream: JetStream,
        tasks: &Tasks,
    ) -> Self {
        let (shared, are_required) = (Shared::new(store), jetstream == JetStream::Required);
        let revocations = Self::new(lifetime, table, Some(shared.clone()), are_required, tasks);
        let (kept, stop) = (revocations.clone(), tasks.clone());
        tasks.keep("revocations", move || {
            let (shared, revocations, stop) = (shared.clone(), kept.clone(), stop.clone());
            async move {
                tokio::select! {
                    () = stop.stopping() => {}
                    () = shared.follow(&revocations) => {}
                }
            }
        });
        revocations
    }

    /// Revokes tokens from now on, and at least until `until`: when the last of them has ended. Closes
    /// the connections of this node that came in by them; how many. Other nodes do so within a second or
    /// two. To say it again does no harm; of two cutoffs the later one counts.
    ///
    /// Cancel safe: what has begun goes on, for half of it would leave clients that nobody closes.
    ///
    /// # Errors
    /// When it makes no sense, or cannot be written by the deadline.
    pub async fn revoke(
        &self,
        what: Revoked,
        until: Option<SystemTime>,
        deadline: Instant,
    ) -> Result<usize, RevocationError> {
        let now = unix_now();
        let (scope, before) = match what {
            Revoked::Token(id) => (Scope::Token(TokenId::of(&id)), 0),
            Revoked::User { user, before } => (Scope::User(user), unix_of(before)),
            Revoked::Before(before) => (Scope::All, unix_of(before)),
        };
        let lifetime = self.0.lifetime.load(Ordering::Relaxed);
        let until = until.map_or(now.saturating_add(lifetime), unix_of);
        if before > now + AHEAD {
            return Err(RevocationError::Before(before));
        }
        if until > now + LONGEST {
            return Err(RevocationError::Until(until));
        }
        let is_full = self.change(|list| {
            list.prune(now);
            list.len() >= MOST && list.get(&scope).is_none()
        });
        if is_full {
            return Err(RevocationError::Full(MOST));
        }
        let term = Term { before, until };
        if term.left(now) == 0 {
            // Every token that it could be about has ended.
            return Ok(0);
        }
        let (tell, told) = oneshot::channel();
        let all = self.clone();
        self.0.tasks.spawn("revocation", async move {
            // Whoever asked may have left.
            let _ = tell.send(all.carry_out(scope, term, deadline).await);
        });
        // An error is a bug in the task, which logged it.
        told.await.unwrap_or(Err(RevocationError::Store(StoreError::Unknown)))
    }

    /// Whether the token is revoked.
    #[must_use]
    pub fn cover(&self, token: &TokenFacts) -> bool {
        self.look(|list| list.covers(token, unix_now()))
    }

    /// Whether the token that let a client in is revoked, also by the name that the backend gave it.
    #[must_use]
    pub fn cover_peer(&self, peer: &Peer) -> bool {
        self.look(|list| list.covers_peer(peer, unix_now()))
    }

    /// Whether all that was revoked is known here. Until then no token is to be taken.
    #[must_use]
    pub fn are_known(&self) -> bool {
        !self.0.are_required || self.0.were_read.load(Ordering::Acquire)
    }

    /// Changes how long a revocation is kept that does not say until when.
    pub fn set_lifetime(&self, lifetime: Duration) {
        self.0.lifetime.store(lifetime.as_secs(), Ordering::Relaxed);
    }

    fn new(
        lifetime: Duration,
        table: Table,
        shared: Option<Shared>,
        are_required: bool,
        tasks: &Tasks,
    ) -> Self {
        Self(Arc::new(Inner {
            list: RwLock::default(),
            are_required,
            were_read: false.into(),
            lifetime: lifetime.as_secs().into(),
            table,
            shared,
            tasks: tasks.clone(),
        }))
    }

    /// Writes it, then acts on it; how many connections were closed.
    async fn carry_out(
        &self,
        scope: Scope,
        mut term: Term,
        deadline: Instant,
    ) -> Result<usize, RevocationError> {
        if let Some(shared) = &self.0.shared {
            term = match Box::pin(shared.write(&scope, term, deadline)).await {
                Err(StoreError::NoJetStream(_)) if !self.0.are_required => term,
                written => written?,
            };
        }
        let key = scope.key();
        tracing::info!(%key, before = term.before, until = term.until, "tokens revoked");
        self.learn(vec![(scope.clone(), Some(term))]);
        let mut alone = List::default();
        alone.add(scope, term, unix_now());
        Ok(self.close(&alone).await)
    }

    /// Takes over what was revoked, or taken back where no term is given; what was not known before.
    fn learn(&self, read: Vec<(Scope, Option<Term>)>) -> List {
        let now = unix_now();
        let mut news = List::default();
        if read.is_empty() {
            return news;
        }
        self.change(|list| {
            // Only here it becomes more, so nothing else has to forget.
            list.prune(now);
            for (scope, term) in read {
                match term {
                    Some(term) if list.add(scope.clone(), term, now) => {
                        news.add(scope, term, now);
                    }
                    Some(_) => {}
                    None => list.lift(&scope),
                }
            }
        });
        news
    }

    /// Closes every connection that came in by a token on the list; how many. At once: nothing that they
    /// wait for is waited for.
    async fn close(&self, list: &List) -> usize {
        let (now, mut closed) = (unix_now(), 0);
        if list.len() == 0 {
            return closed;
        }
        for hub in self.0.table.hubs() {
            for (n, member) in hub.members(&Target::All).iter().enumerate() {
                if n % TURN == TURN - 1 {
                    tokio::task::yield_now().await;
                }
                if list.covers_peer(&member.peer, now) {
                    member.handle.cut(Close::of(Cause::Revoked));
                    closed += 1;
                }
            }
        }
        closed
    }

    /// All that the fleet has revoked was read; whether for the first time.
    fn set_read(&self) -> bool {
        !self.0.were_read.swap(true, Ordering::AcqRel)
    }

    fn term(&self, scope: &Scope) -> Option<Term> {
        self.look(|list| list.get(scope))
    }

    fn scopes(&self) -> Vec<Scope> {
        self.look(List::scopes)
    }

    fn look<T>(&self, look: impl FnOnce(&List) -> T) -> T {
        look(&self.0.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, change: impl FnOnce(&mut List) -> T) -> T {
        change(&mut self.0.list.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Now, in seconds since 1970.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The first whole second since 1970 that is not before `time`.
fn unix_of(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_secs() + u64::from(since.subsec_nanos() > 0)
}
