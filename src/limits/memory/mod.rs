//! Keeps the node from running out of memory: above one mark newcomers are refused, above the next the
//! connections with the most unread bytes are closed.
//!
//! The kernel ends a process without a word; every connection would be lost, and come back at once.

mod marks;
mod source;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::config;
use crate::metrics::Metrics;

use marks::{Level, Marks};
use source::{Reading, Source};

/// Whether the node is short of memory. Clones share it.
///
/// Only the latest watch says so: each has a word of its own, so one that was replaced, and may still
/// be at work, says nothing any more.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<ArcSwap<AtomicBool>>);

/// Looks at the node's memory.
#[derive(Debug)]
pub struct Watch {
    config: config::Memory,
    is_short: Arc<AtomicBool>,
    source: Arc<Source>,
    /// A look that the kernel has not answered yet. It is waited for again, so that one that hangs
    /// holds one thread and no more.
    look: Option<JoinHandle<Result<Reading, MemoryError>>>,
    sight: Sight,
    marks: Marks,
    metrics: Metrics,
}

/// Why the node's memory is not known.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A file of the kernel cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of the kernel says something else than expected.
    #[error("{path} does not say `{key}`")]
    Missing {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        key: &'static str,
    },
    /// The kernel does not answer, as when it looks for memory itself.
    #[error("the kernel did not say within {}", humantime::format_duration(*limit))]
    Slow {
        /// How long it was waited.
        limit: Duration,
    },
    /// Reading was cut off, as when the process ends.
    #[error("reading the kernel's files was cut off")]
    CutOff,
}

/// What the watch knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    Clear,
    /// Since then it cannot look; its last judgement stands.
    Lost(Instant),
    /// It could not look for so long that its last judgement says nothing.
    Blind,
}

/// A flood of 1 GB/s brings 250 MB in that time. A look costs some tens of microseconds.
const INTERVAL: Duration = Duration::from_millis(250);
/// How long the kernel may take. Where groups are many and memory is short, `memory.stat` can be slow.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last judgement stands. Longer, and a node that cannot look would refuse everybody for
/// ever.
const BLIND_AFTER: Duration = Duration::from_secs(10);

impl Memory {
    /// Whether newcomers are to be refused.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.0.load().load(Ordering::Relaxed)
    }

    /// The word of a new watch; that of the one before does not count any more.
    fn next_word(&self) -> Arc<AtomicBool> {
        let word = Arc::<AtomicBool>::default();
        self.0.store(Arc::clone(&word));
        word
    }
}

impl Watch {
    /// Finds out where this process's memory and its limit are written, and looks once, as
    /// [`run`](Self::run) does. It takes the place of the watch before, also when it fails: then
    /// `memory` is not short.
    ///
    /// # Errors
    /// When the kernel does not say; the error names the file.
    pub async fn open(
        config: config::Memory,
        memory: &Memory,
        metrics: Metrics,
        shed: impl Fn(u64),
    ) -> Result<Self, MemoryError> {
        Self::open_below(Path::new("/"), config, memory, metrics, shed).await
    }

    /// [`open`](Self::open), with the kernel's files below `root`.
    async fn open_below(
        root: &Path,
        config: config::Memory,
        memory: &Memory,
        metrics: Metrics,
        shed: impl Fn(u64),
    ) -> Result<Self, MemoryError> {
        let is_short = memory.next_word();
        let root = root.to_owned();
        let source = in_time(&mut spawn_blocking(move || Source::open(&root, config.max))).await?;
        let (source, marks) = (Arc::new(source), Marks::new(config));
        let (look, sight) = (None, Sight::Clear);
        let mut watch = Self { config, is_short, source, look, sight, marks, metrics };
        let reading = watch.read().await?;
        tracing::info!(
            max = %config.max,
            limit_bytes = reading.limit,
            used_bytes = reading.used,
            "memory is watched"
        );
        watch.judge(reading, shed);
        Ok(watch)
    }

