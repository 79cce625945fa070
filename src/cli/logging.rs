//! Log lines on standard error. They are handed to a thread of their own through a bounded queue, so a
//! full pipe never holds up a client; what does not fit is dropped.

use std::io::IsTerminal;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Lines that wait for a slow reader.
const QUEUE: usize = 16 * 1024;

/// Starts logging. The returned guard writes what is queued when it is dropped.
///
/// # Errors
/// When the level cannot be parsed.
pub(super) fn start(log: &Log) -> anyhow::Result<WorkerGuard> {
    let filter = EnvFilter::try_new(&log.level)?;
    let (writer, guard) =
        NonBlockingBuilder::default().buffered_lines_limit(QUEUE).finish(std::io::stderr());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match log.format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).init(),
        LogFormat::Human => lines.with_ansi(std::io::stderr().is_terminal()).init(),
    }
    Ok(guard)
}
