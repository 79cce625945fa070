//! The rules between keys and the ranges: one broken rule a line, and the start of what is said.

use super::*;

/// Everything a route may need, so that one thing can be broken at a time.
const FULL: &str = "\
listeners: {public: {address: '127.0.0.1:8443', tls: {certificate: c, key: k, client_ca: a}}}
nats: {servers: ['nats://a']}
jwt: {keys: [{algorithms: [HS256], secret: s}]}
routes: [{path: /ws, auth: jwt}]
";

/// The problems when `section` stands in place of the section of `FULL` with that name.
fn problems(section: &str) -> Vec<String> {
    let name = section.split(':').next().unwrap_or_default();
    let kept: Vec<_> = FULL.lines().filter(|line| !line.starts_with(&format!("{name}:"))).collect();
    match yaml(&format!("{}\n{section}\n", kept.join("\n"))) {
        Ok(_) => Vec::new(),
        Err(ConfigError::Value { problem, .. }) => vec![problem.to_string()],
        Err(other) => panic!("{section}: {other}"),
    }
}

pub(super) fn refused(cases: &[(&str, &str)]) {
    for (section, expected) in cases {
        let said = problems(section);
        assert!(
            said.first().is_some_and(|said| said.starts_with(expected)),
            "{section}: {said:#?}"
        );
    }
}

pub(super) fn accepted(sections: &[&str]) {
    for section in sections {
        assert_eq!(problems(section), Vec::<String>::new(), "{section}");
    }
}

#[test]
fn doors() {
    refused(&[
        ("listeners: {admin: {address: '127.0.0.1:1'}}", "listeners: no door for clients"),
        (
            "listeners: {plain: {address: '0.0.0.0:1'}, admin: {address: '0.0.0.0:1'}}",
            "listeners.admin.address: 0.0.0.0:1 is already the address of `listeners.plain.address`",
        ),
        (
            "listeners: {public: {address: '[::]:1', tls: {certificate: c, key: k, \
             client_certificate: required}}}",
            "listeners.public.tls.client_certificate: `required` needs `client_ca`",
        ),
        (
            "listeners: {public: {address: '[::]:1', tls: {certificate: c, key: k, \
             reload_interval: 1ms}}}",
            "listeners.public.tls.reload_interval: expected 1s to 1day, found 1ms",
        ),
    ]);
    accepted(&["listeners: {plain: {address: '0.0.0.0:0'}, admin: {address: '0.0.0.0:0'}}"]);
}

#[test]
fn who_is_believed_at_a_door() {
    let with = |keys: &str| format!("listeners: {{plain: {{address: '[::]:0', {keys}}}}}");
    for (keys, expected) in [
        (
            "proxy_protocol: {trusted: []}",
            "listeners.plain.proxy_protocol.trusted: expected the networks of the proxies, as \
             `[10.0.0.0/8]`",
        ),
        ("proxy_protocol: {}", "listeners.plain.proxy_protocol: "),
        (
            "proxy_protocol: {trusted: [10.0.0.0/8], timeout: 2m}",
            "listeners.plain.proxy_protocol.timeout: expected 100ms to 1m, found 2m",
        ),
        (
            "proxy_protocol: {trusted: [10.0.0.0/8, lan]}",
            "listeners.plain.proxy_protocol.trusted[1]: expected a network such as 10.0.0.0/8",
        ),
        (
            "forwarded: {header: x-forwarded-for, trusted: []}",
            "listeners.plain.forwarded.trusted: expected the networks of the proxies",
        ),
        (
            "forwarded: {header: forwarded, trusted: [10.0.0.1/8]}",
            "listeners.plain.forwarded.trusted[0]: `10.0.0.1/8` has bits after its prefix; write \
             10.0.0.0/8",
        ),
        ("forwarded: {trusted: [10.0.0.0/8]}", "listeners.plain.forwarded"),
        (
            "forwarded: {header: x-real-ip, trusted: [10.0.0.0/8]}",
            "listeners.plain.forwarded.header: ",
        ),
    ] {
        refused(&[(with(keys).as_str(), expected)]);
    }
    accepted(&[&with(
        "proxy_protocol: {trusted: [192.0.2.1, '::/0'], timeout: 100ms}, \
         forwarded: {header: forwarded, trusted: [0.0.0.0/0]}",
    )]);
}

