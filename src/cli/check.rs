//! `moorline check`: everything that a config names, looked at before a node runs with it.

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use tokio::time::Instant;

use crate::auth::{AccessKeys, Verifier};
use crate::config::{
    AuthMode, Backend, Config, EventKind, JetStream, Jwt, Nats as NatsConfig, Route, Tls,
    process_environment,
};
use crate::id::NodeId;
use crate::metrics::Metrics;
use crate::nats::{Nats, Store, Subjects};
use crate::server;
use crate::task::Tasks;
use crate::tls;

use super::{print, serve};

/// Look at everything a config names: files, certificates, keys, NATS, limits.
///
/// Prints a line for each finding; ends with 1 when a node could not run with it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  moorline check -c /etc/moorline/moorline.yaml")]
pub(super) struct Check {
    /// The config file (.yaml, .yml or .toml)
    #[arg(short, long, value_name = "FILE", env = "MOORLINE_CONFIG")]
    config: PathBuf,
}

/// What was found, line by line.
#[derive(Debug, Default)]
struct Report {
    lines: String,
    failed: bool,
}

/// A certificate that ends this soon is worth a warning.
const SOON_DAYS: i64 = 14;
/// The least nats-server that the NATS client library supports in full.
const LEAST_NATS: [u64; 3] = [2, 10, 0];
/// The least that keeps what outlives a node.
const LEAST_JETSTREAM: [u64; 3] = [2, 11, 0];
/// Older ones have published holes, among them ways around a server's own permissions.
const SAFE_NATS: [u64; 3] = [2, 12, 7];

