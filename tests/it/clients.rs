//! Clients that others wrote, unmodified: Python `websockets`, Node `ws`, Chromium; and the first
//! minute with `moorline dev`.

use std::process::Command;

use crate::harness::{Node, Request, Tool, exchange, finish, have, node_program, python, root};

/// The development token that `moorline dev` prints.
fn printed_token(node: &Node) -> String {
    let log = node.whole_log();
    let line = log.lines().find(|line| line.trim_start().starts_with("token ")).unwrap();
    line.split_whitespace().last().unwrap().to_owned()
}

#[tokio::test]
async fn python_websockets_talks_to_it() {
    if !have("python_websockets_talks_to_it", &[Tool::Python]) {
        return;
    }
    let node = Node::dev(&[]);
    let mut client = python("tests/clients/echo.py");
    client.arg(format!("wss://localhost:{}/ws", node.wss().port())).arg("--ca");
    client.arg(node.folder().join("moorline/dev/certificate.pem"));
    client.args(["--token", &printed_token(&node)]);
    let (ok, text) = finish(client).await;
    assert!(ok, "{text}");
    let line = node.wait_for("connection ended", |_| true);
    assert_eq!((line["user"].as_str(), line["cause"].as_str()), (Some("dev"), Some("client")));
}

#[tokio::test]
async fn node_ws_talks_to_it() {
    if !have("node_ws_talks_to_it", &[Tool::Node]) {
        return;
    }
    let node = Node::dev(&[]);
    let mut client = node_program("tests/clients/echo.mjs");
    client.arg(format!("wss://localhost:{}/ws", node.wss().port())).arg("--ca");
    client.arg(node.folder().join("moorline/dev/certificate.pem"));
    client.args(["--token", &printed_token(&node)]);
    let (ok, text) = finish(client).await;
    assert!(ok, "{text}");
}

#[tokio::test]
async fn the_console_page_works_in_chromium() {
    if !have("the_console_page_works_in_chromium", &[Tool::Node, Tool::Chromium]) {
        return;
    }
    let node = Node::dev(&[]);
    let screenshot = root().join("target/console.png");
    let _ = std::fs::remove_file(&screenshot);
    for (scheme, address) in [("http", node.ws()), ("https", node.wss())] {
        let mut browser = node_program("tests/clients/console.mjs");
        browser.arg(format!("{scheme}://localhost:{}/_moorline/", address.port()));
        browser.arg(&screenshot).args(["--token", &printed_token(&node)]);
        let (ok, text) = finish(browser).await;
        assert!(ok, "{scheme}: {text}");
    }
    assert!(std::fs::metadata(&screenshot).unwrap().len() > 10_000);
    assert!(
        !node
            .whole_log()
            .replace("token    ", "")
            .lines()
            .any(|line| { line.starts_with('{') && line.contains(&printed_token(&node)) })
    );
}

#[tokio::test]
async fn the_printed_line_echoes() {
    if !have("the_printed_line_echoes", &[Tool::Python]) {
        return;
    }
    let node = Node::dev(&[]);
    let log = node.whole_log();
    let line = log.lines().find(|line| line.contains("python3 -c")).unwrap().to_owned();
    let mut shell = Command::new("sh");
    let packages = root().join("target/tools/python/bin");
    let path = format!("{}:{}", packages.display(), std::env::var("PATH").unwrap());
    shell.arg("-c").arg(line).env("PATH", path);
    let (ok, text) = finish(shell).await;
    assert!(ok, "{text}");
    assert_eq!(text.trim(), "hello");
}

#[tokio::test]
async fn the_page_is_served_only_where_it_is_wanted() {
    let ask = b"GET /_moorline/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let dev = Node::dev(&[]);
    let (status, page) = exchange(dev.ws(), ask).await;
    assert_eq!(status, 200);
    assert!(page.contains("<html"));
    assert!(dev.ws().ip().is_loopback() && dev.wss().ip().is_loopback());
    let serve = Node::start("routes:\n- {path: /ws, auth: none, backend: {echo: true}}\n");
    assert_eq!(exchange(serve.ws(), ask).await.0, 404);
    // A page of another site may not use a developer's open port.
    let foreign = Request::new("/ws").header("origin", "https://evil.example").connect(dev.ws());
    assert_eq!(foreign.await.err().unwrap().0, 403);
}

#[tokio::test]
async fn dev_is_serve_with_the_config_that_it_prints() {
    let home = tempfile::tempdir().unwrap();
    let mut print = Command::new(env!("CARGO_BIN_EXE_moorline"));
    print.args(["dev", "--print-config"]).env("XDG_CACHE_HOME", home.path());
    let (ok, yaml) = finish(print).await;
    assert!(ok, "{yaml}");
    let path = home.path().join("moorline.yaml");
    std::fs::write(&path, &yaml).unwrap();
    let mut again = Command::new(env!("CARGO_BIN_EXE_moorline"));
    again.args(["serve", "--print-config", "-c"]).arg(&path);
    assert_eq!(finish(again).await, (true, yaml));
    let mut check = Command::new(env!("CARGO_BIN_EXE_moorline"));
    check.args(["check", "-c"]).arg(&path);
    let (ok, text) = finish(check).await;
    assert!(ok, "{text}");
}
