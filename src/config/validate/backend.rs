//! Rules of a route's backend.

use std::collections::HashSet;

use http::{Uri, uri::Authority};

use super::{Findings, MINUTE, is_line, nats};
use crate::config::{
    Backend, Config, Dialect, HttpBackend, Period, Route, Upstream, error::quoted,
};

/// Checks the backend of the route at `at`.
pub(super) fn check(config: &Config, route: &Route, at: &str, findings: &mut Findings) {
    match &route.backend {
        Backend::Echo(true) => {}
        Backend::Echo(false) => findings.refuse(
            &format!("{at}.backend.echo"),
            "expected `true`; without the echo, write `{nats: <prefix>}` or leave `backend` out",
        ),
        Backend::Nats(prefix) => {
            if !prefix.is_empty()
                && let Err(message) = nats::subject_prefix(prefix)
            {
                findings.refuse(&format!("{at}.backend.nats"), message);
            }
            findings.need(
                config.nats.is_some(),
                &format!("{at}.backend"),
                "the backend is behind NATS, and there is no `nats` section; add one, or write \
                 `backend: {http: <url>}`, or `backend: {echo: true}` for a first try",
            );
        }
        Backend::Http(backend) => {
            http(backend, &format!("{at}.backend"), findings);
            match (backend.dialect, &config.upstream) {
                // No client gets to the upstream with its content type.
                (Dialect::WebsocketOverHttp, _) => websocket_over_http(route, at, findings),
                (Dialect::Cloudevents, Some(upstream)) => {
                    behind_upstream(backend, upstream, &format!("{at}.backend"), findings);
                }
                (Dialect::Cloudevents, None) => {}
            }
            for (i, name) in route.forward_headers.iter().flatten().enumerate() {
                let message =
                    format!("`{name}` of the handshake says nothing of a request to a backend");
                findings.need(!is_of_body(name), &format!("{at}.forward_headers[{i}]"), &message);
            }
        }
    }
}

/// Whether requests with events have such a header of their own.
pub(crate) fn is_of_body(name: &str) -> bool {
    OF_BODY.iter().any(|own| name.eq_ignore_ascii_case(own))
}

/// Headers of a request with a body, which events have and handshakes have not.
const OF_BODY: [&str; 6] = [
    "accept-encoding",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "traceparent",
];
/// The most servers of one backend.
const MAX_URLS: usize = 64;

/// Checks the service at `at`.
pub(super) fn http(backend: &HttpBackend, at: &str, findings: &mut Findings) {
    let urls = backend.urls.as_slice();
    let path = |key: &str| format!("{at}.{key}");
    if urls.is_empty() || urls.len() > MAX_URLS {
        let message = format!("expected 1 to {MAX_URLS} URLs, found {}", urls.len());
        findings.refuse(&path("http"), message);
    }
    let mut seen = HashSet::new();
    for (i, url) in urls.iter().enumerate() {
        let at = if urls.len() > 1 { path(&format!("http[{i}]")) } else { path("http") };
        match check_url(url) {
            Err(message) => findings.refuse(&at, message),
            Ok(()) if !seen.insert(url) => {
                findings.refuse(&at, format!("{} is listed twice", quoted(url)));
            }
            Ok(()) => {}
        }
    }
    let is_https = |url: &String| url.to_ascii_lowercase().starts_with("https:");
    findings.need(
        backend.ca.is_none() || urls.iter().any(is_https),
        &path("ca"),
        "no URL of `http` begins with `https://`, so there is nobody to check",
    );
    findings.range(&path("max_requests"), backend.max_requests, 1, 100_000);
    let least = Period::millis(1);
    findings.period(&path("queue_timeout"), backend.queue_timeout, least, MINUTE);
    findings.period(&path("connect_timeout"), backend.connect_timeout, least, MINUTE);
    let is_woh = backend.dialect == Dialect::WebsocketOverHttp;
    let has_path = |url: &&String| {
        let parsed: Option<Uri> = url.parse().ok();
        parsed.is_some_and(|url| url.path() != "/" || url.query().is_some())
    };
    if let Some(url) = urls.iter().find(has_path).filter(|_| is_woh) {
        let message = format!(
            "expected a scheme, a host and a port, because `websocket-over-http` keeps the path and \
             the query of the client; found {}",
            quoted(url)
        );
        findings.refuse(&path("http"), message);
    }
    if let Some(grip) = &backend.grip {
        findings.need(is_woh, &path("grip"), "is for `dialect: websocket-over-http` only");
        findings.need(
            is_line(&grip.issuer),
            &path("grip.issuer"),
            "expected a name of 1 to 256 bytes on one line",
        );
    }
}

