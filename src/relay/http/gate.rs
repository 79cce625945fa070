//! How much of a backend is asked at once, and which of its servers. Kept apart from the connections, so
//! that a reload of the config neither doubles the load nor forgets who is down.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use super::health::{Health, Pass};
use crate::config::HttpBackend;
use crate::metrics::Circuits;
use crate::task::Tasks;

/// The gates of one node. Clones share them.
#[derive(Debug, Clone)]
pub struct Gates {
    /// Those who close idle connections.
    pub(super) tasks: Tasks,
    /// Relays keep their gates alive. Held only while a route is made.
    all: Arc<Mutex<Vec<Known>>>,
}

/// Whose gate it is: a route with another backend than before has another gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) hub: String,
    pub(super) route: String,
    pub(super) backend: HttpBackend,
}

type Known = (Key, Weak<Gate>);

/// The way in to one route's servers.
#[derive(Debug)]
pub(super) struct Gate {
    places: Arc<Semaphore>,
    max_requests: usize,
    /// How many of the places have a request at a server, and are not still on the way to one.
    asked: AtomicUsize,
    queue_timeout: Duration,
    /// By the place of its URL in the config; never empty, and at most [`InVain::MAX`].
    servers: Box<[Arc<Health>]>,
    /// Told whenever one of them may not be asked any more.
    shut: watch::Sender<()>,
}

/// A place at the backend.
#[derive(Debug)]
pub(super) struct Place {
    gate: Arc<Gate>,
    is_asked: bool,
    _permit: OwnedSemaphorePermit,
}

/// Servers that one event was offered to in vain.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct InVain(u64);

impl Gates {
    /// No gates yet. What the backends need done beside requests is done by `tasks`.
    #[must_use]
    pub fn new(tasks: &Tasks) -> Self {
        Self { tasks: tasks.clone(), all: Arc::default() }
    }

    /// The gate of that route and backend, to servers of these names.
    pub(super) fn gate(&self, key: Key, names: &[&str], circuits: &Circuits) -> Arc<Gate> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, gate)| gate.strong_count() > 0);
        let known = all.iter().find(|(other, _)| *other == key);
        if let Some(gate) = known.and_then(|(_, gate)| gate.upgrade()) {
            return gate;
        }
        let shut = watch::Sender::new(());
        let health = |name: &&str| Arc::new(Health::new(name, circuits.clone(), shut.clone()));
        let max_requests = usize::try_from(key.backend.max_requests).unwrap_or(usize::MAX);
        let max_requests = max_requests.min(Semaphore::MAX_PERMITS);
        let gate = Arc::new(Gate {
            places: Arc::new(Semaphore::new(max_requests)),
            max_requests,
            asked: AtomicUsize::new(0),
            queue_timeout: key.backend.queue_timeout.get(),
            servers: names.iter().map(health).collect(),
            shut,
        });
        all.push((key, Arc::downgrade(&gate)));
        gate
    }
}

impl Gate {
    /// Whether any server may be asked at `now`.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.servers.iter().any(|server| server.pending(now).is_some())
    }

    /// Ends when no server may be asked. Cancel safe.
    pub(super) async fn shut(&self) {
        let mut shut = self.shut.subscribe();
        if !self.is_open(Instant::now()) {
            return;
        }
        loop {
            // It cannot end with an error: the sender is in `self`.
            let _ = shut.changed().await;
            // Who looks late may find the pause over, and a server that answers no more than before.
            if self.servers.iter().all(|server| server.is_left_alone()) {
                return;
            }
        }
    }

    /// One of the places at the backend; none when there is none for too long. Cancel safe.
    pub(super) async fn enter(self: &Arc<Self>, deadline: Instant) -> Option<Place> {
        let permit = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let until = deadline.min(Instant::now() + self.queue_timeout);
                let permit = Arc::clone(&self.places).acquire_owned();
                // The semaphore is never closed. Boxed, for few events wait and every event's future has
                // room for it.
                Box::pin(timeout_at(until, permit)).await.ok()?.ok()?
            }
        };
        Some(Place { gate: Arc::clone(self), is_asked: false, _permit: permit })
    }

    /// Whether as many requests as may be are at the servers. Places of those that still wait for a
    /// connection do not count: no server has them.
    pub(super) fn is_full(&self) -> bool {
        self.asked.load(Ordering::Acquire) >= self.max_requests
    }

    /// Leave to ask the server that has the fewest requests, of those that may be asked at `now` and were
    /// not asked `in_vain`; and its place.
    pub(super) fn choose(&self, now: Instant, in_vain: InVain) -> Option<(usize, Pass)> {
        let (count, mut in_vain) = (self.servers.len(), in_vain);
        // Each begins at another one, so that equals share.
        let first = rand::random::<u32>() as usize % count;
        loop {
            let places = (first..count).chain(0..first).filter(|place| !in_vain.has(*place));
            let pending = |place: usize| Some((self.servers.get(place)?.pending(now)?, place));
            let (_, place) = places.filter_map(pending).min_by_key(|(pending, _)| *pending)?;
            match self.servers.get(place)?.pass(now) {
                Some(pass) => return Some((place, pass)),
                // Somebody else asks it to find out.
                None => in_vain.add(place),
            }
        }
    }
}

