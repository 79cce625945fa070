//! Rules of the doors.

use std::net::SocketAddr;

use super::{DAY, Findings};
use crate::config::{ClientCertificate, Listeners, Period};

/// Checks the doors.
pub(super) fn check(listeners: &Listeners, findings: &mut Findings) {
    if listeners.public.is_none() && listeners.plain.is_none() {
        findings.refuse(
            "listeners",
            "no door for clients; add `public` (wss) or `plain` (ws), as \
             `public: {address: \"0.0.0.0:8443\", tls: {certificate: c.pem, key: k.pem}}`",
        );
    }
    let doors = [
        ("listeners.public.address", listeners.public.as_ref().map(|door| door.address)),
        ("listeners.plain.address", listeners.plain.as_ref().map(|door| door.address)),
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
    let Some(public) = &listeners.public else { return };
    let interval = public.tls.reload_interval;
    findings.period("listeners.public.tls.reload_interval", interval, Period::secs(1), DAY);
    findings.need(
        public.tls.client_certificate == ClientCertificate::Optional
            || public.tls.client_ca.is_some(),
        "listeners.public.tls.client_certificate",
        "`required` needs `client_ca`, the authorities that client certificates are checked against",
    );
}
