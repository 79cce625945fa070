//! One connection's life, from the 101 to the last event about it.
//!
//! ```text
//!   client <-> wire (looks at frames) <-> socket (tungstenite) <-> driver <-> relay
//!                                                                    |
//!                                                          machine (what to do)
//! ```
//!
//! The machine is pure; wire, socket and driver are thin around it. Generic over the stream, so tests
//! run it in memory.

mod effect;
mod machine;
mod heartbeat;
mod timers;
mod utf8;
mod frames;
mod wire;
mod progress;
mod stream;
mod socket;
mod requests;
mod stats;
mod step;
mod driver;
mod inbound;
mod outbound;
mod ending;
mod never;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};

use crate::close::{Cause, Close};
use crate::cluster::{Entry, Farewells, Slot};
use crate::config::Heartbeat;
use crate::event::{Action, Peer, State, Trace};
use crate::hub::{Mailbox, Registered};
use crate::limits::{Meters, Seat};
use crate::relay::Relay;

use driver::Driver;
use machine::Machine;
use socket::Socket;

pub use never::{Promise, Unopened};
pub use progress::{Counted, Progress};
pub use stream::{Stream, Unwrap};

/// A client that the handshake let in.
#[derive(Debug)]
pub struct Accepted {
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
    /// What it wants done first.
    pub actions: Vec<Action>,
    /// When the token ends that let it in.
    pub expires: Option<Instant>,
    /// Ping, pong and age.
    pub heartbeat: Arc<Heartbeat>,
    /// Bytes of read buffer: 1 KiB above TLS, which has a buffer of its own, else 2 KiB.
    pub read_buffer: usize,
    /// What came right behind its handshake.
    pub early: Bytes,
    /// The limits that it meets.
    pub meters: Meters,
    /// The line to the connection.
    pub mailbox: Mailbox,
    /// Its place in its hub.
    pub registered: Registered,
    /// Its place among the open connections.
    pub seat: Seat,
    /// Its place in the registry, where its end must be told.
    pub entry: Option<Entry>,
    /// Its place among its user's connections.
    pub slot: Option<Box<Slot>>,
    /// How its last event is delivered.
    pub farewells: Farewells,
}

/// Runs a connection over `io` until it has ended and its last event is delivered.
///
/// The connection counts as open from this call on. What an idle connection keeps is moved into the
/// future once and stays there (the arguments of an async fn would be there twice); the parts of its
/// end are allocated when it ends.
pub fn run<S>(io: S, accepted: Accepted) -> impl Future<Output = ()> + Send
where
    S: Progress + Send,
{
    let Accepted { peer, relay, trace, heartbeat, meters, mailbox, registered, seat, .. } =
        accepted;
    let (farewells, entry, slot) = (accepted.farewells, accepted.entry, accepted.slot);
    relay.metrics().opened();
    // Another node may have taken it over before it was in the table, where it would have been found.
    let has_lost_slot = slot.as_ref().is_some_and(|slot| slot.is_lost());
    if has_lost_slot || entry.as_ref().is_some_and(Entry::is_lost) {
        mailbox.handle().cut(Close::with_code(Cause::NodeLost, Cause::Evicted.code()));
    }
    let machine = Machine::new(
        Arc::clone(&peer.route),
        heartbeat,
        accepted.sequence,
        accepted.state,
        accepted.expires,
        Instant::now(),
    );
    let (max_message, read_buffer) = (peer.route.max_message.bytes(), accepted.read_buffer);
    let socket = Socket::new(io, accepted.early, max_message, read_buffer);
    let mut driver = Driver::new(socket, machine, peer, relay, trace, mailbox, registered, meters);
    driver.begin(accepted.actions);
    async move {
        let exit = (&mut driver).await;
        let last = Box::pin(ending::leave(driver, exit)).await;
        drop((seat, slot));
        Box::pin(last.deliver(&farewells, entry)).await;
    }
}

/// Says why to a client that was let in only to hear that it may not come in.
pub async fn refuse<S>(io: S, code: u16, reason: &str, close_timeout: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut socket = Socket::new(io, Bytes::new(), REFUSED_MAX_MESSAGE, REFUSED_READ_BUFFER);
    let said = async {
        let close = poll_fn(|cx| Poll::Ready(socket.close(cx, code, reason)));
        if close.await.is_ok() && poll_fn(|cx| socket.poll_flush(cx)).await.is_ok() {
            let _ = ending::linger(socket.io_mut()).await;
        }
    };
    let _ = timeout(close_timeout, said).await;
}

/// A refused client's messages are never looked at.
const REFUSED_MAX_MESSAGE: usize = 125;
const REFUSED_READ_BUFFER: usize = 128;
