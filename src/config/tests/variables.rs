//! The environment over the file.

use super::*;

fn refused(variables: &[(&str, &str)]) -> String {
    with_variables(SMALL, variables).expect_err("expected a refusal").to_string()
}

#[test]
fn variables_go_over_the_file() {
    let config = with_variables(
        SMALL,
        &[
            ("MOORLINE_ROUTES__0__HUB", "app"),
            ("MOORLINE_ROUTES__0__ORIGINS", "[https://a.example, https://b.example]"),
            ("MOORLINE_ROUTES__0__ORIGINS__1", "https://c.example"),
            ("MOORLINE_ROUTES__1", "{path: /two, auth: none, backend: {echo: true}}"),
            ("MOORLINE_ROUTES__1__MAX_MESSAGE", "1MiB"),
            ("MOORLINE_LISTENERS__ADMIN__ADDRESS", "[::1]:8445"),
            ("MOORLINE_LISTENERS__PLAIN__ADDRESS", "127.0.0.1:8081"),
            ("MOORLINE_NATS__SERVERS__0", "nats://a:4222"),
            ("MOORLINE_LIMITS__MAX_CONNECTIONS", "7"),
            ("MOORLINE_LOG__LEVEL", "info,moorline::relay=debug"),
        ],
    )
    .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.routes[0].hub.as_str(), "app");
    assert_eq!(config.routes[0].origins, ["https://a.example", "https://c.example"]);
    assert_eq!(config.routes[1].max_message.bytes(), 1 << 20);
    assert_eq!(config.listeners.admin.unwrap().address.to_string(), "[::1]:8445");
    assert_eq!(config.listeners.plain.unwrap().address.port(), 8081);
    assert_eq!(config.nats.unwrap().servers, ["nats://a:4222"]);
    assert_eq!(config.limits.max_connections, 7);
    assert_eq!(config.log.level, "info,moorline::relay=debug");
}

#[test]
fn items_come_in_the_order_of_their_numbers() {
    let items: Vec<_> =
        (0..12).rev().map(|i| format!("MOORLINE_ROUTES__0__ORIGINS__{i}")).collect();
    let values: Vec<_> = (0..12).rev().map(|i| format!("https://o{i}.example")).collect();
    let variables: Vec<_> =
        items.iter().zip(&values).map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let config = with_variables(SMALL, &variables).unwrap();
    assert_eq!(config.routes[0].origins[11], "https://o11.example");
}

#[test]
fn an_empty_variable_takes_a_value_away() {
    let text = format!("{SMALL}heartbeat: {{idle_timeout: 1m}}");
    let config = with_variables(&text, &[("MOORLINE_HEARTBEAT__IDLE_TIMEOUT", "")]).unwrap();
    assert_eq!(config.heartbeat.idle_timeout, None);
}

#[test]
fn an_error_names_the_variable() {
    for (name, value, expected) in [
        ("MOORLINE_ROUTES__0__HUBB", "x", "routes[0].hubb: unknown key; did you mean `hub`?"),
        ("MOORLINE_LIMIT__MAX_HEAD", "x", "limit: unknown key; did you mean `limits`?"),
        (
            "MOORLINE_LIMITS__MAX_CONNECTIONS",
            "x",
            "limits.max_connections: expected a whole number, found `x`",
        ),
        (
            "MOORLINE_LIMITS__MAX_CONNECTIONS",
            "0",
            "limits.max_connections: expected 1 to 10000000, found 0",
        ),
        (
            "MOORLINE_ROUTES__0__EVENTS",
            "[message",
            "routes[0].events: expected a list, found `[message`",
        ),
        (
            "MOORLINE_ROUTES__2__HUB",
            "x",
            "routes: item 2 would leave a gap: the list has 1, counted from 0",
        ),
        (
            "MOORLINE_LIMITS__0",
            "x",
            "limits: expected a section with keys such as `max_connections`",
        ),
        ("MOORLINE_ROUTES__PATH", "x", "routes: is a list here; name an item by its index, from 0"),
        (
            "MOORLINE_ROUTES__0__PATH__X",
            "x",
            "routes[0].path: has a plain value here, and no keys below it",
        ),
        ("MOORLINE_LIMITS____HEAD", "x", "expected MOORLINE_<SECTION>__<KEY>"),
        ("MOORLINE_ROUTES", "[]", "routes: sets a whole section; set one key of it"),
        ("MOORLINE_NATS", "nats://a", "nats: sets a whole section; set one key of it"),
    ] {
        let error = refused(&[(name, value)]);
        assert!(error.starts_with(&format!("{name}: {expected}")), "{error}");
    }
}

#[test]
fn other_variables_are_left_alone() {
    let others = [
        ("MOORLINE_CONFIG", "/etc/m.yaml"),
        ("MOORLINE_LOG", "debug"),
        ("MOORLINE_PORT_8443_TCP_ADDR", "10.0.0.1"),
        ("MOORLINE_NATS_SERVICE_HOST", "10.0.0.2"),
        ("moorline_routes__0", "x"),
        ("PATH__X", "x"),
    ];
    assert_eq!(with_variables(SMALL, &others), yaml(SMALL));
}
