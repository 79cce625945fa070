//! Noisy neighbours: what ordinary clients notice of some that send far more than they may, and of
//! others that flood and never read.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use crate::Scale;
use crate::client::{Framed, Way};
use crate::hostile;
use crate::load::{self, Asker, Latencies};
use crate::process::Process;
use crate::report::{Report, Row, median, progress};
use crate::stage::{Setting, Stage};

const ORDINARY: usize = 890;
const NOISY: usize = 10;
const DEAF: usize = 100;
/// What the ordinary ones send in all, a second.
const RATE: u32 = 2_000;
const PAYLOAD: usize = 128;
/// What a noisy one sends a second: a hundred times what the plan allows.
const NOISE: u32 = 500;
/// The messages of a deaf one, which sends as many as the node takes.
const FLOOD: usize = 16 * 1024;
/// Between the beginnings of the deaf. The plan lets each send every 200 ms, of which this is no
/// divisor, so that they do not send in step.
const APART: Duration = Duration::from_millis(21);
/// Longer than the deaf should live.
const WINDOW: Duration = Duration::from_secs(10);
const WARM_UP: Duration = Duration::from_secs(1);
/// The node is rid of those who left, and the allocator gives back what was free for a second.
const SETTLE: Duration = Duration::from_secs(3);
const SAMPLE: Duration = Duration::from_millis(200);
/// By default a plan allows 1,000 messages a second, of which a hundredfold cannot be made here, and
/// a write may stand still for 10 s, before which there is the time in which it does not yet.
const SETTINGS: [Setting<'static>; 2] = [
    ("MOORLINE_PLANS__DEFAULT__CONNECTION__INBOUND__MESSAGES", "{per_second: 5, burst: 5}"),
    ("MOORLINE_HEARTBEAT__WRITE_TIMEOUT", "5s"),
];
const QUANTILES: [(f64, &str); 2] = [(0.5, "p50"), (0.99, "p99")];
const P99: f64 = 0.99;
/// What p99 may be, in multiples of the undisturbed one.
const RATIO: f64 = 1.3;
/// When the last deaf client is to be closed, in seconds.
const CLOSED: f64 = 10.0;
/// What the outboxes of the deaf may hold, in MiB: each 1 MiB by default.
const OUTBOXES: f64 = DEAF as f64;
const MIB: f64 = 1024.0 * 1024.0;

/// What the disturbed rounds showed beside latencies.
#[derive(Debug, Default)]
struct Trouble {
    /// Until the last deaf client was closed, in seconds.
    closed: Vec<f64>,
    /// Memory above that of the undisturbed node, at most, in MiB.
    grown: Vec<f64>,
}

pub(crate) async fn measure(
    stage: &Stage,
    scale: Scale,
    report: &mut Report,
) -> anyhow::Result<()> {
    let relay = stage.start_with(&SETTINGS).await?;
    let door = &relay.wss;
    let message = Framed::text(Bytes::from(vec![b'x'; PAYLOAD]));
    let flood = Framed::text(Bytes::from(vec![b'x'; FLOOD]));
    let clients = load::connect(door, ORDINARY).await?;
    let askers = clients.into_iter().map(|client| Asker::WebSocket(client, message.clone()));
    let (mut ordinary, _) = load::open_loop(askers.collect(), RATE, WARM_UP).await?;
    let (mut alone, mut beside, mut trouble) = (Vec::new(), Vec::new(), Trouble::default());
    for round in 1..=scale.troubles {
        let (askers, latencies) = load::open_loop(ordinary, RATE, WINDOW).await?;
        tell(round, "alone", &latencies);
        alone.push(latencies);

        let noisy = load::connect(door, NOISY).await?;
        // Over loopback the kernel would take some MiB of each before a write stands still.
        let deaf = load::connect(&door.by(Way::Narrow), DEAF).await?;
        let end = Instant::now() + WINDOW;
        let noisy = noisy
            .into_iter()
            .map(|client| hostile::chatter(client.into_stream(), message.clone(), NOISE, end));
        let deaf = (0..).zip(deaf).map(|(number, client)| {
            let flood = flood.clone();
            async move {
                sleep(number * APART).await;
                hostile::flood(client.into_stream(), flood).await
            }
        });
        let (answered, _, lives, grown) = tokio::try_join!(
            load::open_loop(askers, RATE, WINDOW),
            load::all(noisy),
            load::all(deaf),
            growth(&relay.process, end),
        )?;
        let latencies;
        (ordinary, latencies) = answered;
        let longest = lives.into_iter().max().unwrap_or_default().as_secs_f64();
        let what = format!("beside others, the deaf closed in {longest:.1} s, {grown:.1} MiB more");
        tell(round, &what, &latencies);
        beside.push(latencies);
        trouble.closed.push(longest);
        trouble.grown.push(grown);
        sleep(SETTLE).await;
    }
    rows(&alone, &beside, trouble, report);
    Ok(())
}

fn rows(alone: &[Latencies], beside: &[Latencies], trouble: Trouble, report: &mut Report) {
    for (part, name) in QUANTILES {
        let at = |rounds: &[Latencies]| rounds.iter().map(|l| l.quantile(part)).collect::<Vec<_>>();
        let alone = median(&at(alone)).unwrap_or_default();
        let what = format!(
            "latency {name}, {ORDINARY} clients beside {NOISY} noisy, {DEAF} deaf (alone {alone:.0})"
        );
        report.add(Row::new(what, "us").moorline(at(beside)));
    }
    let rounds = beside.iter().zip(alone);
    let ratios = rounds.map(|(beside, alone)| beside.quantile(P99) / alone.quantile(P99));
    let row = Row::new("  p99 beside the others / p99 alone", "x");
    report.add(row.moorline(ratios.collect::<Vec<_>>()).budget(RATIO));
    let row = Row::new("  until the last deaf client was closed", "s");
    report.add(row.moorline(trouble.closed).budget(CLOSED));
    let row = Row::new("  memory above alone, beside the bounds of the deaf's outboxes", "MiB");
    report.add(row.moorline(trouble.grown).budget(OUTBOXES));
}

/// How far a process grows until `end`, in MiB.
async fn growth(process: &Process, end: Instant) -> anyhow::Result<f64> {
    let before = process.resident()?;
    let mut peak = before;
    while Instant::now() < end {
        peak = peak.max(process.resident()?);
        sleep(SAMPLE).await;
    }
    Ok((peak - before) as f64 / MIB)
}

fn tell(round: usize, what: &str, latencies: &Latencies) {
    let [p50, p99] = QUANTILES.map(|(part, _)| latencies.quantile(part));
    progress(&format!("neighbours {round}: {what}: p50 {p50:.0} us, p99 {p99:.0} us"));
}
