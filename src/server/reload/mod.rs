//! Another config for a running node: by SIGHUP, or because the file changed.
//!
//! All or nothing. The new config is read, checked and built beside the old one, and takes its place in
//! one step that cannot fail; on any mistake the old one stays. Open connections are not touched: each
//! keeps the route that it was accepted with.

mod difference;
mod watch;

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::iter::successors;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::build::{self, Served};
use super::{Node, ServerError, compare_payload_limit, largest_event};
use crate::config::{Config, process_environment};

use watch::Watch;

/// Where the config of a node comes from.
pub struct Source {
    /// The config file. The environment's variables go over it, as at the start.
    pub file: PathBuf,
    /// Makes what is logged another level, which was checked.
    pub set_log_level: Box<dyn Fn(&str) + Send + Sync>,
}

/// Why the config is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    /// SIGHUP: whoever sent it waits for an answer, and all files are read again.
    Asked,
    /// The file is another one than at the last look.
    Changed,
    /// What was refused is tried again: a file that the config names may come later than itself.
    Again,
}

/// A config of which everything is built.
struct Next {
    config: Config,
    served: Served,
}

/// How long the disk may take. A network file system that hangs must not hang the node.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

impl Node {
    /// Takes over every new config until it is dropped, which leaves the one in force whole.
    pub(super) async fn follow(&mut self, asked: &Notify) -> Infallible {
        let mut watch = self.source.as_ref().map(|source| Watch::new(source.file.clone()));
        // What was said last; a mistake that stays is said once.
        let mut refused: Option<String> = None;
        loop {
            let occasion = tokio::select! {
                () = asked.notified() => Occasion::Asked,
                occasion = next_look(watch.as_mut(), refused.is_some()) => occasion,
            };
            refused = match Box::pin(self.prepare(occasion)).await {
                Ok(Some(next)) => {
                    self.take_over(next);
                    None
                }
                Ok(None) => {
                    if refused.is_some() {
                        tracing::info!("the config file is again as the config in force");
                    }
                    None
                }
                Err(error) => {
                    let error = with_causes(&error);
                    if occasion == Occasion::Asked || refused.as_ref() != Some(&error) {
                        self.core.metrics.config_reload("failed");
                        tracing::error!(error, "config not reloaded; the old one stays");
                    }
                    Some(error)
                }
            };
        }
    }

    /// Builds all of the next config; none when a changed file still says what is in force.
    async fn prepare(&self, occasion: Occasion) -> Result<Option<Next>, ServerError> {
        let config = self.load().await?;
        if occasion == Occasion::Changed && config == self.config {
            return Ok(None);
        }
        if let Some(key) = difference::first_fixed(&self.config, &config) {
            return Err(ServerError::NeedsRestart(key));
        }
        let served = build::served(&config, &self.core, Some(&self.served)).await?;
        let jwks = |config: &Config| config.jwt.as_ref().and_then(|jwt| jwt.jwks.clone());
        // Without its keys, a new key set would turn everybody away whom the old one lets in.
        if let Some(verifier) =
            served.verifier.as_ref().filter(|_| jwks(&config) != jwks(&self.config))
        {
            verifier.fetched().await.map_err(ServerError::KeySet)?;
        }
        Ok(Some(Next { config, served }))
    }

    /// The config as the file and the environment have it now.
    async fn load(&self) -> Result<Config, ServerError> {
        let Some(file) = self.source.as_ref().map(|source| source.file.clone()) else {
            return Ok(self.config.clone());
        };
        let loading =
            tokio::task::spawn_blocking(move || Config::load(&file, process_environment()));
        match timeout(READ_TIMEOUT, loading).await {
            Ok(Ok(loaded)) => Ok(loaded?),
            _ => Err(ServerError::Unread),
        }
    }

    /// Puts the next config in force.
    fn take_over(&mut self, Next { config, served }: Next) {
        let changed = difference::sections(&self.config, &config).join(", ");
        let limits = config.limits;
        self.edge.rules.store(Arc::clone(&served.rules));
        self.edge.pending.set_max(limits.max_pending);
        self.edge.doorkeeper.admission.set_limits(&limits);
        self.edge.doorkeeper.farewells.places.set_max(limits.max_connections);
        self.core.hold.set_max(limits.max_held.bytes());
        if let Some(source) = self.source.as_ref().filter(|_| config.log != self.config.log) {
            (source.set_log_level)(&config.log.level);
        }
        if let Some(nats) = self.core.nats.as_ref().filter(|nats| nats.is_connected()) {
            compare_payload_limit(nats, largest_event(&config));
        }
        self.longest_event = self.longest_event.max(build::longest_event(&config));
        self.longest_close = self.longest_close.max(build::longest_close(&config));
        let is_same_acceptor = match (&self.served.rules.acceptor, &served.rules.acceptor) {
            (Some(old), Some(new)) => old.is(new),
            _ => true,
        };
        let is_same_memory = self.config.limits.memory == limits.memory;
        (self.config, self.served) = (config, served);
        if !is_same_memory {
            self.watch_memory();
        }
        if !is_same_acceptor {
            self.watch_certificates();
        }
        self.core.metrics.config_reload("ok");
        let routes = self.config.routes.len();
        tracing::info!(changed, routes, "config reloaded; all files were read again");
    }
}

/// Ends when the file is to be looked at; never without one.
async fn next_look(watch: Option<&mut Watch>, is_refused: bool) -> Occasion {
    match watch {
        Some(watch) => watch.next(is_refused).await,
        None => std::future::pending().await,
    }
}

/// An error and its causes, because the outermost one says the least.
fn with_causes(error: &(dyn Error + 'static)) -> String {
    let all = successors(Some(error), |error| (*error).source());
    all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("file", &self.file).finish_non_exhaustive()
    }
}
