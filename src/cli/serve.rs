//! `moorline serve`: a node from a config file.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{Config, process_environment};
use crate::server::{Node, Signals, Source};

use super::{logging, print};

/// Run a node.
///
/// SIGTERM or SIGINT stops it in good order, a second one at once. POST /drain on the admin listener
/// starts the same stop, and counts as no signal; with ?wait=true it is answered when all clients have
/// left. SIGHUP looks at the config and all its files again; the config file is also watched. A config
/// that cannot be taken over, whole, is refused and the old one stays.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  moorline serve -c /etc/moorline/moorline.yaml")]
pub(super) struct Serve {
    /// The config file (.yaml, .yml or .toml)
    #[arg(short, long, value_name = "FILE", env = "MOORLINE_CONFIG")]
    config: PathBuf,
    /// Print the config as it is understood, overrides included, and exit
    #[arg(long)]
    print_config: bool,
}

impl Serve {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let config = Config::load(&self.config, process_environment())?;
        if self.print_config {
            print(&config.to_yaml())?;
            return Ok(ExitCode::SUCCESS);
        }
        Box::pin(serve(config, Some(self.config), |_| Ok(()))).await
    }
}

/// Runs a node until it is told to stop; `file` is where `config` came from. `announce` is told once
/// its listeners are open.
pub(super) async fn serve(
    config: Config,
    file: Option<PathBuf>,
    announce: impl FnOnce(&Node) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let (_logs, level) = logging::start(&config.log)?;
    raise_descriptor_limit(config.descriptors());
    let signals = Signals::default();
    listen_for_signals(&signals)?;
    let source = file.map(|file| Source { file, set_log_level: Box::new(move |to| level.set(to)) });
    let node = Box::pin(Node::start(config, source)).await?;
    announce(&node)?;
    Box::pin(node.run(&signals)).await?;
    Ok(ExitCode::SUCCESS)
}

/// Files, NATS and operators need descriptors, too.
pub(super) const SPARE_DESCRIPTORS: u64 = 256;

/// Each client takes a file descriptor; the soft limit is often 1,024.
fn raise_descriptor_limit(clients: usize) {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) if limit < clients as u64 + SPARE_DESCRIPTORS => {
            tracing::warn!(limit, clients, "file descriptor limit is below what clients may take");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "file descriptor limit could not be raised"),
    }
}

/// Turns the process's signals into the node's, for as long as the process lives.
#[expect(clippy::disallowed_methods, reason = "belongs to the process, not to the node's tasks")]
fn listen_for_signals(signals: &Signals) -> std::io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hup: Signal = signal(SignalKind::hangup())?;
    let signals = signals.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
                _ = hup.recv() => {
                    Arc::clone(&signals.reload).notify_one();
                    continue;
                }
            }
            if signals.stop.is_cancelled() {
                signals.abort.cancel();
            }
            signals.stop.cancel();
        }
    });
    Ok(())
}
