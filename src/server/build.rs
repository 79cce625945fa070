//! Every part of a node from its config.

use std::sync::Arc;
use std::time::Duration;

use super::{Crews, ServerError};
use crate::admin::Admin;
use crate::auth::Verifier;
use crate::config::{AuthMode, Backend, Config, Jwt, Route};
use crate::connection::Farewells;
use crate::edge::Edge;
use crate::handshake::{Door, Doorkeeper, Gate, Plans, Routes};
use crate::http_client::Client;
use crate::hub::Table;
use crate::id::NodeId;
use crate::limits::{Limited, Permits, Users};
use crate::metrics::Metrics;
use crate::nats::Nats;
use crate::relay::{Hold, Relay};
use crate::tls::{self, Acceptor};

/// The parts that [`Node`](super::Node) keeps.
pub(super) struct Parts {
    pub(super) id: NodeId,
    pub(super) edge: Arc<Edge>,
    pub(super) admin: Arc<Admin>,
    pub(super) table: Table,
    pub(super) nats: Option<Nats>,
    pub(super) acceptor: Option<Acceptor>,
    pub(super) verifier: Option<Verifier>,
    pub(super) metrics: Metrics,
}

/// Clients over `max_connections` that wait for their refusal at the same time.
const WAITING: usize = 256;
/// Operators' requests at the same time: probes and scrapers are few.
const OPERATORS: usize = 64;

/// Builds all parts.
pub(super) async fn parts(
    config: &Config,
    crews: &Crews,
    metrics: Metrics,
) -> Result<Parts, ServerError> {
    let (id, table) = (NodeId::random(), Table::new());
    let acceptor = match &config.listeners.public {
        Some(public) => Some(Acceptor::open("listeners.public.tls", &public.tls).await?),
        None => None,
    };
    let verifier = match &config.jwt {
        Some(jwt) => Some(Verifier::new(jwt, key_client(jwt)?, &crews.background)?),
        None => None,
    };
    let nats = match &config.nats {
        Some(nats) => {
            let tls = match &nats.tls {
                Some(tls) => Some(nats_tls(tls)?),
                None => None,
            };
            Some(Nats::connect(nats, id, tls, &crews.background, &metrics).await?)
        }
        None => None,
    };
    let hold = Hold::new(config.limits.max_held.bytes());
    let plans = Arc::new(Plans::new(&config.plans));
    let doors = (0..).zip(&config.routes).map(|(place, route)| {
        let door =
            door(config, place, route, verifier.as_ref(), nats.as_ref(), &hold, &metrics, &plans)?;
        Ok((route.path.clone(), door))
    });
    let doorkeeper = Doorkeeper {
        routes: Routes::new(doors.collect::<Result<Vec<_>, ServerError>>()?),
        node: id,
        table: table.clone(),
        farewells: Farewells {
            tasks: crews.connections.clone(),
            places: Permits::new(config.limits.max_connections),
        },
        users: Users::new(),
        metrics: metrics.clone(),
    };
    doorkeeper.declare_results();
    metrics.declare_limits(&Limited::LIMITS, &Limited::ACTIONS);
    let edge = Arc::new(Edge {
        doorkeeper,
        places: Permits::new(config.limits.max_connections),
        waiting: Permits::new(WAITING),
        limits: config.limits,
        console: config.listeners.console,
        metrics: metrics.clone(),
        tasks: crews.doors.clone(),
    });
    let admin = Arc::new(Admin {
        metrics: metrics.clone(),
        nats: nats.clone(),
        draining: crews.draining.clone(),
        places: Permits::new(OPERATORS),
        tasks: crews.background.clone(),
    });
    Ok(Parts { id, edge, admin, table, nats, acceptor, verifier, metrics })
}

/// One route, ready for work.
#[expect(clippy::too_many_arguments, reason = "what the doors of a node share")]
fn door(
    config: &Config,
    place: usize,
    route: &Route,
    verifier: Option<&Verifier>,
    nats: Option<&Nats>,
    hold: &Hold,
    metrics: &Metrics,
    plans: &Arc<Plans>,
) -> Result<Door, ServerError> {
    let needs = |needs| ServerError::Route { route: place, needs };
    let route = Arc::new(route.clone());
    let relay = Relay::new(&route, nats, hold, metrics)?;
    let gate = match route.auth {
        AuthMode::None => Gate::Open,
        AuthMode::Connect => Gate::Connect,
        AuthMode::Certificate => Gate::Certificate,
        AuthMode::Jwt => match (verifier, &config.jwt) {
            (Some(verifier), Some(jwt)) => {
                Gate::Jwt { verifier: verifier.clone(), sources: jwt.sources.clone() }
            }
            _ => return Err(needs("auth: jwt needs a jwt section")),
        },
    };
    Ok(Door::new(route, relay, gate, config.heartbeat, Arc::clone(plans)))
}

/// The client that fetches a key set, where there is one to fetch.
pub(crate) fn key_client(jwt: &Jwt) -> Result<Option<Client>, ServerError> {
    let Some(jwks) = jwt.jwks.as_ref().filter(|jwks| jwks.is_url()) else { return Ok(None) };
    Ok(Some(Client::new(tls::client_config(jwks.ca.as_deref(), None)?)))
}

/// The client side of TLS to NATS.
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

/// The longest that an event of any route may take until it has an outcome.
pub(super) fn longest_event(config: &Config) -> Duration {
    let longest = |route: &Route| route.hold.get() + route.request_timeout.get();
    config.routes.iter().map(longest).max().unwrap_or_default()
}

/// The longest that a closing handshake may take.
pub(super) fn longest_close(config: &Config) -> Duration {
    let own = config.routes.iter().filter_map(|route| route.heartbeat);
    let timeout = |heartbeat: crate::config::Heartbeat| heartbeat.close_timeout.get();
    // Once for the peer's close frame, once for the end of its stream.
    2 * own.chain([config.heartbeat]).map(timeout).max().unwrap_or_default()
}
