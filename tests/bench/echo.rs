//! CPU of the relay's process for each message that went to the worker and back, and how many go
//! through at all.

use std::time::Duration;

use bytes::Bytes;

use crate::Scale;
use crate::client::{Client, Framed};
use crate::load;
use crate::report::{Report, Row, progress};
use crate::stage::{Relay, Side, Stage};

const CONNECTIONS: usize = 100;
const PAYLOAD: usize = 128;
const WARM_UP: Duration = Duration::from_secs(1);

/// One relay, its clients, and what was measured.
struct Line {
    relay: Relay,
    clients: Vec<Client>,
    cpu: Vec<f64>,
    rate: Vec<f64>,
}

pub(crate) async fn measure(
    stage: &Stage,
    scale: Scale,
    report: &mut Report,
) -> anyhow::Result<()> {
    let message = Framed::text(Bytes::from(vec![b'x'; PAYLOAD]));
    let mut lines = Vec::new();
    for side in Side::BOTH {
        let relay = stage.start(side).await?;
        let clients = load::connect(&relay.wss, CONNECTIONS).await?;
        let (clients, _) = load::closed_loop(clients, &message, WARM_UP).await?;
        lines.push(Line { relay, clients, cpu: vec![], rate: vec![] });
    }
    for round in 1..=scale.rounds {
        for line in &mut lines {
            let (cpu, rate) = line.round(&message, scale.window).await?;
            let name = line.relay.name;
            progress(&format!("echo {round}: {name} {cpu:.1} us, {rate:.0}/s"));
            line.cpu.push(cpu);
            line.rate.push(rate);
        }
    }
    let [moorline, other] = Side::BOTH.map(|side| lines.iter().find(|l| l.relay.side == side));
    let cpu = |line: Option<&Line>| line.map(|l| l.cpu.clone()).unwrap_or_default();
    let rate = |line: Option<&Line>| line.map(|l| l.rate.clone()).unwrap_or_default();
    let row = Row::new("CPU per echoed message, 100 connections, 128 bytes", "us");
    report.add(row.moorline(cpu(moorline)).other(cpu(other)).budget(18.0).budget_ratio(1.3));
    let row = Row::new("  echoed messages, closed loop", "1/s");
    report.add(row.moorline(rate(moorline)).other(rate(other)));
    Ok(())
}

impl Line {
    /// CPU for each echo in microseconds, and echoes a second.
    async fn round(&mut self, message: &Framed, window: Duration) -> anyhow::Result<(f64, f64)> {
        let before = self.relay.process.cpu()?;
        let clients = std::mem::take(&mut self.clients);
        let (clients, echoes) = load::closed_loop(clients, message, window).await?;
        let cpu = self.relay.process.cpu()?.saturating_sub(before);
        self.clients = clients;
        let echoes = echoes as f64;
        Ok((cpu.as_secs_f64() * 1e6 / echoes, echoes / window.as_secs_f64()))
    }
}
