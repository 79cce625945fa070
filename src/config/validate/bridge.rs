//! Rules of a bridge.

use super::{Findings, MINUTE, backend};
use crate::config::{Backend, Bridge, Config, Period, Size, error::quoted};

/// Checks a bridge, and what it needs from other sections.
pub(super) fn check(config: &Config, bridge: &Bridge, findings: &mut Findings) {
    findings.need(
        config.nats.is_some(),
        "bridge",
        "a bridge takes events from NATS, and there is no `nats` section",
    );
    if !is_queue(&bridge.queue) {
        let message = format!(
            "expected the name of a queue group: 1 to 64 of A-Z a-z 0-9 _ - and dots, found {}",
            quoted(&bridge.queue)
        );
        findings.refuse("bridge.queue", message);
    }
    match &bridge.backend {
        Backend::Http(service) => backend::http(service, "bridge.backend", findings),
        Backend::Nats(_) | Backend::Echo(_) => findings.refuse(
            "bridge.backend",
            "expected an HTTP service, as `{http: \"http://127.0.0.1:5000/events\"}`",
        ),
    }
    let least = Period::millis(1);
    findings.period("bridge.request_timeout", bridge.request_timeout, least, 10 * MINUTE);
    findings.period("bridge.hold", bridge.hold, Period::secs(0), MINUTE);
    findings.range("bridge.max_events", bridge.max_events, 1, 1_000_000);
    let most = Size::kib(64 * 1024 * 1024);
    findings.range("bridge.max_bytes", bridge.max_bytes, Size::kib(64), most);
}

/// Whether NATS and its permissions take it for one name.
fn is_queue(name: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    (1..=64).contains(&name.len()) && name.bytes().all(is_plain)
}
