//! What a node does about the leases of others: it takes over those of the dead, and what has no lease.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::keeper::{Keeper, deadline};
use super::lease::{Lease, LeaseId};
use super::takeover::Takeover;
use crate::nats::{Revision, StoreError};

impl Keeper {
    /// Looks at what has become of all leases.
    pub(super) async fn look(&mut self) {
        // Before the leases are read: one that ends its takeover later is finished by then.
        self.takeovers.retain(|_, takeover| !takeover.is_finished());
        loop {
            let page = match self.buckets.leases.changes(self.seen, None, deadline()).await {
                Ok(page) => page,
                Err(error) => return self.warn(&error, "leases not read"),
            };
            let now = Instant::now();
            for record in &page.records {
                self.seen = record.revision;
                let Ok(id) = record.key.parse::<LeaseId>() else { continue };
                match record.value.as_deref().and_then(Lease::parse) {
                    Some(lease) => self.observer.note(id, lease, record.revision, now),
                    None => self.observer.gone(id),
                }
                let lease = record.value.as_deref().and_then(Lease::parse);
                if self.is_taken(id, lease, record.revision) {
                    return self.lost();
                }
                if lease == Some(Lease::Finished) {
                    self.look_again_at(id);
                }
            }
            if !page.has_more {
                break;
            }
        }
        let now = Instant::now();
        self.observer.tidy(now);
        if let Some(own) = &self.own {
            self.alive.set(self.observer.alive(own.id, now));
        }
        self.take_dead().await;
        self.go_on();
        if !self.has_adopted && self.observer.is_steady(Instant::now()) {
            self.adopt().await;
        }
    }

    /// Whether somebody else wrote our lease.
    fn is_taken(&self, id: LeaseId, lease: Option<Lease>, revision: Revision) -> bool {
        let is_own = self.own.as_ref().is_some_and(|own| own.id == id && revision > own.revision);
        is_own && lease != Some(Lease::Held)
    }

    /// A lease that was taken from us is finished. A write of ours may have come after that.
    fn look_again_at(&mut self, id: LeaseId) {
        if let Some(place) = self.former.iter().position(|former| *former == id) {
            self.former.swap_remove(place);
            self.finish(id, None);
        }
    }

    async fn take_dead(&mut self) {
        let Some(own) = self.own.as_ref().map(|own| own.id) else { return };
        for (id, revision) in self.observer.dead(own, Instant::now()) {
            let taken = Lease::Taken { by: own };
            let json = taken.to_json();
            match self.buckets.leases.update(&id.key(), json, revision, deadline()).await {
                Ok(revision) => {
                    self.observer.note(id, taken, revision, Instant::now());
                    self.taken(id, revision);
                }
                // It was renewed, or another was faster.
                Err(StoreError::Conflict) => {}
                Err(error) => return self.warn(&error, "lease not taken over"),
            }
        }
    }

    /// Begins again what is ours to finish and nobody does: the answer that it was taken was lost, or
    /// its task ended early.
    fn go_on(&mut self) {
        let Some(own) = self.own.as_ref().map(|own| own.id) else { return };
        for (id, revision) in self.observer.taken_by(own) {
            if !self.takeovers.contains_key(&id) {
                self.finish(id, Some(revision));
            }
        }
    }

    /// Takes over entries that no lease stands for: the leases were lost, and their nodes with them, for
    /// one that lives writes its own again.
    async fn adopt(&mut self) {
        self.has_adopted = true;
        let Some(own) = self.own.as_ref().map(|own| own.id) else { return };
        let orphans = match self.orphans().await {
            Ok(orphans) => orphans,
            Err(error) => {
                self.has_adopted = false;
                return self.warn(&error, "registry not read");
            }
        };
        for id in orphans {
            let taken = Lease::Taken { by: own }.to_json();
            match self.buckets.leases.create(&id.key(), taken, deadline()).await {
                Ok(revision) => self.taken(id, revision),
                Err(StoreError::Conflict) => {}
                Err(error) => {
                    self.has_adopted = false;
                    return self.warn(&error, "orphans not adopted");
                }
            }
        }
    }

    async fn orphans(&self) -> Result<HashSet<LeaseId>, StoreError> {
        let (mut orphans, mut after) = (HashSet::new(), Revision::NONE);
        loop {
            let page = self.buckets.connections.changes(after, None, deadline()).await?;
            for record in page.records.iter().filter(|record| record.value.is_some()) {
                let lease = record.key.split_once('.').and_then(|(lease, _)| lease.parse().ok());
                orphans.extend(lease.filter(|lease| !self.observer.knows(*lease)));
            }
            after = page.records.last().map_or(after, |record| record.revision);
            if !page.has_more {
                return Ok(orphans);
            }
        }
    }

    fn taken(&mut self, id: LeaseId, revision: Revision) {
        tracing::warn!(lease = %id, "took over a node's connections");
        self.inner.metrics.leases_taken_over().inc();
        self.finish(id, Some(revision));
    }

    fn finish(&mut self, lease: LeaseId, revision: Option<Revision>) {
        let (inner, buckets) = (Arc::clone(&self.inner), self.buckets.clone());
        let stop = self.stop_takeovers.clone();
        let takeover = Takeover { inner: Arc::clone(&inner), buckets, lease, revision };
        let node = inner.tasks.clone();
        let task = inner.tasks.spawn("takeover", async move {
            tokio::select! {
                () = node.stopping() => {}
                () = stop.cancelled() => {}
                () = takeover.run() => {}
            }
        });
        self.takeovers.insert(lease, task);
    }
}
