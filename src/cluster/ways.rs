//! The ways to the backends of all routes, for telling of connections that were on another node.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::Route;
use crate::relay::Relay;

/// The routes in force, by hub and name.
#[derive(Debug, Default)]
pub(super) struct Ways(ArcSwap<HashMap<(String, String), Way>>);

/// A route and the way to its backend.
pub type Way = (Arc<Route>, Relay);

impl Ways {
    /// These routes are in force from now on.
    pub(super) fn set(&self, ways: impl IntoIterator<Item = Way>) {
        let name = |route: &Route| (route.hub.as_str().to_owned(), route.name().to_owned());
        let ways = ways.into_iter().map(|way| (name(&way.0), way));
        self.0.store(Arc::new(ways.collect()));
    }

    /// The route of this name.
    pub(super) fn find(&self, hub: &str, route: &str) -> Option<Way> {
        self.0.load().get(&(hub.to_owned(), route.to_owned())).cloned()
    }
}