impl Check {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let mut report = Report::default();
        match Config::load(&self.config, process_environment()) {
            Ok(config) => examine(&config, &mut report).await,
            Err(error) => report.fail("config", error),
        }
        print(&report.lines)?;
        Ok(if report.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

async fn examine(config: &Config, report: &mut Report) {
    report.ok("config", format_args!("{} routes", config.routes.len()));
    if let Some(bridge) = &config.bridge {
        report.ok("bridge", format_args!("hub {}, queue group {}", bridge.hub, bridge.queue));
    }
    for problem in config.check_files() {
        report.fail("file", problem);
    }
    config.routes.iter().for_each(|route| origins(route, report));
    if let Some(public) = &config.listeners.public {
        certificates(&public.tls, report);
    }
    if let Some(management) = &config.listeners.management {
        management.tls.iter().for_each(|tls| certificates(tls, report));
        match AccessKeys::read("listeners.management.key_files", &management.key_files) {
            Ok(_) => report.ok("management", format_args!("keys: {}", management.key_files.len())),
            Err(error) => report.fail("management", error),
        }
    }
    if let Some(jwt) = &config.jwt {
        Box::pin(keys(jwt, report)).await;
    }
    match &config.nats {
        Some(nats) => Box::pin(nats_servers(config, nats, report)).await,
        None => report.ok("nats", "not configured: one node, no workers behind NATS"),
    }
    descriptors(serve::descriptors(config), report);
}

/// Pages of no origin may use what a browser shows of itself for any page.
fn origins(route: &Route, report: &mut Report) {
    let shown = match route.auth {
        AuthMode::Certificate => "a client certificate",
        _ if route.decides_by("authorization") => "the `Authorization` that the backend decides by",
        _ => return,
    };
    if route.origins.is_empty() {
        let route = route.name();
        report.warn(
            "origins",
            format_args!(
                "route {route}: programs may connect, but pages may not, because browsers show \
                 {shown} for any page; list the `origins` whose pages may"
            ),
        );
    }
}

fn certificates(tls: &Tls, report: &mut Report) {
    let all = match tls::inspect(tls) {
        Ok(all) => all,
        Err(error) => return report.fail("certificate", error),
    };
    for facts in all {
        let days = facts.days_left(SystemTime::now());
        let text = format!(
            "{}: {} for {}, {}, good for {days} days, until {}",
            facts.file.display(),
            facts.subject,
            facts.names.join(", "),
            facts.key_algorithm,
            humantime::format_rfc3339_seconds(facts.not_after),
        );
        match days {
            ..0 => report.fail("certificate", text),
            0..SOON_DAYS => report.warn("certificate", text),
            _ => report.ok("certificate", text),
        }
    }
}

async fn keys(jwt: &Jwt, report: &mut Report) {
    let tasks = Tasks::new();
    let client = match server::key_client(jwt) {
        Ok(client) => client,
        Err(error) => return report.fail("jwt", error),
    };
    let verifier = match Verifier::new(jwt, client, &tasks) {
        Ok(verifier) => verifier,
        Err(error) => return report.fail("jwt", error),
    };
    match verifier.fetched().await {
        Ok(()) => {}
        Err(error) => report.fail("jwt.jwks", error),
    }
    for key in verifier.describe() {
        match key.unused {
            None => report.ok("jwt", key),
            Some(_) => report.warn("jwt", key),
        }
    }
    tasks.stop();
}

async fn nats_servers(config: &Config, settings: &NatsConfig, report: &mut Report) {
    let tls = match settings.tls.as_ref().map(server::nats_tls).transpose() {
        Ok(tls) => tls,
        Err(error) => return report.fail("nats", error),
    };
    let (tasks, metrics) = (Tasks::new(), Metrics::new());
    let nats = match Nats::connect(settings, NodeId::random(), tls, &tasks, &metrics).await {
        Ok(nats) => nats,
        Err(error) => return report.fail("nats", error),
    };
    let deadline = Instant::now() + settings.connect_timeout.get() + Duration::from_secs(1);
    if let Err(error) = nats.connected(deadline).await {
        return report.fail("nats", error);
    }
    let version = nats.server_version().unwrap_or_default();
    if is_older(&version, LEAST_NATS) {
        let least = dotted(LEAST_NATS);
        report.fail("nats", format_args!("server {version}: at least {least} is needed"));
    } else if is_older(&version, SAFE_NATS) {
        let safe = dotted(SAFE_NATS);
        report.warn(
            "nats",
            format_args!(
                "server {version} has published security holes, among them ways around its \
                 permissions; {safe} and newer have them closed"
            ),
        );
    } else {
        report.ok("nats", format_args!("server {version}"));
    }
    if settings.jetstream != JetStream::Off && !config.is_bridge_only() {
        jetstream(config, settings, &nats, &version, report).await;
    }
    let (largest, max_payload) = (server::largest_event(config), nats.max_payload());
    if largest > max_payload {
        report.fail(
            "nats",
            format_args!(
                "the server takes {max_payload} bytes a message; the largest max_message and its \
                 headers need {largest}"
            ),
        );
    }
}

/// Whether JetStream is there, and stores none of our requests: its acknowledgement would be the first
/// answer to each.
async fn jetstream(
    config: &Config,
    settings: &NatsConfig,
    nats: &Nats,
    version: &str,
    report: &mut Report,
) {
    const KEY: &str = "nats.jetstream";
    let (tasks, metrics) = (Tasks::new(), Metrics::new());
    let store = Store::open(nats, settings.replicas.into(), &tasks, &metrics).await;
    let deadline = Instant::now() + settings.connect_timeout.get();
    let up = tokio::time::timeout_at(deadline, store.up()).await;
    let missing = match up {
        Ok(()) => store.is_there(deadline).await.err().map(|error| error.to_string()),
        Err(_) => Some("no connection in time".to_owned()),
    };
    match missing {
        None if is_older(version, LEAST_JETSTREAM) => {
            let least = dotted(LEAST_JETSTREAM);
            report.fail(KEY, format_args!("server {version}: at least {least} is needed"));
        }
        None => report.ok(KEY, "JetStream is there"),
        Some(error) if settings.jetstream == JetStream::Optional => report.warn(KEY, error),
        Some(error) => report.fail(KEY, format_args!("{error}; `optional` or `off` go without")),
    }
    let mut subjects = Vec::new();
    for route in &config.routes {
        let own = match &route.backend {
            Backend::Nats(prefix) if prefix.is_empty() => Some(nats.subjects().clone()),
            Backend::Nats(prefix) => Subjects::new(prefix).ok(),
            Backend::Http(_) | Backend::Echo(_) => None,
        };
        let Some(own) = own else { continue };
        subjects.push(own.event(&route.hub, EventKind::Message));
        subjects.extend(route.actions.names.iter().map(|name| own.action(&route.hub, name)));
    }
    subjects.dedup();
    for subject in subjects {
        match store.streams_on(&subject, deadline).await {
            Ok(streams) if streams.is_empty() => {}
            Ok(streams) => report.fail(
                "nats",
                format_args!(
                    "the stream {} stores {subject}, so its acknowledgement would be taken for a \
                     worker's reply",
                    streams.join(", ")
                ),
            ),
            Err(error) => report.warn("nats", format_args!("streams on {subject}: {error}")),
        }
    }
}

/// Compares by number; what is not there or no number counts as 0.
fn is_older(version: &str, least: [u64; 3]) -> bool {
    let mut numbers = version.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    [(); 3].map(|()| numbers.next().unwrap_or(0)) < least
}

fn dotted([major, minor, patch]: [u64; 3]) -> String {
    format!("{major}.{minor}.{patch}")
}

fn descriptors(needed: u64, report: &mut Report) {
    match rlimit::Resource::NOFILE.get() {
        Ok((_, hard)) if hard < needed => report.warn(
            "limits",
            format_args!(
                "max_connections, max_pending, `upstream` and the management listener may need {needed} \
                 file descriptors, the hard limit is {hard}"
            ),
        ),
        Ok((_, hard)) => report.ok("limits", format_args!("{hard} file descriptors")),
        Err(error) => report.warn("limits", error),
    }
}

impl Report {
    fn ok(&mut self, what: &str, found: impl Display) {
        self.line("ok  ", what, found);
    }

    fn warn(&mut self, what: &str, found: impl Display) {
        self.line("warn", what, found);
    }

    fn fail(&mut self, what: &str, found: impl Display) {
        self.failed = true;
        self.line("FAIL", what, found);
    }

    fn line(&mut self, word: &str, what: &str, found: impl Display) {
        self.lines += &format!("{word}  {what:<12} {found}\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(is_older("2.9.25", LEAST_NATS));
        assert!(!is_older("2.10.0", LEAST_NATS));
        assert!(!is_older("2.15.1", LEAST_NATS));
        assert!(!is_older("3.0.0-beta", LEAST_NATS));
        assert!(is_older("", LEAST_NATS));
        assert!(is_older("2.12.6", SAFE_NATS) && is_older("2.11.15", SAFE_NATS));
        assert!(!is_older("2.12.7", SAFE_NATS) && !is_older("2.12.10", SAFE_NATS));
        assert!(!is_older("2.13.0-RC.1", SAFE_NATS));
    }
}
