//! The end of a connection: the socket is left in the right order, the end is said once in the log,
//! and the backend hears of it after all its other events.

use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use super::driver::{Driver, Exit};
use crate::close::{Cause, Close};
use crate::config::EventKind;
use crate::event::{Ended, Event, EventBody, Outcome};
use crate::relay::Relay;
use crate::task::Backoff;

/// How long `disconnected` is offered to the backend until it is given up.
const OFFERED_FOR: Duration = Duration::from_secs(300);

/// Leaves the socket and says how the connection ended. What comes back is what is left to do: the
/// last events, which need neither the socket nor its place among the open connections.
pub(super) async fn leave<S: AsyncRead + AsyncWrite + Unpin>(
    mut driver: Driver<S>,
    exit: Exit,
    close_timeout: Duration,
) -> LastEvents {
    let close = driver.machine.closed().cloned().unwrap_or(Close::of(Cause::Panic));
    if let Some(io) = driver.socket.io_mut() {
        let leaving = async {
            match exit {
                Exit::Abort => Ok(()),
                Exit::HangUp => io.shutdown().await,
                Exit::Linger => linger(io).await,
            }
        };
        let _ = timeout(close_timeout, leaving).await;
    }
    let duration = driver.stats.since.elapsed();
    driver.relay.metrics().closed(close.code, close.cause, duration.as_secs_f64());
    log(&driver, &close, duration);
    let ended = Ended { close, duration };
    let event = driver.peer.route.wants(EventKind::Disconnected).then(|| Event {
        peer: driver.peer,
        sequence: driver.machine.last_sequence(),
        time: SystemTime::now(),
        state: driver.machine.state().cloned(),
        trace: driver.trace,
        body: EventBody::Disconnected(ended),
    });
    LastEvents { requests: driver.requests, event, relay: driver.relay }
}

/// What a connection that is gone still has to tell the backend.
#[derive(Debug)]
pub(super) struct LastEvents {
    requests: super::requests::Requests,
    event: Option<Event>,
    relay: Relay,
}

impl LastEvents {
    /// Nothing at the backend, and this event, if any, to be delivered.
    pub(super) fn of(event: Option<Event>, relay: Relay) -> Self {
        Self { requests: super::requests::Requests::default(), event, relay }
    }

    /// Waits for the events that are at the backend, then offers `disconnected` until it is accepted.
    pub(super) async fn deliver(mut self) {
        while self.requests.next().await.is_some() {}
        let Some(event) = self.event else { return };
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(15));
        let give_up = Instant::now() + OFFERED_FOR;
        loop {
            if let Outcome::Replied(_) = self.relay.request(event.clone()).await {
                return;
            }
            let delay = backoff.delay();
            if Instant::now() + delay > give_up {
                tracing::warn!(event = %event.id(), "disconnected was not accepted in time");
                return;
            }
            sleep(delay).await;
        }
    }
}

/// Ends our side of the stream, then reads until the peer ends its own: closing while its bytes are
/// unread would reset the stream and take our close frame with it (RFC 6455 section 7.1.1).
pub(super) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(io: &mut S) -> std::io::Result<()> {
    io.shutdown().await?;
    let mut rest = [0; 256];
    let mut left: usize = 1 << 20;
    while left > 0 {
        match io.read(&mut rest).await? {
            0 => break,
            n => left = left.saturating_sub(n),
        }
    }
    Ok(())
}

/// The one line of each ended connection.
fn log<S>(driver: &Driver<S>, close: &Close, duration: Duration) {
    let (peer, stats) = (&driver.peer, &driver.stats);
    tracing::info!(
        connection = %peer.id,
        user = peer.user.as_ref().map(tracing::field::display),
        hub = %peer.route.hub,
        route = peer.route.name(),
        remote = %peer.remote,
        code = close.code,
        cause = close.cause.as_str(),
        duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        messages_in = stats.inbound.messages,
        bytes_in = stats.inbound.bytes,
        messages_out = stats.outbound.messages,
        bytes_out = stats.outbound.bytes,
        rtt_ms = driver.machine.last_rtt().map(|rtt| rtt.as_secs_f64() * 1000.0),
        last_outcome = stats.last_outcome,
        "connection ended"
    );
}
