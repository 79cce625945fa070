//! Pushes to groups: CPU of the relay's process for each message that a client got, and how long it was
//! on its way from the publisher. Every client counts: each message comes once, in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use tokio::time::{Instant, interval, timeout};

use crate::Scale;
use crate::client::Client;
use crate::load::{self, Latencies};
use crate::report::{Report, Row, progress};
use crate::stage::{Relay, Side, Stage};

/// Who is pushed to, and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    name: &'static str,
    groups: usize,
    /// Clients in each group.
    members: usize,
    /// Pushes to each group a second.
    rate: u32,
    /// Sides whose clients are there at once; those of both may be more than a process may have.
    turns: &'static [&'static [Side]],
}

/// One large group.
pub(crate) const LARGE: Plan =
    Plan { name: "fanout", groups: 1, members: 2_000, rate: 10, turns: &[&Side::BOTH] };
/// Many small groups, and as many deliveries.
pub(crate) const MANY: Plan = Plan {
    name: "groups",
    groups: 200,
    members: 50,
    rate: 2,
    turns: &[&[Side::Moorline], &[Side::Other]],
};
/// The same in small.
pub(crate) const FEW: Plan = Plan { groups: 40, rate: 10, ..MANY };

/// One relay, its clients, and what was measured.
struct Line {
    relay: Relay,
    listeners: Vec<Listener>,
    publisher: Publisher,
    samples: Samples,
}

/// What one relay showed in each round.
#[derive(Debug)]
struct Samples {
    side: Side,
    /// Microseconds of CPU for each delivery.
    cpu: Vec<f64>,
    latencies: Vec<Latencies>,
}

/// A client that says nothing.
struct Listener {
    client: Client,
    /// The number of the message that must come next, once there was one.
    next: Option<u64>,
}

/// Gives each message its number and the time.
struct Publisher {
    nats: async_nats::Client,
    plan: Plan,
    /// What time is counted from.
    epoch: Instant,
    /// The next message's number, in each group.
    number: u64,
}

const PAYLOAD: usize = 128;
/// Two numbers at the beginning of a payload, each in so many hex digits.
const DIGITS: usize = 16;
/// Each side is warm after this much, and every client is known to be in its group.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long the last deliveries may take.
const GRACE: Duration = Duration::from_secs(20);
/// What a delivery may cost, in microseconds and in multiples of the bare relay's.
const BUDGET: f64 = 9.0;
const RATIO: f64 = 0.85;
const QUANTILES: [(f64, &str); 2] = [(0.5, "p50"), (0.99, "p99")];

pub(crate) async fn measure(
    stage: &Stage,
    plan: Plan,
    scale: Scale,
    report: &mut Report,
) -> anyhow::Result<()> {
    let nats = Box::pin(async_nats::connect(&stage.nats)).await?;
    let mut samples = Vec::new();
    for sides in plan.turns {
        let mut lines = Vec::new();
        for side in *sides {
            lines.push(Box::pin(Line::start(stage, *side, plan, nats.clone())).await?);
        }
        for round in 1..=scale.rounds {
            for line in &mut lines {
                line.round(round, scale.window).await?;
            }
        }
        samples.extend(lines.into_iter().map(|line| line.samples));
    }
    rows(plan, &samples, report);
    Ok(())
}

impl Line {
    /// All clients are in their groups when this returns.
    async fn start(
        stage: &Stage,
        side: Side,
        plan: Plan,
        nats: async_nats::Client,
    ) -> anyhow::Result<Self> {
        let relay = stage.start(side).await?;
        let mut listeners = Vec::new();
        for group in 0..plan.groups {
            let door = relay.wss.at(&format!("/rooms/{}-{group}", relay.name));
            let clients = load::connect(&door, plan.members).await?;
            listeners.extend(clients.into_iter().map(|client| Listener { client, next: None }));
        }
        let samples = Samples { side, cpu: vec![], latencies: vec![] };
        let publisher = Publisher { nats, plan, epoch: Instant::now(), number: 0 };
        let mut line = Self { relay, listeners, publisher, samples };
        line.deliver(WARM_UP).await?;
        Ok(line)
    }

    async fn round(&mut self, number: usize, window: Duration) -> anyhow::Result<()> {
        let before = self.relay.process.cpu()?;
        let latencies = self.deliver(window).await?;
        let cpu = self.relay.process.cpu()?.saturating_sub(before);
        let cpu = cpu.as_secs_f64() * 1e6 / latencies.len() as f64;
        let at = QUANTILES.map(|(part, name)| format!("{name} {:.0} us", latencies.quantile(part)));
        let (name, relay, at) = (self.publisher.plan.name, self.relay.name, at.join(", "));
        progress(&format!("{name} {number}: {relay} {cpu:.2} us CPU, {at}"));
        self.samples.cpu.push(cpu);
        self.samples.latencies.push(latencies);
        Ok(())
    }

