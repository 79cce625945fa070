//! Rules of the upstream.

use super::{DAY, Findings, HOUR, MINUTE};
use crate::config::{Period, Upstream, UpstreamUrl};

/// Checks the upstream.
pub(super) fn check(upstream: &Upstream, findings: &mut Findings) {
    findings.need(
        upstream.ca.is_none() || matches!(upstream.url, UpstreamUrl::Https(_)),
        "upstream.ca",
        "is for an https `url` only",
    );
    let tenth = Period::millis(100);
    findings.period("upstream.connect_timeout", upstream.connect_timeout, tenth, MINUTE);
    findings.period("upstream.first_byte_timeout", upstream.first_byte_timeout, tenth, HOUR);
    findings.period("upstream.idle_timeout", upstream.idle_timeout, tenth, DAY);
    findings.range("upstream.max_requests", upstream.max_requests, 1, 100_000);
    findings.period("upstream.queue_timeout", upstream.queue_timeout, Period::secs(0), MINUTE);
    findings.range("upstream.max_clients", upstream.max_clients, 0, 1_000_000);
}
