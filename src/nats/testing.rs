//! A nats-server of a test's own, on a port that the system chose, killed on drop.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use super::Nats;
use crate::config;
use crate::id::NodeId;
use crate::metrics::Metrics;
use crate::task::Tasks;

/// A running nats-server.
#[derive(Debug)]
pub(crate) struct NatsServer {
    child: Child,
    port: u16,
    config: Option<tempfile::NamedTempFile>,
}

impl NatsServer {
    /// A server without any checks.
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// A server with this configuration.
    pub(crate) fn with_config(text: &str) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Self::start_with(Some(file))
    }

    fn start_with(config: Option<tempfile::NamedTempFile>) -> Self {
        let (child, port) = spawn(-1, config.as_ref().map(tempfile::NamedTempFile::path));
        Self { child, port, config }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// `kill -9`: no goodbye to anybody.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// `kill -STOP`: it keeps its sockets and says nothing more.
    pub(crate) fn freeze(&mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
        // The signal is on its way to each thread when `kill` ends.
        let is_stopped = |thread: &std::fs::DirEntry| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap();
            stat.rsplit(") ").next().unwrap().starts_with('T')
        };
        let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        while !threads().all(|thread| is_stopped(&thread.unwrap())) {
            std::thread::yield_now();
        }
    }

    /// Changes its configuration for the next start; it began with one.
    pub(crate) fn reconfigure(&self, text: &str) {
        std::fs::write(self.config.as_ref().unwrap().path(), text).unwrap();
    }

    /// Starts it again on the same port.
    pub(crate) fn restart(&mut self) {
        let path = self.config.as_ref().map(tempfile::NamedTempFile::path);
        (self.child, self.port) = spawn(i32::from(self.port), path);
    }

    /// Another client of this server, as a worker has one.
    pub(crate) async fn client(&self) -> async_nats::Client {
        Box::pin(async_nats::connect(self.url())).await.unwrap()
    }

    /// How moorline is configured for it.
    pub(crate) fn settings(&self) -> config::Nats {
        config::Nats { servers: vec![self.url()], ..config::Nats::default() }
    }

    /// moorline's way to it, already up.
    pub(crate) async fn nats(&self, metrics: &Metrics) -> Nats {
        // Boxed, for the client library's futures are large.
        let nats = Box::pin(start(&self.settings(), metrics)).await;
        nats.connected(within(5)).await.unwrap();
        nats
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// moorline's way to the configured server, wherever that is.
pub(crate) async fn start(settings: &config::Nats, metrics: &Metrics) -> Nats {
    Nats::connect(settings, NodeId::random(), None, &Tasks::new(), metrics).await.unwrap()
}

/// A deadline some seconds from now.
pub(crate) fn within(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

/// Looks at a condition again and again until it holds, and fails after five seconds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = within(5);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Starts a server (port -1: any) and waits until it says that it is ready and where.
fn spawn(port: i32, config: Option<&Path>) -> (Child, u16) {
    let mut command = Command::new(binary());
    command.args(["-a", "127.0.0.1", "-p", &port.to_string()]);
    if let Some(path) = config {
        command.arg("-c").arg(path);
    }
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (mut listening, mut seen) = (None, String::new());
    for line in lines.by_ref().map_while(Result::ok) {
        if let Some((_, address)) = line.split_once("Listening for client connections on ") {
            listening = address.rsplit(':').next().and_then(|port| port.trim().parse().ok());
        }
        seen.push_str(&line);
        seen.push('\n');
        if line.contains("Server is ready") {
            break;
        }
    }
    let port = listening.unwrap_or_else(|| panic!("nats-server did not start:\n{seen}"));
    // Its log is read to the end, or a full pipe would stop it.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    (child, port)
}

fn binary() -> PathBuf {
    let path = std::env::var_os("MOORLINE_NATS_SERVER").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/nats-server"),
        PathBuf::from,
    );
    assert!(path.is_file(), "{} is missing: run `make tools`", path.display());
    path
}
