//! What idle connections cost: memory when they are new, after one large message each, and after all
//! are gone; and CPU while nothing is said.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use tokio::time::sleep;

use crate::Scale;
use crate::client::Framed;
use crate::load;
use crate::report::{Report, Row, progress};
use crate::stage::{Door, Relay, Side, Stage};

/// The largest message that moorline takes unless told otherwise.
const LARGE: usize = 64 * 1024;
/// The allocator gives back what was free for a second.
const SETTLE: Duration = Duration::from_secs(3);
/// These come and go before the memory of no connection is taken, for code that runs is resident.
const WARM_UP: usize = 50;

/// What one relay's connections cost.
#[derive(Debug)]
struct Cost {
    /// KiB per connection.
    idle: f64,
    /// KiB per connection.
    after_large: f64,
    /// MiB in all.
    after_close: f64,
    /// Microseconds per connection and second.
    cpu: f64,
}

pub(crate) async fn measure(
    stage: &Stage,
    scale: Scale,
    report: &mut Report,
) -> anyhow::Result<()> {
    let relay = stage.start(Side::Moorline).await?;
    let moorline = cost(&relay, &relay.wss, scale, scale.idle_window).await?;
    drop(relay);
    let relay = stage.start(Side::Other).await?;
    // The bare relay sends no pings, so a short look is enough.
    let window = if stage.has_bare() { SETTLE } else { scale.idle_window };
    let other = cost(&relay, &relay.wss, scale, window).await?;
    drop(relay);
    let relay = stage.start(Side::Moorline).await?;
    let door = relay.ws.as_ref().context("moorline has a door without TLS")?;
    let plain = cost(&relay, door, scale, SETTLE).await?;

    let row = Row::new(format!("memory per idle wss connection, of {}", scale.idle), "KiB");
    report.add(row.moorline([moorline.idle]).other([other.idle]).budget(12.0));
    let row = Row::new("  after one message of 64 KiB each", "KiB");
    report.add(row.moorline([moorline.after_large]).other([other.after_large]).budget(12.0));
    let row = Row::new("  kept in all when all are closed", "MiB");
    report.add(row.moorline([moorline.after_close]).other([other.after_close]));
    let row = Row::new(format!("memory per idle ws connection, of {}", scale.idle), "KiB");
    report.add(row.moorline([plain.idle]).budget(6.0));
    let row = Row::new("  after one message of 64 KiB each", "KiB");
    report.add(row.moorline([plain.after_large]).budget(6.0));
    let row = Row::new("  kept in all when all are closed", "MiB");
    report.add(row.moorline([plain.after_close]));
    let row = Row::new("CPU per idle wss connection and second", "us");
    report.add(row.moorline([moorline.cpu]).other([other.cpu]).budget(1.5));
    Ok(())
}

async fn cost(relay: &Relay, door: &Door, scale: Scale, window: Duration) -> anyhow::Result<Cost> {
    let large = Framed::text(Bytes::from(vec![b'x'; LARGE]));
    load::close(load::connect(door, WARM_UP).await?).await?;
    sleep(SETTLE).await;
    let empty = relay.process.resident()?;
    let above = |resident: u64| (resident as f64 - empty as f64) / 1024.0;
    let per_connection = |resident| above(resident) / scale.idle as f64;

    let clients = load::connect(door, scale.idle).await?;
    let clients = load::idle(clients, SETTLE).await?;
    let idle = per_connection(relay.process.resident()?);
    let before = relay.process.cpu()?;
    let clients = load::idle(clients, window).await?;
    let busy = relay.process.cpu()?.saturating_sub(before);
    let cpu = busy.as_secs_f64() * 1e6 / scale.idle as f64 / window.as_secs_f64();

    let clients = load::echo_once(clients, &large).await?;
    let clients = load::idle(clients, SETTLE).await?;
    let after_large = per_connection(relay.process.resident()?);

    load::close(clients).await?;
    sleep(SETTLE).await;
    let after_close = above(relay.process.resident()?) / 1024.0;
    let cost = Cost { idle, after_large, after_close, cpu };
    progress(&format!("idle: {} {cost:.2?}", relay.name));
    Ok(cost)
}
