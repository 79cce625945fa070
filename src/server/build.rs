//! Every part of a node from its config.

use std::sync::Arc;
use std::time::Duration;

use super::{Crews, ServerError};
use crate::admin::Admin;
use crate::auth::Verifier;
use crate::config::{AuthMode, Backend, Config, Jwt, Route};
use crate::edge::Edge;
use crate::handshake::{Door, Doorkeeper, Gate, Routes};
use crate::hub::Table;
use crate::id::NodeId;
use crate::limits::Permits;
use crate::metrics::Metrics;
use crate::nats::{Nats, Subjects};
use crate::relay::{Holding, Relay};
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
