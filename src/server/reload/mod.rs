//! Another config for a running node: by SIGHUP, or because the file changed.
//!
//! All or nothing. The new config is read, checked and built beside the old one, and takes its place in
//! one step that cannot fail; on any mistake the old one stays. Open connections are not touched: each
//! keeps the route that it was accepted with. HTTP streams end behind the answer that is under way.

mod difference;
mod watch;

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::iter::successors;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::Notify;

use super::build::{self, Served};
use super::{Node, ServerError, compare_payload_limit, largest_event};
use crate::config::{Config, process_environment};
use crate::handshake::Door;

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
            refused = match self.attempt(occasion).await {
                Ok(true) => None,
                Ok(false) => {
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

    /// Takes the next config over; whether there was one. A bug on the way fails this attempt, and does
    /// not end the node.
    async fn attempt(&mut self, occasion: Occasion) -> Result<bool, ServerError> {
        let metrics = self.core.metrics.clone();
        let attempt = AssertUnwindSafe(async {
            let Some(next) = Box::pin(self.prepare(occasion)).await? else { return Ok(false) };
            let memory = self.config.limits.memory;
            self.take_over(next);
            if self.config.limits.memory != memory {
                Box::pin(self.watch_memory()).await;
            }
            Ok(true)
        });
        attempt.catch_unwind().await.unwrap_or_else(|_| {
            metrics.task_panics().inc();
            Err(ServerError::Panicked)
        })
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
        let served = Box::pin(build::served(&config, &self.core, Some(&self.served))).await?;
        let jwks = |config: &Config| config.jwt.as_ref().and_then(|jwt| jwt.jwks.clone());
        // Without its keys, a new key set would turn everybody away whom the old one lets in.
        if let Some(verifier) =
            served.verifier.as_ref().filter(|_| jwks(&config) != jwks(&self.config))
        {
            verifier.fetched().await.map_err(ServerError::KeySet)?;
        }
        // A hub of a config that is refused would be served to nobody.
        build::open_hubs(&config, &self.core).await;
        Ok(Some(Next { config, served }))
    }

    /// The config as the file and the environment have it now.
    async fn load(&self) -> Result<Config, ServerError> {
        let Some(file) = self.source.as_ref().map(|source| source.file.clone()) else {
            return Ok(self.config.clone());
        };
        let load = move || Ok(Config::load(&file, process_environment())?);
        self.core.disk.read("the config", load).await
    }

    /// Puts the next config in force.
    fn take_over(&mut self, Next { config, served }: Next) {
        let changed = difference::sections(&self.config, &config).join(", ");
        let limits = config.limits;
        self.edge.set_rules(Arc::clone(&served.rules));
        if let (Some((door, _)), Some(rules)) = (&self.management, &served.management) {
            door.set_rules(Arc::clone(rules));
        }
        self.core.cluster.set_ways(served.rules.doors.targets().map(Door::way));
        self.core.table.set_limits(&limits);
        self.core.revocations.set_lifetime(build::revocation_lifetime(&config));
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
        self.longest_events = self.longest_events.max(build::longest_events(&config));
        self.longest_close = self.longest_close.max(build::longest_close(&config));
        let are_same_acceptors = self.served.acceptors().count() == served.acceptors().count()
            && self.served.acceptors().zip(served.acceptors()).all(|(old, new)| old.is(new));
        (self.config, self.served) = (config, served);
        if !are_same_acceptors {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Signals;
    use tokio::time::{sleep, timeout};

    const CONFIG: &str = "listeners: {plain: {address: '127.0.0.1:0'}}\nlog: {level: info}\n\
        shutdown: {lame_duck: 0s, drain: 0s}\n\
        routes: [{path: /ws, auth: none, backend: {echo: true}}]\n";

    /// A bug that strikes at the first change of the log level.
    fn buggy(file: PathBuf) -> Source {
        let bugs = std::sync::atomic::AtomicUsize::new(1);
        let set_log_level = move |_: &str| {
            assert_eq!(bugs.swap(0, std::sync::atomic::Ordering::Relaxed), 0, "on purpose");
        };
        Source { file, set_log_level: Box::new(set_log_level) }
    }

    #[tokio::test]
    async fn a_bug_in_a_reload_fails_it_and_not_the_node() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("moorline.yaml");
        std::fs::write(&file, CONFIG).unwrap();
        let config = Config::load(&file, std::iter::empty()).unwrap();
        let node = Box::pin(Node::start(config, Some(buggy(file.clone())))).await.unwrap();
        let (metrics, signals) = (node.core.metrics.clone(), Signals::default());
        let reloads = async |result: &str| {
            let none = format!("moorline_config_reloads_total{{result=\"{result}\"}} 0");
            let is_none =
                || String::from_utf8(metrics.to_text()).unwrap().lines().any(|told| told == none);
            // The node may not listen yet, so it is asked until it has heard.
            while is_none() {
                signals.reload.notify_one();
                sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let test = async {
            std::fs::write(&file, CONFIG.replace("level: info", "level: debug")).unwrap();
            reloads("failed").await;
            assert_eq!(metrics.task_panics().get(), 1);
            reloads("ok").await;
            signals.stop.cancel();
        };
        let run = Box::pin(node.run(&signals));
        let both = async { tokio::join!(run, test) };
        let (ended, ()) = timeout(std::time::Duration::from_secs(30), both).await.unwrap();
        assert!(ended.is_ok(), "{ended:?}");
    }
}
