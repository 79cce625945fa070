//! The stop of a node, in an order that loses nothing: balancers first, then newcomers, then the
//! connections, evenly, so that the nodes that take them over are not hit by all at once.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Node, ServerError};
use crate::admin::{Progress, Stage};
use crate::close::{Cause, Close};
use crate::hub::Handle;
use crate::task::Tasks;

/// When the stages of a drain end, at the latest.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    /// Newcomers are refused.
    lame_duck: Instant,
    /// Everybody was asked to leave.
    asked: Instant,
    /// Nobody is waited for any more.
    end: Instant,
}

/// Time for what is still on its way to NATS.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for what backends have asked for to be done.
const BACKENDS_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for the last writes to the registry, and to give the lease back.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for operators who wait for the end to read that it came.
const OPERATORS_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the log and the gauges say how far the drain is.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Ends the operators' door, once those who wait for the end have read that it came.
pub(super) async fn dismiss(operators: &Tasks) {
    operators.stop();
    let _ = timeout(OPERATORS_TIMEOUT, operators.ended()).await;
}

impl Node {
    /// Stops the node.
    ///
    /// # Errors
    /// When connections or their last events were still there at the end of all deadlines.
    pub(super) async fn drain(&self) -> Result<(), ServerError> {
        let shutdown = self.config.shutdown;
        let lame_duck = Instant::now() + shutdown.lame_duck.get();
        let asked = lame_duck + shutdown.drain.get();
        let end = asked + self.longest_events + self.longest_close;
        let schedule = Schedule { lame_duck, asked, end };
        let connections = self.remaining();
        self.tell(Stage::Draining, connections, schedule.eta(Instant::now(), connections));
        tracing::info!(
            connections,
            lame_duck_s = shutdown.lame_duck.get().as_secs_f64(),
            drain_s = shutdown.drain.get().as_secs_f64(),
            "draining"
        );
        let left = tokio::select! {
            left = self.leave(&schedule) => left,
            never = self.report(&schedule) => match never {},
        };
        self.tell(Stage::Over, left, Duration::ZERO);
        self.core.crews.backends.stop();
        let _ = timeout(BACKENDS_TIMEOUT, self.core.crews.backends.ended()).await;
        if !self.core.cluster.release(Instant::now() + RELEASE_TIMEOUT).await {
            tracing::warn!("not all of this node's state was given back; others will find out");
        }
        if let Some(nats) = &self.core.nats {
            nats.drain(Instant::now() + FLUSH_TIMEOUT).await;
        }
        dismiss(&self.core.crews.operators).await;
        self.core.crews.background.stop();
        tracing::info!(connections = left, "node stopped");
        if left == 0 { Ok(()) } else { Err(ServerError::Undrained(left)) }
    }

    /// Lets newcomers in until the balancers know, and then all connections end: how many have not at
    /// the end of the schedule.
    async fn leave(&self, schedule: &Schedule) -> usize {
        sleep_until(schedule.lame_duck).await;
        self.core.crews.doors.stop();
        self.core.crews.connections.stop();
        tokio::select! {
            () = self.everybody_left() => 0,
            () = async {
                self.part_all(schedule).await;
                sleep_until(schedule.end).await;
            } => self.remaining(),
        }
    }

    /// Waits for the clients at the doors first: a handshake under way may still become a connection.
    async fn everybody_left(&self) {
        self.core.crews.doors.ended().await;
        self.core.crews.connections.ended().await;
    }

    /// Connections, those included whose last events are still being delivered.
    fn remaining(&self) -> usize {
        self.core.crews.connections.len()
    }

    /// Says how far the drain is, until it is dropped.
    async fn report(&self, schedule: &Schedule) -> Infallible {
        loop {
            sleep(REPORT_INTERVAL).await;
            let connections = self.remaining();
            let eta = schedule.eta(Instant::now(), connections);
            self.tell(Stage::Draining, connections, eta);
            tracing::info!(connections, eta_s = eta.as_secs_f64(), "drain goes on");
        }
    }

    fn tell(&self, stage: Stage, connections: usize, eta: Duration) {
        let progress = Progress { stage, connections, eta };
        self.core.metrics.drain(connections, progress.eta_seconds());
        self.drain.tell(progress);
    }

    /// Wishes every connection to end, spread evenly over the drain time, idle ones first.
    async fn part_all(&self, schedule: &Schedule) {
        let mut handles = self.core.table.handles();
        handles.sort_by_cached_key(Handle::is_busy);
        let drain = schedule.asked - schedule.lame_duck;
        let count = u32::try_from(handles.len()).unwrap_or(u32::MAX).max(1);
        for (place, handle) in (0u32..).zip(handles) {
            sleep_until(schedule.lame_duck + drain * place / count).await;
            handle.part(Close::of(Cause::Drain));
        }
    }
}

impl Schedule {
    /// How long it takes about until all connections have left. Until everybody was asked, that is the
    /// time to it, for most leave at once. Who has not left then waits for a backend or does not
    /// answer, and may take all the time that there is.
    fn eta(&self, now: Instant, connections: usize) -> Duration {
        let until = match connections {
            0 => self.lame_duck,
            _ if now < self.asked => self.asked,
            _ => self.end,
        };
        until.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_is_left_is_that_of_the_stage() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let schedule = Schedule { lame_duck: at(5), asked: at(35), end: at(60) };
        for (now, connections, left) in
            [(0, 9, 35), (0, 0, 5), (6, 0, 0), (20, 9, 15), (35, 2, 25), (36, 0, 0), (61, 1, 0)]
        {
            let eta = schedule.eta(at(now), connections);
            assert_eq!(eta, Duration::from_secs(left), "{connections} at {now}");
        }
    }
}
