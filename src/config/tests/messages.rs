//! Mistakes and exactly what is said about them.

use super::*;

/// What is said about `text`, without the file's name.
fn said(text: &str) -> String {
    let error = yaml(text).expect_err(text).to_string();
    error.strip_prefix("moorline.yaml:").unwrap_or(&error).to_owned()
}

/// Asserts what is said about a key of a route.
fn route(keys: &str, expected: &str) {
    let text = format!(
        "listeners: {{plain: {{address: '127.0.0.1:0'}}}}\nroutes:\n  - {{path: /ws, {keys}}}\n"
    );
    let error = yaml(&text).expect_err(&text).to_string();
    assert!(error.starts_with("moorline.yaml:3:"), "{error}");
    let message = error.splitn(4, ':').nth(3).unwrap_or_default();
    assert_eq!(message.trim_start(), expected, "{keys}");
}

#[test]
fn an_unknown_key_says_where_and_what_was_meant() {
    let error = yaml("routes:\n  - path: /ws\n    auht: jwt\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "moorline.yaml:3:5: routes[0].auht: unknown key; did you mean `auth`?"
    );
    assert_eq!(error.excerpt(), Some("3 |     auht: jwt\n  |     ^"));
    assert_eq!(said("listen: {}"), "1:1: listen: unknown key; did you mean `listeners`?");
    assert_eq!(
        said("listeners:\n  wss: {}"),
        "2:3: listeners.wss: unknown key; the keys here are `public`, `plain`, `management`, `admin` or \
         `console`"
    );
}

#[test]
fn a_wrong_type_says_what_was_expected_and_found() {
    for (text, expected) in [
        ("routes: 5", "1:9: routes: expected a list, found `5`"),
        (
            "listeners: x",
            "1:12: listeners: expected a section with keys such as `public`, `plain`, `management`, \
             `admin` or `console`, found `x`",
        ),
        (
            "listeners: {plain: {address: 'localhost:80'}}",
            "1:30: listeners.plain.address: expected an IP address and a port, as `0.0.0.0:8443` or \
             `[::]:8443`, found `localhost:80`",
        ),
        (
            "listeners: {public: {address: '127.0.0.1:1'}}",
            "1:21: listeners.public: the key `tls` is missing",
        ),
        (
            "limits: {max_connections: many}",
            "1:27: limits.max_connections: expected a whole number, found `many`",
        ),
        (
            "limits: {max_head: 16XB}",
            "1:20: limits.max_head: expected a size such as 512, 64KiB or 1MiB, found `16XB`",
        ),
        (
            "heartbeat: {ping_interval: 25}",
            "1:28: heartbeat.ping_interval: expected a duration such as 250ms, 30s or 5m, found `25`",
        ),
        (
            "heartbeat:\n  ping_interval:\n",
            "2:16: heartbeat.ping_interval: expected a single value, found nothing",
        ),
        ("log: {format: xml}", "1:15: log.format: expected `human` or `json`, found `xml`"),
        ("upstream: [a]", "1:11: upstream: expected a URL, or a section with the key `url`"),
        (
            "upstream: {url: app}",
            "1:17: upstream.url: expected a URL as `http://127.0.0.1:5000`, `https://app.internal` or \
             `unix:/run/app.sock`, found `app`",
        ),
        (
            "upstream: app",
            "1:11: upstream: expected a URL as `http://127.0.0.1:5000`, `https://app.internal` or \
             `unix:/run/app.sock`, found `app`",
        ),
        ("upstream: {ca: a}", "1:11: upstream: the key `url` is missing"),
        (
            "upstream: {url: 'http://a', url_path: b}",
            "1:29: upstream.url_path: unknown key; the keys here are `url`, `ca`, `connect_timeout`, \
             `first_byte_timeout`, `idle_timeout`, `max_requests`, `queue_timeout` or `max_clients`",
        ),
        (
            "jwt: {sources: {header: yes}}",
            "1:25: jwt.sources.header: expected `true` or `false`, found `yes`",
        ),
    ] {
        assert_eq!(said(text), expected, "{text}");
    }
}

#[test]
fn a_wrong_value_of_a_route_says_what_was_expected() {
    for (keys, expected) in [
        (
            "auth: jwtt",
            "routes[0].auth: expected `jwt`, `connect`, `certificate` or `none`, found `jwtt`; did you \
             mean `jwt`?",
        ),
        ("hub: a", "routes[0]: the key `auth` is missing"),
        (
            "auth: none, in_flight: 70000",
            "routes[0].in_flight: expected a whole number from 0 to 65535, found `70000`",
        ),
        ("auth: none, hub: a.b", "routes[0].hub: a hub name is 1 to 64 of A-Z a-z 0-9 _ -"),
        (
            "auth: none, backend: {http: x}",
            "routes[0].backend.http: expected a URL as `http://127.0.0.1:5000/events` or \
             `https://app.example/events`, found `x`",
        ),
        (
            "auth: none, backend: {nats: a, echo: true}",
            "routes[0].backend: expected exactly one of `nats`, `http` or `echo`, found 2",
        ),
        (
            "auth: none, backend: echo",
            "routes[0].backend: expected a section with keys such as `nats`, `http`, `echo`, `dialect`, \
             `secret_file`, `ca`, `max_requests`, `queue_timeout`, `connect_timeout` or `grip`, found `echo`",
        ),
        (
            "auth: none, on_failure: {close: 1}",
            "routes[0].on_failure: `close` takes no value: write only `close`",
        ),
        (
            "auth: none, events: [mesage]",
            "routes[0].events[0]: expected `connect`, `connected`, `message` or `disconnected`, found \
             `mesage`; did you mean `message`?",
        ),
    ] {
        route(keys, expected);
    }
}

