//! When to ping, when to give up, when a connection is idle or old. No clock of its own: every call
//! is told the time.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::close::Cause;
use crate::config::Heartbeat as Settings;

/// The timers of one connection's life.
#[derive(Debug)]
pub(super) struct Heartbeat {
    /// Quiet time until a ping, jittered once, so that clients that came together do not stay in step.
    interval: Duration,
    pong_timeout: Duration,
    idle_timeout: Option<Duration>,
    /// When the connection is too old.
    ends: Option<Instant>,
    /// When the last byte came in.
    heard: Instant,
    /// When the last message went in or out.
    used: Instant,
    /// The ping that has no answer yet.
    ping: Option<Ping>,
    pings: u32,
    last_rtt: Option<Duration>,
}

#[derive(Debug)]
struct Ping {
    sent: Instant,
    /// When silence is held against the client.
    due: Instant,
    /// Whether any byte came since; the pong itself is then only good for the round-trip time.
    answered: bool,
}

/// What the time demands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// Nothing yet.
    Wait,
    /// Send a ping with this payload.
    Ping(Bytes),
    /// End the connection.
    End(Cause),
}

/// A timer that fires this late says that the node was starved or stopped, not that the client is
/// gone: what the client sent meanwhile is not read yet.
const STARVED: Duration = Duration::from_secs(1);

impl Heartbeat {
    pub(super) fn new(settings: &Settings, now: Instant) -> Self {
        let jittered = |full: Duration| full.mul_f64(1.0 - 0.1 * rand::random::<f64>());
        Self {
            interval: jittered(settings.ping_interval.get()),
            pong_timeout: settings.pong_timeout.get(),
            idle_timeout: settings.idle_timeout.map(|p| p.get()),
            ends: settings.max_age.map(|p| now + jittered(p.get())),
            heard: now,
            used: now,
            ping: None,
            pings: 0,
            last_rtt: None,
        }
    }

