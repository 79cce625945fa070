//! What a route may say, alone and beside other sections.

use super::rules::{accepted, refused};
use super::*;

#[test]
fn routes_alone() {
    let with = |keys: &str| format!("routes: [{{path: /ws, auth: none, {keys}}}]");
    for (keys, expected) in [
        ("origins: ['*']", "routes[0].origins[0]: wildcards are not taken"),
        ("origins: ['null']", "routes[0].origins[0]: `null` is what every sandboxed page"),
        ("subprotocols: ['a b']", "routes[0].subprotocols[0]: expected a token"),
        ("subprotocols: [a, a]", "routes[0].subprotocols[1]: `a` is listed twice"),
        ("backend: {echo: false}", "routes[0].backend.echo: expected `true`"),
        ("backend: {nats: '>'}", "routes[0].backend.nats: expected a subject prefix"),
        ("forward_headers: ['a b']", "routes[0].forward_headers[0]: expected the name of a header"),
        ("forward_headers: [Host]", "routes[0].forward_headers[0]: `Host` is about the connection"),
        ("forward_headers: [Upgrade]", "routes[0].forward_headers[0]: `Upgrade` is about"),
        (
            "forward_headers: [Sec-WebSocket-Key]",
            "routes[0].forward_headers[0]: headers that begin",
        ),
        ("forward_headers: [Moorline-X]", "routes[0].forward_headers[0]: headers that begin"),
        ("forward_headers: [CE-Id]", "routes[0].forward_headers[0]: headers that begin"),
        ("actions: {pointer: action}", "routes[0].actions.pointer: expected a JSON pointer"),
        ("actions: {pointer: /a~2}", "routes[0].actions.pointer: expected a JSON pointer"),
        ("actions: {names: [a, a]}", "routes[0].actions.names[1]: `a` is listed twice"),
        ("actions: {names: [a.b]}", "routes[0].actions.names[0]: expected 1 to 64 of A-Z"),
        ("actions: {names: ['']}", "routes[0].actions.names[0]: expected 1 to 64 of A-Z"),
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
        ("in_flight: 0", "routes[0].in_flight: expected 1 to 256, found 0"),
        ("in_flight: 257", "routes[0].in_flight: expected 1 to 256, found 257"),
        ("request_timeout: 0s", "routes[0].request_timeout: expected 1ms to 10m, found 0s"),
        ("request_timeout: 11m", "routes[0].request_timeout: expected 1ms to 10m, found 11m"),
        ("hold: 61s", "routes[0].hold: expected 0s to 1m, found 1m 1s"),
        ("max_message: 0", "routes[0].max_message: expected 1 to 64MiB, found 0; behind NATS"),
        ("max_message: 65MiB", "routes[0].max_message: expected 1 to 64MiB, found 65MiB"),
        ("on_failure: {message: ''}", "routes[0].on_failure.message: expected a text"),
        ("anonymous: true", "routes[0].anonymous: `true` is for `auth: jwt` only"),
        ("name: ''", "routes[0].name: expected a name"),
        ("heartbeat: {ping_interval: 1ms}", "routes[0].heartbeat.ping_interval: expected 1s to 1h"),
    ] {
        refused(&[(with(keys).as_str(), expected)]);
    }
    let good =
        "hold: 0s, in_flight: 256, max_message: 64MiB, events: [], forward_headers: [Cookie]";
    accepted(&[&with(good)]);
    let http = "backend: {http: ['http://a/e', 'https://b/e'], secret_file: s, ca: c, dialect: cloudevents}";
    accepted(&[&with(http)]);
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
    let signed = with("[http://a, http://b/], grip: {issuer: i, key_file: k}", open);
    accepted(&[&signed, &with("http://a", "forward_headers: [User-Agent]")]);
    accepted(&[&format!("{}\nupstream: http://a", with("http://a", open))]);
    let native = "routes: [{path: /ws, auth: none, backend: {http: http://a, grip: {issuer: i, key_file: k}}}]";
    refused(&[(native, "routes[0].backend.grip: is for `dialect: websocket-over-http` only")]);
}

#[test]
fn routes_and_other_sections() {
    let http = |keys: &str| {
        format!(
            "routes: [{{path: /a, auth: none, backend: {{{keys}}}}}]\nupstream: http://127.0.0.1:80"
        )
    };
    refused(&[
        (&http("http: http://localhost/e"), "routes[0].backend.secret_file: needed, because"),
        (&http("http: http://localhost, secret_file: s"), "routes[0].backend.http: the backend is"),
    ]);
    accepted(&[&http("http: http://localhost/e, secret_file: s"), &http("http: http://app")]);
    refused(&[
        ("routes: []", "routes: expected at least one route"),
        (
            "routes: [{path: ws, auth: none}]",
            "routes[0].path: expected a path that begins with `/`",
        ),
        (
            "routes: [{path: '/{a}', auth: none}, {path: '/{b}', auth: none}]",
            "routes[1].path: matches the same paths as `routes[0].path`",
        ),
        (
            "routes: [{path: /a, auth: none, name: x}, {path: /b, auth: none, name: x}]",
            "routes[1].name: `routes[0]` has the same name",
        ),
        (
            "routes: [{path: /a, auth: connect, forward_headers: [cookie]}]",
            "routes[0]: `origins` is needed, because `forward_headers`",
        ),
        (
            "routes: [{path: /a, auth: connect, backend: {http: http://a}}]",
            "routes[0]: `origins` is needed, because `forward_headers`",
        ),
        (
            "routes: [{path: /a, auth: jwt, subprotocols: [bearer.x]}]",
            "routes[0].subprotocols[0]: would never be selected",
        ),
    ]);
    accepted(&[
        "routes: [{path: /a, auth: certificate}, {path: /b, auth: none}]",
        "routes: [{path: /a, auth: jwt, anonymous: true}]",
        "routes: [{path: /a, auth: connect, forward_headers: [cookie], origins: ['https://a.b']}]",
        "routes: [{path: /a, auth: none, events: [connect, connected, message, disconnected]}]",
    ]);
    let solo = "listeners: {plain: {address: '127.0.0.1:0'}}\nroutes: [{path: /a, auth: jwt}]";
    let said: Vec<_> = match yaml(solo) {
        Err(ConfigError::Value { problem, .. }) => vec![problem.to_string()],
        other => panic!("{other:?}"),
    };
    assert!(said[0].starts_with("routes[0].auth: `jwt` needs the `jwt` section"), "{said:?}");
    let error = yaml(&solo.replace("auth: jwt", "auth: certificate")).unwrap_err().to_string();
    assert!(error.contains("routes[0].auth: `certificate` needs `listeners.public.tls"), "{error}");
    let error = yaml(&solo.replace("auth: jwt", "auth: none")).unwrap_err().to_string();
    assert!(
        error.contains("routes[0].backend: the backend is behind NATS, and there is"),
        "{error}"
    );
}
