//! One node, put together from its config, run until it is told to stop.
//!
//! Everything is built before the first listener opens, so a mistake in the config never lets a
//! client in half-way; and everything of a new config before it takes the place of the old one.

mod build;
mod upstream;
mod reload;
mod drain;
mod memory;
mod listener;
mod disk;
mod bridge;
mod error;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::admin::{Admin, Drain};
use crate::config::Config;
use crate::edge::{Edge, Transport, listen};
use crate::handshake::Door;
use crate::management::Management;
use crate::metrics::Metrics;
use crate::nats::Nats;
use crate::task::Tasks;

use build::{Core, Served};
use memory::Guard;

pub use bridge::BridgeProcess;
pub(crate) use build::{key_client, largest_event, nats_tls};
pub use error::ServerError;
pub use reload::Source;

/// A node whose listeners are open.
#[derive(Debug)]
pub struct Node {
    core: Core,
    edge: Arc<Edge>,
    admin: Option<(Arc<Admin>, TcpListener)>,
    management: Option<(Arc<Management>, Option<TcpListener>)>,
    doors: Vec<(TcpListener, Transport)>,
    drain: Drain,
    /// Where a new config comes from; without it, only the files that the config names are read again.
    source: Option<Source>,
    /// The config in force.
    config: Config,
    /// What was made of it.
    served: Served,
    /// Ends the watch over the certificates in force.
    certificate_watch: CancellationToken,
    /// Ends the watch over memory by the config in force.
    memory_watch: CancellationToken,
    /// The longest that the last events of any connection may take until they have an outcome. It
    /// never shrinks, for connections keep the route that they were accepted with.
    longest_events: Duration,
    /// The longest that a closing handshake may take. It never shrinks either.
    longest_close: Duration,
}

/// The node's tasks, by when they stop.
#[derive(Debug, Clone)]
struct Crews {
    /// Listeners and clients that are not let in yet.
    doors: Tasks,
    /// Open connections.
    connections: Tasks,
    /// The backends' door: backends talk to clients until the last of them has left, and need NATS
    /// for it.
    backends: Tasks,
    /// The operators' door, which tells those who ask that all clients have left.
    operators: Tasks,
    /// What serves all of them to the end: NATS, keys, certificates.
    background: Tasks,
}

impl Crews {
    fn new(metrics: &Metrics) -> Self {
        let tasks = || Tasks::counted(metrics.task_panics().clone());
        Self {
            doors: tasks(),
            connections: tasks(),
            backends: tasks(),
            operators: tasks(),
            background: tasks(),
        }
    }
}

/// What a running node is told.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    /// Stop, in good order.
    pub stop: CancellationToken,
    /// Stop at once.
    pub abort: CancellationToken,
    /// Look at the config, and at every file that it names, again.
    pub reload: Arc<tokio::sync::Notify>,
}

impl Node {
    /// Builds every part of the node and opens its listeners. `source` is where `config` came from and
    /// where the next one is looked for.
    ///
    /// # Errors
    /// When a file, a key, a URL or an address of the config cannot be used; the error names it.
    pub async fn start(config: Config, source: Option<Source>) -> Result<Self, ServerError> {
        let core = build::core(&config).await?;
        let served = Box::pin(build::served(&config, &core, None)).await?;
        core.cluster.set_ways(served.rules.doors.targets().map(Door::way));
        build::open_hubs(&config, &core).await;
        let mut doors = Vec::new();
        if let Some(public) = &config.listeners.public {
            doors.push((open(public.address)?, Transport::Tls));
        }
        if let Some(plain) = &config.listeners.plain {
            doors.push((open(plain.address)?, Transport::Plain));
        }
        let management = match (&config.listeners.management, &served.management) {
            (Some(door), Some(rules)) => {
                let listener = open(door.address)?;
                Some((Arc::new(build::management(&core, Arc::clone(rules))), Some(listener)))
            }
            _ => None,
        };
        let drain = Drain::new();
        let admin = match &config.listeners.admin {
            Some(admin) => {
                let listener = open(admin.address)?;
                Some((Arc::new(build::admin(&core, drain.clone())), listener))
            }
            None => None,
        };
        Ok(Self {
            edge: Arc::new(build::edge(&config, &core, Arc::clone(&served.rules))),
            management,
            admin,
            doors,
            drain,
            source,
            longest_events: build::longest_events(&config),
            longest_close: build::longest_close(&config),
            config,
            served,
            certificate_watch: CancellationToken::new(),
            memory_watch: CancellationToken::new(),
            core,
        })
    }