    /// Watches for ever. `shed` is told of the bytes that must be freed. Cancel safe.
    pub async fn run(mut self, shed: impl Fn(u64)) {
        let mut ticks = interval(INTERVAL);
        // Looks that were missed say nothing of now.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.read().await {
                Ok(reading) => {
                    self.sight = Sight::Clear;
                    self.judge(reading, &shed);
                }
                Err(error) => self.miss(&error, Instant::now()),
            }
        }
    }

    async fn read(&mut self) -> Result<Reading, MemoryError> {
        let look = self.look.get_or_insert_with(|| {
            let source = Arc::clone(&self.source);
            spawn_blocking(move || source.read())
        });
        let read = in_time(look).await;
        if !matches!(read, Err(MemoryError::Slow { .. })) {
            self.look = None;
        }
        read
    }

    /// A look failed.
    fn miss(&mut self, error: &MemoryError, now: Instant) {
        match self.sight {
            Sight::Clear => {
                self.sight = Sight::Lost(now);
                tracing::warn!(%error, "memory is not known; the last judgement stands for a while");
            }
            Sight::Lost(since) if now.duration_since(since) >= BLIND_AFTER => {
                self.sight = Sight::Blind;
                self.marks = Marks::new(self.config);
                self.is_short.store(false, Ordering::Relaxed);
                tracing::warn!(%error, "memory is still not known; handshakes are taken");
            }
            Sight::Lost(_) | Sight::Blind => {}
        }
    }

    fn judge(&mut self, reading: Reading, shed: impl Fn(u64)) {
        self.metrics.memory(reading.used, reading.limit);
        let before = self.marks.level();
        let excess = self.marks.judge(reading, Instant::now());
        let level = self.marks.level();
        self.is_short.store(level > Level::Calm, Ordering::Relaxed);
        let (used_bytes, limit_bytes) = (reading.used, reading.limit);
        match level {
            _ if level == before => {}
            Level::Calm => {
                tracing::info!(used_bytes, limit_bytes, "memory suffices; handshakes are taken");
            }
            Level::Refusing => {
                tracing::warn!(used_bytes, limit_bytes, "memory is short; handshakes are refused");
            }
            Level::Shedding => {
                tracing::warn!(
                    used_bytes,
                    limit_bytes,
                    "memory is very short; connections with the most unread bytes are closed"
                );
            }
        }
        if let Some(excess) = excess {
            shed(excess);
        }
    }
}

impl Drop for Watch {
    /// Nobody watches any more, and a word that nobody takes back must not stand.
    fn drop(&mut self) {
        self.is_short.store(false, Ordering::Relaxed);
    }
}

/// What a thread that may block finds out, if it does in time. Cancel safe: it goes on.
async fn in_time<T>(work: &mut JoinHandle<Result<T, MemoryError>>) -> Result<T, MemoryError> {
    match timeout(LOOK_TIMEOUT, work).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => Err(MemoryError::CutOff),
        Err(_) => Err(MemoryError::Slow { limit: LOOK_TIMEOUT }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::MemoryMax;
    use tokio::time::sleep;

    /// A machine of 1,000 KiB on which this process uses so many.
    fn machine(used: u64) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        fs::write(root.path().join("proc/meminfo"), "MemTotal: 1000 kB\n").unwrap();
        uses(&root, used);
        root
    }

    fn uses(root: &tempfile::TempDir, used: u64) {
        fs::write(root.path().join("proc/self/status"), format!("VmRSS: {used} kB\n")).unwrap();
    }

    async fn open(root: &tempfile::TempDir, memory: &Memory) -> Result<Watch, MemoryError> {
        let config = config::Memory { max: MemoryMax::Auto, refuse_above: 80, shed_above: 90 };
        Watch::open_below(root.path(), config, memory, Metrics::new(), |_| ()).await
    }

    #[tokio::test]
    async fn only_the_latest_watch_has_a_say_and_only_while_it_lives() {
        let (root, memory) = (machine(850), Memory::default());
        let mut first = open(&root, &memory).await.unwrap();
        assert!(memory.is_short());
        fs::remove_file(root.path().join("proc/meminfo")).unwrap();
        assert!(open(&root, &memory).await.is_err());
        assert!(!memory.is_short(), "nobody watches");
        let reading = first.read().await.unwrap();
        first.judge(reading, |_| ());
        assert!(!memory.is_short(), "it was replaced");

        let root = machine(850);
        let second = open(&root, &memory).await.unwrap();
        drop(first);
        assert!(memory.is_short());
        drop(second);
        assert!(!memory.is_short());
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_cannot_look_lets_newcomers_in_after_a_while() {
        let (root, memory) = (machine(850), Memory::default());
        let watch = open(&root, &memory).await.unwrap();
        let looks = async {
            sleep(2 * INTERVAL).await;
            fs::remove_file(root.path().join("proc/self/status")).unwrap();
            sleep(BLIND_AFTER / 2).await;
            assert!(memory.is_short(), "the last judgement stands");
            sleep(BLIND_AFTER).await;
            assert!(!memory.is_short(), "it says nothing any more");
            uses(&root, 850);
            sleep(2 * INTERVAL).await;
            assert!(memory.is_short());
        };
        tokio::select! {
            () = watch.run(|_| ()) => {}
            () = looks => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_hangs_holds_one_thread_and_ends_in_time() {
        let (root, memory) = (machine(850), Memory::default());
        let mut watch = open(&root, &memory).await.unwrap();
        let (end, ended) = std::sync::mpsc::sync_channel::<()>(0);
        let reading = Reading { used: 1, limit: 2 };
        watch.look = Some(spawn_blocking(move || {
            let _ = ended.recv();
            Ok(reading)
        }));
        for _ in 0..2 {
            let read = tokio::join!(watch.read(), tokio::time::advance(LOOK_TIMEOUT)).0;
            assert!(matches!(read, Err(MemoryError::Slow { .. })), "{read:?}");
        }
        drop(end);
        assert_eq!(watch.read().await.unwrap(), reading, "the same look");
    }
}
