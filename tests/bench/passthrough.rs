//! CPU of the process for each plain request that is passed to an HTTP server behind it, beside nginx
//! where it is installed.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use crate::bare::spawn;
use crate::process::Process;
use crate::report::{Report, Row, progress};
use crate::server::serve;
use crate::stage::Stage;
use crate::{ANY_PORT, Scale};

/// Keep-alive connections that ask one after the other.
const CONNECTIONS: usize = 64;
const ANSWER: [u8; 128] = [b'x'; 128];
const WARM_UP: Duration = Duration::from_secs(1);
/// How long nginx may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// The server behind both: 128 bytes for any request.
pub(crate) async fn upstream() -> anyhow::Result<()> {
    serve(async |_| Response::new(Full::new(Bytes::from_static(&ANSWER)))).await
}

/// A proxy that runs, its connections, and what was measured.
struct Line {
    name: &'static str,
    process: Process,
    clients: Vec<SendRequest<Empty<Bytes>>>,
    cpu: Vec<f64>,
    rate: Vec<f64>,
}

pub(crate) async fn measure(
    stage: &Stage,
    scale: Scale,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    let server = Process::start("upstream", command.arg("--upstream"))?;
    let [address] = server.listening(["http"])?;
    let url = format!("http://{address}");
    let moorline = stage.start_with(&[("MOORLINE_UPSTREAM__URL", &url)]).await?;
    let door = moorline.ws.as_ref().context("no door without TLS")?.address();
    let mut lines = vec![Line::new("moorline", moorline.process, door).await?];
    match nginx(stage.folder(), &address).await? {
        Some((process, door)) => lines.push(Line::new("nginx", process, door).await?),
        None => progress("passthrough: nginx is not installed, so nothing to compare with"),
    }
    for line in &mut lines {
        line.ask(WARM_UP).await?;
    }
    for round in 1..=scale.rounds {
        for line in &mut lines {
            let before = line.process.cpu()?;
            let requests = line.ask(scale.window).await? as f64;
            let cpu = line.process.cpu()?.saturating_sub(before);
            let (cpu, rate) =
                (cpu.as_secs_f64() * 1e6 / requests, requests / scale.window.as_secs_f64());
            progress(&format!("passthrough {round}: {} {cpu:.1} us, {rate:.0}/s", line.name));
            line.cpu.push(cpu);
            line.rate.push(rate);
        }
    }
    let mut cpu = Row::new("CPU per request passed through, beside nginx", "us").budget_ratio(1.5);
    let mut rate = Row::new("  requests, 64 connections, closed loop", "1/s");
    for line in lines {
        if line.name == "moorline" {
            (cpu, rate) = (cpu.moorline(line.cpu), rate.moorline(line.rate));
        } else {
            (cpu, rate) = (cpu.other(line.cpu), rate.other(line.rate));
        }
    }
    report.add(cpu);
    report.add(rate);
    Ok(())
}

impl Line {
    async fn new(name: &'static str, process: Process, door: SocketAddr) -> anyhow::Result<Self> {
        let clients = try_join_all((0..CONNECTIONS).map(|_| connect(door))).await?;
        Ok(Self { name, process, clients, cpu: vec![], rate: vec![] })
    }

    /// Asks on all connections for a while: how many answers came.
    async fn ask(&mut self, window: Duration) -> anyhow::Result<usize> {
        let until = Instant::now() + window;
        let loops = self.clients.iter_mut().map(async |client| {
            let mut answers = 0;
            while Instant::now() < until {
                get(client).await?;
                answers += 1;
            }
            anyhow::Ok(answers)
        });
        Ok(try_join_all(loops).await?.into_iter().sum())
    }
}

async fn connect(door: SocketAddr) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(door).await?;
    stream.set_nodelay(true)?;
    let (client, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its end is the answers' end.
    spawn(async { drop(connection.await) });
    Ok(client)
}

async fn get(client: &mut SendRequest<Empty<Bytes>>) -> anyhow::Result<()> {
    client.ready().await?;
    let request = Request::get("/page?n=1").header("host", "app.example").body(Empty::new())?;
    let answer = client.send_request(request).await?;
    ensure!(answer.status() == 200, "{}", answer.status());
    ensure!(answer.into_body().collect().await?.to_bytes()[..] == ANSWER[..]);
    Ok(())
}

/// nginx as one process that does what moorline does: keep-alive on both sides, forwarding headers, no
/// log line for each request.
async fn nginx(folder: &Path, upstream: &str) -> anyhow::Result<Option<(Process, SocketAddr)>> {
    let place = ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx"];
    let Some(program) = place.iter().find(|place| Path::new(place).exists()) else {
        return Ok(None);
    };
    // Nobody else takes it in between, for nobody else is here.
    let door = TcpListener::bind(ANY_PORT).await?.local_addr()?;
    let config = folder.join("nginx.conf");
    let place = folder.display();
    let text = format!(
        "daemon off; master_process off; pid {place}/nginx.pid; error_log stderr error;
events {{ worker_connections 1024; }}
http {{
  access_log off; tcp_nodelay on; keepalive_requests 100000000;
  client_body_temp_path {place}/body; proxy_temp_path {place}/proxy; fastcgi_temp_path {place}/f;
  uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
  upstream app {{ server {upstream}; keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen {door};
    location / {{
      proxy_pass http://app; proxy_http_version 1.1;
      proxy_set_header Connection \"\"; proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $host;
      proxy_set_header X-Real-IP $remote_addr;
    }}
  }}
}}
"
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new(program);
    command.arg("-p").arg(folder).arg("-c").arg(&config).args(["-e", "stderr"]);
    let process = Process::start("nginx", &mut command)?;
    let started = Instant::now();
    while TcpStream::connect(door).await.is_err() {
        ensure!(started.elapsed() < START_TIMEOUT, "nginx does not listen");
        sleep(POLL).await;
    }
    Ok(Some((process, door)))
}
