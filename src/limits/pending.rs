//! Clients that are not let in yet: their TLS handshake or request head is still on its way.
//!
//! When there are too many, the one that has been at it longest makes room, for slow clients must not
//! lock honest ones out; of the address that has the most, if that is more than a quarter, for one
//! address must not push the others out. But nobody goes within a grace: in a storm of honest clients,
//! to drop the oldest would drop those that are about to be done, and they would come back. Then a
//! newcomer waits, and who accepts waits with it, so that the kernel's queue holds the rest.

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::arrivals::{Arrivals, Stage};
use super::network::Network;

/// A bounded number of clients that are not let in yet. Clones share it.
#[derive(Debug, Clone)]
pub struct Pending(Arc<Room>);

/// A client that is not let in yet. Its place is given back when it has asked, or on drop.
#[derive(Debug)]
pub struct Newcomer {
    room: Arc<Room>,
    number: u64,
    stage: Arc<Stage>,
}

#[derive(Debug)]
struct Room {
    max: AtomicUsize,
    /// The lock is held for a look at who is here and a change.
    arrivals: Mutex<Arrivals>,
    /// Told of each place that becomes free. Who accepts waits, so one at most for each listener.
    freed: Notify,
}

impl Pending {
    /// Room for `max` clients.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Room {
            max: AtomicUsize::new(max),
            arrivals: Mutex::default(),
            freed: Notify::new(),
        }))
    }

    /// Makes it room for `max`. Those beyond that go; who is within its grace does when the next one
    /// comes.
    pub fn set_max(&self, max: usize) {
        self.0.max.store(max, Ordering::Relaxed);
        let _ = self.0.arrivals().make_room(0, max, Instant::now());
    }

    /// Takes a newcomer from the address `source` in, once there is a place or somebody can be made to
    /// give one; no address where it stands for many clients. Cancel safe.
    pub async fn enter(&self, source: Option<IpAddr>) -> Newcomer {
        loop {
            match self.try_enter(source, Instant::now()) {
                Ok(newcomer) => return newcomer,
                // Either is a reason to look again.
                Err(until) => drop(timeout_at(until, self.0.freed.notified()).await),
            }
        }
    }

    /// A place now, or when somebody can be made to give one.
    fn try_enter(&self, source: Option<IpAddr>, now: Instant) -> Result<Newcomer, Instant> {
        let mut arrivals = self.0.arrivals();
        arrivals.make_room(1, self.0.max.load(Ordering::Relaxed), now)?;
        let stage = Arc::<Stage>::default();
        let number = arrivals.add(now, source.map(Network::of), Arc::clone(&stage));
        Ok(Newcomer { room: Arc::clone(&self.0), number, stage })
    }
}

impl Newcomer {
    /// A proxy says that this is the client's address.
    pub fn comes_from(&self, ip: IpAddr) {
        self.room.arrivals().comes_from(self.number, Network::of(ip));
    }

    /// The request head is here: the client is not pending any more, and stays.
    pub fn asked(&self) {
        self.stage.has_asked.store(true, Ordering::Relaxed);
        self.leave();
    }

    /// Whether the request head is here.
    #[must_use]
    pub fn has_asked(&self) -> bool {
        self.stage.has_asked.load(Ordering::Relaxed)
    }

    /// Whether the client had to make room before its request head was here.
    #[must_use]
    pub fn is_evicted(&self) -> bool {
        self.stage.is_evicted.load(Ordering::Acquire) && !self.has_asked()
    }