#[test]
fn who_may_manage_and_from_where() {
    let with =
        |keys: &str| format!("listeners: {{plain: {{address: '[::]:0'}}, management: {{{keys}}}}}");
    let tls = "tls: {certificate: c, key: k";
    for (keys, expected) in [
        ("address: '127.0.0.1:1'".to_owned(), "listeners.management: nobody could be let in"),
        (
            format!("address: '127.0.0.1:1', {tls}}}"),
            "listeners.management: nobody could be let in; add `key_files`",
        ),
        (
            "address: '0.0.0.0:1', key_files: [k]".to_owned(),
            "listeners.management.address: without `tls` only an address of this machine is taken",
        ),
        (
            format!("address: '0.0.0.0:1', key_files: [k], {tls}, client_certificate: required}}"),
            "listeners.management.tls.client_certificate: `required` needs `client_ca`",
        ),
        (
            "address: '127.0.0.1:1', key_files: [k], max_body: 1GiB".to_owned(),
            "listeners.management.max_body: expected 1KiB to 64MiB, found 1GiB",
        ),
    ] {
        refused(&[(with(&keys).as_str(), expected)]);
    }
    accepted(&[
        &with("address: '127.0.0.1:1', key_files: [k, 'env:KEY']"),
        &with("address: '[::1]:1', key_files: [k]"),
        &with(&format!("address: '0.0.0.0:1', {tls}, client_ca: a}}")),
    ]);
}

#[test]
fn nats() {
    refused(&[
        ("nats: {servers: []}", "nats.servers: expected at least one server"),
        ("nats: {servers: [a]}", "nats.servers[0]: expected a URL as `nats://host:4222`"),
        ("nats: {prefix: 'a.*'}", "nats.prefix: expected a subject prefix"),
        ("nats: {connections: 17}", "nats.connections: expected 1 to 16, found 17"),
        ("nats: {connections: 0}", "nats.connections: expected 1 to 16, found 0"),
        ("nats: {user: u}", "nats.user: `user` needs `password`"),
        ("nats: {password: p}", "nats.password: `password` needs `user`"),
        ("nats: {user: u, password: p, token: t}", "nats.token: `user` is set as well"),
        ("nats: {credentials: c, nkey: n}", "nats.nkey: `credentials` is set as well"),
        ("nats: {tls: {certificate: c}}", "nats.tls: `certificate` needs `key`"),
        ("nats: {tls: {key: c}}", "nats.tls: `key` needs `certificate`"),
        ("nats: {connect_timeout: 0s}", "nats.connect_timeout: expected 100ms to 1m"),
        ("nats: {ping_interval: 1h}", "nats.ping_interval: expected 100ms to 1m, found 1h"),
    ]);
    accepted(&["nats: {}", "nats: {tls: {certificate: c, key: k, first: true}, nkey: n}"]);
}

