//! Running tasks: every one is named, tracked, told when the node stops, and missed when it dies. One
//! that must last as long as the node is begun again, or where it cannot be, the node is told to end.

mod backoff;

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use prometheus::IntCounter;
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use backoff::{Backoff, jittered};

/// The tasks of one part of the node. Clones share the tracker and the stop signal.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    /// Counts the tasks that panicked.
    panics: Option<IntCounter>,
    /// The first of the tasks that are needed that panicked.
    broken: Arc<watch::Sender<Option<&'static str>>>,
}

/// The rest of a task that is kept, after a panic: one that panics at once must not take a core.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

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
        tokio::spawn(self.tracker.track_future(self.survives(name, future).map(drop)))
    }

    /// Runs what the node cannot do without until it ends. When it panics, `work` begins it again
    /// after a pause, unless the tasks stop; each panic is counted and logged under `name`.
    pub fn keep<W, F>(&self, name: &'static str, mut work: W) -> JoinHandle<()>
    where
        W: FnMut() -> F + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let tasks = self.clone();
        self.spawn(name, async move {
            while !tasks.survives(name, async { work().await }).await {
                tokio::select! {
                    () = tasks.stopping() => return,
                    () = sleep(RESTART_PAUSE) => {}
                }
            }
        })
    }

    /// Runs what the node cannot do without and nobody can begin again, for what it knows ends with it. A
    /// panic in it is counted and logged under `name`, and [`broken`](Self::broken) tells of it.
    pub fn need<F>(&self, name: &'static str, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (survives, broken) = (self.survives(name, future), Arc::clone(&self.broken));
        self.spawn(name, async move {
            if !survives.await {
                broken.send_if_modified(|first| first.replace(name).is_none());
            }
        })
    }

    /// Ends when a task that is needed has panicked: its name. Cancel safe.
    pub async fn broken(&self) -> &'static str {
        let mut broken = self.broken.subscribe();
        loop {
            if let Some(name) = *broken.borrow_and_update() {
                return name;
            }
            // It cannot end with an error: the sender is in `self`.
            let _ = broken.changed().await;
        }
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

    /// Whether `future` ends without a panic.
    fn survives<F>(&self, name: &'static str, future: F) -> impl Future<Output = bool> + use<F>
    where
        F: Future<Output = ()>,
    {
        // Combinators, because an async block would hold the future twice: as it came, and as it runs.
        let panics = self.panics.clone();
        AssertUnwindSafe(future).catch_unwind().map(move |ended| {
            if ended.is_err() {
                panics.inspect(IntCounter::inc);
                tracing::error!(task = name, "task panicked");
            }
            ended.is_ok()
        })
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

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_begun_again_until_it_ends_or_the_tasks_stop() {
        let panics = IntCounter::new("panics", "Panics.").unwrap();
        let tasks = Tasks::counted(panics.clone());
        let mut turns = 0..3;
        let kept = tasks.keep("kept", move || {
            let turn = turns.next();
            async move { assert_eq!(turn, Some(2), "on purpose") }
        });
        kept.await.unwrap();
        assert_eq!(panics.get(), 2);
        let hopeless = tasks.keep("hopeless", || async { panic!("on purpose") });
        sleep(RESTART_PAUSE / 2).await;
        tasks.stop();
        hopeless.await.unwrap();
        assert_eq!(panics.get(), 3);
    }

    #[tokio::test]
    async fn what_is_needed_is_missed_by_its_name_whoever_asks_and_when() {
        let panics = IntCounter::new("panics", "Panics.").unwrap();
        let tasks = Tasks::counted(panics.clone());
        tasks.need("fine", async {}).await.unwrap();
        tasks.spawn("not needed", async { panic!("on purpose") }).await.unwrap();
        assert!(tasks.broken().now_or_never().is_none());
        let (asking, needed) = (tasks.clone(), async { panic!("on purpose") });
        let (missed, ended) = tokio::join!(asking.broken(), tasks.need("needed", needed));
        ended.unwrap();
        assert_eq!((missed, tasks.broken().await, panics.get()), ("needed", "needed", 2));
    }
}
