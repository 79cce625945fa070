//! Whether this node may still speak for its connections: a node that was frozen or cut off must not
//! give a backend what a client said before another node tells that backend of the client's end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::{Duration, Instant, sleep};

/// Open until a time that its keeper moves on. Clones share it.
#[derive(Debug, Clone)]
pub struct Fence(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    start: Instant,
    /// Milliseconds after the start.
    open_until: AtomicU64,
}

/// How often it is looked whether it is open again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Fence {
    /// One that is never shut: the node need not share its connections' ends with others.
    #[must_use]
    pub fn open() -> Self {
        Self::at(u64::MAX)
    }

    /// One that is shut until it is told otherwise.
    #[must_use]
    pub fn shut() -> Self {
        Self::at(0)
    }

    /// Opens it, without end.
    pub fn throw_open(&self) {
        self.0.open_until.store(u64::MAX, Ordering::Release);
    }

    /// Keeps it open until `until`.
    pub fn extend(&self, until: Instant) {
        let after = until.saturating_duration_since(self.0.start).as_millis();
        let after = u64::try_from(after).unwrap_or(u64::MAX);
        self.0.open_until.store(after, Ordering::Release);
    }

    /// Shuts it at once.
    pub fn close(&self) {
        self.0.open_until.store(0, Ordering::Release);
    }

    /// Whether nothing may be given to a backend.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        match self.0.open_until.load(Ordering::Acquire) {
            u64::MAX => false,
            after => self.0.start.elapsed() >= Duration::from_millis(after),
        }
    }

    /// Waits until it is open. Cancel safe.
    pub async fn opened(&self) {
        while self.is_shut() {
            sleep(LOOK_AGAIN).await;
        }
    }

    fn at(open_until: u64) -> Self {
        Self(Arc::new(Inner { start: Instant::now(), open_until: AtomicU64::new(open_until) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_open_until_it_is_not() {
        let fence = Fence::shut();
        assert!(fence.is_shut());
        fence.extend(Instant::now() + Duration::from_secs(12));
        assert!(!fence.is_shut());
        tokio::time::advance(Duration::from_secs(12)).await;
        assert!(fence.is_shut());
        fence.extend(Instant::now() + Duration::from_secs(1));
        assert!(!fence.is_shut());
        fence.close();
        assert!(fence.is_shut());
        let opens = async {
            sleep(Duration::from_secs(3)).await;
            fence.extend(Instant::now() + Duration::from_secs(1));
        };
        tokio::join!(opens, fence.opened());
        assert!(!fence.is_shut());
        fence.throw_open();
        tokio::time::advance(Duration::from_secs(1 << 32)).await;
        assert!(!fence.is_shut());
        assert!(!Fence::open().is_shut());
    }
}
