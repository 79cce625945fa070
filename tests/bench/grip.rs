//! CPU of everything between client and service for each message that a service behind HTTP echoes by
//! WebSocket-over-HTTP, beside Pushpin where it is installed.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Client, Framed};
use crate::load::{self, Latencies};
use crate::process::Process;
use crate::pushpin;
use crate::report::{Report, Row, progress};
use crate::server::serve;
use crate::stage::{Door, Stage};
use crate::{ANY_PORT, Scale};

const OURS: &str = "moorline";
const CONNECTIONS: usize = 100;
const PAYLOAD: usize = 128;
/// What both sign each request with.
const KEY: &str = "a-key-of-publishers-that-is-long-enough";
const WARM_UP: Duration = Duration::from_secs(1);
/// How long Pushpin may take until it echoes.
const START_TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);
/// What a first try may take: what comes before Pushpin's parts have found each other is lost.
const TRY_TIMEOUT: Duration = Duration::from_secs(1);

/// The service behind both: says back what it hears, in the words in which it heard it. OPEN is answered
/// with OPEN, a message with itself, CLOSE with CLOSE.
pub(crate) async fn backend() -> anyhow::Result<()> {
    serve(answer).await
}

async fn answer(request: Request<Incoming>) -> Response<Full<Bytes>> {
    // A body that breaks off has nobody who waits for an answer.
    let events = request.into_body().collect().await.map(|body| body.to_bytes());
    let mut answer = Response::new(Full::new(events.unwrap_or_default()));
    let kind = HeaderValue::from_static("application/websocket-events");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

/// A proxy that runs, its clients, and what was measured.
struct Line {
    name: &'static str,
    process: Process,
    door: Door,
    clients: Vec<Client>,
    cpu: Vec<f64>,
    rate: Vec<f64>,
    p99: Vec<f64>,
}

pub(crate) async fn measure(
    stage: &Stage,
    scale: Scale,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    let backend = Process::start("grip backend", command.arg("--grip-backend"))?;
    let [address] = backend.listening(["http"])?;
    let key = stage.folder().join("grip.key");
    std::fs::write(&key, KEY)?;
    let route = format!(
        "{{path: /grip, auth: none, forward_headers: [], backend: {{http: 'http://{address}', \
         dialect: websocket-over-http, max_requests: {CONNECTIONS}, \
         grip: {{issuer: bench, key_file: '{}'}}}}}}",
        key.display()
    );
    let moorline = stage.start_with(&[("MOORLINE_ROUTES__2", &route)]).await?;
    let plain = moorline.ws.as_ref().context("no door without TLS")?.address();
    let door = Door::new(plain, None, None).at("/grip");
    let mut lines = vec![Line::new(OURS, moorline.process, &door).await?];
    match start_pushpin(stage.folder(), &address).await? {
        Some((process, door)) => lines.push(Line::new("Pushpin", process, &door).await?),
        None => progress("grip: Pushpin is not installed, so nothing to compare with"),
    }
    let message = Framed::text(Bytes::from(vec![b'x'; PAYLOAD]));
    for line in &mut lines {
        line.echo(&message, WARM_UP).await?;
    }
    for round in 1..=scale.rounds {
        for line in &mut lines {
            let [cpu, rate, p99] = line.round(&message, scale.window).await?;
            let name = line.name;
            progress(&format!("grip {round}: {name} {cpu:.1} us, {rate:.0}/s, p99 {p99:.0} us"));
        }
    }
    let mut cpu =
        Row::new("CPU per message by WebSocket-over-HTTP, beside Pushpin", "us").budget_ratio(0.1);
    let mut rate = Row::new("  messages, 100 connections, closed loop", "1/s");
    let mut p99 = Row::new("  p99", "us");
    for line in lines {
        if line.name == OURS {
            (cpu, rate, p99) =
                (cpu.moorline(line.cpu), rate.moorline(line.rate), p99.moorline(line.p99));
        } else {
            (cpu, rate, p99) = (cpu.other(line.cpu), rate.other(line.rate), p99.other(line.p99));
        }
    }
    report.add(cpu);
    report.add(rate);
    report.add(p99);
    Ok(())
}

impl Line {
    async fn new(name: &'static str, process: Process, door: &Door) -> anyhow::Result<Self> {
        let clients = load::connect(door, CONNECTIONS).await?;
        let door = door.clone();
        Ok(Self { name, process, door, clients, cpu: vec![], rate: vec![], p99: vec![] })
    }

    /// CPU for each message in microseconds, messages a second, and their p99 in microseconds.
    async fn round(&mut self, message: &Framed, window: Duration) -> anyhow::Result<[f64; 3]> {
        let before = self.process.cpu_of_all()?;
        let latencies = self.echo(message, window).await?;
        let cpu = self.process.cpu_of_all()?.saturating_sub(before);
        let messages = latencies.len() as f64;
        let cpu = cpu.as_secs_f64() * 1e6 / messages;
        let (rate, p99) = (messages / window.as_secs_f64(), latencies.quantile(0.99));
        self.cpu.push(cpu);
        self.rate.push(rate);
        self.p99.push(p99);
        Ok([cpu, rate, p99])
    }

    /// Each client sends, waits for the echo, and sends again. Pushpin ends a connection now and then; its
    /// client comes back, and the message does not count.
    async fn echo(&mut self, message: &Framed, window: Duration) -> anyhow::Result<Latencies> {
        let end = Instant::now() + window;
        let loops = std::mem::take(&mut self.clients).into_iter().map(|mut client| {
            let (name, door, message) = (self.name, self.door.clone(), message.clone());
            async move {
                let mut latencies = Vec::new();
                while Instant::now() < end {
                    let sent = Instant::now();
                    match client.echo(&message).await {
                        Ok(()) => latencies.push(sent.elapsed()),
                        Err(error) if name == OURS => return Err(error),
                        Err(error) => {
                            progress(&format!("grip: {name}: {error}"));
                            client = door.connect().await?;
                        }
                    }
                }
                anyhow::Ok((client, latencies))
            }
        });
        let (clients, latencies): (Vec<_>, Vec<_>) = load::all(loops).await?.into_iter().unzip();
        self.clients = clients;
        Ok(Latencies::new(latencies.concat()))
    }
}

/// Pushpin, where it is installed, and its door.
async fn start_pushpin(folder: &Path, backend: &str) -> anyhow::Result<Option<(Process, Door)>> {
    let program = Path::new("/usr/bin/pushpin");
    if !program.exists() {
        return Ok(None);
    }
    // Nobody else takes them in between, for nobody else is here.
    let (front, control) = (TcpListener::bind(ANY_PORT).await?, TcpListener::bind(ANY_PORT).await?);
    let (address, control): (SocketAddr, _) = (front.local_addr()?, control.local_addr()?.port());
    drop(front);
    let folder = folder.join("pushpin");
    let config = pushpin::configure(&folder, backend, address, control, "bench", KEY)?;
    let mut command = Command::new(program);
    let process = Process::start("Pushpin", command.arg("--config").arg(&config))?;
    let door = Door::new(address, None, None).at("/grip");
    let started = Instant::now();
    while !matches!(timeout(TRY_TIMEOUT, door.try_out()).await, Ok(Ok(()))) {
        ensure!(started.elapsed() < START_TIMEOUT, "Pushpin does not echo");
        sleep(POLL).await;
    }
    Ok(Some((process, door)))
}
