//! Log lines on standard error. They are handed to a thread of their own through a bounded queue, so a
//! full pipe never holds up a client; what does not fit is dropped.

use std::io::IsTerminal;
use std::panic::{self, Location};
use std::thread;

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{FilterExt, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::config::{Log, LogFormat};

/// Lines that wait for a slow reader.
const QUEUE: usize = 16 * 1024;

/// The level of the process's log, which can be another one while it runs.
#[derive(Debug)]
pub(super) struct Level(reload::Handle<EnvFilter, Registry>);

impl Level {
    /// Makes it `level`. What cannot be parsed is passed over, for the config has checked it.
    pub(super) fn set(&self, level: &str) {
        let filter = EnvFilter::try_new(level).map_err(anyhow::Error::new);
        if let Err(error) = filter.and_then(|filter| Ok(self.0.reload(filter)?)) {
            tracing::error!(%error, level, "log level not changed");
        }
    }
}

/// Starts logging. The returned guard writes what is queued when it is dropped.
///
/// # Errors
/// When the level cannot be parsed.
pub(super) fn start(log: &Log) -> anyhow::Result<(WorkerGuard, Level)> {
    let (writer, guard) =
        NonBlockingBuilder::default().buffered_lines_limit(QUEUE).finish(std::io::stderr());
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
        LogFormat::Human => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    let (level, handle) = reload::Layer::new(EnvFilter::try_new(&log.level)?);
    let filter = level.and(discreet());
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    panic::set_hook(Box::new(|info| log_panic(info.location())));
    Ok((guard, Level(handle)))
}

/// Says where a bug is, as a log line like any other. Not what the panic says: its text may hold what a
/// client sent.
fn log_panic(location: Option<&Location<'_>>) {
    let thread = thread::current();
    tracing::error!(
        thread = thread.name(),
        location = location.map(tracing::field::display),
        "panicked"
    );
}

/// Our own lines never hold a payload, a token or a query, at any level. Libraries make no such
/// promise, so only their warnings pass, and those of the NATS client not even: ours say the same.
fn discreet() -> Targets {
    Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("async_nats", LevelFilter::OFF)
        .with_target("moorline", LevelFilter::TRACE)
}
