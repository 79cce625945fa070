//! How long a message takes there and back at a fixed rate, beside the same request without a relay.

use std::time::Duration;

use bytes::Bytes;

use crate::client::Framed;
use crate::load::{self, Asker, Latencies};
use crate::report::{Report, Row, median, progress};
use crate::stage::{Side, Stage};
use crate::{Scale, bare};

const CONNECTIONS: usize = 1_000;
const RATE: u32 = 2_000;
const PAYLOAD: usize = 128;
const WARM_UP: Duration = Duration::from_secs(1);
const QUANTILES: [(f64, &str); 3] = [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")];
const P99: f64 = 0.99;
/// What p99 over a relay may be above that of a direct request, in microseconds.
const ADDED: f64 = 1_000.0;

/// One way to the worker.
struct Line {
    name: &'static str,
    /// None for the direct way.
    side: Option<Side>,
    askers: Vec<Asker>,
    rounds: Vec<Latencies>,
}

pub(crate) async fn measure(
    stage: &Stage,
    scale: Scale,
    report: &mut Report,
) -> anyhow::Result<()> {
    let payload = Bytes::from(vec![b'x'; PAYLOAD]);
    let message = Framed::text(payload.clone());
    let mut relays = Vec::new();
    let mut lines = Vec::new();
    for side in Side::BOTH {
        let relay = stage.start(side).await?;
        let clients = load::connect(&relay.wss, CONNECTIONS).await?;
        let asker = |client| Asker::WebSocket(client, message.clone());
        let askers = clients.into_iter().map(asker).collect();
        lines.push(Line { name: relay.name, side: Some(side), askers, rounds: vec![] });
        relays.push(relay);
    }
    let client = Box::pin(async_nats::connect(&stage.nats)).await?;
    let direct = Asker::Nats { client, subject: bare::SUBJECT, payload };
    let askers = (0..CONNECTIONS).map(|_| direct.another()).collect::<Option<Vec<_>>>();
    let askers = askers.unwrap_or_default();
    lines.push(Line { name: "direct", side: None, askers, rounds: vec![] });
    for round in 0..=scale.rounds {
        for line in &mut lines {
            let window = if round == 0 { WARM_UP } else { scale.window };
            let askers = std::mem::take(&mut line.askers);
            let (askers, latencies) = load::open_loop(askers, RATE, window).await?;
            line.askers = askers;
            if round > 0 {
                let at = QUANTILES
                    .map(|(part, name)| format!("{name} {:.0} us", latencies.quantile(part)));
                progress(&format!("latency {round}: {} {}", line.name, at.join(", ")));
                line.rounds.push(latencies);
            }
        }
    }
    rows(&lines, report);
    Ok(())
}

fn rows(lines: &[Line], report: &mut Report) {
    let samples = |side: Option<Side>, part: f64| {
        let line = lines.iter().find(|line| line.side == side);
        let rounds = line.map(|line| line.rounds.as_slice()).unwrap_or_default();
        rounds.iter().map(|latencies| latencies.quantile(part)).collect::<Vec<_>>()
    };
    for (part, name) in QUANTILES {
        let direct = median(&samples(None, part)).unwrap_or_default();
        let what = format!("latency {name}, 1,000 connections, 2,000/s (direct {direct:.0})");
        let row = Row::new(what, "us");
        let [moorline, other] = Side::BOTH.map(|side| samples(Some(side), part));
        report.add(row.moorline(moorline).other(other));
    }
    let direct = samples(None, P99);
    let added = |side| {
        let pairs = samples(Some(side), P99).into_iter().zip(&direct);
        pairs.map(|(relay, direct)| relay - direct).collect::<Vec<_>>()
    };
    let row = Row::new("  p99 above a direct NATS request", "us");
    let [moorline, other] = Side::BOTH.map(added);
    report.add(row.moorline(moorline).other(other).budget(ADDED));
}
