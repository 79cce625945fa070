//! Rules of the plans.

use std::collections::BTreeMap;

use super::Findings;
use crate::config::{LimitAction, Plan, Rate, Rates, Size};

/// Checks all plans.
pub(super) fn check(plans: &BTreeMap<String, Plan>, findings: &mut Findings) {
    for (name, plan) in plans {
        let at = format!("plans.{name}");
        findings.need(is_name(name), &at, "expected a name of 1 to 64 of A-Z a-z 0-9 _ - .");
        let inbound = &plan.connection.inbound;
        let at_inbound = format!("{at}.connection.inbound");
        count(&inbound.messages, &format!("{at_inbound}.messages"), findings);
        size(&inbound.bytes, &format!("{at_inbound}.bytes"), findings);
        let at_frames = format!("{at_inbound}.frames");
        count(&inbound.frames, &at_frames, findings);
        findings.need(
            inbound.frames.action != LimitAction::Drop,
            &format!("{at_frames}.action"),
            "a frame that came in cannot be dropped; expected `throttle` or `close`",
        );
        rates(&plan.connection.outbound, &format!("{at}.connection.outbound"), findings);
        rates(&plan.user.inbound, &format!("{at}.user.inbound"), findings);
        rates(&plan.user.outbound, &format!("{at}.user.outbound"), findings);
    }
}

fn rates(rates: &Rates, at: &str, findings: &mut Findings) {
    count(&rates.messages, &format!("{at}.messages"), findings);
    size(&rates.bytes, &format!("{at}.bytes"), findings);
}

fn count(rate: &Rate<u32>, at: &str, findings: &mut Findings) {
    findings.range(&format!("{at}.per_second"), rate.per_second, 0, MESSAGES_MAX);
    if let Some(burst) = rate.burst {
        findings.range(&format!("{at}.burst"), burst, 1, MESSAGES_MAX);
    }
}

fn size(rate: &Rate<Size>, at: &str, findings: &mut Findings) {
    findings.range(&format!("{at}.per_second"), rate.per_second, Size::kib(0), BYTES_MAX);
    if let Some(burst) = rate.burst {
        findings.range(&format!("{at}.burst"), burst, Size::kib(1), BURST_MAX);
    }
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}

const MESSAGES_MAX: u32 = 10_000_000;
/// Buckets count whole nanoseconds for each byte: above this a rate would be off by more than 7 %.
const BYTES_MAX: Size = Size::kib(64 * 1024);
const BURST_MAX: Size = Size::kib(1024 * 1024);