    /// Ready once the client has to make room for another one. The last task that asks is told.
    pub fn poll_evicted(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.stage.waker.register(cx.waker());
        if self.is_evicted() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Ends once the client has to make room for another one. Cancel safe.
    pub async fn evicted(&self) {
        poll_fn(|cx| self.poll_evicted(cx)).await;
    }

    fn leave(&self) {
        if self.room.arrivals().remove(self.number).is_some() {
            self.room.freed.notify_one();
        }
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Room {
    fn arrivals(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::arrivals::GRACE;
    use super::*;
    use futures_util::FutureExt;
    use futures_util::stream::{FuturesUnordered, StreamExt};
    use tokio::time::{advance, sleep, timeout};

    const HALF: Duration = Duration::from_millis(500);

    async fn full(max: usize) -> (Pending, Vec<Newcomer>) {
        let pending = Pending::new(max);
        let mut newcomers = Vec::new();
        for _ in 0..max {
            newcomers.push(pending.enter(None).await);
        }
        (pending, newcomers)
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_that_has_been_at_it_longest_makes_room() {
        let (pending, mut slow) = full(2).await;
        advance(2 * GRACE).await;
        slow.push(pending.enter(None).now_or_never().unwrap());
        assert_eq!(slow.iter().map(Newcomer::is_evicted).collect::<Vec<_>>(), [true, false, false]);
        slow.push(pending.enter(None).now_or_never().unwrap());
        assert_eq!(
            slow.iter().map(Newcomer::is_evicted).collect::<Vec<_>>(),
            [true, true, false, false]
        );
        drop(slow);
        assert!(pending.0.arrivals().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn within_the_grace_newcomers_wait_and_nobody_goes() {
        let (pending, young) = full(3).await;
        let started = Instant::now();
        assert!(timeout(HALF, pending.enter(None)).await.is_err());
        assert!(!young.iter().any(Newcomer::is_evicted));
        let _newcomer = pending.enter(None).await;
        assert_eq!(started.elapsed(), GRACE);
        assert!(young[0].is_evicted() && !young[1].is_evicted());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_done_gives_its_place_to_one_that_waits() {
        let (pending, mut young) = full(2).await;
        let started = Instant::now();
        let (first, second, ()) = tokio::join!(pending.enter(None), pending.enter(None), async {
            sleep(HALF / 2).await;
            young[0].asked();
            drop(young.pop());
        });
        assert_eq!(started.elapsed(), HALF / 2);
        assert!(young[0].has_asked() && !young[0].is_evicted());
        assert!(!first.has_asked() && !second.has_asked());
        advance(2 * GRACE).await;
        let _third = pending.enter(None).await;
        assert!(!young[0].is_evicted(), "who has asked is not pending");
        assert!(first.is_evicted());
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_storm_of_honest_clients_nobody_is_dropped() {
        let pending = Pending::new(100);
        let started = Instant::now();
        let mut storm = FuturesUnordered::new();
        for _ in 0..1000 {
            let newcomer = loop {
                tokio::select! {
                    newcomer = pending.enter(None) => break newcomer,
                    Some(done) = storm.next() => assert!(!Newcomer::is_evicted(&done)),
                }
            };
            storm.push(async move {
                sleep(HALF).await;
                newcomer
            });
        }
        while let Some(done) = storm.next().await {
            assert!(!done.is_evicted());
        }
        assert_eq!(started.elapsed(), 10 * HALF, "a hundred at a time");
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_nobody_waits_for_any_more_is_not_lost() {
        let (pending, young) = full(1).await;
        let mut left = Box::pin(pending.enter(None));
        assert!(left.as_mut().now_or_never().is_none());
        young[0].asked();
        drop(left);
        assert!(pending.enter(None).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_of_who_must_go_is_woken() {
        let (pending, slow) = full(1).await;
        let ((), _newcomer) = tokio::join!(slow[0].evicted(), pending.enter(None));
        assert!(!slow[0].has_asked());
    }

    #[tokio::test(start_paused = true)]
    async fn a_smaller_room_sends_away_who_is_too_many() {
        let (pending, slow) = full(3).await;
        advance(GRACE).await;
        pending.set_max(1);
        let evicted = || slow.iter().map(Newcomer::is_evicted).collect::<Vec<_>>();
        assert_eq!(evicted(), [true, true, false]);
        let started = Instant::now();
        let _young = pending.enter(None).await;
        assert_eq!((evicted(), started.elapsed()), (vec![true; 3], Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_pushes_out_nobody_but_itself() {
        let ip = |last| Some(IpAddr::from([192, 0, 2, last]));
        let pending = Pending::new(8);
        let honest = pending.enter(ip(1)).await;
        let proxied = pending.enter(None).await;
        proxied.comes_from(IpAddr::from([192, 0, 2, 2]));
        let mut greedy = Vec::new();
        for _ in 0..100 {
            advance(GRACE / 2).await;
            greedy.push(pending.enter(ip(3)).now_or_never().unwrap());
        }
        assert!(!honest.is_evicted() && !proxied.is_evicted());
        assert_eq!(greedy.iter().filter(|newcomer| newcomer.is_evicted()).count(), 94);
    }
}
