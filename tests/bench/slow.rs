//! Slowloris: how long honest handshakes take beside thousands of clients at one byte a second, and
//! when those are gone.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::Scale;
use crate::client::Framed;
use crate::hostile;
use crate::load::{self, Asker, LANES, Latencies};
use crate::report::{Report, Row, median, progress};
use crate::stage::{Door, Setting, Stage};

const SLOW: usize = 5_000;
/// Honest handshakes a second.
const RATE: u32 = 50;
/// Honest clients that take turns, so that one that waits holds up no other.
const HONEST: usize = 50;
/// From the first slow client until most have been closed.
const WINDOW: Duration = Duration::from_secs(15);
const WARM_UP: Duration = Duration::from_secs(1);
/// How long each stage may take: by default for TLS and the request head; a message has 30 s by
/// default, which would make the rounds long.
const DEADLINE: Duration = Duration::from_secs(10);
const SETTINGS: [Setting<'static>; 3] = [
    ("MOORLINE_LIMITS__TLS_TIMEOUT", "10s"),
    ("MOORLINE_LIMITS__HEAD_TIMEOUT", "10s"),
    ("MOORLINE_HEARTBEAT__MESSAGE_TIMEOUT", "10s"),
];
const QUANTILES: [(f64, &str, Option<f64>); 2] = [(0.5, "p50", None), (0.99, "p99", Some(250.0))];
/// What a slow client may live beyond its deadline, in seconds.
const OVERTIME: f64 = 10.0;

/// The record and handshake headers of a ClientHello of 512 bytes (RFC 8446 section 4.1.2), and the
/// beginning of it.
const HELLO: &[u8] =
    &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const HEAD: &[u8] = b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n";

pub(crate) async fn measure(
    stage: &Stage,
    scale: Scale,
    report: &mut Report,
) -> anyhow::Result<()> {
    let relay = stage.start_with(&SETTINGS).await?;
    let door = &relay.wss;
    let honest = (0..HONEST).map(|_| Asker::Newcomer(door.clone())).collect();
    let (mut honest, _) = load::open_loop(honest, RATE, WARM_UP).await?;
    let (mut alone, mut beside, mut overtime) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=scale.troubles {
        let (askers, latencies) = load::open_loop(honest, RATE, WINDOW).await?;
        tell(round, "alone", &latencies);
        alone.push(latencies);
        let (answered, longest) =
            tokio::try_join!(load::open_loop(askers, RATE, WINDOW), slow_clients(door))?;
        let latencies;
        (honest, latencies) = answered;
        tell(round, &format!("beside slow clients that lived {longest:.1?} at most"), &latencies);
        beside.push(latencies);
        overtime.push(longest.saturating_sub(DEADLINE).as_secs_f64());
    }
    let at = |rounds: &[Latencies], part| {
        rounds.iter().map(|latencies| latencies.quantile(part) / 1e3).collect::<Vec<_>>()
    };
    for (part, name, budget) in QUANTILES {
        let alone = median(&at(&alone, part)).unwrap_or_default();
        let what = format!("handshake {name}, 50/s, beside 5,000 slow clients (alone {alone:.1})");
        let row = Row::new(what, "ms").moorline(at(&beside, part));
        report.add(if let Some(most) = budget { row.budget(most) } else { row });
    }
    let row = Row::new("  slow clients lived beyond the deadline, at most", "s");
    report.add(row.moorline(overtime).budget(OVERTIME));
    Ok(())
}

/// As many slow clients as come in at `LANES` at a time, in equal parts in each stage that a
/// connection goes through. Returns how long the longest lived in its stage.
async fn slow_clients(door: &Door) -> anyhow::Result<Duration> {
    let lanes = Arc::new(Semaphore::new(LANES));
    let frame = Framed::text(Bytes::from_static(&[b'x'; 100])).bytes();
    let lives = (0..SLOW).map(|number| {
        let (door, lanes, frame) = (door.clone(), Arc::clone(&lanes), frame.clone());
        async move {
            let lane = lanes.acquire().await?;
            let (stream, bytes) = match number % 3 {
                0 => (door.without_tls().open().await?, Bytes::from_static(HELLO)),
                1 => (door.open().await?, Bytes::from_static(HEAD)),
                _ => (door.connect().await?.into_stream(), frame),
            };
            drop(lane);
            hostile::trickle(stream, &bytes).await
        }
    });
    Ok(load::all(lives).await?.into_iter().max().unwrap_or_default())
}

fn tell(round: usize, what: &str, latencies: &Latencies) {
    let [p50, p99] = QUANTILES.map(|(part, ..)| latencies.quantile(part) / 1e3);
    progress(&format!("slow {round}: handshakes {what}: p50 {p50:.1} ms, p99 {p99:.1} ms"));
}