    /// Publishes for as long as `window`, and longer until every client has heard something; all have
    /// heard everything when this returns. How long each message took to each client.
    async fn deliver(&mut self, window: Duration) -> anyhow::Result<Latencies> {
        let deaf = self.listeners.iter().filter(|listener| listener.next.is_none()).count();
        let deaf = Arc::new(AtomicUsize::new(deaf));
        let epoch = self.publisher.epoch;
        let hearing = std::mem::take(&mut self.listeners).into_iter().map(|mut listener| {
            let deaf = Arc::clone(&deaf);
            async move {
                let heard = timeout(window + GRACE, listener.hear(epoch, &deaf)).await;
                Ok((listener, heard.context("a message is missing")??))
            }
        });
        let groups = format!("{}{}", self.relay.groups, self.relay.name);
        let publishing = self.publisher.publish(&groups, window, &deaf);
        let (heard, ()) = tokio::try_join!(load::all(hearing), publishing)?;
        let (listeners, latencies): (Vec<_>, Vec<_>) = heard.into_iter().unzip();
        self.listeners = listeners;
        Ok(Latencies::new(latencies.concat()))
    }
}

impl Publisher {
    /// Publishes to all groups in turn, whose subjects begin with `groups`.
    async fn publish(
        &mut self,
        groups: &str,
        window: Duration,
        deaf: &AtomicUsize,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + window;
        let mut turn = interval(Duration::from_secs(1) / self.plan.rate / self.plan.groups as u32);
        loop {
            let is_last = Instant::now() >= end && deaf.load(Ordering::Relaxed) == 0;
            for group in 0..self.plan.groups {
                turn.tick().await;
                let payload = self.payload(is_last);
                self.nats.publish(format!("{groups}-{group}"), payload).await?;
                self.nats.flush().await?;
            }
            self.number += 1;
            if is_last {
                return Ok(());
            }
        }
    }

    fn payload(&self, is_last: bool) -> Bytes {
        let (number, time, last) =
            (self.number, self.epoch.elapsed().as_nanos(), u8::from(is_last));
        format!("{number:016x}{time:016x}{last}{:x<width$}", "", width = PAYLOAD - 33).into()
    }
}

impl Listener {
    /// Hears one message after the other, up to the last.
    async fn hear(&mut self, epoch: Instant, deaf: &AtomicUsize) -> anyhow::Result<Vec<Duration>> {
        let mut latencies = Vec::new();
        loop {
            let payload = self.client.next().await?;
            let now = epoch.elapsed();
            ensure!(payload.len() == PAYLOAD, "a message of {} bytes", payload.len());
            let text = std::str::from_utf8(&payload)?;
            let (number, rest) = text.split_at(DIGITS);
            let (time, rest) = rest.split_at(DIGITS);
            let number = u64::from_str_radix(number, 16)?;
            match self.next {
                None => drop(deaf.fetch_sub(1, Ordering::Relaxed)),
                Some(next) => ensure!(number == next, "message {number} in place of {next}"),
            }
            self.next = Some(number + 1);
            latencies
                .push(now.saturating_sub(Duration::from_nanos(u64::from_str_radix(time, 16)?)));
            if rest.starts_with('1') {
                return Ok(latencies);
            }
        }
    }
}

fn rows(plan: Plan, samples: &[Samples], report: &mut Report) {
    let of = |side| samples.iter().find(|samples| samples.side == side);
    let [moorline, other] = Side::BOTH.map(of);
    let cpu = |samples: Option<&Samples>| samples.map(|s| s.cpu.clone()).unwrap_or_default();
    let what = format!(
        "CPU per delivery, {} x {} clients, {} x {}/s, {PAYLOAD} bytes",
        plan.groups, plan.members, plan.groups, plan.rate
    );
    let row = Row::new(what, "us").moorline(cpu(moorline)).other(cpu(other));
    report.add(row.budget(BUDGET).budget_ratio(RATIO));
    for (part, name) in QUANTILES {
        let at = |samples: Option<&Samples>| {
            let rounds = samples.map(|samples| samples.latencies.as_slice()).unwrap_or_default();
            rounds.iter().map(|latencies| latencies.quantile(part) / 1e3).collect::<Vec<_>>()
        };
        let row = Row::new(format!("  publisher to client, {name}"), "ms");
        report.add(row.moorline(at(moorline)).other(at(other)));
    }
}
