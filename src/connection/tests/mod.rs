//! The machine by tables, and the whole connection in memory against a client that writes its frames
//! by hand.

mod client;
mod machine;
mod wishes;
mod wire;
mod limits;

use std::sync::Arc;

use crate::config::{AuthMode, Backend, Heartbeat, Route};

/// A route on which all that a test does not name is the default.
fn route(edit: impl FnOnce(&mut Route)) -> Arc<Route> {
    let mut route = Route::new("/ws", AuthMode::None);
    route.backend = Backend::Echo(true);
    edit(&mut route);
    Arc::new(route)
}

fn heartbeat() -> Heartbeat {
    Heartbeat::default()
}
