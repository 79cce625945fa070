//! The command line: what it prints, and one clear message for each mistake.

use std::process::Command;

use crate::harness::{Certificates, NatsServer, finish};

const ROUTE: &str = "routes:\n- {path: /ws, auth: none, backend: {echo: true}}\n";

fn moorline(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moorline"));
    command.args(arguments);
    command
}

/// Runs a command on a config file with this text.
async fn on_config(command: &str, text: &str) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("moorline.yaml");
    std::fs::write(&path, text).unwrap();
    let (ok, text) = finish(moorline(&[command, "-c", path.to_str().unwrap()])).await;
    (ok, text.replace(&format!("{}/", folder.path().display()), ""))
}

#[tokio::test]
async fn a_mistake_stops_serve_with_one_line_that_says_where() {
    let plain = "listeners: {plain: {address: '127.0.0.1:0'}}\n";
    for (text, expected) in [
        (
            format!("{plain}routs: []\n"),
            "moorline.yaml:2:1: routs: unknown key; did you mean `routes`?",
        ),
        (format!("{plain}limits: {{max_connections: many}}\n{ROUTE}"), "moorline.yaml:2:"),
        (format!("{plain}heartbeat: {{ping_interval: 25}}\n{ROUTE}"), "heartbeat.ping_interval"),
        (format!("{plain}routes:\n- {{path: /ws}}\n"), "auth"),
        (format!("{plain}routes:\n- {{path: ws, auth: none, backend: {{echo: true}}}}\n"), "path"),
        (format!("{plain}routes:\n- {{path: /ws, auth: jwt, backend: {{echo: true}}}}\n"), "jwt"),
        (format!("{plain}routes:\n- {{path: /ws, auth: none}}\n"), "nats"),
        (ROUTE.to_owned(), "listeners"),
    ] {
        let (ok, said) = on_config("serve", &text).await;
        assert!(!ok, "{text}");
        assert!(said.contains(expected), "{text}\n{said}");
        let lines = said.lines().filter(|line| line.starts_with("moorline: ")).count();
        assert_eq!(lines, 1, "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    let (ok, said) = finish(moorline(&["serve", "-c", "/nowhere/moorline.yaml"])).await;
    assert!(!ok && said.contains("/nowhere/moorline.yaml"), "{said}");
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_named() {
    let certificates = Certificates::new();
    certificates.issue("good", "localhost");
    certificates.issue("other", "localhost");
    certificates.issue_until("old", "localhost", 2021);
    let config = |certificate: &str, key: &str| {
        format!(
            "listeners: {{public: {{address: '127.0.0.1:0', tls: {{certificate: {}, key: {}}}}}}}\n{ROUTE}",
            certificates.path(certificate).display(),
            certificates.path(key).display()
        )
    };
    for (certificate, key, named) in [
        ("none.pem", "good-key.pem", "none.pem"),
        ("good.pem", "other-key.pem", "other-key.pem"),
        ("good-key.pem", "good-key.pem", "good-key.pem"),
        ("old.pem", "old-key.pem", "old.pem"),
    ] {
        for command in ["serve", "check"] {
            let (ok, said) = on_config(command, &config(certificate, key)).await;
            assert!(!ok && said.contains(named), "{command} {certificate} {key}: {said}");
        }
    }
    let (ok, said) = on_config("check", &config("good.pem", "good-key.pem")).await;
    assert!(ok && said.contains("localhost") && said.contains("until 2100-01-01"), "{said}");
}

#[tokio::test]
async fn check_says_where_pages_cannot_connect() {
    let config = |origins: &str| {
        format!(
            "listeners: {{plain: {{address: '127.0.0.1:0'}}}}\n\
             routes:\n- {{path: /ws, auth: none, events: [connect, message], \
             forward_headers: [Authorization], backend: {{echo: true}}{origins}}}\n"
        )
    };
    let (ok, said) = on_config("check", &config("")).await;
    assert!(ok && said.contains("route /ws: programs may connect, but pages may not"), "{said}");
    let (ok, said) = on_config("check", &config(", origins: ['https://a.example']")).await;
    assert!(ok && !said.contains("pages may not"), "{said}");
}

#[tokio::test]
async fn check_looks_at_nats_and_the_limits() {
    let nats = NatsServer::with_config("max_payload: 40KB").await;
    let config = |url: &str, more: &str| {
        format!(
            "listeners: {{plain: {{address: '127.0.0.1:0'}}}}\n\
             nats: {{servers: ['{url}'], connect_timeout: 1s}}\n\
             routes:\n- {{path: /ws, auth: none{more}}}\n"
        )
    };
    let (ok, said) = on_config("check", &config(&nats.url(), ", max_message: 16KiB")).await;
    assert!(ok && said.contains("server 2.15.1"), "{said}");
    assert!(said.contains("file descriptors"), "{said}");
    let (ok, said) = on_config("check", &config(&nats.url(), "")).await;
    assert!(!ok && said.contains("max_message"), "{said}");
    let (ok, said) = on_config("check", &config("nats://127.0.0.1:1", "")).await;
    assert!(!ok && said.contains("127.0.0.1:1"), "{said}");
}

#[tokio::test]
async fn the_environment_overrides_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("moorline.yaml");
    let text = format!("listeners: {{plain: {{address: '127.0.0.1:0'}}}}\n{ROUTE}");
    std::fs::write(&path, text).unwrap();
    let mut print = moorline(&["serve", "--print-config", "-c", path.to_str().unwrap()]);
    print.env("MOORLINE_LIMITS__MAX_CONNECTIONS", "77");
    let (ok, said) = finish(print).await;
    assert!(ok && said.contains("max_connections: 77"), "{said}");
    let mut wrong = moorline(&["serve", "-c", path.to_str().unwrap()]);
    wrong.env("MOORLINE_LIMITS__MAX_CONECTIONS", "77");
    let (ok, said) = finish(wrong).await;
    assert!(!ok && said.contains("MOORLINE_LIMITS__MAX_CONECTIONS"), "{said}");
    assert!(said.contains("max_connections"), "a hint: {said}");
}

#[tokio::test]
async fn every_command_explains_itself_with_an_example() {
    for command in ["serve", "dev", "check", "token", "publish", "connections"] {
        let (ok, said) = finish(moorline(&[command, "--help"])).await;
        assert!(
            ok && said.contains("Example") && said.contains(&format!("moorline {command}")),
            "{said}"
        );
    }
    let (ok, said) = finish(moorline(&["--version"])).await;
    assert_eq!((ok, said.as_str()), (true, "moorline 0.1.0\n"));
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let config = format!("listeners: {{plain: {{address: '{address}'}}}}\n{ROUTE}");
    let (ok, said) = on_config("serve", &config).await;
    assert!(!ok && said.contains(&address), "{said}");
}

#[tokio::test]
async fn a_bridge_and_a_node_have_each_their_own_config() {
    const BRIDGE: &str = "bridge: {hub: app, backend: {http: 'http://127.0.0.1:1/'}}\n";
    let nats = NatsServer::without_jetstream().await;
    let of_bridge = format!("nats: {{servers: ['{}']}}\n{BRIDGE}", nats.url());
    let (ok, said) = on_config("serve", &of_bridge).await;
    assert!(!ok && said.contains("routes: there are none, only a bridge"), "{said}");
    let of_node = format!("listeners: {{plain: {{address: '127.0.0.1:0'}}}}\n{ROUTE}");
    let (ok, said) = on_config("bridge", &of_node).await;
    assert!(!ok && said.contains("bridge: the config has no such section"), "{said}");
    let (ok, said) = on_config("check", &of_bridge).await;
    assert!(ok && said.contains("hub app, queue group workers"), "{said}");
    let unreadable = of_bridge.replace("/'}", "/', secret_file: /nowhere/secret}");
    let routes = "routes: [{name: chat, path: /ws, auth: none, backend: {http: 'http://127.0.0.1:1/', \
                  secret_file: /nowhere/secret}}]\n";
    let of_node = format!("listeners: {{plain: {{address: '127.0.0.1:0'}}}}\n{routes}");
    for (command, config, place) in [
        ("bridge", &unreadable, "moorline: bridge: backend.secret_file cannot be used: "),
        ("check", &unreadable, "bridge.backend.secret_file"),
        ("serve", &of_node, "moorline: route chat: backend.secret_file cannot be used: "),
    ] {
        let (ok, said) = on_config(command, config).await;
        assert!(!ok && said.contains(place), "{command}: {said}");
        assert!(said.contains("/nowhere/secret"), "{command}: {said}");
    }

    let short = ["bridge", "--nats", "nats://n:4222", "--hub", "app", "--to", "http://a:1/e"];
    let shown = moorline(&[&short[..], &["--queue", "q", "--print-config"]].concat());
    let (ok, said) = finish(shown).await;
    for line in ["hub: app", "queue: q", "http: http://a:1/e", "- nats://n:4222"] {
        assert!(ok && said.contains(line), "{line} in {said}");
    }
    let mut in_an_image = moorline(&[&short[..], &["--print-config"]].concat());
    in_an_image.env("MOORLINE_CONFIG", "/nowhere.yaml");
    let (ok, said) = finish(in_an_image).await;
    assert!(ok && said.contains("http: http://a:1/e"), "{said}");
    for (wrong, expected) in [
        (&["--dialect", "other"][..], "cloudevents"),
        (&["-c", "file.yaml"], "cannot be used with"),
        (&["--hub", "a.b"], "cannot be used multiple times"),
    ] {
        let (ok, said) = finish(moorline(&[&short[..], wrong].concat())).await;
        assert!(!ok && said.contains(expected), "{wrong:?}: {said}");
    }
}
