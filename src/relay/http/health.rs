//! Whether a server is asked at all: after some failures in a row it is left alone, then asked once, and
//! once it answers, asked as before. What is asked anyway tells; a bridge also tries
//! whether a connection is taken, and asks nothing on it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::metrics::Circuits;
use crate::task::Backoff;

/// What is known of one server.
#[derive(Debug)]
pub(super) struct Health {
    /// For log lines: the server's host and port.
    name: String,
    circuits: Circuits,
    /// Told whenever it may not be asked any more.
    shut: watch::Sender<()>,
    /// Held for a few instructions, never across an await.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    circuit: Circuit,
    /// Pauses between the single requests while the circuit is open.
    pauses: Backoff,
    /// What the last request that failed came to.
    last: Failure,
    /// Requests that are there.
    pending: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Circuit {
    /// It is asked; so many of the last requests failed, without a success between.
    Closed { failures: u32 },
    /// It is not asked before this time.
    Open { until: Instant },
    /// It is asked once, and what comes of that decides.
    HalfOpen,
}

/// Leave to ask a server once. Dropped without a verdict, it was as if nobody had asked.
#[derive(Debug)]
pub(super) struct Pass {
    health: Arc<Health>,
    is_probe: bool,
}

/// How a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server took no connection.
    Unreachable,
    /// It took the request, and did not answer it.
    NoAnswer,
}

/// Failures in a row after which a server is left alone.
const TOO_MANY: u32 = 5;
/// Pauses between single requests to a server that does not answer. Each costs an event its outcome.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A server that takes no connections is asked so much sooner: that costs nothing, and one that starts
/// should be noticed well within the time that events are held.
const SOONER: u32 = 8;

impl Health {
    pub(super) fn new(name: &str, circuits: Circuits, shut: watch::Sender<()>) -> Self {
        let state = State {
            circuit: Circuit::Closed { failures: 0 },
            pauses: Backoff::new(PAUSE_FIRST, PAUSE_MAX),
            last: Failure::Unreachable,
            pending: 0,
        };
        Self { name: name.to_owned(), circuits, shut, state: Mutex::new(state) }
    }

    /// How many requests are there; none when the server may not be asked at `now`.
    pub(super) fn pending(&self, now: Instant) -> Option<usize> {
        let state = self.lock();
        state.may_ask(now).then_some(state.pending)
    }

    /// Whether it failed too often, and has not answered since.
    pub(super) fn is_left_alone(&self) -> bool {
        !matches!(self.lock().circuit, Circuit::Closed { .. })
    }

    /// Leave to ask it, if it may be asked at `now`.
    pub(super) fn pass(self: &Arc<Self>, now: Instant) -> Option<Pass> {
        let mut state = self.lock();
        if !state.may_ask(now) {
            return None;
        }
        let is_probe = matches!(state.circuit, Circuit::Open { .. });
        if is_probe {
            state.circuit = Circuit::HalfOpen;
            self.shut.send_replace(());
        }
        state.pending += 1;
        Some(Pass { health: Arc::clone(self), is_probe })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn may_ask(&self, now: Instant) -> bool {
        match self.circuit {
            Circuit::Closed { .. } => true,
            Circuit::Open { until } => now >= until,
            Circuit::HalfOpen => false,
        }
    }

    fn open(&mut self, now: Instant, failure: Failure) {
        let pause = self.pauses.delay();
        let pause = if failure == Failure::Unreachable { pause / SOONER } else { pause };
        self.circuit = Circuit::Open { until: now + pause };
    }
}

impl Pass {
    /// The server answered, whatever it said.
    pub(super) fn succeeded(self) {
        let health = Arc::clone(&self.health);
        let mut state = health.lock();
        let before = state.circuit;
        state.circuit = Circuit::Closed { failures: 0 };
        state.pauses.reset();
        drop(state);
        if !matches!(before, Circuit::Closed { .. }) {
            health.circuits.closed();
            tracing::info!(server = health.name, "backend answers again");
        }
    }

    /// The server took a connection, and was asked nothing: it is as good as an answer of one that took
    /// none before, and says nothing of one that did not answer.
    pub(super) fn connected(self) {
        let last = self.health.lock().last;
        if last == Failure::Unreachable {
            self.succeeded();
        }
    }

