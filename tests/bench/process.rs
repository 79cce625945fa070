//! Other processes: started, measured from outside, killed when they are no longer needed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

/// A process that says on standard error, one JSON object a line, where it listens.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    /// What it said about its listeners.
    listening: Receiver<Value>,
}

/// How long a process may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Listeners that one process may announce.
const LISTENERS: usize = 8;

impl Process {
    pub(crate) fn start(name: &'static str, command: &mut Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        let stderr = child.stderr.take().context("standard error is not piped")?;
        let (said, listening) = sync_channel(LISTENERS);
        // Read to the end of its life: a full pipe would cost it log lines.
        std::thread::spawn(move || read(name, BufReader::new(stderr), &said));
        Ok(Self { name, child, listening })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The addresses of its listeners of these schemes, in this order.
    pub(crate) fn listening<const N: usize>(
        &self,
        schemes: [&str; N],
    ) -> anyhow::Result<[String; N]> {
        let mut found: [Option<String>; N] = [const { None }; N];
        while found.iter().any(Option::is_none) {
            let line = self.listening.recv_timeout(START_TIMEOUT);
            let line = line.with_context(|| format!("{} does not listen", self.name))?;
            for (scheme, place) in schemes.iter().zip(&mut found) {
                if text(&line, "scheme") == Some(scheme) {
                    *place = text(&line, "address").map(str::to_owned);
                }
            }
        }
        Ok(found.map(Option::unwrap_or_default))
    }

    /// CPU time until now, of all its threads, in user and kernel. A thread that has ended takes its
    /// share with it; those that do the work do not end.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let cpu = cpu_of(self.child.id()).with_context(|| format!("{} is gone", self.name))?;
        ensure!(!cpu.is_zero(), "this kernel counts no CPU time in schedstat");
        Ok(cpu)
    }

    /// The same of it and of all processes that it has started.
    pub(crate) fn cpu_of_all(&self) -> anyhow::Result<Duration> {
        descendants(self.child.id()).into_iter().try_fold(self.cpu()?, |sum, id| {
            Ok(sum + cpu_of(id).with_context(|| format!("a part of {} is gone", self.name))?)
        })
    }

    /// Resident bytes.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("{} is gone", self.name))?;
        let rss = text.lines().find_map(|line| line.strip_prefix("Rss:")?.strip_suffix("kB"));
        let Some(kib) = rss else { bail!("{path} has no Rss") };
        Ok(kib.trim().parse::<u64>()? * 1024)
    }
}

impl Drop for Process {
    /// With those that it has started, which would live on.
    fn drop(&mut self) {
        let others = descendants(self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !others.is_empty() {
            let _ =
                Command::new("kill").arg("-KILL").args(others.iter().map(u32::to_string)).status();
        }
    }
}

fn cpu_of(id: u32) -> anyhow::Result<Duration> {
    let mut cpu = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{id}/task"))? {
        // A thread may end between the two looks.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        let nanoseconds = text.split(' ').next().unwrap_or_default();
        cpu += Duration::from_nanos(nanoseconds.parse().context("schedstat")?);
    }
    Ok(cpu)
}

/// The processes that this one has started, and those that they have.
fn descendants(id: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let texts =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let children: Vec<u32> = texts
        .flat_map(|text| text.split(' ').filter_map(|id| id.parse().ok()).collect::<Vec<_>>())
        .collect();
    children.into_iter().flat_map(|child| [vec![child], descendants(child)].concat()).collect()
}

/// Says where this process listens, as a [`Process`] reads it.
pub(crate) fn announce(scheme: &str, address: &str) {
    eprintln!("{}", json!({"message": "listening", "scheme": scheme, "address": address}));
}

fn read(name: &str, stderr: impl BufRead, said: &SyncSender<Value>) {
    for line in stderr.lines().map_while(Result::ok) {
        match serde_json::from_str::<Value>(&line) {
            Ok(json) if text(&json, "message") == Some("listening") => {
                let _ = said.try_send(json);
            }
            Ok(json) if matches!(text(&json, "level"), Some("WARN" | "ERROR")) => {
                eprintln!("{name}: {line}");
            }
            Ok(_) => {}
            // nats-server's own lines.
            Err(_) if line.contains("[INF]") || line.is_empty() => {}
            Err(_) => eprintln!("{name}: {line}"),
        }
    }
}

fn text<'a>(json: &'a Value, name: &str) -> Option<&'a str> {
    json.get(name)?.as_str()
}
