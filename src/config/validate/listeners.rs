//! Rules of the doors.

use std::net::SocketAddr;

use super::{DAY, Findings, MINUTE};
use crate::config::{
    ClientCertificate, Config, Forwarded, Management, Period, ProxyProtocol, Size, Tls,
};

/// Checks the doors.
pub(super) fn check(config: &Config, findings: &mut Findings) {
    let listeners = &config.listeners;
    if listeners.public.is_none() && listeners.plain.is_none() && !config.is_bridge_only() {
        findings.refuse(
            "listeners",
            "no door for clients; add `public` (wss) or `plain` (ws), as \
             `public: {address: \"0.0.0.0:8443\", tls: {certificate: c.pem, key: k.pem}}`",
        );
    }
    let doors = [
        ("listeners.public.address", listeners.public.as_ref().map(|door| door.address)),
        ("listeners.plain.address", listeners.plain.as_ref().map(|door| door.address)),
        ("listeners.management.address", listeners.management.as_ref().map(|door| door.address)),
        ("listeners.admin.address", listeners.admin.as_ref().map(|door| door.address)),
    ];
    let mut taken: Vec<(&str, SocketAddr)> = Vec::new();
    for (path, address) in doors {
        let Some(address) = address else { continue };
        // Port 0 lets the system choose, so two of them never meet.
        match taken.iter().find(|(_, other)| *other == address && address.port() != 0) {
            Some((other, _)) => {
                findings.refuse(path, format!("{address} is already the address of `{other}`"));
            }
            None => taken.push((path, address)),
        }
    }
    if let Some(public) = &listeners.public {
        tls("listeners.public.tls", &public.tls, findings);
        proxies(
            "listeners.public",
            public.proxy_protocol.as_ref(),
            public.forwarded.as_ref(),
            findings,
        );
    }
    if let Some(plain) = &listeners.plain {
        proxies(
            "listeners.plain",
            plain.proxy_protocol.as_ref(),
            plain.forwarded.as_ref(),
            findings,
        );
    }
    if let Some(door) = &listeners.management {
        management(door, findings);
    }
}

fn management(door: &Management, findings: &mut Findings) {
    let has_authorities = door.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    findings.need(
        has_authorities || !door.key_files.is_empty(),
        "listeners.management",
        "nobody could be let in; add `key_files`, or `tls` with `client_ca`, the authorities that \
         backends' certificates are checked against",
    );
    // A key or a message in the clear is everybody's between here and there.
    findings.need(
        door.tls.is_some() || door.address.ip().to_canonical().is_loopback(),
        "listeners.management.address",
        "without `tls` only an address of this machine is taken, as `127.0.0.1:8444`; add \
         `tls: {certificate: c.pem, key: k.pem}`",
    );
    if let Some(section) = &door.tls {
        tls("listeners.management.tls", section, findings);
    }
    let (least, most) = (Size::kib(1), Size::kib(64 * 1024));
    findings.range("listeners.management.max_body", door.max_body, least, most);
}

/// The `tls` section at this path.
fn tls(path: &str, tls: &Tls, findings: &mut Findings) {
    let interval = tls.reload_interval;
    findings.period(&format!("{path}.reload_interval"), interval, Period::secs(1), DAY);
    findings.need(
        tls.client_certificate == ClientCertificate::Optional || tls.client_ca.is_some(),
        &format!("{path}.client_certificate"),
        "`required` needs `client_ca`, the authorities that client certificates are checked against",
    );
}

/// What says who the client is, at the door with this path.
fn proxies(
    door: &str,
    protocol: Option<&ProxyProtocol>,
    forwarded: Option<&Forwarded>,
    findings: &mut Findings,
) {
    const NOBODY: &str = "expected the networks of the proxies, as `[10.0.0.0/8]`; with none of them \
                          nobody would be believed";
    if let Some(protocol) = protocol {
        let path = format!("{door}.proxy_protocol");
        findings.need(!protocol.trusted.is_empty(), &format!("{path}.trusted"), NOBODY);
        let least = Period::millis(100);
        findings.period(&format!("{path}.timeout"), protocol.timeout, least, MINUTE);
    }
    if let Some(forwarded) = forwarded {
        let path = format!("{door}.forwarded.trusted");
        findings.need(!forwarded.trusted.is_empty(), &path, NOBODY);
    }
}
