//! `moorline serve`: a node from a config file.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{Config, process_environment};
use crate::management::Management;
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
    raise_descriptor_limit(descriptors(&config));
    let signals = Signals::default();
    listen_for_signals(&signals)?;
    let source = file.map(|file| Source { file, set_log_level: Box::new(move |to| level.set(to)) });
    let node = Box::pin(Node::start(config, source)).await?;
    announce(&node)?;
    Box::pin(node.run(&signals)).await?;
    Ok(ExitCode::SUCCESS)
}

/// Files, NATS and operators need descriptors, too.
const SPARE_DESCRIPTORS: u64 = 256;

/// The most file descriptors that a node may need: each client takes one, and each
/// stream of a backend and of the upstream.
pub(super) fn descriptors(config: &Config) -> u64 {
    let backends = config.listeners.management.as_ref().map_or(0, |_| Management::STREAMS);
    config.descriptors().saturating_add(backends) as u64 + SPARE_DESCRIPTORS
}

/// The soft limit is often 1,024.
pub(super) fn raise_descriptor_limit(needed: u64) {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) if limit < needed => {
            tracing::warn!(
                limit,
                needed,
                "file descriptor limit is below what max_connections, max_pending, `upstream` and the \
                 management listener may need"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "file descriptor limit could not be raised"),
    }
}

/// Turns the process's signals into the node's, for as long as the process lives.
#[expect(clippy::disallowed_methods, reason = "belongs to the process, not to the node's tasks")]
pub(super) fn listen_for_signals(signals: &Signals) -> std::io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Format;

    #[test]
    fn clients_and_backends_need_descriptors() {
        let needed = |management: &str, more: &str| {
            let text = format!(
                "listeners: {{plain: {{address: '127.0.0.1:0'}}{management}}}\n\
                 limits: {{max_connections: 1000, max_pending: 100}}\n\
                 routes: [{{path: /ws, auth: none, backend: {{echo: true}}}}]\n{more}"
            );
            descriptors(&Config::parse(&text, Format::Yaml, "test", std::iter::empty()).unwrap())
        };
        assert_eq!(needed("", ""), 1356);
        let management = ", management: {address: '127.0.0.1:0', key_files: [key]}";
        assert_eq!(needed(management, ""), 1356 + 1024);
        // Two for each request at the upstream, one for each that waits, one for each client between two.
        let upstream = "upstream: {url: 'http://a', max_requests: 10, max_clients: 5}";
        assert_eq!(needed("", upstream), 1356 + 3 * 10 + 5);
    }
}