    /// The server did not answer.
    pub(super) fn failed(self, now: Instant, failure: Failure) {
        let health = Arc::clone(&self.health);
        let mut state = health.lock();
        state.last = failure;
        match state.circuit {
            Circuit::Closed { failures } if failures + 1 < TOO_MANY => {
                state.circuit = Circuit::Closed { failures: failures + 1 };
            }
            Circuit::Closed { .. } => {
                state.open(now, failure);
                drop(state);
                health.circuits.opened();
                health.shut.send_replace(());
                tracing::warn!(
                    server = health.name,
                    failures = TOO_MANY,
                    is_reached = failure == Failure::NoAnswer,
                    "backend does not answer and is left alone"
                );
            }
            Circuit::HalfOpen if self.is_probe => state.open(now, failure),
            // Asked before it was known to fail.
            Circuit::Open { .. } | Circuit::HalfOpen => {}
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.health.lock();
        state.pending -= 1;
        if self.is_probe && state.circuit == Circuit::HalfOpen {
            // The next one may ask instead.
            state.circuit = Circuit::Open { until: Instant::now() };
        }
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        if self.is_left_alone() {
            self.circuits.closed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn health(metrics: &Metrics) -> Arc<Health> {
        Arc::new(Health::new("a:80", metrics.circuits("app", "/ws"), watch::Sender::new(())))
    }

    fn fail(health: &Arc<Health>, now: Instant, times: usize) {
        for _ in 0..times {
            health.pass(now).unwrap().failed(now, Failure::NoAnswer);
        }
    }

    fn open(metrics: &Metrics) -> bool {
        let text = String::from_utf8(metrics.to_text()).unwrap();
        let line = text.lines().find(|l| l.starts_with("moorline_backend_circuits_open{")).unwrap();
        line.ends_with(" 1")
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_the_circuit_and_one_success_closes_it() {
        let (metrics, now) = (Metrics::new(), Instant::now());
        let health = health(&metrics);
        fail(&health, now, 4);
        health.pass(now).unwrap().succeeded();
        fail(&health, now, 4);
        assert!(health.pass(now).is_some() && !open(&metrics));
        fail(&health, now, 1);
        assert!(health.pass(now).is_none() && open(&metrics));

        let later = now + PAUSE_FIRST;
        let probe = health.pass(later).unwrap();
        assert!(health.pass(later).is_none(), "one at a time finds out");
        probe.failed(later, Failure::NoAnswer);
        assert!(health.pass(later + PAUSE_FIRST / 2).is_none(), "pauses grow");
        let later = later + 2 * PAUSE_FIRST;
        health.pass(later).unwrap().succeeded();
        assert!(!open(&metrics));
        fail(&health, later, 4);
        assert!(health.pass(later).is_some(), "counted anew");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_leaves_the_question_to_the_next() {
        let (metrics, now) = (Metrics::new(), Instant::now());
        let health = health(&metrics);
        fail(&health, now, 5);
        tokio::time::advance(PAUSE_FIRST).await;
        let now = Instant::now();
        drop(health.pass(now).unwrap());
        assert!(health.pass(now).is_some());
        assert_eq!(health.pending(now), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_to_what_was_asked_before_count_only_when_they_are_good() {
        let (metrics, now) = (Metrics::new(), Instant::now());
        let health = health(&metrics);
        let [bad, good] = [0; 2].map(|_| health.pass(now).unwrap());
        fail(&health, now, 5);
        let later = now + PAUSE_FIRST;
        let _probe = health.pass(later).unwrap();
        bad.failed(later, Failure::NoAnswer);
        assert!(health.pass(later).is_none());
        good.succeeded();
        assert!(health.pass(later).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_enough_for_what_took_none() {
        let (metrics, now) = (Metrics::new(), Instant::now());
        let health = health(&metrics);
        let mut shut = health.shut.subscribe();
        fail(&health, now, 5);
        assert!(shut.has_changed().unwrap());
        shut.mark_unchanged();
        let later = now + PAUSE_FIRST;
        health.pass(later).unwrap().connected();
        assert!(open(&metrics) && shut.has_changed().unwrap());
        tokio::time::advance(PAUSE_FIRST).await;
        health.pass(later).unwrap().failed(later, Failure::Unreachable);
        health.pass(later + PAUSE_FIRST).unwrap().connected();
        assert!(!open(&metrics));
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_no_connection_is_asked_sooner() {
        let (metrics, now) = (Metrics::new(), Instant::now());
        let health = health(&metrics);
        let mut at = now;
        for _ in 0..20 {
            health.pass(at).unwrap().failed(at, Failure::Unreachable);
            at += PAUSE_MAX / SOONER;
        }
        assert!(open(&metrics));
        drop(health);
        assert!(!open(&metrics), "it does not stay open without a backend");
    }
}
