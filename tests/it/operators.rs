//! What operators see: probes, metrics by a committed list, logs without secrets.

use std::collections::BTreeSet;
use std::path::Path;

use crate::harness::{Client, Node, Request, exchange};

const ECHO: &str = "routes:\n- {path: /ws, auth: none, backend: {echo: true}}\n";

async fn get(node: &Node, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    exchange(node.admin(), request.as_bytes()).await
}

#[tokio::test]
async fn probes_answer() {
    let node = Node::start(ECHO);
    assert_eq!(get(&node, "/livez").await, (200, "ok\n".to_owned()));
    assert_eq!(get(&node, "/readyz").await, (200, "ok\n".to_owned()));
    assert_eq!(get(&node, "/nowhere").await.0, 404);
    let (status, _) = exchange(node.admin(), b"POST /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(status, 405);
    let (status, _) = exchange(node.ws(), b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(status, 404, "operators' pages are not for clients");
}

#[tokio::test]
async fn readiness_ends_before_the_node_does() {
    let node = Node::start(&format!("{ECHO}heartbeat: {{close_timeout: 5s}}\n"));
    let client = Client::connect(node.ws()).await;
    node.signal("TERM");
    node.wait_for("draining", |_| true);
    assert_eq!(get(&node, "/readyz").await, (503, "draining\n".to_owned()));
    assert_eq!(get(&node, "/livez").await.0, 200);
    drop(client);
}

/// Every family with its type, labels and help, against the committed list. A dashboard and its alerts
/// are built on these names, so a change is a decision.
#[tokio::test]
async fn the_metrics_are_those_on_the_list() {
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), "a-key-of-backends-that-is-long-enough").unwrap();
    let listeners = format!(
        "plain: {{address: '127.0.0.1:0'}}\nmanagement: {{address: '127.0.0.1:0', key_files: [{}]}}",
        key.path().display()
    );
    let http = format!(
        "- {{path: /http, auth: none, backend: {{http: 'http://127.0.0.1:9/', secret_file: {}}}}}",
        key.path().display()
    );
    let config = format!("upstream: 'http://127.0.0.1:1'\n{ECHO}\n{http}");
    let node = Node::with_listeners(&listeners, &config);
    let mut client = Client::connect(node.ws()).await;
    client.ask("one").await;
    client.close().await;
    let _ = Request::new("/nowhere").connect(node.ws()).await;
    node.wait_for("connection ended", |_| true);
    let mut page = node.metrics().await;
    let bridge = Node::bridge(
        "nats: {servers: ['nats://127.0.0.1:1']}\nbridge: {backend: {http: http://127.0.0.1:1/}}\n",
    );
    for line in bridge.metrics().await.lines().filter(|line| line.contains("moorline_bridge_")) {
        page += &format!("{line}\n");
    }
    let labels = |name: &str| -> BTreeSet<String> {
        let of = |line: &&str| {
            let series = line.split([' ', '{']).next().unwrap();
            series
                .strip_prefix(name)
                .is_some_and(|rest| matches!(rest, "" | "_bucket" | "_sum" | "_count"))
        };
        let inside = |line: &str| {
            let list = line.split_once('{')?.1.split_once('}')?.0.to_owned();
            Some(list.split(',').map(|l| l.split('=').next().unwrap().to_owned()).collect())
        };
        let all = page.lines().filter(of).filter_map(inside);
        all.fold(BTreeSet::new(), |mut all, some: Vec<String>| {
            all.extend(some.into_iter().filter(|label| label != "le"));
            all
        })
    };
    let mut found = String::new();
    for line in page.lines().filter(|line| line.starts_with("# HELP ")) {
        let (name, help) = line["# HELP ".len()..].split_once(' ').unwrap();
        if name.starts_with("process_") {
            continue;
        }
        let kind = page
            .lines()
            .find_map(|line| line.strip_prefix(&format!("# TYPE {name} ")))
            .expect("a type");
        let labels: Vec<String> = labels(name).into_iter().collect();
        assert!(kind != "counter" || name.ends_with("_total"), "{name}");
        found += &format!("{name} {kind} {{{}}} {help}\n", labels.join(","));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/metrics.txt");
    if std::env::var_os("MOORLINE_BLESS").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let listed = std::fs::read_to_string(&path).unwrap();
    assert_eq!(found, listed, "MOORLINE_BLESS=1 cargo test --test it metrics writes the list anew");
    assert!(page.contains("process_open_fds "));
    assert!(page.contains("moorline_build_info{version=\"0.1.0\"} 1"));
}

#[tokio::test]
async fn no_payload_and_no_query_is_logged_at_any_level() {
    let node = Node::with_log("trace", ECHO);
    let mut client = Request::new("/ws?secret-query=1").connect(node.ws()).await.unwrap();
    assert_eq!(client.ask("secret-payload").await, "secret-payload");
    client.close().await;
    let _ = Request::new("/nowhere?secret-query=2").connect(node.ws()).await;
    node.wait_for("connection ended", |_| true);
    node.wait_for("handshake refused", |_| true);
    let log = node.whole_log();
    assert!(!log.contains("secret"), "{log}");
    assert!(log.contains("\"TRACE\"") || log.contains("\"DEBUG\""), "the level was taken");
}
