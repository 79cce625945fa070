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

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::config;
use crate::metrics::Metrics;

use marks::{Level, Marks};
use source::{Reading, Source};

/// Whether the node is short of memory. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<AtomicBool>);

/// Looks at the node's memory.
#[derive(Debug)]
pub struct Watch {
    memory: Memory,
    source: Source,
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
}

/// A flood of 1 GB/s brings 250 MB in that time. A look costs some tens of microseconds.
const INTERVAL: Duration = Duration::from_millis(250);

impl Memory {
    /// Whether newcomers are to be refused.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Watch {
    /// Finds out where this process's memory and its limit are written, and looks once.
    ///
    /// # Errors
    /// When the kernel does not say; the error names the file.
    pub fn open(
        config: config::Memory,
        memory: Memory,
        metrics: Metrics,
    ) -> Result<Self, MemoryError> {
        let source = Source::open(Path::new("/"), config.max)?;
        let reading = source.read()?;
        tracing::info!(
            max = %config.max,
            limit_bytes = reading.limit,
            used_bytes = reading.used,
            "memory is watched"
        );
        let mut watch = Self { memory, source, marks: Marks::new(config), metrics };
        // A node that is short from the start refuses the first newcomer; there is nobody to close.
        watch.judge(reading, |_| ());
        Ok(watch)
    }

    /// Watches for ever. `shed` is told of the bytes that must be freed. Cancel safe.
    pub async fn run(mut self, shed: impl Fn(u64)) {
        let mut ticks = interval(INTERVAL);
        // Looks that were missed say nothing of now.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_known = true;
        loop {
            ticks.tick().await;
            match self.source.read() {
                Ok(reading) => {
                    is_known = true;
                    self.judge(reading, &shed);
                }
                Err(error) if is_known => {
                    is_known = false;
                    tracing::warn!(%error, "memory is not known; the last judgement stands");
                }
                Err(_) => {}
            }
        }
    }

    fn judge(&mut self, reading: Reading, shed: impl Fn(u64)) {
        self.metrics.memory(reading.used, reading.limit);
        let before = self.marks.level();
        let excess = self.marks.judge(reading, Instant::now());
        let level = self.marks.level();
        self.memory.0.store(level > Level::Calm, Ordering::Relaxed);
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
