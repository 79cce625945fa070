//! The end of a connection: the socket is left in the right order, the end is said once in the log,
//! and the backend hears of it after all its other events.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::driver::{Driver, Exit};
use super::effect::{Effects, Input};
use super::machine::Machine;
use super::progress::Progress;
use super::requests::{Answered, Requests};
use super::stats::Stats;
use crate::close::{Cause, Close};
use crate::cluster::{Entry, Farewells};
use crate::config::EventKind;
use crate::event::{Ended, Event, EventBody, Peer, Trace};
use crate::relay::Relay;

/// Leaves the socket and says how the connection ended. What comes back is what is left to do: the
/// last events, which need neither the socket nor its place among the open connections.
pub(super) async fn leave<S: Progress>(mut driver: Driver<S>, exit: Exit) -> LastEvents {
    let close_timeout = driver.machine.close_timeout();
    let answered = leave_socket(&mut driver, exit, close_timeout).await;
    let close = driver.machine.closed().cloned().unwrap_or(Close::of(Cause::Panic));
    let duration = driver.stats.since.elapsed();
    driver.relay.metrics().closed(close.code, close.cause, duration.as_secs_f64());
    let rtt = driver.machine.last_rtt();
    driver.mailbox.abandon();
    driver.account_for_outbox();
    log(&driver.peer, &close, duration, Some(&driver.stats), rtt);
    LastEvents {
        peer: driver.peer,
        relay: driver.relay,
        trace: driver.trace,
        machine: driver.machine,
        requests: driver.requests,
        answered,
        ended: Ended { close, duration },
    }
}

/// Events that are at the backend go on meanwhile, because others may wait behind them: their outcomes.
async fn leave_socket<S: Progress>(
    driver: &mut Driver<S>,
    exit: Exit,
    close_timeout: Duration,
) -> Vec<Answered> {
    let Driver { socket, requests, .. } = driver;
    let mut answered = Vec::new();
    let leaving = async {
        match exit {
            Exit::HangUp => socket.io_mut().shutdown().await,
            Exit::Linger => linger(socket.io_mut()).await,
            Exit::Abort => Ok(()),
        }
    };
    let mut leaving = pin!(timeout(close_timeout, leaving));
    let left = AssertUnwindSafe(poll_fn(|cx| {
        while let Poll::Ready(outcome) = requests.poll_next(cx) {
            answered.push(outcome);
        }
        leaving.as_mut().poll(cx).map(drop)
    }));
    // The connection is accounted for whatever happens here.
    if left.catch_unwind().await.is_err() {
        driver.relay.metrics().panicked();
        driver.requests = Requests::default();
    }
    answered
}

/// What a connection that is gone still has to tell the backend.
#[derive(Debug)]
pub(super) struct LastEvents {
    peer: Arc<Peer>,
    relay: Relay,
    trace: Trace,
    machine: Machine,
    requests: Requests,
    answered: Vec<Answered>,
    ended: Ended,
}

impl LastEvents {
    /// Waits for the events that are at the backend, then delivers `disconnected`.
    pub(super) async fn deliver(mut self, farewells: &Farewells, entry: Option<Entry>) {
        for answered in std::mem::take(&mut self.answered) {
            self.take(answered);
        }
        while let Some(answered) = self.requests.next().await {
            self.take(answered);
        }
        if !self.peer.route.wants(EventKind::Disconnected) {
            return;
        }
        let event = Event {
            sequence: self.machine.last_sequence(),
            time: SystemTime::now(),
            state: self.machine.state().cloned(),
            trace: self.trace,
            written: None,
            body: EventBody::Disconnected(Box::new(self.ended)),
            peer: self.peer,
        };
        farewells.deliver(&self.relay, &event, entry).await;
    }

    /// An outcome may still change the state that `disconnected` carries.
    fn take(&mut self, (kind, sequence, outcome): Answered) {
        let input = Input::Outcome { kind, sequence, outcome };
        self.machine.on(input, Instant::now(), &mut Effects::new());
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

/// The one line of each ended connection. One that never opened has nothing to count.
pub(super) fn log(
    peer: &Peer,
    close: &Close,
    duration: Duration,
    stats: Option<&Stats>,
    rtt: Option<Duration>,
) {
    tracing::info!(
        connection = %peer.id,
        user = peer.user.as_ref().map(tracing::field::display),
        hub = %peer.route.hub,
        route = peer.route.name(),
        remote = %peer.remote,
        code = close.code,
        cause = close.cause.as_str(),
        duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        opened = stats.is_none().then_some(false),
        messages_in = stats.map(|stats| stats.inbound.messages),
        bytes_in = stats.map(|stats| stats.inbound.bytes),
        messages_out = stats.map(|stats| stats.outbound.messages),
        bytes_out = stats.map(|stats| stats.outbound.bytes),
        rtt_ms = rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        outbox_peak = stats.map(|stats| stats.outbox_peak),
        last_outcome = stats.map(|stats| stats.last_outcome),
        "connection ended"
    );
}
