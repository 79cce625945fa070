//! A client that a backend has let in, or may have, and whose connection never opens: its end is told as
//! that of any other.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::ending;
use crate::close::Close;
use crate::cluster::{Entry, Farewells};
use crate::config::EventKind;
use crate::event::{Ended, Event, EventBody, Peer, State, Trace};
use crate::relay::Relay;

/// A client that is let in, until its connection opens. Dropped before that, it is logged, and the
/// backend that heard of it hears of its end, too.
#[derive(Debug)]
pub struct Unopened(Option<Box<Promise>>);

/// What a client was let in as.
#[derive(Debug)]
pub struct Promise {
    /// Who it is.
    pub peer: Arc<Peer>,
    /// Where its events go.
    pub relay: Relay,
    /// The handshake's trace.
    pub trace: Trace,
    /// The number of the last event that was sent for it: 1 after a connect event, else 0.
    pub sequence: u64,
    /// What the backend said to the connect event.
    pub state: Option<State>,
    /// Since when.
    pub since: Instant,
    /// How it ends if its connection never opens.
    pub close: Close,
    /// How its last event is delivered.
    pub farewells: Farewells,
    /// Its place in the registry, where its end must be told.
    pub entry: Option<Entry>,
}

impl Unopened {
    /// A client that is let in now.
    #[must_use]
    pub fn new(promise: Promise) -> Self {
        Self(Some(Box::new(promise)))
    }

    /// The client is here, or somebody else watches over it: its place in the registry is theirs.
    #[must_use]
    pub fn opened(mut self) -> Option<Entry> {
        self.0.take().and_then(|promise| promise.entry)
    }
}

impl Drop for Unopened {
    fn drop(&mut self) {
        // A process that is torn down has no runtime any more.
        if let Some(promise) = self.0.take()
            && Handle::try_current().is_ok()
        {
            let tasks = promise.farewells.tasks.clone();
            tasks.spawn("unopened connection", promise.end());
        }
    }
}

impl Promise {
    async fn end(self) {
        let (peer, close, duration) = (self.peer, self.close, self.since.elapsed());
        ending::log(&peer, &close, duration, None, None);
        // A backend that never heard of the client would not know whose end this is.
        let is_known = self.sequence > 0;
        if !is_known || !peer.route.wants(EventKind::Disconnected) {
            return;
        }
        let event = Event {
            peer,
            sequence: self.sequence + 1,
            time: SystemTime::now(),
            state: self.state,
            trace: self.trace,
            written: None,
            body: EventBody::Disconnected(Box::new(Ended { close, duration })),
        };
        let delivery = self.farewells.deliver(&self.relay, &event, self.entry);
        Box::pin(delivery).await;
    }
}
