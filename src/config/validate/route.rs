//! Rules of the routes, alone and among each other, and of what they need from other sections.

use std::collections::{HashMap, HashSet};

use http::HeaderName;

use super::{Findings, MINUTE, backend, is_line, is_token, node, origin, path};
use crate::config::{
    self, AuthMode, Backend, Config, DEFAULT_PLAN, OnFailure, Period, Route, Size,
    error::{nearest, quoted},
};

/// Checks all routes.
pub(super) fn check(config: &Config, findings: &mut Findings) {
    findings.need(
        !config.routes.is_empty() || config.is_bridge_only(),
        "routes",
        "expected at least one route, as `- {path: /ws, auth: jwt}`",
    );
    let mut shapes: HashMap<String, usize> = HashMap::new();
    let mut names: HashMap<&str, usize> = HashMap::new();
    for (i, route) in config.routes.iter().enumerate() {
        let at = format!("routes[{i}]");
        match path::check(&route.path) {
            Err(message) => findings.refuse(&format!("{at}.path"), message),
            Ok(()) => {
                if let Some(other) = shapes.insert(path::shape(&route.path), i) {
                    let message = format!("matches the same paths as `routes[{other}].path`");
                    findings.refuse(&format!("{at}.path"), message);
                } else if let Some(other) = names.insert(route.name(), i) {
                    let message =
                        format!("`routes[{other}]` has the same name in metrics and logs");
                    findings.refuse(&format!("{at}.name"), message);
                }
            }
        }
        check_one(config, route, &at, findings);
    }
}

fn check_one(config: &Config, route: &Route, at: &str, findings: &mut Findings) {
    let path = |key: &str| format!("{at}.{key}");
    if let Some(name) = &route.name {
        findings.need(
            is_line(name),
            &path("name"),
            "expected a name of 1 to 256 bytes on one line",
        );
    }
    auth(config, route, at, findings);
    findings.need(
        !route.anonymous || route.auth == AuthMode::Jwt,
        &path("anonymous"),
        "`true` is for `auth: jwt` only: it lets clients without a token in",
    );
    for (i, text) in route.origins.iter().enumerate() {
        if let Err(message) = origin::check(text) {
            findings.refuse(&format!("{at}.origins[{i}]"), message);
        }
    }
    subprotocols(config, route, at, findings);
    backend::check(config, route, at, findings);
    actions(route, at, findings);
    for (i, name) in route.forward_headers.iter().flatten().enumerate() {
        if let Err(message) = forwarded(name) {
            findings.refuse(&format!("{at}.forward_headers[{i}]"), message);
        }
    }
    let least = Period::millis(1);
    findings.period(&path("request_timeout"), route.request_timeout, least, 10 * MINUTE);
    findings.period(&path("hold"), route.hold, Period::secs(0), MINUTE);
    findings.range(&path("in_flight"), route.in_flight, 1, 256);
    let most = Size::kib(64 * 1024);
    if route.max_message.bytes() == 0 || route.max_message > most {
        findings.refuse(
            &path("max_message"),
            format!(
                "expected 1 to {most}, found {}; behind NATS the servers' `max_payload` (1MiB unless \
                 changed) bounds a message as well",
                route.max_message
            ),
        );
    }
    if let OnFailure::Message(text) = &route.on_failure {
        findings.need(
            (1..=4096).contains(&text.len()),
            &path("on_failure.message"),
            "expected a text of 1 to 4096 bytes",
        );
    }
    if let Err(message) = plan(config, &route.plan) {
        findings.refuse(&path("plan"), message);
    }
    let outbox = &route.outbox;
    findings.range(&path("outbox.max_bytes"), outbox.max_bytes, Size::kib(1), most);
    findings.range(&path("outbox.max_messages"), outbox.max_messages, 1, 1_000_000);
    if let Some(heartbeat) = &route.heartbeat {
        node::heartbeat(heartbeat, &path("heartbeat"), findings);
    }
}

/// A route's plan is there, or it is the built-in one.
fn plan(config: &Config, name: &str) -> Result<(), String> {
    let known: Vec<_> = config.plans.keys().map(String::as_str).chain([DEFAULT_PLAN]).collect();
    if known.contains(&name) {
        return Ok(());
    }
    let hint = nearest(name, &known).map(|near| format!("; did you mean `{near}`?"));
    Err(format!("no plan {} in `plans`{}", quoted(name), hint.unwrap_or_default()))
}