#[test]
fn the_upstream() {
    refused(&[
        ("upstream: {url: 'http://a', ca: c}", "upstream.ca: is for an https `url` only"),
        (
            "upstream: {url: 'http://a', connect_timeout: 1h}",
            "upstream.connect_timeout: expected 100ms to 1m, found 1h",
        ),
        (
            "upstream: {url: 'http://a', first_byte_timeout: 0s}",
            "upstream.first_byte_timeout: expected 100ms to 1h",
        ),
        ("upstream: {url: 'http://a', idle_timeout: 2days}", "upstream.idle_timeout: expected"),
        ("upstream: {url: 'http://a', max_requests: 0}", "upstream.max_requests: expected 1 to"),
        ("upstream: {url: 'http://a', queue_timeout: 1h}", "upstream.queue_timeout: expected 0s"),
        ("upstream: {url: 'http://a', max_clients: 1000001}", "upstream.max_clients: expected 0"),
    ]);
    accepted(&[
        "upstream: http://127.0.0.1:5000",
        "upstream: unix:/run/app.sock",
        "upstream: {url: 'https://a', ca: c, queue_timeout: 0s, max_clients: 0}",
        "upstream:",
    ]);
    let short = yaml(&format!("{FULL}upstream: http://a:1\n")).unwrap().upstream;
    assert_eq!(short, yaml(&format!("{FULL}upstream: {{url: 'http://a:1'}}\n")).unwrap().upstream);
    assert!(short.is_some());
}

#[test]
fn tokens() {
    refused(&[
        ("jwt: {}", "jwt: no key to check tokens with"),
        ("jwt: {keys: [{algorithms: [HS256]}]}", "jwt.keys[0]: expected `secret`"),
        ("jwt: {keys: [{algorithms: [], secret: s}]}", "jwt.keys[0].algorithms: expected the"),
        (
            "jwt: {keys: [{algorithms: [HS256], secret: s, public_key: p}]}",
            "jwt.keys[0].public_key: `secret` is set as well",
        ),
        (
            "jwt: {keys: [{algorithms: [HS256, RS256], secret: s}]}",
            "jwt.keys[0].algorithms[1]: RS256 needs a `public_key`",
        ),
        (
            "jwt: {keys: [{algorithms: [HS512], public_key: p}]}",
            "jwt.keys[0].algorithms[0]: HS512 needs a `secret`",
        ),
        (
            "jwt: {jwks: {location: 'http://id.example/jwks'}}",
            "jwt.jwks.location: http is only taken to a loopback address",
        ),
        (
            "jwt: {jwks: {location: f, algorithms: []}}",
            "jwt.jwks.algorithms: expected at least one",
        ),
        ("jwt: {jwks: {location: f, algorithms: [HS256]}}", "jwt.jwks.algorithms[0]: HS256 needs"),
        ("jwt: {jwks: {location: f, ca: c}}", "jwt.jwks.ca: `ca` is for an https `location`"),
        ("jwt: {jwks: {location: f, refresh: 0s}}", "jwt.jwks.refresh: expected 1s to 7days"),
        ("jwt: {jwks: {location: f, max_stale: 1m}}", "jwt.jwks.max_stale: expected 10m to 30days"),
        ("jwt: {jwks: {location: f, timeout: 1h}}", "jwt.jwks.timeout: expected 100ms to 1m"),
        ("jwt: {jwks: {location: f, max_size: 1GiB}}", "jwt.jwks.max_size: expected 1KiB to 16MiB"),
        ("jwt: {jwks: {location: f}, leeway: 1h}", "jwt.leeway: expected 0s to 10m, found 1h"),
        ("jwt: {jwks: {location: f}, issuer: ''}", "jwt.issuer: expected a text"),
        ("jwt: {jwks: {location: f}, audience: ['']}", "jwt.audience[0]: expected a text"),
        ("jwt: {jwks: {location: f}, claims: {user: ''}}", "jwt.claims.user: expected a text"),
        (
            "jwt: {jwks: {location: f}, sources: {header: false, subprotocol: ''}}",
            "jwt.sources: every source is off",
        ),
        ("jwt: {jwks: {location: f}, sources: {cookie: 'a b'}}", "jwt.sources.cookie: expected"),
        ("jwt: {jwks: {location: f}, sources: {query: 'a&b'}}", "jwt.sources.query: expected"),
        ("jwt: {jwks: {location: f}, sources: {subprotocol: 'a,'}}", "jwt.sources.subprotocol: "),
        (
            "jwt: {jwks: {location: f}, sources: {cookie: session}}",
            "routes[0]: `origins` is needed, because `jwt.sources.cookie`",
        ),
    ]);
    accepted(&["jwt: {jwks: {location: 'https://id.example/jwks', ca: c}, leeway: 0s}"]);
}

