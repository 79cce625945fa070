//! A bridge, put together from its config, run until it is told to stop.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::disk::Disk;
use super::drain::dismiss;
use super::{ServerError, Signals, build, open, serve_operators};
use crate::admin::{Admin, Drain, Progress, Readiness, Stage};
use crate::bridge::Bridge;
use crate::config::Config;
use crate::id::NodeId;
use crate::metrics::Metrics;
use crate::nats::{Feed, NatsError, Subjects};
use crate::relay::Gates;
use crate::task::Tasks;

/// A bridge that takes no events yet.
#[derive(Debug)]
pub struct BridgeProcess {
    bridge: Arc<Bridge>,
    feed: Feed,
    /// Ends the connection to NATS.
    disconnect: CancellationToken,
    drain: Drain,
    admin: Option<(Arc<Admin>, TcpListener)>,
    /// Events.
    events: Tasks,
    operators: Tasks,
    /// What serves the events to the end.
    background: Tasks,
}

/// Time for the last replies to come to the NATS server.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

impl BridgeProcess {
    /// Builds every part and opens the operators' door.
    ///
    /// # Errors
    /// When a file, a key, a URL or an address of the config cannot be used; the error names it.
    pub async fn start(config: &Config) -> Result<Self, ServerError> {
        let (Some(settings), Some(nats)) = (config.bridge.clone(), &config.nats) else {
            return Err(ServerError::NoBridge);
        };
        let (id, metrics, disk) = (NodeId::random(), Metrics::new(), Disk::new());
        let tasks = || Tasks::counted(metrics.task_panics().clone());
        let (events, operators, background) = (tasks(), tasks(), tasks());
        let tls = build::tls_to(nats, &disk).await?;
        let subjects = Subjects::new(&nats.prefix).map_err(NatsError::from)?;
        let disconnect = CancellationToken::new();
        let stop = disconnect.clone();
        let feed = Feed::of_bridge(nats, id, tls, stop, &background, &metrics).await?;
        let (its_feed, its_metrics, its_tasks) = (feed.clone(), metrics.clone(), events.clone());
        let gates = Gates::new(&background);
        let bridge = move || {
            Bridge::new(&settings, subjects, its_feed, &gates, &its_metrics, &its_tasks)
                .map_err(ServerError::Bridge)
        };
        let bridge = Arc::new(disk.read("bridge", bridge).await?);
        let drain = Drain::new();
        let admin = match &config.listeners.admin {
            Some(door) => {
                let its = Arc::clone(&bridge);
                let readiness = Readiness::new(move || its.waits_for());
                let admin = build::operators(readiness, drain.clone(), &metrics, &operators);
                Some((Arc::new(admin), open(door.address)?))
            }
            None => None,
        };
        tracing::info!(bridge = %id, version = env!("CARGO_PKG_VERSION"), "bridge started");
        Ok(Self { bridge, feed, disconnect, drain, admin, events, operators, background })
    }

    /// Takes events until `signals` or an operator say stop, then drains.
    ///
    /// # Errors
    /// When events were still here at the end of all deadlines, or the stop was cut short.
    pub async fn run(mut self, signals: &Signals) -> Result<(), ServerError> {
        if let Some((admin, listener)) = self.admin.take() {
            serve_operators(admin, listener, &self.operators);
        }
        let leave = CancellationToken::new();
        let member = Arc::clone(&self.bridge).run(leave.clone());
        let member = self.background.need("bridge", member);
        let broken = tokio::select! {
            () = signals.stop.cancelled() => None,
            () = self.drain.asked() => None,
            () = signals.abort.cancelled() => return Err(ServerError::Aborted),
            name = self.background.broken() => Some(ServerError::Broken(name)),
        };
        leave.cancel();
        tokio::select! {
            drained = self.drain(member) => broken.map_or(drained, Err),
            () = signals.abort.cancelled() => Err(ServerError::Aborted),
        }
    }

    /// Waits until the bridge has left its group, and then until everything that it was given is answered.
    async fn drain(&self, member: JoinHandle<()>) -> Result<(), ServerError> {
        let (longest, events) = (self.bridge.longest(), self.bridge.events());
        self.drain.tell(Progress { stage: Stage::Draining, connections: events, eta: longest });
        tracing::info!(events, longest_s = longest.as_secs_f64(), "draining");
        let answered = async {
            // A panic in it was told before.
            let _ = member.await;
            self.events.ended().await;
        };
        let _ = timeout_at(Instant::now() + longest, answered).await;
        // A server does what a connection asks for in order, so it has the replies when it answers.
        if !self.feed.confirmed(Instant::now() + FLUSH_TIMEOUT).await {
            tracing::warn!("NATS did not say that it has the last replies");
        }
        let left = self.bridge.events();
        let eta = Duration::ZERO;
        self.drain.tell(Progress { stage: Stage::Over, connections: left, eta });
        dismiss(&self.operators).await;
        self.disconnect.cancel();
        self.background.stop();
        tracing::info!(events = left, "drained");
        if left > 0 { Err(ServerError::Unanswered(left)) } else { Ok(()) }
    }
}
