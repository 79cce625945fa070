//! When to ping, when to give up, when a connection is idle or old. No clock of its own: every call
//! is told the time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::close::Cause;
use crate::config::Heartbeat as Settings;
use crate::task::jittered;

/// The timers of one connection's life.
#[derive(Debug)]
pub(super) struct Heartbeat {
    /// Shared by all connections of the route.
    settings: Arc<Settings>,
    /// Quiet time until a ping, jittered once, so that clients that came together do not stay in step.
    interval: Duration,
    /// When the connection is too old.
    ends: Option<Instant>,
    /// When the last byte came in.
    heard: Instant,
    /// When the last message went in or out.
    used: Instant,
    /// Since when a message is coming in; none between messages. Pauses do not count.
    begun: Option<Instant>,
    /// Since when the client is not read; none while it is.
    paused: Option<Instant>,
    /// A deadline that has passed, and until when it is given a last look.
    look: Option<(Instant, Instant)>,
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
    /// Whether the client was not read for a while since, which is no part of a round trip.
    was_paused: bool,
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
pub(super) const STARVED: Duration = Duration::from_secs(1);
/// Timers may fire before bytes are seen that came earlier, so nobody is given up at first sight.
const LOOK: Duration = Duration::from_millis(100);

impl Heartbeat {
    pub(super) fn new(settings: Arc<Settings>, now: Instant) -> Self {
        Self {
            interval: jittered(settings.ping_interval.get()),
            ends: settings.max_age.map(|p| now + jittered(p.get())),
            heard: now,
            used: now,
            begun: None,
            paused: None,
            look: None,
            ping: None,
            pings: 0,
            last_rtt: None,
            settings,
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Any byte came in: the client lives.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        if let Some(ping) = &mut self.ping {
            ping.answered = true;
        }
    }

    /// Whether the bytes so far leave a message unfinished.
    pub(super) fn partial(&mut self, is_partial: bool, now: Instant) {
        self.begun = is_partial.then(|| self.begun.unwrap_or(now));
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
        let ping = self.ping.take().filter(|ping| !ping.was_paused)?;
        let rtt = now - ping.sent;
        self.last_rtt = Some(rtt);
        Some(rtt)
    }

    pub(super) fn last_rtt(&self) -> Option<Duration> {
        self.last_rtt
    }

    /// The client is not read from now on.
    pub(super) fn paused(&mut self, now: Instant) {
        self.paused = Some(now);
        if let Some(ping) = &mut self.ping {
            ping.was_paused = true;
        }
    }

    /// Reading goes on after a pause in which the client's bytes waited unread.
    pub(super) fn resumed(&mut self, now: Instant) {
        let pause = self.paused.take().map_or(Duration::ZERO, |since| now - since);
        (self.heard, self.used) = (now, now);
        self.begun = self.begun.map(|begun| begun + pause);
        if let Some(ping) = &mut self.ping {
            ping.due = now + self.settings.pong_timeout.get();
        }
    }

    /// When [`beat`](Self::beat) is next worth a call.
    pub(super) fn due(&self) -> Option<Instant> {
        let deadline = self.deadline().map(|(deadline, _)| match self.look {
            Some((passed, until)) if passed == deadline => until,
            _ => deadline,
        });
        [deadline, self.next_ping(), self.ends].into_iter().flatten().min()
    }

    /// What is due at `now`.
    pub(super) fn beat(&mut self, now: Instant) -> Beat {
        if self.ends.is_some_and(|ends| ends <= now) {
            return Beat::End(Cause::MaxAge);
        }
        if let Some((deadline, cause)) = self.deadline()
            && self.is_over(deadline, now)
        {
            return Beat::End(cause);
        }
        if self.next_ping().is_none_or(|next| now < next) {
            return Beat::Wait;
        }
        self.pings = self.pings.wrapping_add(1);
        let (due, was_paused) = (now + self.settings.pong_timeout.get(), self.paused.is_some());
        self.ping = Some(Ping { sent: now, due, answered: false, was_paused });
        Beat::Ping(Bytes::copy_from_slice(&self.pings.to_be_bytes()))
    }

    /// When the client is pinged next. A client that is not read is pinged all the same, lest networks
    /// forget the flow; nobody holds its silence against it.
    fn next_ping(&self) -> Option<Instant> {
        match &self.ping {
            Some(ping) if !ping.answered && self.paused.is_none() => None,
            Some(ping) if !ping.answered => Some(ping.sent.max(self.heard) + self.interval),
            _ => Some(self.heard + self.interval),
        }
    }

    /// The next time at which the client's silence or slowness ends the connection.
    /// None while it is not read.
    fn deadline(&self) -> Option<(Instant, Cause)> {
        if self.paused.is_some() {
            return None;
        }
        let pong = self.ping.as_ref().filter(|ping| !ping.answered).map(|ping| ping.due);
        let idle = self.settings.idle_timeout.map(|timeout| self.used + timeout.get());
        let message = self.begun.map(|begun| begun + self.settings.message_timeout.get());
        let all =
            [(pong, Cause::PongTimeout), (idle, Cause::Idle), (message, Cause::MessageTimeout)];
        all.into_iter().filter_map(|(at, cause)| Some((at?, cause))).min_by_key(|(at, _)| *at)
    }

    /// Whether `deadline` has passed and a last look after it found nothing. A look that comes late
    /// itself is none: the node got no time in between either.
    fn is_over(&mut self, deadline: Instant, now: Instant) -> bool {
        if now < deadline {
            return false;
        }
        let looked = self.look.filter(|(passed, _)| *passed == deadline);
        let (due, is_first) = looked.map_or((deadline, true), |(_, until)| (until, false));
        if now < due {
            return false;
        }
        let is_starved = now - due >= STARVED;
        if is_first || is_starved {
            let grace = if is_starved { self.settings.pong_timeout.get() } else { LOOK };
            self.look = Some((deadline, now + grace));
            return false;
        }
        true
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
        Heartbeat { interval: Duration::from_secs(20), ..Heartbeat::new(Arc::new(settings), now) }
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_silent_client_is_pinged_and_then_given_up() {
        let start = Instant::now();
        let mut heart = heartbeat(start);
        assert_eq!(heart.due(), Some(start + secs(20)));
        assert_eq!(heart.beat(start + secs(19)), Beat::Wait);
        assert!(matches!(heart.beat(start + secs(20)), Beat::Ping(_)));
        assert_eq!(heart.due(), Some(start + secs(30)));
        assert_eq!(heart.beat(start + secs(29)), Beat::Wait);
        assert_eq!(heart.beat(start + secs(30)), Beat::Wait);
        assert_eq!(heart.due(), Some(start + secs(30) + LOOK));
        assert_eq!(heart.beat(start + secs(30) + LOOK), Beat::End(Cause::PongTimeout));
    }

    #[test]
    fn any_byte_is_life_and_the_pong_is_the_round_trip() {
        let start = Instant::now();
        let mut heart = heartbeat(start);
        let Beat::Ping(payload) = heart.beat(start + secs(20)) else { panic!("no ping") };
        heart.heard(start + secs(21));
        assert_eq!(heart.beat(start + secs(30)), Beat::Wait);
        assert_eq!(heart.due(), Some(start + secs(41)));
        assert_eq!(heart.pong(b"unasked", start + secs(22)), None);
        assert_eq!(heart.pong(&payload, start + secs(22)), Some(secs(2)));
        assert_eq!(heart.pong(&payload, start + secs(23)), None);
        assert_eq!(heart.last_rtt(), Some(secs(2)));
    }

    #[test]
    fn silence_is_not_held_against_a_client_that_is_not_read() {
        let start = Instant::now();
        let mut heart = heartbeat(start);
        assert!(matches!(heart.beat(start + secs(20)), Beat::Ping(_)));
        heart.paused(start + secs(21));
        assert_eq!(heart.due(), Some(start + secs(40)), "the flow is kept alive");
        let Beat::Ping(payload) = heart.beat(start + secs(40)) else { panic!("no ping") };
        assert!(matches!(heart.beat(start + secs(299)), Beat::Ping(_)));
        assert_eq!(heart.pong(&payload, start + secs(299)), None);
        heart.resumed(start + secs(300));
        assert_eq!(heart.due(), Some(start + secs(310)));
        assert_eq!(heart.beat(start + secs(310)), Beat::Wait);
        assert_eq!(heart.beat(start + secs(310) + LOOK), Beat::End(Cause::PongTimeout));
    }

    #[test]
    fn a_node_that_was_stopped_gives_everybody_another_chance() {
        let start = Instant::now();
        let mut heart = heartbeat(start);
        assert!(matches!(heart.beat(start + secs(20)), Beat::Ping(_)));
        assert_eq!(heart.beat(start + secs(90)), Beat::Wait);
        assert_eq!(heart.due(), Some(start + secs(100)));
        assert_eq!(heart.beat(start + secs(150)), Beat::Wait, "stopped again");
        assert_eq!(heart.beat(start + secs(160)), Beat::End(Cause::PongTimeout));
    }

    #[test]
    fn a_message_that_trickles_in_has_its_time() {
        let start = Instant::now();
        let mut heart = heartbeat(start);
        heart.partial(true, start + secs(5));
        for second in 6..35 {
            heart.heard(start + secs(second));
            heart.partial(true, start + secs(second));
            assert_eq!(heart.beat(start + secs(second)), Beat::Wait);
        }
        heart.heard(start + secs(35));
        assert_eq!(heart.beat(start + secs(35)), Beat::Wait);
        assert_eq!(heart.beat(start + secs(35) + LOOK), Beat::End(Cause::MessageTimeout));
        heart.partial(false, start + secs(36));
        heart.partial(true, start + secs(37));
        heart.paused(start + secs(38));
        heart.resumed(start + secs(48));
        assert_eq!(heart.begun, Some(start + secs(47)), "a pause does not count");
    }

    #[test]
    fn idle_and_age_end_a_connection_that_answers_pings() {
        let start = Instant::now();
        let settings = Settings {
            idle_timeout: Some(Period::secs(60)),
            max_age: Some(Period::secs(1000)),
            ..Settings::default()
        };
        let mut heart = Heartbeat::new(Arc::new(settings), start);
        heart.heard(start + secs(59));
        assert_eq!(heart.beat(start + secs(60)), Beat::Wait);
        assert_eq!(heart.beat(start + secs(60) + LOOK), Beat::End(Cause::Idle));
        heart.used(start + secs(899));
        heart.heard(start + secs(899));
        assert_eq!(heart.beat(start + secs(899)), Beat::Wait);
        assert_eq!(heart.beat(start + secs(1000)), Beat::End(Cause::MaxAge));
    }
}
