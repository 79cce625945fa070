//! Running tasks: every one is named, tracked, told when the node stops, and missed when it dies.

mod backoff;

use std::{future::Future, panic::AssertUnwindSafe};

use futures_util::FutureExt;
use prometheus::IntCounter;
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use backoff::Backoff;

/// The tasks of one part of the node. Clones share the tracker and the stop signal.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    /// Counts the tasks that panicked.
    panics: Option<IntCounter>,
}

impl Tasks {
    /// No tasks yet; their panics are logged only.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// No tasks yet; their panics are counted, too.
    #[must_use]
    pub fn counted(panics: IntCounter) -> Self {
        Self { panics: Some(panics), ..Self::default() }
    }

    /// Runs `future` until it ends. A panic in it ends only this task, and is counted and logged
    /// under `name`.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // Combinators, because an async block would hold the future twice: as it came, and as it runs.
        let panics = self.panics.clone();
        let ended = AssertUnwindSafe(future).catch_unwind().map(move |ended| {
            if ended.is_err() {
                panics.inspect(IntCounter::inc);
                tracing::error!(task = name, "task panicked");
            }
        });
        tokio::spawn(self.tracker.track_future(ended))
    }

    /// Ends when [`stop`](Self::stop) was called. Cancel safe.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Whether [`stop`](Self::stop) was called.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Tells every task that the node stops.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Ends when every task has ended. Call [`stop`](Self::stop) first, or it may never. Cancel safe.
    pub async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// How many tasks run.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether no task runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_only_its_own_task() {
        let panics = IntCounter::new("panics", "Panics.").unwrap();
        let tasks = Tasks::counted(panics.clone());
        let bad = tasks.spawn("bad", async { panic!("on purpose") });
        let (tell, told) = tokio::sync::oneshot::channel();
        let good = tasks.clone();
        tasks.spawn("good", async move {
            good.stopping().await;
            let _ = tell.send(());
        });
        assert!(bad.await.is_ok());
        tasks.stop();
        told.await.unwrap();
        tasks.ended().await;
        assert!(tasks.is_empty());
        assert_eq!(panics.get(), 1);
    }
}
