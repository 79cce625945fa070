//! Rules of the sections that bound the whole node: heartbeat, limits, shutdown, log.

use tracing_subscriber::EnvFilter;

use super::{DAY, Findings, HOUR, MINUTE};
use crate::config::{
    HandshakeRate, Heartbeat, Limits, Log, Memory, MemoryMax, Period, Shutdown, Size,
    error::{nearest, quoted},
};

/// Checks a heartbeat section, the node's or a route's.
pub(super) fn heartbeat(heartbeat: &Heartbeat, at: &str, findings: &mut Findings) {
    let path = |key| format!("{at}.{key}");
    let tenth = Period::millis(100);
    findings.period(&path("ping_interval"), heartbeat.ping_interval, Period::secs(1), HOUR);
    findings.period(&path("pong_timeout"), heartbeat.pong_timeout, Period::secs(1), 10 * MINUTE);
    if let Some(idle) = heartbeat.idle_timeout {
        findings.period(&path("idle_timeout"), idle, Period::secs(1), 30 * DAY);
    }
    if let Some(age) = heartbeat.max_age {
        findings.period(&path("max_age"), age, Period::secs(1), 30 * DAY);
    }
    findings.period(&path("close_timeout"), heartbeat.close_timeout, tenth, MINUTE);
    findings.period(&path("write_timeout"), heartbeat.write_timeout, tenth, 10 * MINUTE);
    findings.period(&path("message_timeout"), heartbeat.message_timeout, tenth, HOUR);
}

/// Checks the bounds of the node.
pub(super) fn limits(limits: &Limits, findings: &mut Findings) {
    let tenth = Period::millis(100);
    findings.range("limits.max_connections", limits.max_connections, 1, 10_000_000);
    let of_one = limits.max_connections_per_ip;
    findings.range("limits.max_connections_per_ip", of_one, 1, 10_000_000);
    let of_user = usize::from(limits.max_connections_per_user);
    findings.range("limits.max_connections_per_user", of_user, 0, 100);
    rate("limits.handshakes", limits.handshakes, findings);
    rate("limits.handshakes_per_ip", limits.handshakes_per_ip, findings);
    findings.range("limits.max_pending", limits.max_pending, 1, 1_000_000);
    findings.period("limits.tls_timeout", limits.tls_timeout, tenth, 5 * MINUTE);
    findings.period("limits.head_timeout", limits.head_timeout, tenth, 5 * MINUTE);
    findings.range("limits.max_head", limits.max_head, Size::kib(8), Size::kib(1024));
    findings.range("limits.max_headers", limits.max_headers, 16, 1000);
    findings.range(
        "limits.max_groups_per_connection",
        limits.max_groups_per_connection,
        1,
        100_000,
    );
    findings.range("limits.max_group_members", limits.max_group_members, 1, 10_000_000);
    let most = Size::kib(64 * 1024 * 1024);
    findings.range("limits.max_held", limits.max_held, Size::kib(64), most);
    memory(&limits.memory, most, findings);
}

/// Checks a rate of handshakes.
fn rate(path: &str, rate: HandshakeRate, findings: &mut Findings) {
    findings.range(&format!("{path}.per_second"), rate.per_second, 0, 1_000_000);
    if let Some(burst) = rate.burst {
        findings.range(&format!("{path}.burst"), burst, 1, 1_000_000);
    }
}

/// Checks the marks of memory: newcomers are refused before anybody is closed.
fn memory(memory: &Memory, most: Size, findings: &mut Findings) {
    if let MemoryMax::Size(size) = memory.max {
        findings.range("limits.memory.max", size, Size::kib(1024), most);
    }
    findings.range("limits.memory.refuse_above", memory.refuse_above, 10, 100);
    let least = memory.refuse_above.clamp(10, 100);
    findings.range("limits.memory.shed_above", memory.shed_above, least, 100);
}

/// Checks the end of the node.
pub(super) fn shutdown(shutdown: &Shutdown, findings: &mut Findings) {
    findings.period("shutdown.lame_duck", shutdown.lame_duck, Period::secs(0), 10 * MINUTE);
    findings.period("shutdown.drain", shutdown.drain, Period::secs(0), HOUR);
}

/// Checks what is logged. The filter takes any bare word for the name of a module and would log
/// nothing at `inof`, so a bare word must be a level.
pub(super) fn log(log: &Log, findings: &mut Findings) {
    let at = "log.level";
    let words = log.level.split(',').map(str::trim).filter(|word| !word.contains(['=', '[', ']']));
    for word in words {
        if !LEVELS.contains(&word.to_ascii_lowercase().as_str()) {
            let hint = nearest(word, &LEVELS)
                .map(|near| format!("; did you mean `{near}`?"))
                .unwrap_or_default();
            let message = format!("{EXPECTED}, found {}{hint}", quoted(word));
            return findings.refuse(at, message);
        }
    }
    if EnvFilter::builder().parse(&log.level).is_err() {
        findings.refuse(at, format!("{EXPECTED}, found {}", quoted(&log.level)));
    }
}

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
const EXPECTED: &str = "expected a level (`error`, `warn`, `info`, `debug`, `trace`, `off`) or \
                        directives as `info,moorline::relay=debug`";
