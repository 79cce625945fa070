//! The rules of services behind HTTP.

use super::rules::{accepted, refused};

#[test]
fn services_alone() {
    let with = |keys: &str| format!("routes: [{{path: /ws, auth: none, {keys}}}]");
    for (keys, expected) in [
        ("backend: {http: []}", "routes[0].backend.http: expected 1 to 64 URLs, found 0"),
        ("backend: {http: [http://a, ftp://a]}", "routes[0].backend.http[1]: expected a URL as"),
        (
            "backend: {http: [http://a/, http://a/]}",
            "routes[0].backend.http[1]: `http://a/` is listed",
        ),
        ("backend: {http: 'http://u:p@a/'}", "routes[0].backend.http: credentials do not belong"),
        ("backend: {http: http://a, ca: c}", "routes[0].backend.ca: no URL of `http` begins with"),
        (
            "backend: {http: http://a, max_requests: 0}",
            "routes[0].backend.max_requests: expected 1",
        ),
        (
            "backend: {http: http://a, queue_timeout: 0s}",
            "routes[0].backend.queue_timeout: expected",
        ),
        (
            "backend: {http: http://a, connect_timeout: 2m}",
            "routes[0].backend.connect_timeout: exp",
        ),
        (
            "backend: {http: http://a}, forward_headers: [Content-Type]",
            "routes[0].forward_headers[0]: `Content-Type` of the handshake says nothing",
        ),
    ] {
        refused(&[(with(keys).as_str(), expected)]);
    }
    let urls = "['http://a/e', 'https://b/e']";
    let rest = "secret_file: s, ca: c, dialect: cloudevents";
    accepted(&[&with(&format!("backend: {{http: {urls}, {rest}}}"))]);
}

#[test]
fn services_and_other_sections() {
    let http = |keys: &str| {
        format!(
            "routes: [{{path: /a, auth: none, backend: {{{keys}}}}}]\nupstream: http://127.0.0.1:80"
        )
    };
    let secret = "routes[0].backend.secret_file: needed, because there is an `upstream`";
    let unix =
        http("http: http://localhost/e").replace("http://127.0.0.1:80", "unix:/run/app.sock");
    refused(&[
        (&http("http: http://localhost/e"), secret),
        (&http("http: http://app"), secret),
        (&unix, secret),
        (&http("http: http://localhost, secret_file: s"), "routes[0].backend.http: the backend is"),
    ]);
    accepted(&[
        &http("http: http://localhost/e, secret_file: s"),
        &http("http: http://app, secret_file: s"),
    ]);
    refused(&[(
        "routes: [{path: /a, auth: connect, backend: {http: http://a}}]",
        "routes[0]: `origins` is needed, because `forward_headers`",
    )]);
}

#[test]
fn a_backend_that_is_asked_and_sees_cookies_needs_origins_whoever_else_says_who_it_is() {
    let with = |auth: &str, keys: &str| format!("routes: [{{path: /a, auth: {auth}, {keys}}}]");
    let asked = "events: [connect], forward_headers: [Cookie]";
    for auth in ["none", "jwt", "connect"] {
        refused(&[(&with(auth, asked), "routes[0]: `origins` is needed, because `forward")]);
    }
    accepted(&[
        &with("jwt", &format!("{asked}, origins: ['https://a.b']")),
        &with("jwt", "forward_headers: [Cookie]"),
        // Pages that are not listed are refused anyway.
        &with("certificate", asked),
    ]);
}

#[test]
fn routes_of_websocket_over_http() {
    let with = |backend: &str, keys: &str| {
        format!(
            "routes: [{{path: /ws, auth: none, backend: {{http: {backend}, dialect: \
             websocket-over-http}}, {keys}}}]"
        )
    };
    let open = "origins: ['https://a.b']";
    for (backend, keys, expected) in [
        ("http://a/x", open, "routes[0].backend.http: expected a scheme, a host and a port"),
        ("'http://a?b'", open, "routes[0].backend.http: expected a scheme, a host and a port"),
        (
            "http://a",
            "in_flight: 2, forward_headers: []",
            "routes[0].in_flight: expected 1, because",
        ),
        ("http://a", "hold: 1s", "routes[0]: `origins` is needed, because the backend sees"),
        ("http://a", "forward_headers: [cookie]", "routes[0]: `origins` is needed, because"),
        (
            "http://a",
            "actions: {names: [a]}, forward_headers: []",
            "routes[0].actions.names: expected none, because",
        ),
        (
            "http://a, grip: {issuer: '', key_file: k}",
            open,
            "routes[0].backend.grip.issuer: expected a name",
        ),
    ] {
        refused(&[(with(backend, keys).as_str(), expected)]);
    }
    let jwt = with("http://a", "hold: 1s").replace("none", "jwt");
    refused(&[(&jwt, "routes[0]: `origins` is needed, because the backend sees")]);
    let signed = with("[http://a, http://b/], grip: {issuer: i, key_file: k}", open);
    accepted(&[&signed, &with("http://a", "forward_headers: [User-Agent]")]);
    accepted(&[&format!("{}\nupstream: http://a", with("http://a", open))]);
    let native = "routes: [{path: /ws, auth: none, backend: {http: http://a, grip: {issuer: i, key_file: k}}}]";
    refused(&[(native, "routes[0].backend.grip: is for `dialect: websocket-over-http` only")]);
}
