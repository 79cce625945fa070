//! Every part of a node from its config.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use super::disk::Disk;
use super::{Crews, ServerError, upstream};
use crate::admin::{Admin, Drain, Readiness};
use crate::auth::{AccessKeys, Minter, Revocations, Verifier};
use crate::cluster::{Cluster, Farewells, Parts, UserQuota};
use crate::config::{AuthMode, Backend, Config, EventKind, JetStream, Jwt, Route};
use crate::edge::{Edge, Proxies, Rules};
use crate::handshake::{Door, Doorkeeper, Gate, Plans, Routes};
use crate::http_client::Client;
use crate::hub::{Fleet, Interest, Roster, Table};
use crate::id::NodeId;
use crate::limits::{Admission, Limit, Limited, Memory, Pending, Permits, Users};
use crate::management::{self, Management};
use crate::metrics::Metrics;
use crate::nats::{Nats, Store};
use crate::relay::{Gates, Hold, Relay};
use crate::task::Tasks;
use crate::tls::{self, Acceptor};

/// What lives as long as the node, whatever becomes of its config.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) id: NodeId,
    pub(super) table: Table,
    pub(super) nats: Option<Nats>,
    /// The connections to all nodes.
    pub(super) fleet: Fleet,
    /// The node's part in what outlives it.
    pub(super) cluster: Cluster,
    /// What is no good any more, of the tokens that let clients in.
    pub(super) revocations: Revocations,
    pub(super) hold: Hold,
    /// The ways in to the services behind HTTP.
    pub(super) gates: Gates,
    pub(super) metrics: Metrics,
    pub(super) crews: Crews,
    pub(super) disk: Disk,
    /// Whether the node is short of memory.
    pub(super) memory: Memory,
}

/// What is made of each config that comes into force.
#[derive(Debug)]
pub(super) struct Served {
    /// What newcomers meet.
    pub(super) rules: Arc<Rules>,
    /// Who checks tokens, kept apart from the routes for the next one to begin with.
    pub(super) verifier: Option<Verifier>,
    /// What backends meet; none without a door for them.
    pub(super) management: Option<Arc<management::Rules>>,
}

impl Served {
    /// The certificates of both doors, which are watched.
    pub(super) fn acceptors(&self) -> impl Iterator<Item = &Acceptor> {
        let management = self.management.iter().filter_map(|rules| rules.acceptor.as_ref());
        self.rules.acceptor.iter().chain(management)
    }
}

/// Clients that are told by a close frame why they are refused, at the same time.
const REFUSED: usize = 256;
/// Operators' requests at the same time: probes and scrapers are few.
const OPERATORS: usize = 64;
/// Of operators who wait for the end of the drain: hooks, and people who look on.
const HOOKS: usize = 16;

/// Builds what no reload changes.
pub(super) async fn core(config: &Config) -> Result<Core, ServerError> {
    let (id, metrics) = (NodeId::random(), Metrics::new());
    let (crews, disk) = (Crews::new(&metrics), Disk::new());
    let nats = match &config.nats {
        Some(nats) => {
            let tls = tls_to(nats, &disk).await?;
            Some(Nats::connect(nats, id, tls, &crews.background, &metrics).await?)
        }
        None => None,
    };
    let table = Table::new(&config.limits, &metrics);
    let roster = Roster::default();
    let fleet = match nats.as_ref().zip(config.nats.as_ref()) {
        Some((nats, settings)) => {
            let (by, tasks) = (settings.interest, &crews.background);
            let interest = Interest::start(id, nats, by, &table, &roster, tasks, &metrics).await;
            Fleet::cluster(table.clone(), interest)
        }
        None => Fleet::solo(table.clone()),
    };
    let kept = revocation_lifetime(config);
    let (cluster, revocations) = match (&nats, &config.nats) {
        (Some(nats), Some(settings)) if settings.jetstream != JetStream::Off => {
            let (tasks, replicas) = (&crews.background, settings.replicas.into());
            let store = Store::open(nats, replicas, tasks, &metrics).await;
            let need = settings.jetstream;
            let revocations = Revocations::cluster(kept, table.clone(), &store, need, tasks);
            let cluster = Cluster::start(&Parts {
                node: id,
                store: &store,
                jetstream: need,
                table: &table,
                fleet: &fleet,
                roster: &roster,
                tasks,
                metrics: &metrics,
            });
            (cluster, revocations)
        }
        _ => {
            let cluster = Cluster::solo(&table, &fleet, &crews.background, &metrics);
            (cluster, Revocations::solo(kept, table.clone(), &crews.background))
        }
    };
    revocations.obey();
    let (hold, gates) = (Hold::new(config.limits.max_held.bytes()), Gates::new(&crews.background));
    let memory = Memory::default();
    Ok(Core {
        id,
        table,
        nats,
        fleet,
        cluster,
        revocations,
        hold,
        gates,
        metrics,
        crews,
        disk,
        memory,
    })
}

