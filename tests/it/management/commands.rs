//! `moorline publish` and `moorline connections`.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{KEY, Stage, id};
use crate::harness::{Certificates, Node, Request, finish};

fn moorline(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moorline"));
    command.args(arguments).args(["--url", url]).env("MOORLINE_KEY", KEY).stdin(Stdio::null());
    command
}

#[tokio::test]
async fn publish_sends_and_says_to_how_many() {
    let stage = Stage::new();
    let url = format!("http://{}", stage.node.management());
    let (mut ann, first) = stage.client("ann w/ ü").await;
    let (mut bob, second) = stage.client("bob").await;
    let run = async |arguments: &[&str]| finish(moorline(&url, arguments)).await;
    let sent = |n: u32| (true, format!("deliveries: {n}\n"));
    assert_eq!(run(&["publish", "--all", "one"]).await, sent(2));
    assert_eq!(run(&["publish", "--user", "ann w/ ü", "two"]).await, sent(1));
    assert_eq!(run(&["publish", "--connection", &second, "--ttl", "5s", "two"]).await, sent(1));
    assert_eq!(run(&["publish", "--all", "--exclude", &first, "three"]).await, sent(1));
    assert_eq!(run(&["publish", "--group", "red", "x"]).await, sent(0));
    let mut piped = moorline(&url, &["publish", "--all", "--binary"]);
    let mut child = piped.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"\xff\0").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"deliveries: 2\n");
    assert_eq!([ann.next_text().await, ann.next_text().await], ["one", "two"]);
    assert_eq!(ann.next().await.unwrap(), vec![0xff, 0].into());
    assert_eq!(
        [bob.next_text().await, bob.next_text().await, bob.next_text().await],
        ["one", "two", "three"]
    );

    for (arguments, part) in [
        (&["publish", "x"][..], "--connection"),
        (&["publish", "--all", "--user", "a", "x"], "cannot be used with"),
        (&["publish", "--all", "--hub", "none", "x"], "no route of this node has the hub none"),
        (&["publish", "--all", "--hub", "a.b", "x"], "a hub name is"),
        (&["publish", "--user", "a\nb", "x"], "control characters"),
        (&["publish", "--all", "--ttl", "6m", "x"], "messageTtlSeconds: expected 0 to 300"),
        (&["publish", "--all", "--key-file", "/nowhere/key", "x"], "/nowhere/key"),
        (&["publish", "--all", "--certificate", "c", "x"], "--key"),
    ] {
        let (ok, said) = run(arguments).await;
        assert!(!ok && said.contains(part), "{arguments:?}: {said}");
    }
    let mut wrong = moorline(&url, &["publish", "--all", "x"]);
    wrong.env("MOORLINE_KEY", "x".repeat(40));
    let (ok, said) = finish(wrong).await;
    assert!(!ok && said.starts_with("moorline: 401 Unauthorized: "), "{said}");
    let (ok, said) = finish(moorline("http://127.0.0.1:1", &["publish", "--all", "x"])).await;
    assert!(!ok && said.contains("http://127.0.0.1:1/ does not answer"), "{said}");
    let (ok, said) = finish(moorline("http://192.0.2.1", &["publish", "--all", "x"])).await;
    assert!(!ok && said.contains("expected an https URL"), "{said}");
}

#[tokio::test]
async fn connections_lists_counts_and_closes() {
    let stage = Stage::new();
    let url = format!("http://{}", stage.node.management());
    let (mut ann, first) = stage.client("ann").await;
    let (_bob, second) = stage.client("bob").await;
    let nobody = Request::new("/ws").connect(stage.node.ws()).await.unwrap();
    stage.ask("PUT", "/users/ann/groups/red", "").await;
    let run = async |arguments: &[&str]| finish(moorline(&url, arguments)).await;
    let (ok, table) = run(&["connections"]).await;
    assert!(ok && table.starts_with("CONNECTION"), "{table}");
    assert!([&first, &second, &id(&nobody)].iter().all(|id| table.contains(*id)), "{table}");
    assert_eq!(table.lines().count(), 4, "{table}");
    let (ok, table) = run(&["connections", "--group", "red"]).await;
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert!(ok && row[..3] == [first.as_str(), "ann", "/ws"] && row[6] == "red", "{table}");
    let (ok, json) = run(&["connections", "--connection", &first, "--json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(ok && json["value"][0]["connectionId"] == first.as_str(), "{json}");
    let (ok, some) = run(&["connections", "--limit", "1"]).await;
    assert!(ok && some.contains("moorline: 1 of 3 connections are listed"), "{some}");
    for (whom, count) in
        [(&["--all"][..], "3\n"), (&["--user", "ann"], "1\n"), (&["--connection", &second], "1\n")]
    {
        let counted = run(&[&["connections", "--count"], whom].concat()).await;
        assert_eq!(counted, (true, count.to_owned()), "{whom:?}");
    }
    let close =
        ["connections", "--user", "ann", "--close", "--code", "4000", "--reason", "so it is"];
    assert_eq!(run(&close).await, (true, "closed: 1\n".to_owned()));
    assert_eq!(ann.closed().await, Some((4000, "so it is".to_owned())));
    let close = ["connections", "--connection", &second, "--close"];
    assert_eq!(run(&close).await, (true, "closed: 1\n".to_owned()));
    for (arguments, part) in [
        (&["connections", "--close"][..], "--all"),
        (&["connections", "--reason", "x"], "--close"),
        (&["connections", "--connection", "nobody"], "404 Not Found: there is no such connection"),
        (&["connections", "--all", "--close", "--code", "1006"], "400 Bad Request: "),
    ] {
        let (ok, said) = run(arguments).await;
        assert!(!ok && said.contains(part), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn they_show_a_certificate_and_check_the_nodes() {
    let certificates = Certificates::new();
    certificates.issue("server", "localhost");
    certificates.issue("backend", "backend");
    let path = |name: &str| certificates.path(name).display().to_string();
    let listeners = format!(
        "plain: {{address: '127.0.0.1:0'}}\n\
         management: {{address: '127.0.0.1:0', tls: {{certificate: {}, key: {}, client_ca: {}, \
         client_certificate: required}}}}",
        path("server.pem"),
        path("server-key.pem"),
        path("ca.pem"),
    );
    let route = "routes: [{path: /ws, auth: none, backend: {echo: true}}]";
    let node = Node::with_listeners(&listeners, route);
    let url = format!("https://localhost:{}", node.management().port());
    let (ca, certificate, key) = (path("ca.pem"), path("backend.pem"), path("backend-key.pem"));
    let shown = ["--ca", &ca, "--certificate", &certificate, "--key", &key];
    let ask = async |arguments: &[&str]| {
        let mut command = moorline(&url, &[&["connections", "--count"], arguments].concat());
        command.env_remove("MOORLINE_KEY");
        finish(command).await
    };
    assert_eq!(ask(&shown).await, (true, "0\n".to_owned()));
    let (ok, said) = ask(&shown[2..]).await;
    assert!(!ok && said.contains("does not answer"), "{said}");
}

#[tokio::test]
async fn dev_needs_no_key_to_be_given() {
    let node = Node::dev(&[]);
    let mut client = Request::new("/ws").connect(node.ws()).await.unwrap();
    let mut publish =
        moorline(&format!("http://{}", node.management()), &["publish", "--all", "hello"]);
    publish.env_remove("MOORLINE_KEY").env("XDG_CACHE_HOME", node.folder());
    assert_eq!(finish(publish).await, (true, "deliveries: 1\n".to_owned()));
    assert_eq!(client.next_text().await, "hello");
}
