//! The stop of a node, in an order that loses nothing: balancers first, then newcomers, then the
//! connections, evenly, so that the nodes that take them over are not hit by all at once.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::{Node, ServerError};
use crate::close::{Cause, Close};
use crate::hub::Handle;

/// Time for what is still on its way to NATS.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the log and the gauge say how far the drain is.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

impl Node {
    /// Stops the node.
    ///
    /// # Errors
    /// When connections or their last events were still there at the end of all deadlines.
    pub(super) async fn drain(&self) -> Result<(), ServerError> {
        self.crews.draining.cancel();
        let lame_duck = self.shutdown.lame_duck.get();
        tracing::info!(
            connections = self.table.len(),
            lame_duck_s = lame_duck.as_secs_f64(),
            drain_s = self.shutdown.drain.get().as_secs_f64(),
            "draining"
        );
        sleep(lame_duck).await;
        self.crews.doors.stop();
        self.crews.connections.stop();
        let rest = self.longest_event + self.longest_close;
        let left = tokio::select! {
            () = self.everybody_left() => 0,
            () = async {
                self.part_all().await;
                sleep(rest).await;
            } => self.remaining(),
            never = self.report() => match never {},
        };
        self.metrics.drain_remaining(left);
        if let Some(nats) = &self.nats {
            nats.drain(Instant::now() + FLUSH_TIMEOUT).await;
        }
        self.crews.background.stop();
        tracing::info!(connections = left, "node stopped");
        if left == 0 { Ok(()) } else { Err(ServerError::Undrained(left)) }
    }

    /// Waits for the clients at the doors first: a handshake under way may still become a connection.
    async fn everybody_left(&self) {
        self.crews.doors.ended().await;
        self.crews.connections.ended().await;
    }

    /// Connections, those included whose last events are still being delivered.
    fn remaining(&self) -> usize {
        self.crews.connections.len()
    }

    /// Says how far the drain is, until it is dropped.
    async fn report(&self) -> Infallible {
        loop {
            self.metrics.drain_remaining(self.remaining());
            sleep(REPORT_INTERVAL).await;
            tracing::info!(connections = self.remaining(), "drain goes on");
        }
    }

    /// Wishes every connection to end, spread evenly over the drain time, idle ones first.
    async fn part_all(&self) {
        let mut handles = self.table.handles();
        handles.sort_by_cached_key(Handle::is_busy);
        let (start, drain) = (Instant::now(), self.shutdown.drain.get());
        let count = u32::try_from(handles.len()).unwrap_or(u32::MAX).max(1);
        for (place, handle) in (0u32..).zip(handles) {
            sleep_until(start + drain * place / count).await;
            handle.part(Close::of(Cause::Drain));
        }
    }
}
