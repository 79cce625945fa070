//! One node, put together from its config, run until it is told to stop.
//!
//! Everything is built before the first listener opens, so a mistake in the config never lets a
//! client in half-way.

mod build;
mod drain;
mod error;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::auth::Verifier;
use crate::config::{Config, Jwt, Shutdown};
use crate::edge::{Edge, Proxies, Transport, listen};
use crate::hub::Table;
use crate::id::NodeId;
use crate::metrics::Metrics;
use crate::nats::Nats;
use crate::task::Tasks;
use crate::tls::Acceptor;

pub(crate) use build::{key_client, largest_event, nats_tls};
pub use error::ServerError;

/// A node whose listeners are open.
#[derive(Debug)]
pub struct Node {
    id: NodeId,
    edge: Arc<Edge>,
    admin: Option<(Arc<Admin>, TcpListener)>,
    doors: Vec<(TcpListener, Transport, Proxies)>,
    table: Table,
    nats: Option<Nats>,
    acceptor: Option<Acceptor>,
    /// The checker of tokens, and what it was made from.
    verifier: Option<(Verifier, Jwt)>,
    metrics: Metrics,
    crews: Crews,
    shutdown: Shutdown,
    /// The most bytes that an event over NATS may take.
    largest_event: usize,
    /// The longest that an event may take until it has an outcome.
    longest_event: Duration,
    longest_close: Duration,
}

/// The node's tasks, by when they stop.
#[derive(Debug, Clone)]
struct Crews {
    /// Said when the node begins to stop; readiness ends.
    draining: CancellationToken,
    /// Listeners and clients that are not let in yet.
    doors: Tasks,
    /// Open connections.
    connections: Tasks,
    /// What serves all of them to the end: NATS, keys, certificates, the operators' door.
    background: Tasks,
}

impl Crews {
    fn new(metrics: &Metrics) -> Self {
        let tasks = || Tasks::counted(metrics.task_panics().clone());
        let draining = CancellationToken::new();
        Self { draining, doors: tasks(), connections: tasks(), background: tasks() }
    }
}

/// What a running node is told.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    /// Stop, in good order.
    pub stop: CancellationToken,
    /// Stop at once.
    pub abort: CancellationToken,
    /// Look at certificate and key files again.
    pub reload: Arc<tokio::sync::Notify>,
}

impl Node {
    /// Builds every part of the node and opens its listeners.
    ///
    /// # Errors
    /// When a file, a key, a URL or an address of the config cannot be used; the error names it.
    pub async fn start(config: Config) -> Result<Self, ServerError> {
        let metrics = Metrics::new();
        let crews = Crews::new(&metrics);
        let parts = build::parts(&config, &crews, metrics).await?;
        let mut doors = Vec::new();
        if let (Some(public), Some(acceptor)) = (&config.listeners.public, &parts.acceptor) {
            let proxies = Proxies {
                protocol: public.proxy_protocol.clone(),
                forwarded: public.forwarded.clone(),
            };
            doors.push((open(public.address)?, Transport::Tls(acceptor.clone()), proxies));
        }
        if let Some(plain) = &config.listeners.plain {
            let proxies = Proxies {
                protocol: plain.proxy_protocol.clone(),
                forwarded: plain.forwarded.clone(),
            };
            doors.push((open(plain.address)?, Transport::Plain, proxies));
        }
        let admin = match &config.listeners.admin {
            Some(admin) => Some((Arc::clone(&parts.admin), open(admin.address)?)),
            None => None,
        };
        Ok(Self {
            id: parts.id,
            edge: parts.edge,
            admin,
            doors,
            table: parts.table,
            nats: parts.nats,
            acceptor: parts.acceptor,
            verifier: parts.verifier.zip(config.jwt.clone()),
            metrics: parts.metrics,
            crews,
            shutdown: config.shutdown,
            largest_event: largest_event(&config),
            longest_event: build::longest_event(&config),
            longest_close: build::longest_close(&config),
        })
    }

    /// The addresses that clients reach the node at: `wss` first, then `ws`.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.doors.iter().filter_map(|(listener, ..)| listener.local_addr().ok()).collect()
    }

    /// Serves until `signals` say stop, then drains.
    ///
    /// # Errors
    /// When connections were still open at the end of all deadlines, or the stop was cut short.
    pub async fn run(mut self, signals: &Signals) -> Result<(), ServerError> {
        self.open_doors();
        let reloads = async {
            loop {
                signals.reload.notified().await;
                self.reload().await;
            }
        };
        tokio::select! {
            () = signals.stop.cancelled() => {}
            () = signals.abort.cancelled() => return Err(ServerError::Aborted),
            () = reloads => {}
        }
        tokio::select! {
            drained = self.drain() => drained,
            () = signals.abort.cancelled() => Err(ServerError::Aborted),
        }
    }

    fn open_doors(&mut self) {
        tracing::info!(node = %self.id, version = env!("CARGO_PKG_VERSION"), "node started");
        for (listener, transport, proxies) in self.doors.drain(..) {
            let scheme = match transport {
                Transport::Tls(_) => "wss",
                Transport::Plain => "ws",
            };
            announce(&listener, scheme);
            let edge = Arc::clone(&self.edge);
            self.crews.doors.spawn("listener", edge.serve(listener, transport, proxies));
        }
        if let Some((admin, listener)) = self.admin.take() {
            announce(&listener, "admin");
            self.crews.background.spawn("admin", admin.serve(listener));
        }
        if let Some(nats) = self.nats.clone() {
            let (tasks, largest) = (self.crews.background.clone(), self.largest_event);
            self.crews.background.spawn("payload limit", async move {
                tokio::select! {
                    () = tasks.stopping() => {}
                    () = compare_payload_limit(&nats, largest) => {}
                }
            });
        }
        if let Some(acceptor) = &self.acceptor {
            let tasks = self.crews.background.clone();
            let stopping = async move { tasks.stopping().await };
            let watch = acceptor.clone().watch(self.metrics.clone(), stopping);
            self.crews.background.spawn("certificates", watch);
        }
    }

    /// Looks at the files again that may have changed; what cannot be used is logged and the old kept.
    async fn reload(&self) {
        if let Some(acceptor) = &self.acceptor {
            acceptor.reload_now(&self.metrics).await;
        }
        if let Some((verifier, jwt)) = &self.verifier {
            let reloaded = key_client(jwt).and_then(|client| Ok(verifier.reload(jwt, client)?));
            match reloaded {
                Ok(()) => {
                    self.metrics.config_reload("ok");
                    tracing::info!("keys read again");
                }
                Err(error) => {
                    self.metrics.config_reload("failed");
                    tracing::error!(%error, "keys refused; the old ones stay");
                }
            }
        }
    }
}

/// A message that NATS does not take ends `overloaded`, again and again; better to hear of it now.
async fn compare_payload_limit(nats: &Nats, largest: usize) {
    nats.up().await;
    let max_payload = nats.max_payload();
    if max_payload < largest {
        tracing::warn!(max_payload, largest, "a route's max_message does not fit the NATS server");
    }
}

fn announce(listener: &TcpListener, scheme: &'static str) {
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, scheme, "listening");
    }
}

fn open(address: SocketAddr) -> Result<TcpListener, ServerError> {
    listen(address).map_err(ServerError::Listen)
}
