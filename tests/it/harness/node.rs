//! A moorline process with a config of the test's, on ports of its own.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::{DEADLINE, eventually, exchange, replace};

/// Bytes of log shown when a test fails.
const LOG_SHOWN: usize = 4000;

/// A running node. It is killed when the test is over.
pub(crate) struct Node {
    child: Child,
    log: Arc<Log>,
    /// By scheme: `wss`, `ws`, `management`, `admin`.
    addresses: HashMap<String, SocketAddr>,
    folder: TempDir,
}

#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    news: Condvar,
}

impl Log {
    /// Also behind a test that failed while it looked: the node's last words are shown then.
    fn lock(&self) -> MutexGuard<'_, (Vec<String>, bool)> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// Starts a node. `config` is YAML without `listeners`; the test gets `ws` and `admin`.
    pub(crate) fn start(config: &str) -> Self {
        Self::with_listeners("plain: {address: '127.0.0.1:0'}", config)
    }

    /// Starts a node with the test's own listeners beside `admin`.
    pub(crate) fn with_listeners(listeners: &str, config: &str) -> Self {
        Self::with_all(listeners, "info,moorline=debug", config)
    }

    /// Starts a bridge. `config` is YAML without `listeners`; the test gets `admin`.
    pub(crate) fn bridge(config: &str) -> Self {
        let (folder, path) = write("", "info,moorline=debug", config);
        Self::run(folder, |command| command.arg("bridge").arg("-c").arg(path))
    }

    /// Starts a node with another log level.
    pub(crate) fn with_log(level: &str, config: &str) -> Self {
        Self::with_all("plain: {address: '127.0.0.1:0'}", level, config)
    }

    /// Starts a node that may have this many file descriptors.
    pub(crate) fn with_descriptors(limit: u64, config: &str) -> Self {
        let listeners = "plain: {address: '127.0.0.1:0'}";
        let node = Self::with_all(listeners, "info", config);
        let pid = node.child.id().to_string();
        let mut prlimit = Command::new("prlimit");
        prlimit.args(["--pid", &pid, &format!("--nofile={limit}:{limit}")]);
        let status = prlimit.status().unwrap();
        assert!(status.success(), "prlimit");
        node
    }

    /// Starts a node with a variable over its config.
    pub(crate) fn with_variable((name, value): (&str, &str), config: &str) -> Self {
        let (folder, path) = write("plain: {address: '127.0.0.1:0'}", "info", config);
        Self::run(folder, |command| command.env(name, value).arg("serve").arg("-c").arg(path))
    }

    /// Starts a node with a config of the repository's on ports of its own, with variables over it.
    pub(crate) fn of_file(path: &str, variables: &[(&str, &str)]) -> Self {
        Self::run(tempfile::tempdir().unwrap(), |command| {
            for door in ["PLAIN", "ADMIN"] {
                command.env(format!("MOORLINE_LISTENERS__{door}__ADDRESS"), "127.0.0.1:0");
            }
            command.env("MOORLINE_LOG__FORMAT", "json").envs(variables.iter().copied());
            command.arg("serve").arg("-c").arg(super::root().join(path))
        })
    }

    /// Starts a node with other listeners and another log level.
    pub(crate) fn with_all(listeners: &str, level: &str, config: &str) -> Self {
        let (folder, path) = write(listeners, level, config);
        Self::run(folder, |command| command.arg("serve").arg("-c").arg(path))
    }

    /// Starts `moorline dev` on ports of its own, with a home of its own.
    pub(crate) fn dev(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_owned();
        Self::run(folder, |command| {
            command.arg("dev").args(arguments).env("XDG_CACHE_HOME", home);
            // Not port 0: the pages that may connect are known by their ports.
            for door in ["PUBLIC", "PLAIN", "MANAGEMENT", "ADMIN"] {
                let address = format!("127.0.0.1:{}", super::free_port());
                command.env(format!("MOORLINE_LISTENERS__{door}__ADDRESS"), address);
            }
            command.env("MOORLINE_LOG__FORMAT", "json")
        })
    }

