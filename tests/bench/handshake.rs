//! CPU of the relay's process for each TLS and WebSocket handshake, without resumption; moorline's
//! include a JWT.

use crate::Scale;
use crate::load;
use crate::report::{Report, Row, progress};
use crate::stage::{Side, Stage};

/// The first ones fault in code and memory, which later ones find there.
const WARM_UP: usize = 100;

pub(crate) async fn measure(
    stage: &Stage,
    scale: Scale,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut lines = Vec::new();
    for side in Side::BOTH {
        let relay = stage.start(side).await?;
        load::close(load::connect(&relay.wss, WARM_UP).await?).await?;
        lines.push((relay, Vec::new()));
    }
    for round in 1..=scale.rounds {
        for (relay, samples) in &mut lines {
            let before = relay.process.cpu()?;
            let clients = load::connect(&relay.wss, scale.handshakes).await?;
            let cpu = relay.process.cpu()?.saturating_sub(before);
            let each = cpu.as_secs_f64() * 1e6 / scale.handshakes as f64;
            progress(&format!("handshake {round}: {} {each:.0} us", relay.name));
            samples.push(each);
            // Their end is not part of the next round.
            load::close(clients).await?;
        }
    }
    let row = Row::new("CPU per TLS and WebSocket handshake", "us").budget(260.0);
    report.add(lines.into_iter().fold(row, |row, (relay, samples)| match relay.side {
        Side::Moorline => row.moorline(samples),
        Side::Other => row.other(samples),
    }));
    Ok(())
}