    /// The addresses that clients reach the node at: `wss` first, then `ws`.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.doors.iter().filter_map(|(listener, _)| listener.local_addr().ok()).collect()
    }

    /// Serves until `signals` or an operator say stop, then drains.
    ///
    /// # Errors
    /// When connections were still open at the end of all deadlines, the stop was cut short, or what the
    /// node cannot do without has ended by a bug.
    pub async fn run(mut self, signals: &Signals) -> Result<(), ServerError> {
        // Before the first newcomer, who is refused where memory is short from the start.
        Box::pin(self.watch_memory()).await;
        self.open_doors();
        let (drain, cluster) = (self.drain.clone(), self.core.cluster.clone());
        let background = self.core.crews.background.clone();
        let broken = tokio::select! {
            () = signals.stop.cancelled() => None,
            () = drain.asked() => None,
            () = signals.abort.cancelled() => return Err(ServerError::Aborted),
            why = cluster.unusable() => return Err(ServerError::NoFleet(why)),
            // Its clients are better off with another node, and are told so.
            name = background.broken() => Some(ServerError::Broken(name)),
            never = Box::pin(self.follow(&signals.reload)) => match never {},
        };
        tokio::select! {
            drained = self.drain() => broken.map_or(drained, Err),
            () = signals.abort.cancelled() => Err(ServerError::Aborted),
        }
    }

    fn open_doors(&mut self) {
        tracing::info!(node = %self.core.id, version = env!("CARGO_PKG_VERSION"), "node started");
        for (listener, transport) in self.doors.drain(..) {
            let scheme = match transport {
                Transport::Tls => "wss",
                Transport::Plain => "ws",
            };
            announce(&listener, scheme);
            let edge = Arc::clone(&self.edge);
            let serve = move |listener| Arc::clone(&edge).serve(listener, transport);
            listener::keep(&self.core.crews.doors, "listener", listener, serve);
        }
        if let Some((management, listener)) = &mut self.management
            && let Some(listener) = listener.take()
        {
            announce(&listener, "management");
            let management = Arc::clone(management);
            let serve = move |listener| Arc::clone(&management).serve(listener);
            listener::keep(&self.core.crews.backends, "management", listener, serve);
        }
        if let Some((admin, listener)) = self.admin.take() {
            serve_operators(admin, listener, &self.core.crews.operators);
        }
        let edge = Arc::clone(&self.edge);
        self.until_the_end("tables", move || {
            let edge = Arc::clone(&edge);
            async move { edge.doorkeeper.tidy().await }
        });
        if let Some(nats) = self.core.nats.clone() {
            let largest = largest_event(&self.config);
            self.until_the_end("payload limit", move || {
                let nats = nats.clone();
                async move {
                    nats.up().await;
                    compare_payload_limit(&nats, largest);
                }
            });
        }
        self.watch_certificates();
    }

    /// Keeps up what serves the node as long as it lives.
    fn until_the_end<W, F>(&self, name: &'static str, mut work: W)
    where
        W: FnMut() -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let background = self.core.crews.background.clone();
        self.core.crews.background.keep(name, move || {
            let (background, work) = (background.clone(), work());
            async move {
                tokio::select! {
                    () = background.stopping() => {}
                    () = work => {}
                }
            }
        });
    }

    /// Watches the node's memory by the config in force, in place of who did before. Nobody does where
    /// the kernel does not say how much is used.
    async fn watch_memory(&mut self) {
        self.memory_watch.cancel();
        self.memory_watch = CancellationToken::new();
        let guard = Guard {
            config: self.config.limits.memory,
            memory: self.core.memory.clone(),
            table: self.core.table.clone(),
            metrics: self.core.metrics.clone(),
        };
        let mut watch = guard.open().await;
        if watch.is_none() {
            return;
        }
        let replaced = self.memory_watch.clone();
        self.until_the_end("memory", move || {
            let (guard, watch, replaced) = (guard.clone(), watch.take(), replaced.clone());
            async move {
                // One that was replaced must not look again, for that would take the place of the
                // one that is in force.
                tokio::select! {
                    biased;
                    () = replaced.cancelled() => {}
                    () = guard.run(watch) => {}
                }
            }
        });
    }

    /// Watches the files of the certificates in force, in place of those that were before.
    fn watch_certificates(&mut self) {
        self.certificate_watch.cancel();
        self.certificate_watch = CancellationToken::new();
        for acceptor in self.served.acceptors() {
            let acceptor = acceptor.clone();
            let (replaced, metrics) = (self.certificate_watch.clone(), self.core.metrics.clone());
            self.until_the_end("certificates", move || {
                acceptor.clone().watch(metrics.clone(), replaced.clone().cancelled_owned())
            });
        }
    }
}

/// A message that NATS does not take ends `overloaded`, again and again; better to hear of it now.
fn compare_payload_limit(nats: &Nats, largest: usize) {
    let max_payload = nats.max_payload();
    if max_payload < largest {
        tracing::warn!(max_payload, largest, "a route's max_message does not fit the NATS server");
    }
}

/// Lets operators in.
fn serve_operators(admin: Arc<Admin>, listener: TcpListener, operators: &Tasks) {
    announce(&listener, "admin");
    let serve = move |listener| Arc::clone(&admin).serve(listener);
    listener::keep(operators, "admin", listener, serve);
}

fn announce(listener: &TcpListener, scheme: &'static str) {
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, scheme, "listening");
    }
}

fn open(address: SocketAddr) -> Result<TcpListener, ServerError> {
    listen(address).and_then(tokio::net::TcpListener::into_std).map_err(ServerError::Listen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Format;

    const CONFIG: &str = "listeners: {plain: {address: '127.0.0.1:0'}}\n\
        shutdown: {lame_duck: 0s, drain: 0s}\n\
        routes: [{path: /ws, auth: none, backend: {echo: true}}]\n";

    #[tokio::test]
    async fn a_node_that_lost_what_it_cannot_do_without_drains_and_ends_with_its_name() {
        let config = Config::parse(CONFIG, Format::Yaml, "test", std::iter::empty()).unwrap();
        let node = Box::pin(Node::start(config, None)).await.unwrap();
        let (crews, signals) = (node.core.crews.clone(), Signals::default());
        crews.background.need("pushes", async { panic!("on purpose") });
        let run = Box::pin(node.run(&signals));
        let ended = tokio::time::timeout(Duration::from_secs(30), run).await.unwrap();
        assert!(matches!(ended, Err(ServerError::Broken("pushes"))), "{ended:?}");
        assert!(crews.doors.is_stopping() && crews.background.is_stopping(), "it drained");
    }
}