/// What the dialect asks for: each request is the handshake once more, and one comes after the other.
fn websocket_over_http(route: &Route, at: &str, findings: &mut Findings) {
    findings.need(
        route.in_flight == 1,
        &format!("{at}.in_flight"),
        "expected 1, because `websocket-over-http` has one request of a connection at a time",
    );
    findings.need(
        route.actions.names.is_empty(),
        &format!("{at}.actions.names"),
        "expected none, because `websocket-over-http` keeps the path of the client",
    );
}

/// What a backend needs whose server clients may reach, too. The `upstream` may be the same by another
/// name, or by its socket, or pass requests on to it.
fn behind_upstream(backend: &HttpBackend, upstream: &Upstream, at: &str, findings: &mut Findings) {
    findings.need(
        backend.secret_file.is_some(),
        &format!("{at}.secret_file"),
        "needed, because there is an `upstream`, and clients may reach the backend through it; the service \
         must tell events from their requests",
    );
    if !backend.is_at(&upstream.url.to_string()) {
        return;
    }
    let is_root = |path: &String| path.bytes().all(|b| b == b'/');
    findings.need(
        !backend.paths().iter().any(is_root),
        &format!("{at}.http"),
        "the backend is also the `upstream`, and clients must not reach where it takes events; give \
         these a path of their own, as `/ws-events`",
    );
}

fn check_url(url: &str) -> Result<(), String> {
    let expected = || {
        format!(
            "expected a URL as `http://127.0.0.1:5000/events` or `https://app.example/events`, found {}",
            quoted(url)
        )
    };
    if url.contains('#') {
        return Err(expected());
    }
    let uri: Uri = url.parse().map_err(|_| expected())?;
    let authority = uri.authority().map_or("", Authority::as_str);
    if authority.contains('@') {
        return Err(
            "credentials do not belong in a URL; the backend knows moorline by `secret_file`"
                .to_owned(),
        );
    }
    let port = authority.rsplit_once(':').map(|(_, port)| port).filter(|p| !p.ends_with(']'));
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
    let has_host = uri.host().is_some_and(|host| !host.is_empty());
    let fits = matches!(uri.scheme_str(), Some("http" | "https")) && has_host && port_fits;
    if fits { Ok(()) } else { Err(expected()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_a_url() {
        for url in [
            "http://127.0.0.1:5000/ws-events",
            "https://app.example",
            "http://[::1]:80/a?b=c",
            "http://app.default.svc:8080/",
        ] {
            assert_eq!(check_url(url), Ok(()), "{url}");
        }
        for url in [
            "",
            "app:5000",
            "/events",
            "ftp://app/",
            "ws://app/",
            "http://",
            "http://:80/",
            "http://app:0/",
            "http://app:99999/",
            "http://a b/",
            "http://app/#x",
        ] {
            assert!(check_url(url).is_err_and(|e| e.contains("expected a URL")), "{url}");
        }
        let error = check_url("http://me:hunter2@app/").unwrap_err();
        assert!(error.contains("`secret_file`") && !error.contains("hunter2"), "{error}");
    }
}
