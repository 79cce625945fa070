//! `make bench`: what a node costs, beside a bare relay in the same run.
//!
//! This process makes the load. moorline, the bare relay, a nats-server and an echo worker are processes
//! of their own, so that each one's CPU and memory are told apart. Nothing is asserted: machines are
//! noisy, and the table is for people.

mod bare;
mod worker;
mod process;
mod stage;
mod client;
mod load;
mod hostile;
mod memory;
mod echo;
mod latency;
mod handshake;
mod fanout;
mod passthrough;
mod grip;
#[path = "../services/pushpin.rs"]
mod pushpin;
mod server;
mod slow;
mod neighbours;
mod report;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, ValueEnum};

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use report::Report;
use stage::Stage;

/// The allocator of the moorline binary, so that the bare relay differs by its work alone.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measure moorline beside a bare relay.
#[derive(Debug, Parser)]
struct Arguments {
    /// Fewer connections, one round: about a minute
    #[arg(long)]
    quick: bool,
    /// Only this measure
    #[arg(long, value_enum)]
    only: Option<Measure>,
    /// Compare with this moorline binary instead of the bare relay
    #[arg(long)]
    against: Option<PathBuf>,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
    /// Be the bare relay
    #[arg(long, hide = true, requires_all = ["nats", "certificate", "key"])]
    bare: bool,
    /// Be the echo worker
    #[arg(long, hide = true, requires = "nats")]
    worker: bool,
    /// Be the HTTP server behind
    #[arg(long, hide = true)]
    upstream: bool,
    /// Be the service that speaks WebSocket-over-HTTP
    #[arg(long, hide = true)]
    grip_backend: bool,
    #[arg(long, hide = true)]
    nats: Option<String>,
    #[arg(long, hide = true)]
    certificate: Option<PathBuf>,
    #[arg(long, hide = true)]
    key: Option<PathBuf>,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// Memory and CPU of idle connections
    Idle,
    /// CPU per echoed message
    Echo,
    /// Latency at a fixed rate
    Latency,
    /// CPU per handshake
    Handshake,
    /// Pushes to one large group
    Fanout,
    /// Pushes to many small groups
    Groups,
    /// CPU per plain request to an HTTP server behind
    Passthrough,
    /// CPU per message by WebSocket-over-HTTP
    Grip,
    /// Handshakes beside clients at one byte a second
    Slow,
    /// Latency beside clients that send too much or read nothing
    Neighbours,
}

/// How much is done.
#[derive(Debug, Clone, Copy)]
struct Scale {
    /// Idle connections.
    idle: usize,
    /// How long they are watched. The whole one is a ping interval, so that each is pinged once.
    idle_window: Duration,
    /// Rounds of each measure that alternates between the two relays.
    rounds: usize,
    /// One round of echoes, or of messages at a fixed rate.
    window: Duration,
    /// Handshakes in a round.
    handshakes: usize,
    /// Many small groups.
    groups: fanout::Plan,
    /// Rounds of each measure that alternates between peace and trouble.
    troubles: usize,
}

const WHOLE: Scale = Scale {
    idle: 10_000,
    idle_window: Duration::from_secs(25),
    rounds: 5,
    window: Duration::from_secs(4),
    handshakes: 2_000,
    groups: fanout::MANY,
    troubles: 3,
};
const QUICK: Scale = Scale {
    idle: 2_000,
    idle_window: Duration::from_secs(5),
    rounds: 1,
    window: Duration::from_secs(4),
    handshakes: 1_000,
    groups: fanout::FEW,
    troubles: 1,
};

/// Whatever happens, the run ends.
const DEADLINE: Duration = Duration::from_secs(900);
/// Descriptors that are not idle connections.
const SPARE_DESCRIPTORS: usize = 500;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let descriptors = rlimit::increase_nofile_limit(u64::MAX)
        .context("the limit of file descriptors cannot be read")?;
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        anyhow::bail!("another crypto provider is installed already");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let Arguments { nats, certificate, key, .. } = arguments;
    let result = match (nats, certificate, key) {
        (Some(nats), Some(certificate), Some(key)) if arguments.bare => {
            runtime.block_on(bare::run(&nats, &certificate, &key))
        }
        (Some(nats), ..) if arguments.worker => runtime.block_on(worker::run(&nats)),
        _ if arguments.upstream => runtime.block_on(passthrough::upstream()),
        _ if arguments.grip_backend => runtime.block_on(grip::backend()),
        _ => {
            let mut scale = if arguments.quick { QUICK } else { WHOLE };
            let most = usize::try_from(descriptors)?.saturating_sub(SPARE_DESCRIPTORS);
            scale.idle = scale.idle.min(most);
            runtime.block_on(run(scale, arguments.only, arguments.against))
        }
    };
    runtime.shutdown_background();
    result
}

/// Measures until it is done, too late, or told to stop; in each case the other processes end first.
async fn run(scale: Scale, only: Option<Measure>, against: Option<PathBuf>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        measured = timeout(DEADLINE, Box::pin(measure(scale, only, against))) => {
            measured.context("the benchmark took too long")?
        }
        _ = terminate.recv() => anyhow::bail!("stopped"),
        _ = interrupt.recv() => anyhow::bail!("stopped"),
    }
}

async fn measure(
    scale: Scale,
    only: Option<Measure>,
    against: Option<PathBuf>,
) -> anyhow::Result<()> {
    let stage = Stage::set(against).await?;
    let mut report = Report::new(stage.other());
    let wanted = |measure| only.is_none_or(|only| only == measure);
    if wanted(Measure::Echo) {
        echo::measure(&stage, scale, &mut report).await.context("echo")?;
    }
    if wanted(Measure::Latency) {
        latency::measure(&stage, scale, &mut report).await.context("latency")?;
    }
    if wanted(Measure::Handshake) {
        handshake::measure(&stage, scale, &mut report).await.context("handshake")?;
    }
    if wanted(Measure::Fanout) {
        Box::pin(fanout::measure(&stage, fanout::LARGE, scale, &mut report))
            .await
            .context("fanout")?;
    }
    if wanted(Measure::Groups) {
        Box::pin(fanout::measure(&stage, scale.groups, scale, &mut report))
            .await
            .context("groups")?;
    }
    if wanted(Measure::Passthrough) {
        let measured = Box::pin(passthrough::measure(&stage, scale, &mut report));
        measured.await.context("passthrough")?;
    }
    if wanted(Measure::Grip) {
        Box::pin(grip::measure(&stage, scale, &mut report)).await.context("grip")?;
    }
    if wanted(Measure::Slow) {
        Box::pin(slow::measure(&stage, scale, &mut report)).await.context("slow")?;
    }
    if wanted(Measure::Neighbours) {
        Box::pin(neighbours::measure(&stage, scale, &mut report)).await.context("neighbours")?;
    }
    if wanted(Measure::Idle) {
        Box::pin(memory::measure(&stage, scale, &mut report)).await.context("idle")?;
    }
    report.print()?;
    Ok(())
}

/// Any free port on loopback.
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