/// What the way of showing who one is needs from other sections. A browser sends cookies with every
/// page's handshake, so where a cookie counts, the origin must be checked (RFC 6455 section 10.2).
fn auth(config: &Config, route: &Route, at: &str, findings: &mut Findings) {
    let path = format!("{at}.auth");
    match route.auth {
        AuthMode::Jwt => match &config.jwt {
            None => findings.refuse(&path, "`jwt` needs the `jwt` section, which is not there"),
            Some(jwt) if jwt.sources.cookie.is_some() && route.origins.is_empty() => findings.refuse(
                at,
                "`origins` is needed, because `jwt.sources.cookie` takes the token from a cookie, and \
                 browsers send cookies for any page",
            ),
            Some(_) => decides_by_cookie(route, at, findings),
        },
        AuthMode::Certificate => findings.need(
            config.listeners.public.as_ref().is_some_and(|door| door.tls.client_ca.is_some()),
            &path,
            "`certificate` needs `listeners.public.tls.client_ca`, the authorities that client \
             certificates are checked against",
        ),
        AuthMode::Connect | AuthMode::None => decides_by_cookie(route, at, findings),
    }
}

/// A backend that is asked about a client and sees its cookies may go by them.
fn decides_by_cookie(route: &Route, at: &str, findings: &mut Findings) {
    let message = match route.is_websocket_over_http() {
        true => {
            "`origins` is needed, because the backend sees every header of the handshake, `Cookie` \
             among them, and browsers send cookies for any page; or list in `forward_headers` what it \
             may see"
        }
        false => {
            "`origins` is needed, because `forward_headers` lets the backend decide by `Cookie` (also \
             where it is not written, with a backend behind HTTP), and browsers send cookies for any \
             page"
        }
    };
    findings.need(!route.decides_by("cookie") || !route.origins.is_empty(), at, message);
}

fn subprotocols(config: &Config, route: &Route, at: &str, findings: &mut Findings) {
    let prefix = config.jwt.as_ref().and_then(|jwt| jwt.sources.subprotocol.as_deref());
    let prefix = prefix.filter(|prefix| !prefix.is_empty() && route.auth == AuthMode::Jwt);
    for (i, name) in route.subprotocols.iter().enumerate() {
        let path = format!("{at}.subprotocols[{i}]");
        let earlier = route.subprotocols.iter().take(i).any(|other| other == name);
        if !is_token(name) {
            let message = format!(
                "expected a token (letters, digits and !#$%&'*+-.^_`|~), found {}",
                quoted(name)
            );
            findings.refuse(&path, message);
        } else if earlier {
            findings.refuse(&path, format!("`{name}` is listed twice"));
        } else if let Some(prefix) = prefix.filter(|prefix| name.starts_with(prefix)) {
            let message = format!(
                "would never be selected: `jwt.sources.subprotocol` takes what begins with `{prefix}` \
                 for a token"
            );
            findings.refuse(&path, message);
        }
    }
}

/// The names become tokens of subjects and segments of paths.
fn actions(route: &Route, at: &str, findings: &mut Findings) {
    let config::Actions { pointer, names } = &route.actions;
    findings.need(
        is_pointer(pointer),
        &format!("{at}.actions.pointer"),
        "expected a JSON pointer (RFC 6901) as `/action` or `/data/type`, of at most 256 bytes",
    );
    findings.need(
        names.len() <= 256,
        &format!("{at}.actions.names"),
        &format!("expected at most 256 names, found {}", names.len()),
    );
    findings.need(
        names.is_empty() || !matches!(route.backend, Backend::Echo(_)),
        &format!("{at}.actions.names"),
        "the echo answers all messages in one place",
    );
    let mut seen = HashSet::new();
    for (i, name) in names.iter().enumerate() {
        let path = format!("{at}.actions.names[{i}]");
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
        if !(1..=64).contains(&name.len()) || !name.bytes().all(is_plain) {
            let message = format!("expected 1 to 64 of A-Z a-z 0-9 _ -, found {}", quoted(name));
            findings.refuse(&path, message);
        } else if !seen.insert(name) {
            findings.refuse(&path, format!("{} is listed twice", quoted(name)));
        }
    }
}

fn is_pointer(text: &str) -> bool {
    let mut escapes = text.split('~').skip(1);
    text.len() <= 256
        && (text.is_empty() || text.starts_with('/'))
        && escapes.all(|rest| rest.starts_with(['0', '1']))
}

/// Whether a handshake's header can be one of a request with an event.
pub(crate) fn is_repeatable(name: &HeaderName) -> bool {
    forwarded(name.as_str()).is_ok() && !backend::is_of_body(name.as_str())
}

/// Whether the header may be shown to a backend: not one that belongs to the hop, to the handshake,
/// or to the contract with backends.
fn forwarded(name: &str) -> Result<(), String> {
    const HOP: [&str; 10] = [
        "connection",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    const OWN: [&str; 3] = ["sec-websocket-", "moorline-", "ce-"];
    let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
        return Err(format!(
            "expected the name of a header, as `X-Tenant`, found {}",
            quoted(name)
        ));
    };
    let lower = header.as_str();
    if HOP.contains(&lower) {
        Err(format!("`{name}` is about the connection to moorline, not for a backend"))
    } else if let Some(own) = OWN.iter().find(|own| lower.starts_with(**own)) {
        Err(format!("headers that begin with `{own}` are not passed on"))
    } else {
        Ok(())
    }
}