#[test]
fn a_bridge_alone_and_beside_routes() {
    let alone = |keys: &str| format!("nats: {{}}\nbridge: {{{keys}}}");
    let http = "backend: {http: http://a}";
    for (keys, expected) in [
        ("hub: app", "bridge: the key `backend` is missing"),
        ("backend: {echo: true}", "bridge.backend: expected an HTTP service"),
        ("backend: {nats: ''}", "bridge.backend: expected an HTTP service"),
        (
            "backend: {http: http://a/b, dialect: websocket-over-http}",
            "bridge.backend.http: expected a scheme, a host and a port",
        ),
        ("backend: {http: ftp://a}", "bridge.backend.http: expected a URL as"),
        (&format!("{http}, queue: ''"), "bridge.queue: expected the name of a queue group"),
        (&format!("{http}, queue: 'a b'"), "bridge.queue: expected the name of a queue group"),
        (&format!("{http}, queue: 'a.>'"), "bridge.queue: expected the name of a queue group"),
        (&format!("{http}, request_timeout: 0s"), "bridge.request_timeout: expected 1ms to 10m"),
        (&format!("{http}, hold: 2m"), "bridge.hold: expected 0s to 1m, found 2m"),
        (&format!("{http}, max_events: 0"), "bridge.max_events: expected 1 to 1000000, found 0"),
        (&format!("{http}, max_bytes: 1KiB"), "bridge.max_bytes: expected 64KiB to 64GiB"),
    ] {
        let error = yaml(&alone(keys)).unwrap_err().to_string();
        assert!(error.contains(expected), "{keys}: {error}");
    }
    let error = yaml(&format!("bridge: {{{http}}}")).unwrap_err().to_string();
    assert!(error.contains("bridge: a bridge takes events from NATS"), "{error}");
    let config = yaml(&alone(http)).unwrap();
    assert!(config.is_bridge_only());
    assert_eq!(yaml(&config.to_yaml()), Ok(config));
    let doorless = format!("{}\nroutes: [{{path: /a, auth: none}}]", alone(http));
    let error = yaml(&doorless).unwrap_err().to_string();
    assert!(error.contains("listeners: no door for clients"), "{error}");
}

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
}

