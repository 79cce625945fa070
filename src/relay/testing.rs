//! Peers and events for tests.

use std::sync::Arc;
use std::time::SystemTime;

use async_nats::HeaderMap;

use crate::config::{AuthMode, Route};
use crate::event::{Event, EventBody, Peer, Trace};
use crate::id::{ConnectionId, HubName, NodeId, UserId};

/// A route with every default.
pub(crate) fn route(hub: &str) -> Route {
    let mut route: Route =
        serde_json::from_value(serde_json::json!({"path": "/ws", "auth": "none"})).unwrap();
    assert_eq!(route.auth, AuthMode::None);
    route.hub = HubName::try_from(hub.to_owned()).unwrap();
    route
}

/// A client of that hub.
pub(crate) fn peer(hub: &str, user: Option<&str>) -> Peer {
    Peer {
        id: ConnectionId::random(NodeId::random()),
        route: Arc::new(route(hub)),
        user: user.map(|user| UserId::new(user).unwrap()),
        token: None,
        path: "/ws/a b".into(),
        query: Box::default(),
        params: Box::default(),
        remote: "127.0.0.1:1".parse().unwrap(),
        subprotocol: Some("chat".into()),
        forwarded: Box::default(),
        since: SystemTime::UNIX_EPOCH,
        is_disowned: Default::default(),
    }
}

/// The event's headers as who subscribes reads them, each by itself.
pub(crate) fn on_the_wire(event: &Event) -> HeaderMap {
    let mut read = HeaderMap::new();
    for (name, values) in super::cloudevent::headers(event).unwrap().iter() {
        let text = format!("{name}: {}", values[0].as_str());
        for line in text.split("\r\n") {
            let (name, value) = line.split_once(':').unwrap();
            read.append(name, value.trim());
        }
    }
    read
}

/// The first event of that client.
pub(crate) fn event(peer: &Arc<Peer>, body: EventBody) -> Event {
    Event {
        peer: Arc::clone(peer),
        sequence: 1,
        time: SystemTime::UNIX_EPOCH,
        state: None,
        trace: Trace::start(),
        body,
        written: None,
    }
}
