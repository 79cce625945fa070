//! Where the events of a route go: each kind its own way, and messages that name an action theirs.

use std::sync::Arc;

use super::Fence;
use super::actions::Actions;
use super::hold::{Hold, Line};
use crate::config::{EventKind, Route};
use crate::event::EventBody;

/// The ways of a route's events, to places such as a backend has.
#[derive(Debug)]
pub(super) struct Ways<P> {
    connect: Way<P>,
    connected: Way<P>,
    message: Way<P>,
    /// The messages that have a place of their own.
    actions: Actions<Way<P>>,
    disconnected: Way<P>,
}

/// A place where events go, and those who wait to go there.
#[derive(Debug)]
pub(super) struct Way<P> {
    pub(super) place: P,
    pub(super) line: Arc<Line>,
    /// Whether the node may speak for the route's connections; none where nobody else would, and for
    /// the last event, which others tell as well.
    pub(super) fence: Option<Fence>,
}

impl<P> Ways<P> {
    /// The ways to the places of each kind of events and each action, which have different names.
    pub(super) fn new(
        route: &Route,
        hold: &Hold,
        fence: &Fence,
        place: impl Fn(EventKind, Option<&str>) -> (String, P),
    ) -> Self {
        let way = |kind, action: Option<&str>| {
            let (name, place) = place(kind, action);
            let is_fenced = kind != EventKind::Disconnected && route.wants(EventKind::Disconnected);
            let line = hold.line(&name, is_fenced);
            Way { place, line, fence: is_fenced.then(|| fence.clone()) }
        };
        Self {
            connect: way(EventKind::Connect, None),
            connected: way(EventKind::Connected, None),
            message: way(EventKind::Message, None),
            actions: Actions::new(&route.actions, |action| way(EventKind::Message, Some(action))),
            disconnected: way(EventKind::Disconnected, None),
        }
    }

    /// The way of an event with this body.
    pub(super) fn of(&self, body: &EventBody) -> &Way<P> {
        match body {
            EventBody::Connect(_) => &self.connect,
            EventBody::Connected => &self.connected,
            EventBody::Message(message) => self.actions.place(message).unwrap_or(&self.message),
            EventBody::Poll => &self.message,
            EventBody::Disconnected(_) => &self.disconnected,
        }
    }
}
