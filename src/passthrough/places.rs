//! How many requests are at the upstream at once, and a short queue before it.

use std::sync::Arc;
use std::time::Duration;

use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::config::Upstream;
use crate::limits::Permits;

/// Places at the upstream, given in the order in which they were asked for.
#[derive(Debug)]
pub(super) struct Places {
    turns: Arc<Semaphore>,
    /// As many may wait as there are places: more would not get theirs in time.
    queue: Permits,
    patience: Duration,
    in_flight: IntGauge,
}

/// One place taken, given back on drop.
#[derive(Debug)]
pub(super) struct Place {
    in_flight: IntGauge,
    _turn: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new(settings: &Upstream, in_flight: &IntGauge) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(settings.max_requests)),
            queue: Permits::new(settings.max_requests),
            patience: settings.queue_timeout.get(),
            in_flight: in_flight.clone(),
        }
    }

    /// A place; none when there was none in time, or too many wait already. Cancel safe.
    pub(super) async fn take(&self) -> Option<Place> {
        let turn = match Arc::clone(&self.turns).try_acquire_owned() {
            Ok(turn) => turn,
            Err(_) => {
                let _waiting = self.queue.take()?;
                let turn = timeout(self.patience, Arc::clone(&self.turns).acquire_owned()).await;
                turn.ok()?.ok()?
            }
        };
        self.in_flight.inc();
        Some(Place { in_flight: self.in_flight.clone(), _turn: turn })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.in_flight.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use tokio::time::{Instant, advance};

    fn places(max: usize) -> Places {
        let settings =
            Upstream { max_requests: max, ..Upstream::new("http://127.0.0.1:1".parse().unwrap()) };
        Places::new(&settings, &IntGauge::new("places", "Places.").unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_a_place_in_time_or_none() {
        let places = places(1);
        let first = places.take().await.unwrap();
        assert_eq!(places.in_flight.get(), 1);
        let started = Instant::now();
        assert!(places.take().await.is_none());
        assert_eq!(started.elapsed(), Duration::from_secs(1));
        let mut second = Box::pin(places.take());
        assert!(second.as_mut().now_or_never().is_none());
        assert!(places.take().now_or_never().unwrap().is_none(), "the queue is as short");
        advance(Duration::from_millis(500)).await;
        drop(first);
        let second = second.await.unwrap();
        drop(second);
        assert_eq!(places.in_flight.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_the_queue_leaves_nothing_behind() {
        let places = places(1);
        let first = places.take().await.unwrap();
        let mut second = Box::pin(places.take());
        assert!(second.as_mut().now_or_never().is_none());
        drop(second);
        drop(first);
        assert!(places.take().now_or_never().unwrap().is_some());
    }
}