/// Builds what newcomers meet by `config`, after what they met `before`. Nothing of it is in force yet,
/// and dropping it leaves nothing behind.
pub(super) async fn served(
    config: &Config,
    core: &Core,
    before: Option<&Served>,
) -> Result<Served, ServerError> {
    if config.is_bridge_only() {
        return Err(ServerError::NoRoutes);
    }
    let acceptor = match (&config.listeners.public, before.map(|before| &before.rules.acceptor)) {
        (None, _) => None,
        (Some(public), Some(Some(acceptor))) => Some(acceptor.renewed(&public.tls).await?),
        (Some(public), _) => Some(Acceptor::open("listeners.public.tls", &public.tls).await?),
    };
    let verifier = match config.jwt.clone() {
        None => None,
        Some(jwt) => {
            let before = before.and_then(|before| before.verifier.clone());
            let tasks = core.crews.background.clone();
            Some(core.disk.read("jwt", move || verifier(&jwt, before.as_ref(), &tasks)).await?)
        }
    };
    let relays = relays(config, core).await?;
    let doors = (0..).zip(relays).map(|(place, (route, relay))| {
        let path = route.path.clone();
        Ok((path, door(config, place, route, relay, verifier.as_ref(), core)?))
    });
    let doors = Routes::new(doors.collect::<Result<Vec<_>, ServerError>>()?);
    let (public, plain) = (&config.listeners.public, &config.listeners.plain);
    let public = public.as_ref().map(Proxies::from).unwrap_or_default();
    let plain = plain.as_ref().map(Proxies::from).unwrap_or_default();
    let passthrough = upstream::passthrough(config, core, before).await?;
    let (limits, drain) = (config.limits, config.shutdown.drain.get());
    let replaced = CancellationToken::new();
    let rules = Rules { doors, limits, acceptor, passthrough, drain, public, plain, replaced };
    let rules = Arc::new(rules);
    let before = before.and_then(|before| before.management.as_deref());
    let management =
        Box::pin(backends(config, core, verifier.as_ref(), before)).await?.map(Arc::new);
    Ok(Served { rules, verifier, management })
}

/// Builds what backends meet by `config`, after what they met `before`.
async fn backends(
    config: &Config,
    core: &Core,
    verifier: Option<&Verifier>,
    before: Option<&management::Rules>,
) -> Result<Option<management::Rules>, ServerError> {
    let Some(door) = &config.listeners.management else { return Ok(None) };
    let acceptor = match (&door.tls, before.and_then(|before| before.acceptor.as_ref())) {
        (None, _) => None,
        (Some(tls), Some(acceptor)) => Some(acceptor.renewed(tls).await?),
        (Some(tls), None) => Some(Acceptor::open("listeners.management.tls", tls).await?),
    };
    let (files, jwt) = (door.key_files.clone(), config.jwt.clone());
    let read = move || {
        let keys = AccessKeys::read("listeners.management.key_files", &files)?;
        let minter = jwt.as_ref().map(Minter::new).transpose()?.flatten();
        Ok((keys, minter))
    };
    let (keys, minter) = core.disk.read("listeners.management", read).await?;
    let (verifier, limits) = (verifier.cloned(), config.limits);
    let max_body = door.max_body.bytes();
    let speak_grip = config.routes.iter().filter(|route| route.is_websocket_over_http());
    let published: HashSet<_> = speak_grip.map(|route| route.hub.clone()).collect();
    let (published, replaced) = (published.into_iter().collect(), CancellationToken::new());
    Ok(Some(management::Rules {
        keys,
        acceptor,
        verifier,
        minter,
        limits,
        max_body,
        published,
        replaced,
    }))
}

/// Serves all hubs of `config`, before it lets clients into them.
pub(super) async fn open_hubs(config: &Config, core: &Core) {
    core.fleet.open(config.routes.iter().map(|route| &route.hub)).await;
}