    fn run(folder: TempDir, arguments: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moorline"));
        arguments(&mut command).stderr(Stdio::piped()).stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Log::default());
        let (writer, stderr) = (Arc::clone(&log), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                writer.lock().0.push(line);
                writer.news.notify_all();
            }
            writer.lock().1 = true;
            writer.news.notify_all();
        });
        let mut node = Self { child, log, addresses: HashMap::new(), folder };
        node.wait_for("listening", |line| line["scheme"] == "admin");
        for line in node.lines("listening") {
            let address = line["address"].as_str().unwrap().parse().unwrap();
            node.addresses.insert(line["scheme"].as_str().unwrap().to_owned(), address);
        }
        node
    }

    pub(crate) fn ws(&self) -> SocketAddr {
        self.addresses["ws"]
    }

    pub(crate) fn wss(&self) -> SocketAddr {
        self.addresses["wss"]
    }

    pub(crate) fn management(&self) -> SocketAddr {
        self.addresses["management"]
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.addresses["admin"]
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// By how much its memory grew at the most while `work` was done, in bytes.
    pub(crate) async fn growth(&self, work: impl Future<Output = ()>) -> usize {
        let before = self.memory("VmRSS:");
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").unwrap();
        work.await;
        self.memory("VmHWM:").saturating_sub(before)
    }

    /// A line of the process's status: what it has now, or had at the most since its peak was reset.
    fn memory(&self, line: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|found| found.strip_prefix(line)).unwrap();
        line.split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
    }

    /// Sockets that the process has, each once: a listener is opened again when it begins to serve.
    pub(crate) fn sockets(&self) -> usize {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        let links = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        let sockets = links.filter(|link| link.to_string_lossy().starts_with("socket:"));
        sockets.collect::<HashSet<_>>().len()
    }

    /// The process's CPU time so far, in ticks of 10 ms.
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let after_name = stat.rsplit(") ").next().unwrap();
        after_name.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    }

    /// A folder of the node's own, for files that a test changes.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Changes the config file in one step, as a config mount or an editor does.
    pub(crate) fn rewrite(&self, change: impl FnOnce(&str) -> String) {
        let path = self.folder.path().join("moorline.yaml");
        replace(&path, &change(&std::fs::read_to_string(&path).unwrap()));
    }

    /// Sends a signal, as `TERM` or `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Waits for the process to end by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < DEADLINE, "the node did not end\n{}", self.whole_log());
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// The same, with others at work meanwhile.
    pub(crate) async fn ends(&mut self) -> ExitStatus {
        eventually("the process ends", async || self.child.try_wait().unwrap()).await
    }

    /// The log lines with this message, so far.
    pub(crate) fn lines(&self, message: &str) -> Vec<Value> {
        let lines = self.log.lock();
        let parsed = lines.0.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        parsed.filter(|line| line["message"] == message).collect()
    }

    /// Everything that was logged so far.
    pub(crate) fn whole_log(&self) -> String {
        self.log.lock().0.join("\n")
    }

    /// The first log line with this message that fits.
    pub(crate) fn wait_for(&self, message: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        let mut guard = self.log.lock();
        loop {
            let parsed = guard.0.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if let Some(line) = parsed.into_iter().find(|l| l["message"] == message && fits(l)) {
                return line;
            }
            let is_late = started.elapsed() > DEADLINE;
            assert!(!guard.1 && !is_late, "no {message:?} in the log:\n{}", guard.0.join("\n"));
            guard = self.log.news.wait_timeout(guard, Duration::from_millis(200)).unwrap().0;
        }
    }

    /// The metrics page.
    pub(crate) async fn metrics(&self) -> String {
        let request = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let (status, page) = exchange(self.admin(), request.as_bytes()).await;
        assert_eq!(status, 200);
        page
    }

    /// The sum of all series of `name` whose labels contain every one of `labels`.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let page = self.metrics().await;
        let fits = |line: &&str| {
            let series = line.split(' ').next().unwrap_or_default();
            series.split('{').next() == Some(name) && labels.iter().all(|l| series.contains(l))
        };
        let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
        page.lines().filter(fits).map(value).sum()
    }

    /// Waits until the metric has this value.
    pub(crate) async fn metric_becomes(&self, name: &str, labels: &[&str], value: f64) {
        eventually(&format!("{name}{labels:?} = {value}"), async || {
            (self.metric(name, labels).await == value).then_some(())
        })
        .await;
    }

    /// Waits until NATS is connected, for requests and for pushes.
    pub(crate) async fn reaches_nats(&self) {
        eventually("the node reaches NATS and is ready", async || {
            let is_up = self.metric("moorline_nats_connected", &[]).await >= 2.0;
            let ready = b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n";
            (is_up && exchange(self.admin(), ready).await.0 == 200).then_some(())
        })
        .await;
    }
}

/// Writes a config into a folder of its own.
fn write(listeners: &str, level: &str, config: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("moorline.yaml");
    let listeners = listeners.lines().map(|line| format!("  {line}\n")).collect::<String>();
    let text = format!(
        "listeners:\n{listeners}  admin: {{address: '127.0.0.1:0'}}\n\
         shutdown: {{lame_duck: 0s, drain: 1s}}\nlog: {{level: '{level}'}}\n{config}\n"
    );
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.whole_log();
            let from = log.len().saturating_sub(LOG_SHOWN);
            eprintln!("--- the end of the node's log ---\n{}", log.get(from..).unwrap_or(&log));
        }
    }
}

/// Sends a signal to a process.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    assert!(status.unwrap().success(), "kill -{name} {pid}");
}
