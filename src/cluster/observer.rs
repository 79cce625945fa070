//! Which nodes are alive, by what one node sees of the leases of all. Pure: time is passed in.
//!
//! A node counts as dead when its lease was not renewed for a while in which this node renewed its own
//! all the time. Without the second half, an outage of NATS would make every node look dead to every
//! other. And whoever takes a lease over does so by a compare-and-set of the revision that was seen, so
//! one that was renewed meanwhile, unseen, is not taken.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::lease::{Lease, LeaseId};
use crate::id::NodeId;
use crate::nats::Revision;

/// What is known of all leases.
#[derive(Debug, Default)]
pub(super) struct Observer {
    leases: HashMap<LeaseId, Seen>,
    /// Since when this node has renewed its own lease without a break, and when it did last.
    steady: Option<(Instant, Instant)>,
}

/// A lease as it was seen last.
#[derive(Debug, Clone, Copy)]
struct Seen {
    lease: Lease,
    revision: Revision,
    /// Since when it has had this revision, on our clock.
    since: Instant,
}

/// How long a lease is not renewed until its node counts as dead.
const DEAD_AFTER: Duration = Duration::from_secs(15);
/// The longest time between two renewals that is no break.
const BREAK: Duration = Duration::from_secs(8);

impl Observer {
    /// This node renewed its own lease.
    pub(super) fn renewed(&mut self, now: Instant) {
        let unbroken =
            |(_, last): &(Instant, Instant)| now.saturating_duration_since(*last) < BREAK;
        let since = self.steady.filter(unbroken).map_or(now, |(since, _)| since);
        self.steady = Some((since, now));
    }

    /// Forgets everything: the bucket is another one, or this node's lease.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// A lease has this revision.
    pub(super) fn note(&mut self, id: LeaseId, lease: Lease, revision: Revision, now: Instant) {
        let seen = Seen { lease, revision, since: now };
        let entry = self.leases.entry(id).or_insert(seen);
        if entry.revision != revision {
            *entry = seen;
        }
    }

