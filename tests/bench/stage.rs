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

use crate::bare;
use crate::client::{self, Client, Framed, Stream, Way};
use crate::process::Process;

/// The parts that both relays share. Dropping it ends all processes.
pub(crate) struct Stage {
    folder: TempDir,
    /// `nats://` URL of the server.
    pub(crate) nats: String,
    connector: TlsConnector,
    /// Another moorline in place of the bare relay.
    against: Option<PathBuf>,
    _worker: Process,
    _nats_server: Process,
}

/// Which relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Moorline,
    /// What it is compared with.
    Other,
}

/// A key of moorline's config and its value, as an environment variable.
pub(crate) type Setting<'a> = (&'static str, &'a str);

/// A relay that runs.
pub(crate) struct Relay {
    pub(crate) name: &'static str,
    pub(crate) side: Side,
    pub(crate) process: Process,
    pub(crate) wss: Door,
    /// moorline's door without TLS.
    pub(crate) ws: Option<Door>,
    /// What stands before a group's name in the subject of pushes to it.
    pub(crate) groups: &'static str,
}

/// How clients get in.
#[derive(Clone)]
pub(crate) struct Door {
    address: SocketAddr,
    way: Way,
    tls: Option<TlsConnector>,
    /// `/ws` says back what it hears, `/rooms/<group>` is in that group.
    path: String,
    /// What moorline asks for.
    token: Option<String>,
}

/// Where moorline's messages go.
pub(crate) const SUBJECT: &str = "moorline.default.in.message";

/// Where pushes to groups of moorline's clients go.
const GROUPS: &str = "moorline.default.out.group.";

const MOORLINE: &str = env!("CARGO_BIN_EXE_moorline");
/// How long NATS may take until it is up, and a relay until it echoes.
const START_TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

impl Stage {
    /// Starts NATS and the worker.
    pub(crate) async fn set(against: Option<PathBuf>) -> anyhow::Result<Self> {
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
        Ok(Self { folder, nats, connector, against, _worker: worker, _nats_server: nats_server })
    }

    /// Whether the other side is the bare relay, not another moorline.
    pub(crate) fn has_bare(&self) -> bool {
        self.against.is_none()
    }

    /// What the other side is called.
    pub(crate) fn other(&self) -> &'static str {
        if self.has_bare() { "bare" } else { "against" }
    }

    /// Starts a relay; it has echoed when this returns, and is as empty as it gets.
    pub(crate) async fn start(&self, side: Side) -> anyhow::Result<Relay> {
        self.started(match (side, &self.against) {
            (Side::Moorline, _) => self.run_moorline(side, MOORLINE.as_ref(), &[])?,
            (Side::Other, Some(program)) => self.run_moorline(side, program, &[])?,
            (Side::Other, None) => self.run_bare()?,
        })
        .await
    }

    /// Starts moorline with another config.
    pub(crate) async fn start_with(&self, settings: &[Setting<'_>]) -> anyhow::Result<Relay> {
        self.started(self.run_moorline(Side::Moorline, MOORLINE.as_ref(), settings)?).await
    }

    async fn started(&self, relay: Relay) -> anyhow::Result<Relay> {
        let started = Instant::now();
        while let Err(error) = relay.wss.try_out().await {
            let in_time = started.elapsed() < START_TIMEOUT;
            ensure!(in_time, "{} does not echo: {error:#}", relay.name);
            sleep(POLL).await;
        }
        Ok(relay)
    }

    fn run_moorline(
        &self,
        side: Side,
        program: &Path,
        settings: &[Setting<'_>],
    ) -> anyhow::Result<Relay> {
        let name = if side == Side::Moorline { "moorline" } else { self.other() };
        let config = self.path(CONFIG);
        let mut command = Command::new(program);
        command.envs(settings.iter().copied()).arg("serve").arg("-c").arg(&config);
        let process = Process::start(name, &mut command)?;
        let [wss, ws, _admin] = process.listening(["wss", "ws", "admin"])?;
        let mut command = Command::new(program);
        let made = command.args(["token", "--user", "bench", "-c"]).arg(&config).output()?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let token = Some(String::from_utf8(made.stdout)?.trim().to_owned());
        let tls = Some(self.connector.clone());
        let wss = Door::new(wss.parse()?, tls, token.clone());
        let ws = Some(Door::new(ws.parse()?, None, token));
        Ok(Relay { name, side, process, wss, ws, groups: GROUPS })
    }

    fn run_bare(&self) -> anyhow::Result<Relay> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--bare", "--nats", &self.nats]);
        command.arg("--certificate").arg(self.path(CERTIFICATE));
        command.arg("--key").arg(self.path(KEY));
        let name = self.other();
        let process = Process::start(name, &mut command)?;
        let [wss] = process.listening(["wss"])?;
        let tls = Some(self.connector.clone());
        let wss = Door::new(wss.parse()?, tls, None);
        Ok(Relay { name, side: Side::Other, process, wss, ws: None, groups: bare::GROUPS })
    }

    /// A folder that goes with the stage.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Moorline, Self::Other];
}

impl Door {
    pub(crate) fn new(
        address: SocketAddr,
        tls: Option<TlsConnector>,
        token: Option<String>,
    ) -> Self {
        Self { address, way: Way::Loopback, tls, path: "/ws".to_owned(), token }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A new client.
    pub(crate) async fn connect(&self) -> anyhow::Result<Client> {
        Client::shake_hands(self.open().await?, &self.path, self.token.as_deref()).await
    }

    /// A client before its opening handshake.
    pub(crate) async fn open(&self) -> anyhow::Result<Stream> {
        client::open(self.address, self.way, self.tls.as_ref()).await
    }

    /// The same door for a client that does not get so far as to speak TLS.
    pub(crate) fn without_tls(&self) -> Self {
        Self { tls: None, ..self.clone() }
    }

    /// The same door with another path.
    pub(crate) fn at(&self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self.clone() }
    }

    /// The same door by another way.
    pub(crate) fn by(&self, way: Way) -> Self {
        Self { way, ..self.clone() }
    }

    /// Whether it echoes.
    pub(crate) async fn try_out(&self) -> anyhow::Result<()> {
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
  - {{path: '/rooms/{{room}}', auth: jwt, groups: ['{{room}}']}}
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
    command.args(["-js", "-sd"]).arg(folder.join("streams"));
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