/// Builds the clients' door.
pub(super) fn edge(config: &Config, core: &Core, rules: Arc<Rules>) -> Edge {
    let doorkeeper = Doorkeeper {
        node: core.id,
        admission: Arc::new(Admission::new(&config.limits, core.memory.clone())),
        refused: Permits::new(REFUSED),
        table: core.table.clone(),
        cluster: core.cluster.clone(),
        farewells: Farewells {
            tasks: core.crews.connections.clone(),
            places: Permits::new(config.limits.max_connections),
        },
        users: Users::new(),
        metrics: core.metrics.clone(),
    };
    doorkeeper.declare_results();
    let limits = Limit::ALL.iter().map(|limit| limit.as_str());
    core.metrics.declare_limits(limits, Limited::ACTIONS);
    Edge {
        doorkeeper,
        rules: ArcSwap::new(rules),
        pending: Pending::new(config.limits.max_pending),
        console: config.listeners.console,
        metrics: core.metrics.clone(),
        tasks: core.crews.doors.clone(),
    }
}

/// Builds the backends' door.
pub(super) fn management(core: &Core, rules: Arc<management::Rules>) -> Management {
    let (fleet, revocations) = (core.fleet.clone(), core.revocations.clone());
    Management::new(fleet, revocations, rules, &core.metrics, &core.crews.backends)
}

/// Builds the operators' door.
pub(super) fn admin(core: &Core, drain: Drain) -> Admin {
    operators(readiness(core), drain, &core.metrics, &core.crews.operators)
}

/// The operators' door of any process.
pub(super) fn operators(
    readiness: Readiness,
    drain: Drain,
    metrics: &Metrics,
    tasks: &Tasks,
) -> Admin {
    Admin {
        metrics: metrics.clone(),
        readiness,
        drain,
        places: Permits::new(OPERATORS),
        waiting: Permits::new(HOOKS),
        tasks: tasks.clone(),
    }
}

/// A node waits until NATS was reached once, with JetStream and all that was revoked where those are
/// required. A later outage of NATS does not end it, because all nodes would leave the balancer at once.
fn readiness(core: &Core) -> Readiness {
    let (nats, cluster) = (core.nats.clone(), core.cluster.clone());
    let revocations = core.revocations.clone();
    Readiness::new(move || {
        if !nats.as_ref().is_none_or(Nats::was_connected) {
            return Some("NATS was not reached yet\n");
        }
        if cluster.is_starting() {
            return Some("the node has no lease in JetStream yet\n");
        }
        (!revocations.are_known()).then_some("revocations were not loaded yet\n")
    })
}

/// The routes and the ways to their backends.
async fn relays(config: &Config, core: &Core) -> Result<Vec<(Arc<Route>, Relay)>, ServerError> {
    let routes: Vec<_> = config.routes.iter().cloned().map(Arc::new).collect();
    let (nats, gates, hold) = (core.nats.clone(), core.gates.clone(), core.hold.clone());
    let (fence, metrics) = (core.cluster.fence().clone(), core.metrics.clone());
    let relay = move |route: Arc<Route>| {
        let relay = Relay::new(&route, nats.as_ref(), &gates, &hold, &fence, &metrics);
        relay.map_err(|error| ServerError::of_route(&route, error)).map(|relay| (route, relay))
    };
    core.disk.read("routes", move || routes.into_iter().map(relay).collect()).await
}

/// One route, ready for work.
fn door(
    config: &Config,
    place: usize,
    route: Arc<Route>,
    relay: Relay,
    verifier: Option<&Verifier>,
    core: &Core,
) -> Result<Door, ServerError> {
    let needs = |needs| ServerError::Route { route: place, needs };
    let gate = match route.auth {
        AuthMode::None => Gate::Open,
        AuthMode::Connect => Gate::Connect,
        AuthMode::Certificate => Gate::Certificate,
        AuthMode::Jwt => match (verifier, &config.jwt) {
            (Some(verifier), Some(jwt)) => Gate::Jwt {
                verifier: verifier.clone(),
                sources: jwt.sources.clone(),
                revocations: core.revocations.clone(),
            },
            _ => return Err(needs("auth: jwt needs a jwt section")),
        },
    };
    let plans = Plans::new(&config.plans, &route);
    let quota = UserQuota {
        max: config.limits.max_connections_per_user,
        when_full: config.limits.when_user_full,
    };
    Ok(Door::new(route, relay, gate, config.heartbeat, plans, quota))
}