impl Place {
    /// Its request goes to a server now.
    pub(super) fn ask(&mut self) {
        self.is_asked = true;
        self.gate.asked.fetch_add(1, Ordering::AcqRel);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_asked {
            self.gate.asked.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl InVain {
    /// The most servers that can be told apart.
    pub(super) const MAX: usize = u64::BITS as usize;

    pub(super) fn add(&mut self, place: usize) {
        self.0 |= 1 << place;
    }

    fn has(self, place: usize) -> bool {
        self.0 & (1 << place) != 0
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;
    use tokio::time::advance;

    use super::super::health::Failure;
    use super::*;
    use crate::config::{Period, Urls};
    use crate::metrics::Metrics;

    fn key(max_requests: u32, servers: usize) -> Key {
        let url = |n| format!("http://s{n}/");
        let urls = Urls::Many((0..servers).map(url).collect());
        let queue_timeout = Period::millis(100);
        let backend = HttpBackend { max_requests, queue_timeout, ..HttpBackend::new(urls) };
        Key { hub: "app".into(), route: "/ws".into(), backend }
    }

    fn gate(gates: &Gates, max_requests: u32, servers: usize) -> Arc<Gate> {
        let names = ["a", "b", "c"];
        let circuits = Metrics::new().circuits("app", "/ws");
        gates.gate(key(max_requests, servers), &names[..servers], &circuits)
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_bounded_and_waited_for_in_time() {
        let gate = gate(&Gates::new(&Tasks::new()), 1, 1);
        let far = Instant::now() + Duration::from_secs(60);
        let first = gate.enter(far).await.unwrap();
        let start = Instant::now();
        assert!(gate.enter(far).await.is_none());
        assert_eq!(start.elapsed().as_millis(), 100);
        assert!(gate.enter(start + Duration::from_millis(150)).await.is_none());
        assert_eq!(start.elapsed().as_millis(), 150);
        let (second, ()) = tokio::join!(gate.enter(far), async { drop(first) });
        assert!(second.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_least_busy_server_is_asked_and_those_that_fail_are_not() {
        let gate = gate(&Gates::new(&Tasks::new()), 10, 3);
        let now = Instant::now();
        let mut passes: Vec<_> = (0..9).map(|_| gate.choose(now, InVain::default())).collect();
        let count = |passes: &[Option<(usize, Pass)>], server| {
            passes.iter().flatten().filter(|(place, _)| *place == server).count()
        };
        assert_eq!([0, 1, 2].map(|server| count(&passes, server)), [3, 3, 3]);
        passes.retain(|pass| pass.as_ref().unwrap().0 != 1);
        assert_eq!(gate.choose(now, InVain::default()).unwrap().0, 1);

        drop(passes);
        let mut in_vain = InVain::default();
        in_vain.add(0);
        in_vain.add(2);
        assert_eq!(gate.choose(now, in_vain).unwrap().0, 1);
        for _ in 0..5 {
            gate.choose(now, in_vain).unwrap().1.failed(now, Failure::Unreachable);
        }
        assert!(gate.choose(now, in_vain).is_none() && gate.is_open(now));
        for _ in 0..20 {
            assert_ne!(gate.choose(now, InVain::default()).unwrap().0, 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_looks_late_still_learns_that_no_server_answers() {
        let gate = gate(&Gates::new(&Tasks::new()), 10, 2);
        let mut shut = pin!(gate.shut());
        let fail = |server: usize| {
            for _ in 0..5 {
                let pass = gate.servers[server].pass(Instant::now()).unwrap();
                pass.failed(Instant::now(), Failure::NoAnswer);
            }
        };
        assert!(shut.as_mut().now_or_never().is_none());
        fail(0);
        assert!(shut.as_mut().now_or_never().is_none(), "the other one answers");
        fail(1);
        advance(Duration::from_secs(60)).await;
        assert!(gate.is_open(Instant::now()), "they are asked whether they answer");
        assert!(shut.now_or_never().is_some());
        // Who begins to look then waits for what comes of that.
        assert!(gate.shut().now_or_never().is_none());
    }

    #[test]
    fn a_gate_outlives_a_reload_that_changes_nothing_of_it() {
        let gates = Gates::new(&Tasks::new());
        let before = gate(&gates, 10, 2);
        assert!(Arc::ptr_eq(&before, &gate(&gates, 10, 2)));
        assert!(!Arc::ptr_eq(&before, &gate(&gates, 11, 2)));
        drop(before);
        let _other = gate(&gates, 12, 1);
        assert_eq!(gates.all.lock().unwrap().len(), 1);
    }
}
