//! What every measure needs: NATS, a worker, a certificate, and the two relays to be compared.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;

use crate::client::{Client, Framed};
use crate::process::Process;

/// The parts that both relays share. Dropping it ends all processes.
pub(crate) struct Stage {
    folder: TempDir,
    /// `nats://` URL of the server.
    pub(crate) nats: String,
    connector: TlsConnector,
    _worker: Process,
    _nats_server: Process,
}

/// Which relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Moorline,
    Bare,
}

/// A relay that runs.
pub(crate) struct Relay {
    pub(crate) side: Side,
    pub(crate) process: Process,
    pub(crate) wss: Door,
    /// moorline's door without TLS.
    pub(crate) ws: Option<Door>,
}

/// How clients get in.
#[derive(Clone)]
pub(crate) struct Door {
    address: SocketAddr,
    tls: Option<TlsConnector>,
    /// What moorline asks for.
    token: Option<String>,
}

/// Where moorline's messages go.
pub(crate) const SUBJECT: &str = "moorline.default.in.message";

const MOORLINE: &str = env!("CARGO_BIN_EXE_moorline");
/// How long NATS may take until it is up, and a relay until it echoes.
const START_TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

impl Stage {
    /// Starts NATS and the worker.
    pub(crate) async fn set() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        fs::write(folder.path().join(CERTIFICATE), certified.cert.pem())?;
        fs::write(folder.path().join(KEY), certified.signing_key.serialize_pem())?;
        fs::write(folder.path().join(SECRET), [b's'; 32])?;
        let connector = connector(&folder.path().join(CERTIFICATE))?;
        let (nats_server, nats) = start_nats(folder.path()).await?;
        let mut command = Command::new(std::env::current_exe()?);
        let worker = Process::start("worker", command.args(["--worker", "--nats", &nats]))?;
        worker.listening(["nats"])?;
        fs::write(folder.path().join(CONFIG), config(folder.path(), &nats))?;
        Ok(Self { folder, nats, connector, _worker: worker, _nats_server: nats_server })
    }

    /// Starts a relay; it has echoed when this returns, and is as empty as it gets.
    pub(crate) async fn start(&self, side: Side) -> anyhow::Result<Relay> {
        let relay = match side {
            Side::Moorline => self.start_moorline()?,
            Side::Bare => self.start_bare()?,
        };
        let started = Instant::now();
        while let Err(error) = relay.wss.try_out().await {
            let in_time = started.elapsed() < START_TIMEOUT;
            ensure!(in_time, "{} does not echo: {error:#}", side.name());
            sleep(POLL).await;
        }
        Ok(relay)
    }

    fn start_moorline(&self) -> anyhow::Result<Relay> {
        let config = self.path(CONFIG);
        let mut command = Command::new(MOORLINE);
        let process = Process::start("moorline", command.arg("serve").arg("-c").arg(&config))?;
        let [wss, ws, _admin] = process.listening(["wss", "ws", "admin"])?;
        let mut command = Command::new(MOORLINE);
        let made = command.args(["token", "--user", "bench", "-c"]).arg(&config).output()?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let token = Some(String::from_utf8(made.stdout)?.trim().to_owned());
        let tls = Some(self.connector.clone());
        let wss = Door { address: wss.parse()?, tls, token: token.clone() };
        let ws = Some(Door { address: ws.parse()?, tls: None, token });
        Ok(Relay { side: Side::Moorline, process, wss, ws })
    }

    fn start_bare(&self) -> anyhow::Result<Relay> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--bare", "--nats", &self.nats]);
        command.arg("--certificate").arg(self.path(CERTIFICATE));
        command.arg("--key").arg(self.path(KEY));
        let process = Process::start("bare", &mut command)?;
        let [wss] = process.listening(["wss"])?;
        let tls = Some(self.connector.clone());
        let wss = Door { address: wss.parse()?, tls, token: None };
        Ok(Relay { side: Side::Bare, process, wss, ws: None })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Moorline, Self::Bare];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Moorline => "moorline",
            Self::Bare => "bare",
        }
    }
}

impl Door {
    /// A new client.
    pub(crate) async fn connect(&self) -> anyhow::Result<Client> {
        Client::connect(self.address, self.tls.as_ref(), self.token.as_deref()).await
    }

    async fn try_out(&self) -> anyhow::Result<()> {
        let mut client = self.connect().await?;
        client.echo(&Framed::text(Bytes::from_static(b"are you there?"))).await?;
        client.close().await
    }
}

const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";
const SECRET: &str = "secret";
const CONFIG: &str = "moorline.yaml";

/// Everything on that a node of the edge has on.
fn config(folder: &Path, nats: &str) -> String {
    let folder = folder.display();
    format!(
        "listeners:
  public:
    address: 127.0.0.1:0
    tls: {{certificate: '{folder}/{CERTIFICATE}', key: '{folder}/{KEY}'}}
  plain: {{address: '127.0.0.1:0'}}
  admin: {{address: '127.0.0.1:0'}}
nats: {{servers: ['{nats}']}}
jwt:
  keys: [{{algorithms: [HS256], secret: '{folder}/{SECRET}'}}]
routes:
  - {{path: /ws, auth: jwt}}
limits:
  # One address is all the clients there are.
  max_connections: 15000
  max_connections_per_ip: 15000
  handshakes: {{per_second: 0}}
  handshakes_per_ip: {{per_second: 0}}
  max_pending: 15000
"
    )
}

/// Every handshake is a full one: no tickets.
fn connector(certificate: &Path) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate)?)?;
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A nats-server on a port of its choice, which it writes into a file.
async fn start_nats(folder: &Path) -> anyhow::Result<(Process, String)> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/nats-server");
    ensure!(program.exists(), "there is no {}: run `make tools`", program.display());
    let mut command = Command::new(program);
    command.args(["-a", "127.0.0.1", "-p", "-1", "--ports_file_dir"]).arg(folder);
    let server = Process::start("nats-server", &mut command)?;
    let ports = folder.join(format!("nats-server_{}.ports", server.id()));
    let started = Instant::now();
    loop {
        let text = fs::read_to_string(&ports).unwrap_or_default();
        let json = serde_json::from_str::<Value>(&text).unwrap_or_default();
        if let Some(url) = json.pointer("/nats/0").and_then(Value::as_str) {
            return Ok((server, url.to_owned()));
        }
        ensure!(started.elapsed() < START_TIMEOUT, "nats-server does not listen");
        sleep(POLL).await;
    }
}