/// Who checks tokens by `jwt`, in place of who did `before`. Blocks while it reads.
fn verifier(jwt: &Jwt, before: Option<&Verifier>, tasks: &Tasks) -> Result<Verifier, ServerError> {
    let client = key_client(jwt)?;
    Ok(match before {
        Some(before) => before.renewed(jwt, client)?,
        None => Verifier::new(jwt, client, tasks)?,
    })
}

/// How long a revocation is kept that does not say until when. Without a `jwt` section there is no token
/// yet, but there may be one after a reload.
pub(super) fn revocation_lifetime(config: &Config) -> Duration {
    let default = Jwt::default();
    config.jwt.as_ref().unwrap_or(&default).revocation_lifetime.get()
}

/// The client that fetches a key set, where there is one to fetch. Blocks while it reads.
pub(crate) fn key_client(jwt: &Jwt) -> Result<Option<Client>, ServerError> {
    let Some(jwks) = jwt.jwks.as_ref().filter(|jwks| jwks.is_url()) else { return Ok(None) };
    Ok(Some(Client::new(tls::client_config(jwks.ca.as_deref(), None)?)))
}

/// The client side of TLS to NATS, if that asks for it.
pub(super) async fn tls_to(
    nats: &crate::config::Nats,
    disk: &Disk,
) -> Result<Option<rustls::ClientConfig>, ServerError> {
    let Some(tls) = nats.tls.clone() else { return Ok(None) };
    disk.read("nats.tls", move || nats_tls(&tls)).await.map(Some)
}

/// The client side of TLS to NATS. Blocks while it reads.
pub(crate) fn nats_tls(tls: &crate::config::NatsTls) -> Result<rustls::ClientConfig, ServerError> {
    let identity = tls.certificate.as_deref().zip(tls.key.as_deref());
    Ok(tls::client_config(tls.ca.as_deref(), identity)?)
}

/// The most bytes that an event over NATS may take, payload and headers: state, user and path at their
/// largest, and the rest.
pub(crate) fn largest_event(config: &Config) -> usize {
    const HEADERS: usize = 16 * 1024;
    let is_over_nats = |route: &&Route| matches!(route.backend, Backend::Nats(_));
    let messages = config.routes.iter().filter(is_over_nats).map(|route| route.max_message.bytes());
    messages.max().map_or(0, |message| message.saturating_add(HEADERS))
}

/// The longest that the last events of a connection of any route may take until they have an outcome:
/// the one that is at the backend, and behind it `disconnected`, where the route tells of it.
pub(super) fn longest_events(config: &Config) -> Duration {
    let longest = |route: &Route| {
        let count = if route.wants(EventKind::Disconnected) { 2 } else { 1 };
        count * (route.hold.get() + route.request_timeout.get())
    };
    config.routes.iter().map(longest).max().unwrap_or_default()
}

/// The longest that a closing handshake may take.
pub(super) fn longest_close(config: &Config) -> Duration {
    let own = config.routes.iter().filter_map(|route| route.heartbeat);
    let timeout = |heartbeat: crate::config::Heartbeat| heartbeat.close_timeout.get();
    // Once for the peer's close frame, once for the end of its stream.
    2 * own.chain([config.heartbeat]).map(timeout).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Format;

    #[test]
    fn the_event_after_the_end_takes_its_time_too() {
        let seconds = |routes: &str| {
            let text =
                format!("listeners: {{plain: {{address: '127.0.0.1:0'}}}}\nroutes: [{routes}]");
            let config = Config::parse(&text, Format::Yaml, "test", std::iter::empty()).unwrap();
            longest_events(&config).as_secs()
        };
        let echo = "auth: none, backend: {echo: true}";
        assert_eq!(seconds(&format!("{{path: /a, {echo}}}")), 3 + 10);
        let both = "events: [message, disconnected]";
        assert_eq!(seconds(&format!("{{path: /a, {echo}, {both}}}")), 2 * (3 + 10));
        let short = format!("{{path: /b, {echo}, {both}, hold: 0s, request_timeout: 5s}}");
        assert_eq!(seconds(&format!("{{path: /a, {echo}}}, {short}")), 13);
    }
}