#[test]
fn text_that_is_no_yaml_says_where_and_why() {
    for (text, expected) in [
        ("limits:\n\tmax: 1\n", "2:2: a tab cannot indent YAML; use spaces"),
        ("a: b: c", "1:5: unexpected `:`; put a text that holds `: ` in quotes"),
        ("log: {level: a\nx: 2", "2:2: a `{` is not closed, or a comma is missing"),
        ("  log: {}\n nats: {}", "2:2: the indentation fits no line above"),
        ("log: {}\nlog: {}\n", "2:1: the key `log` is given twice in this section"),
        ("log: @x", "1:6: unexpected character; put a text that begins with it in quotes"),
        ("log: \0", "1:6: unexpected character; put a text that begins with it in quotes"),
        ("--- {}\n--- {}\n", "2:5: a config is one YAML document; a second one starts here"),
        ("log: !secret x", "1:14: tags (`!name`) are not taken here"),
        ("log: *x", "1:6: this alias has no anchor before it"),
        (": 5", "1:1: expected a key before the colon"),
    ] {
        assert_eq!(said(text), expected, "{text:?}");
    }
}

#[test]
fn toml_is_told_in_the_same_words() {
    let toml = |text: &str| Config::parse(text, Format::Toml, "m.toml", std::iter::empty());
    let small = "[listeners.plain]\naddress = '127.0.0.1:0'\n[[routes]]\npath = '/ws'\nauth = 'none'\n\
                 backend = {echo = true}\n";
    assert_eq!(toml(small), yaml(SMALL));
    for (more, expected) in [
        ("auht = 1", "m.toml:7:1: routes[0].auht: unknown key; did you mean `auth`?"),
        (
            "hold = 3",
            "m.toml:7:8: routes[0].hold: expected a duration such as 250ms, 30s or 5m, found `3`",
        ),
        ("in_flight = 0", "m.toml:7:13: routes[0].in_flight: expected 1 to 256, found 0"),
    ] {
        assert_eq!(toml(&format!("{small}{more}")).unwrap_err().to_string(), expected);
    }
    let error = toml("a = \n").unwrap_err().to_string();
    assert!(error.starts_with("m.toml:1:"), "{error}");
    let error = toml("a = 1\na = 2\n").unwrap_err().to_string();
    assert_eq!(error, "m.toml:2:1: duplicate key");
}

#[test]
fn a_broken_rule_points_at_the_value() {
    let text = "listeners: {plain: {address: '127.0.0.1:0'}}\nroutes:\n  - path: /ws\n    auth: none\n    \
                backend: {echo: true}\n    origins:\n      - https://a.example\n      - \
                https://B.example/\n";
    let error = yaml(text).unwrap_err();
    assert!(error.to_string().starts_with("moorline.yaml:8:9: routes[0].origins[1]: expected an"));
    assert!(error.to_string().ends_with("write it as `https://b.example`"), "{error}");
    assert_eq!(error.excerpt(), Some("8 |       - https://B.example/\n  |         ^"));
}

#[test]
fn credentials_in_a_server_url_are_not_repeated() {
    let text = format!("{SMALL}nats: {{servers: ['nats://me:hunter2@host']}}");
    let error = yaml(&text).unwrap_err();
    assert!(error.to_string().contains("nats.servers[0]: credentials do not belong"), "{error}");
    assert!(!format!("{error}{error:?}{:?}", error.excerpt()).contains("hunter2"));
}

#[test]
fn an_empty_file_is_the_defaults_and_lacks_a_door() {
    for empty in ["", "\n", "# nothing\n", "---\n", "{}", "\u{feff}"] {
        assert!(said(empty).starts_with("1:1: listeners: no door for clients"), "{empty:?}");
    }
}

#[test]
fn a_file_is_read_by_its_extension() {
    let folder = tempfile::tempdir().unwrap();
    let load = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Config::load(&path, std::iter::empty()).map_err(|error| error.to_string())
    };
    assert_eq!(load("a.yaml", SMALL.as_bytes()), Ok(yaml(SMALL).unwrap()));
    assert_eq!(load("a.YML", SMALL.as_bytes()), Ok(yaml(SMALL).unwrap()));
    assert!(load("a.json", b"{}").unwrap_err().ends_with("ends in .yaml, .yml or .toml"));
    assert!(load("b.yaml", b"a: \xff").unwrap_err().ends_with("not UTF-8 text: byte 4"));
    let large = vec![b'#'; (1 << 20) + 1];
    assert!(load("c.yaml", &large).unwrap_err().ends_with("larger than 1MiB, which no config is"));
    let error = Config::load(&folder.path().join("gone.yaml"), std::iter::empty()).unwrap_err();
    assert!(error.to_string().contains("gone.yaml: cannot be read: No such file"), "{error}");
}

#[test]
fn a_printed_config_is_the_config() {
    let hard = "log: {level: 'info,moorline::relay=debug'}\nnats: {user: 'no', password: '~'}\n";
    for text in [SMALL.to_owned(), format!("{SMALL}{hard}")] {
        let config = yaml(&text).unwrap();
        assert_eq!(yaml(&config.to_yaml()), Ok(config));
    }
}