#[test]
fn routes_and_other_sections() {
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

#[test]
fn the_node() {
    refused(&[
        ("heartbeat: {ping_interval: 2h}", "heartbeat.ping_interval: expected 1s to 1h"),
        ("heartbeat: {pong_timeout: 0s}", "heartbeat.pong_timeout: expected 1s to 10m"),
        ("heartbeat: {idle_timeout: 0s}", "heartbeat.idle_timeout: expected 1s to 30days"),
        ("heartbeat: {max_age: 9000y}", "heartbeat.max_age: expected 1s to 30days"),
        ("heartbeat: {close_timeout: 2m}", "heartbeat.close_timeout: expected 100ms to 1m"),
        ("heartbeat: {write_timeout: 1ms}", "heartbeat.write_timeout: expected 100ms to 10m"),
        ("limits: {max_connections: 0}", "limits.max_connections: expected 1 to 10000000"),
        (
            "limits: {max_connections_per_ip: 0}",
            "limits.max_connections_per_ip: expected 1 to 10000000",
        ),
        ("limits: {handshakes: {burst: 5}}", "limits.handshakes: the key `per_second` is missing"),
        (
            "limits: {handshakes: {per_second: 5, burst: 0}}",
            "limits.handshakes.burst: expected 1 to 1000000, found 0",
        ),
        (
            "limits: {handshakes_per_ip: {per_second: 2000000}}",
            "limits.handshakes_per_ip.per_second: expected 0 to 1000000, found 2000000",
        ),
        ("limits: {max_pending: 0}", "limits.max_pending: expected 1 to 1000000, found 0"),
        (
            "limits: {memory: {max: most}}",
            "limits.memory.max: expected `auto` or a size such as 512MiB, found `most`",
        ),
        ("limits: {memory: {max: 1}}", "limits.memory.max: expected 1MiB to 64GiB, found 1"),
        (
            "limits: {memory: {refuse_above: 0}}",
            "limits.memory.refuse_above: expected 10 to 100, found 0",
        ),
        (
            "limits: {memory: {refuse_above: 90, shed_above: 89}}",
            "limits.memory.shed_above: expected 90 to 100, found 89",
        ),
        ("limits: {tls_timeout: 1h}", "limits.tls_timeout: expected 100ms to 5m"),
        ("limits: {head_timeout: 0s}", "limits.head_timeout: expected 100ms to 5m"),
        ("limits: {max_head: 1}", "limits.max_head: expected 8KiB to 1MiB, found 1"),
        ("limits: {max_headers: 1}", "limits.max_headers: expected 16 to 1000, found 1"),
        ("limits: {max_held: 0}", "limits.max_held: expected 64KiB to 64GiB, found 0"),
        ("shutdown: {lame_duck: 1h}", "shutdown.lame_duck: expected 0s to 10m"),
        ("shutdown: {drain: 1d}", "shutdown.drain: expected 0s to 1h"),
        ("log: {level: inof}", "log.level: expected a level"),
        ("log: {level: ''}", "log.level: expected a level"),
        ("log: {level: 'info,a=loud'}", "log.level: expected a level"),
    ]);
    accepted(&[
        "log: {level: 'WARN,moorline::relay=trace'}",
        "log: {level: off}",
        "shutdown: {lame_duck: 0s, drain: 0s}",
        "limits: {handshakes: {per_second: 0}, handshakes_per_ip: {per_second: 5}}",
        "limits: {memory: {max: 512MiB, refuse_above: 100, shed_above: 100}}",
    ]);
}

#[test]
fn every_problem_is_found_in_the_order_of_the_sections() {
    let mut config = yaml(SMALL).unwrap();
    config.listeners.plain = None;
    config.routes[0].in_flight = 0;
    config.limits.max_headers = 0;
    let paths: Vec<_> = config.validate().into_iter().map(|problem| problem.path).collect();
    assert_eq!(paths, ["listeners", "routes[0].in_flight", "limits.max_headers"].map(Into::into));
}

#[test]
fn a_plan_is_named_and_within_its_ranges() {
    let with = |plans: &str, plan: &str| {
        let text = SMALL.replace("routes:", &format!("plans: {plans}\nroutes:"));
        yaml(&text.replace("auth: none", &format!("auth: none, plan: {plan}")))
    };
    let refused = |plans: &str, plan: &str| with(plans, plan).unwrap_err().to_string();
    assert!(with("{}", "default").is_ok());
    let gold = "{gold: {connection: {inbound: {messages: {per_second: 7}}}}}";
    let config = with(gold, "gold").unwrap();
    let inbound = config.plans["gold"].connection.inbound;
    assert_eq!((inbound.messages.per_second, inbound.messages.burst()), (7, 7));
    assert_eq!(inbound.bytes, crate::config::InboundRates::default().bytes);
    assert!(refused(gold, "golf").contains("routes[0].plan: no plan `golf` in `plans`; did you"));
    for (rate, message) in [
        ("messages: {burst: 7}", "per_second"),
        ("messages: {per_second: 1, burst: 0}", "messages.burst: expected 1 to"),
        ("bytes: {per_second: 1GiB}", "bytes.per_second: expected 0 to 64MiB"),
        ("frames: {per_second: 1, action: drop}", "frames.action: a frame that came in"),
    ] {
        let error = refused(&format!("{{gold: {{connection: {{inbound: {{{rate}}}}}}}}}"), "gold");
        assert!(error.contains(message), "{rate}: {error}");
    }
    assert!(refused("{'a b': {}}", "default").contains("expected a name"));
}