    /// Any byte came in: the client lives.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        if let Some(ping) = &mut self.ping {
            ping.answered = true;
        }
    }

    /// A message went in or out.
    pub(super) fn used(&mut self, now: Instant) {
        self.used = now;
    }

    /// A pong came in: the round-trip time, if it answers the last ping (RFC 6455 section 5.5.3).
    pub(super) fn pong(&mut self, payload: &[u8], now: Instant) -> Option<Duration> {
        if payload != self.pings.to_be_bytes() {
            return None;
        }
        let rtt = now - self.ping.take()?.sent;
        self.last_rtt = Some(rtt);
        Some(rtt)
    }

    pub(super) fn last_rtt(&self) -> Option<Duration> {
        self.last_rtt
    }

    /// Reading goes on after a pause in which the client's bytes waited unread.
    pub(super) fn resumed(&mut self, now: Instant) {
        (self.heard, self.used) = (now, now);
        if let Some(ping) = &mut self.ping {
            ping.due = now + self.pong_timeout;
        }
    }

    /// When [`beat`](Self::beat) is next worth a call. Silence counts only while `reading`.
    pub(super) fn due(&self, reading: bool) -> Option<Instant> {
        if !reading {
            return self.ends;
        }
        let silence = match &self.ping {
            Some(ping) if !ping.answered => ping.due,
            _ => self.heard + self.interval,
        };
        let idle = self.idle_timeout.map(|timeout| self.used + timeout);
        [Some(silence), idle, self.ends].into_iter().flatten().min()
    }

    /// What is due at `now`.
    pub(super) fn beat(&mut self, reading: bool, now: Instant) -> Beat {
        if self.ends.is_some_and(|ends| ends <= now) {
            return Beat::End(Cause::MaxAge);
        }
        if !reading {
            return Beat::Wait;
        }
        if self.idle_timeout.is_some_and(|timeout| self.used + timeout <= now) {
            return Beat::End(Cause::Idle);
        }
        match &mut self.ping {
            Some(ping) if !ping.answered => {
                if now < ping.due {
                    return Beat::Wait;
                }
                if now - ping.due < STARVED {
                    return Beat::End(Cause::PongTimeout);
                }
                ping.due = now + self.pong_timeout;
                Beat::Wait
            }
            _ if now < self.heard + self.interval => Beat::Wait,
            _ => {
                self.pings = self.pings.wrapping_add(1);
                self.ping = Some(Ping { sent: now, due: now + self.pong_timeout, answered: false });
                Beat::Ping(Bytes::copy_from_slice(&self.pings.to_be_bytes()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Period;

    fn heartbeat(now: Instant) -> Heartbeat {
        let settings = Settings {
            ping_interval: Period::secs(20),
            pong_timeout: Period::secs(10),
            ..Settings::default()
        };
        Heartbeat { interval: Duration::from_secs(20), ..Heartbeat::new(&settings, now) }
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_silent_client_is_pinged_and_then_given_up() {
        let start = Instant::now();
        let mut heart = heartbeat(start);
        assert_eq!(heart.due(true), Some(start + secs(20)));
        assert_eq!(heart.beat(true, start + secs(19)), Beat::Wait);
        assert!(matches!(heart.beat(true, start + secs(20)), Beat::Ping(_)));
        assert_eq!(heart.due(true), Some(start + secs(30)));
        assert_eq!(heart.beat(true, start + secs(29)), Beat::Wait);
        assert_eq!(heart.beat(true, start + secs(30)), Beat::End(Cause::PongTimeout));
    }

    #[test]
    fn any_byte_is_life_and_the_pong_is_the_round_trip() {
        let start = Instant::now();
        let mut heart = heartbeat(start);
        let Beat::Ping(payload) = heart.beat(true, start + secs(20)) else { panic!("no ping") };
        heart.heard(start + secs(21));
        assert_eq!(heart.beat(true, start + secs(30)), Beat::Wait);
        assert_eq!(heart.due(true), Some(start + secs(41)));
        assert_eq!(heart.pong(b"unasked", start + secs(22)), None);
        assert_eq!(heart.pong(&payload, start + secs(22)), Some(secs(2)));
        assert_eq!(heart.pong(&payload, start + secs(23)), None);
        assert_eq!(heart.last_rtt(), Some(secs(2)));
    }

    #[test]
    fn silence_is_not_held_against_a_client_that_is_not_read() {
        let start = Instant::now();
        let mut heart = heartbeat(start);
        assert!(matches!(heart.beat(true, start + secs(20)), Beat::Ping(_)));
        assert_eq!(heart.due(false), None);
        assert_eq!(heart.beat(false, start + secs(300)), Beat::Wait);
        heart.resumed(start + secs(300));
        assert_eq!(heart.due(true), Some(start + secs(310)));
        assert_eq!(heart.beat(true, start + secs(310)), Beat::End(Cause::PongTimeout));
    }

    #[test]
    fn a_node_that_was_stopped_gives_everybody_another_chance() {
        let start = Instant::now();
        let mut heart = heartbeat(start);
        assert!(matches!(heart.beat(true, start + secs(20)), Beat::Ping(_)));
        assert_eq!(heart.beat(true, start + secs(90)), Beat::Wait);
        assert_eq!(heart.due(true), Some(start + secs(100)));
        assert_eq!(heart.beat(true, start + secs(100)), Beat::End(Cause::PongTimeout));
    }

    #[test]
    fn idle_and_age_end_a_connection_that_answers_pings() {
        let start = Instant::now();
        let settings = Settings {
            idle_timeout: Some(Period::secs(60)),
            max_age: Some(Period::secs(1000)),
            ..Settings::default()
        };
        let mut heart = Heartbeat::new(&settings, start);
        heart.heard(start + secs(59));
        assert_eq!(heart.beat(true, start + secs(60)), Beat::End(Cause::Idle));
        heart.used(start + secs(899));
        heart.heard(start + secs(899));
        assert_eq!(heart.beat(true, start + secs(899)), Beat::Wait);
        assert_eq!(heart.beat(true, start + secs(1000)), Beat::End(Cause::MaxAge));
    }
}
