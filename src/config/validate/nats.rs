//! Rules of the connection to NATS.

use super::{Findings, MINUTE};
use crate::config::{Nats, Period, error::quoted};

/// Checks the connection to NATS.
pub(super) fn check(nats: &Nats, findings: &mut Findings) {
    findings.need(
        !nats.servers.is_empty(),
        "nats.servers",
        "expected at least one server, as `nats://host:4222`; leave `nats` out to run solo",
    );
    for (i, server) in nats.servers.iter().enumerate() {
        if let Err(message) = server_url(server) {
            findings.refuse(&format!("nats.servers[{i}]"), message);
        }
    }
    if let Err(message) = subject_prefix(&nats.prefix) {
        findings.refuse("nats.prefix", message);
    }
    findings.range("nats.replicas", usize::from(nats.replicas), 1, 5);
    findings.range("nats.connections", nats.connections, 1, 16);
    let tenth = Period::millis(100);
    findings.period("nats.connect_timeout", nats.connect_timeout, tenth, MINUTE);
    findings.period("nats.ping_interval", nats.ping_interval, tenth, MINUTE);
    credentials(nats, findings);
    let Some(tls) = &nats.tls else { return };
    match (&tls.certificate, &tls.key) {
        (Some(_), None) => findings.refuse("nats.tls", "`certificate` needs `key`"),
        (None, Some(_)) => findings.refuse("nats.tls", "`key` needs `certificate`"),
        _ => {}
    }
}

/// Whether `prefix` can begin subjects: tokens of plain characters with dots between them, in nobody
/// else's space (`$SYS`, `$JS`).
pub(super) fn subject_prefix(prefix: &str) -> Result<(), String> {
    let plain = |token: &str| {
        !token.is_empty()
            && token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    if prefix.len() <= PREFIX_MAX && prefix.split('.').all(plain) {
        return Ok(());
    }
    Err(format!(
        "expected a subject prefix: tokens of A-Z a-z 0-9 _ - with dots between them, at most \
         {PREFIX_MAX} bytes, as `moorline` or `acme.edge`; found {}",
        quoted(prefix)
    ))
}

fn credentials(nats: &Nats, findings: &mut Findings) {
    match (&nats.user, &nats.password) {
        (Some(_), None) => findings.refuse("nats.user", "`user` needs `password`"),
        (None, Some(_)) => findings.refuse("nats.password", "`password` needs `user`"),
        _ => {}
    }
    let ways = [
        ("user", nats.user.is_some() || nats.password.is_some()),
        ("token", nats.token.is_some()),
        ("credentials", nats.credentials.is_some()),
        ("nkey", nats.nkey.is_some()),
    ];
    let mut set = ways.iter().filter(|(_, set)| *set).map(|(name, _)| name);
    if let (Some(first), Some(second)) = (set.next(), set.next()) {
        findings.refuse(
            &format!("nats.{second}"),
            format!(
                "`{first}` is set as well; expected only one of `user` with `password`, `token`, \
                 `credentials` and `nkey`"
            ),
        );
    }
}

fn server_url(url: &str) -> Result<(), String> {
    let expected = || {
        format!("expected a URL as `nats://host:4222` or `tls://host:4222`, found {}", quoted(url))
    };
    let rest = ["nats://", "tls://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    let rest = rest.ok_or_else(expected)?;
    if rest.contains('@') {
        return Err("credentials do not belong in a URL; use `user` with `password`, `token`, \
                    `credentials` or `nkey`"
            .to_owned());
    }
    // The authority is parsed as of an http URL: the parser knows no other schemes' rules.
    let uri: http::Uri = format!("http://{rest}").parse().map_err(|_| expected())?;
    let authority = uri.authority().map_or("", http::uri::Authority::as_str);
    let port = authority.rsplit_once(':').map(|(_, port)| port).filter(|p| !p.ends_with(']'));
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
    // Nothing but the authority: no path, no query.
    if authority == rest && port_fits && uri.host().is_some_and(|host| !host.is_empty()) {
        Ok(())
    } else {
        Err(expected())
    }
}

/// Leaves room for hub, event and action below NATS's practical 256 bytes.
const PREFIX_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_scheme_a_host_and_a_port() {
        for url in ["nats://nats:4222", "tls://a.b.example", "nats://[::1]:4222", "nats://10.0.0.1"]
        {
            assert_eq!(server_url(url), Ok(()), "{url}");
        }
        for url in ["nats:4222", "http://nats", "nats://", "nats://h:0", "nats://h:99999"] {
            assert!(server_url(url).is_err_and(|e| e.contains("nats://host:4222")), "{url}");
        }
        for url in ["nats://h/", "nats://h/path", "nats://h?x", "nats://a b", "nats://h:"] {
            assert!(server_url(url).is_err(), "{url}");
        }
        let error = server_url("nats://me:secret@host").unwrap_err();
        assert!(error.contains("`user`") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn a_prefix_is_plain_tokens() {
        for prefix in ["moorline", "acme.edge", "a-b_c.D1"] {
            assert_eq!(subject_prefix(prefix), Ok(()), "{prefix}");
        }
        for prefix in ["", ".", "a.", ".a", "a..b", "a.*", ">", "$SYS", "a b", "ü", "a\0"] {
            assert!(subject_prefix(prefix).is_err(), "{prefix}");
        }
        assert!(subject_prefix(&"x".repeat(65)).is_err());
    }
}