    /// Whether a lease is known.
    pub(super) fn knows(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    /// Forgets leases that have been finished for a while.
    pub(super) fn tidy(&mut self, now: Instant) {
        self.leases.retain(|_, seen| {
            let is_old = now.saturating_duration_since(seen.since) >= 4 * DEAD_AFTER;
            seen.lease != Lease::Finished || !is_old
        });
    }

    /// The lease is no more.
    pub(super) fn gone(&mut self, id: LeaseId) {
        self.leases.remove(&id);
    }

    /// Whether this node has renewed long enough to judge others.
    pub(super) fn is_steady(&self, now: Instant) -> bool {
        self.steady.is_some_and(|(since, last)| {
            now.saturating_duration_since(since) >= DEAD_AFTER
                && now.saturating_duration_since(last) < BREAK
        })
    }

    /// The leases that `own` may take over, with the revisions to compare.
    pub(super) fn dead(&self, own: LeaseId, now: Instant) -> Vec<(LeaseId, Revision)> {
        let dead =
            self.leases.iter().filter(|(id, seen)| **id != own && self.is_dead(own, seen, now));
        dead.map(|(id, seen)| (*id, seen.revision)).collect()
    }

    /// The leases that `own` has to finish, with their revisions.
    pub(super) fn taken_by(&self, own: LeaseId) -> Vec<(LeaseId, Revision)> {
        let is_ours = |seen: &Seen| seen.lease == Lease::Taken { by: own };
        let taken = self.leases.iter().filter(|(_, seen)| is_ours(seen));
        taken.map(|(id, seen)| (*id, seen.revision)).collect()
    }

    /// All leases, each with whether its holder is alive, as far as `own` can tell.
    pub(super) fn alive(&self, own: LeaseId, now: Instant) -> HashMap<LeaseId, bool> {
        let is_alive = |id: &LeaseId, seen: &Seen| {
            seen.lease == Lease::Held && (*id == own || !self.is_dead(own, seen, now))
        };
        self.leases.iter().map(|(id, seen)| (*id, is_alive(id, seen))).collect()
    }

    /// The nodes that are alive.
    pub(super) fn nodes(&self, now: Instant) -> HashSet<NodeId> {
        let is_alive = |seen: &Seen| {
            let is_old = now.saturating_duration_since(seen.since) >= DEAD_AFTER;
            seen.lease == Lease::Held && !is_old
        };
        self.leases.iter().filter(|(_, seen)| is_alive(seen)).map(|(id, _)| id.node).collect()
    }

    fn is_dead(&self, own: LeaseId, seen: &Seen, now: Instant) -> bool {
        let is_old = now.saturating_duration_since(seen.since) >= DEAD_AFTER;
        match seen.lease {
            Lease::Finished => false,
            // No clock says so but its own node.
            Lease::Released => self.steady.is_some(),
            Lease::Held => is_old && self.is_steady(now),
            // It was ours and nobody else's: a task of ours finishes it.
            Lease::Taken { by } if by == own => false,
            Lease::Taken { by } => match self.leases.get(&by).map(|taker| taker.lease) {
                Some(Lease::Held) => false,
                Some(_) => self.steady.is_some(),
                None => is_old && self.is_steady(now),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Leases by number, and a clock in seconds.
    struct Scene {
        observer: Observer,
        node: NodeId,
        start: Instant,
        revision: u64,
    }

    impl Scene {
        fn new() -> Self {
            let (node, start) = (NodeId::random(), Instant::now());
            Self { observer: Observer::default(), node, start, revision: 0 }
        }

        fn id(&self, number: u32) -> LeaseId {
            LeaseId { node: self.node, number }
        }

        fn at(&self, second: u64) -> Instant {
            self.start + Duration::from_secs(second)
        }

        /// Our lease is number 1; it is renewed every three seconds.
        fn renew(&mut self, seconds: std::ops::RangeInclusive<u64>) {
            for second in seconds.step_by(3) {
                self.observer.renewed(self.at(second));
            }
        }

        fn note(&mut self, number: u32, lease: Lease, second: u64) {
            self.revision += 1;
            let (id, now) = (self.id(number), self.at(second));
            self.observer.note(id, lease, Revision::test(self.revision), now);
        }

        fn dead(&self, second: u64) -> Vec<u32> {
            let dead = self.observer.dead(self.id(1), self.at(second));
            let mut dead: Vec<_> = dead.into_iter().map(|(id, _)| id.number).collect();
            dead.sort_unstable();
            dead
        }
    }

    #[test]
    fn who_does_not_renew_is_dead_once_we_have_renewed_for_as_long() {
        let mut scene = Scene::new();
        scene.note(1, Lease::Held, 0);
        scene.note(2, Lease::Held, 0);
        scene.renew(0..=12);
        assert!(scene.dead(14).is_empty());
        scene.renew(15..=15);
        assert_eq!(scene.dead(15), [2]);
        scene.note(2, Lease::Held, 15);
        scene.renew(18..=27);
        assert!(scene.dead(29).is_empty());
        scene.renew(30..=30);
        assert_eq!(scene.dead(30), [2]);
    }

    #[test]
    fn an_outage_that_we_share_makes_nobody_dead() {
        let mut scene = Scene::new();
        scene.note(2, Lease::Held, 0);
        scene.renew(0..=30);
        scene.note(2, Lease::Held, 30);
        // NATS is away until second 90, and back for us first.
        assert!(scene.dead(90).is_empty());
        scene.renew(90..=102);
        assert!(scene.dead(104).is_empty(), "not steady for long enough");
        scene.note(2, Lease::Held, 104);
        scene.renew(105..=117);
        assert!(scene.dead(118).is_empty());
        scene.renew(120..=120);
        assert_eq!(scene.dead(120), [2]);
    }

    #[test]
    fn a_node_that_does_not_renew_itself_judges_nobody() {
        let mut scene = Scene::new();
        scene.note(2, Lease::Held, 0);
        scene.renew(0..=15);
        assert_eq!(scene.dead(20), [2]);
        assert!(scene.dead(15 + 8).is_empty());
    }

    #[test]
    fn what_was_released_is_free_at_once_and_what_is_finished_stays() {
        let mut scene = Scene::new();
        scene.note(2, Lease::Released, 0);
        scene.note(3, Lease::Finished, 0);
        assert!(scene.dead(0).is_empty(), "we have no lease ourselves");
        scene.renew(0..=0);
        assert_eq!(scene.dead(0), [2]);
        scene.renew(3..=60);
        assert_eq!(scene.dead(60), [2]);
    }

    #[test]
    fn a_taker_that_dies_is_taken_over_with_what_it_took() {
        let mut scene = Scene::new();
        let (own, other) = (scene.id(1), scene.id(2));
        scene.note(2, Lease::Held, 0);
        scene.note(3, Lease::Taken { by: other }, 0);
        scene.note(4, Lease::Taken { by: own }, 0);
        scene.renew(0..=15);
        assert_eq!(scene.dead(15), [2], "its taker is not known to be dead");
        let ours: Vec<_> = scene.observer.taken_by(own).iter().map(|(id, _)| id.number).collect();
        assert_eq!(ours, [4]);
        scene.note(2, Lease::Taken { by: own }, 15);
        assert_eq!(scene.dead(15), [3]);
        scene.observer.gone(other);
        scene.note(3, Lease::Taken { by: other }, 16);
        scene.renew(18..=30);
        assert!(scene.dead(30).is_empty());
        scene.renew(33..=33);
        assert_eq!(scene.dead(33), [3], "a taker that nobody knows");
    }

    #[test]
    fn the_living_are_those_who_renew() {
        let mut scene = Scene::new();
        scene.note(1, Lease::Held, 0);
        assert_eq!(scene.observer.nodes(scene.at(14)).len(), 1);
        assert!(scene.observer.nodes(scene.at(15)).is_empty());
        scene.note(1, Lease::Released, 14);
        assert!(scene.observer.nodes(scene.at(14)).is_empty());
    }
}
