//! Other processes: started, measured from outside, killed when they are no longer needed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, bail};
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
/// `USER_HZ`, in which Linux counts CPU time for everybody: 10 ms.
const TICK: Duration = Duration::from_millis(10);

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
                if line["scheme"] == *scheme {
                    *place = line["address"].as_str().map(str::to_owned);
                }
            }
        }
        Ok(found.map(Option::unwrap_or_default))
    }

    /// CPU time until now, of all its threads, in user and kernel.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("{} is gone", self.name))?;
        // The name in parentheses may hold anything, so fields are counted from behind it: proc(5)
        // numbers utime 14 and stime 15, and the first behind the name is 3.
        let fields = text.rsplit_once(") ").map(|(_, rest)| rest.split(' ').skip(14 - 3));
        let ticks = fields.context("no fields")?.take(2).map(str::parse::<u32>);
        let ticks = ticks.sum::<Result<u32, _>>().with_context(|| path)?;
        Ok(TICK * ticks)
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
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says where this process listens, as a [`Process`] reads it.
pub(crate) fn announce(scheme: &str, address: &str) {
    eprintln!("{}", json!({"message": "listening", "scheme": scheme, "address": address}));
}

fn read(name: &str, stderr: impl BufRead, said: &SyncSender<Value>) {
    for line in stderr.lines().map_while(Result::ok) {
        match serde_json::from_str::<Value>(&line) {
            Ok(json) if json["message"] == "listening" => {
                let _ = said.try_send(json);
            }
            Ok(json) if json["level"] == "WARN" || json["level"] == "ERROR" => {
                eprintln!("{name}: {line}");
            }
            Ok(_) => {}
            // nats-server's own lines.
            Err(_) if line.contains("[INF]") || line.is_empty() => {}
            Err(_) => eprintln!("{name}: {line}"),
        }
    }
}
