//! Names in the paths, the queries and the bodies of management calls.

use std::net::SocketAddr;

use futures_util::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{KEY, Stage, let_in};
use crate::harness::{DEADLINE, is_name, percent_encoded};

/// A backend that keeps its stream.
struct Caller {
    stream: TcpStream,
    /// What came of the answer that is read.
    read: Vec<u8>,
}

impl Caller {
    async fn new(to: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(to).await.unwrap(), read: Vec::new() }
    }

    /// The status.
    async fn ask(&mut self, method: &str, path: &str, body: &str) -> u16 {
        let media = if body.starts_with('{') { "application/json" } else { "text/plain" };
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\
             content-type: {media}\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        self.stream.write_all(request.as_bytes()).await.unwrap();
        timeout(DEADLINE, self.answer(method)).await.expect("an answer")
    }

    async fn answer(&mut self, method: &str) -> u16 {
        self.read.clear();
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.stream.read_buf(&mut self.read).await.unwrap() > 0, "it was hung up");
        };
        let head = std::str::from_utf8(&self.read[..end]).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        while method != "HEAD" && self.read.len() < end + length {
            assert!(self.stream.read_buf(&mut self.read).await.unwrap() > 0, "it was hung up");
        }
        status
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_names_in_management_calls_are_names_or_refused() {
    let stage = Stage::new().await;
    join_all(stage.parts().map(async |(id, names)| {
        let mut caller = Caller::new(stage.node.management()).await;
        for name in names {
            each(&mut caller, &id, name).await;
        }
    }))
    .await;
    for name in stage.names.iter().filter(|name| is_name(name)).step_by(50) {
        assert_eq!(let_in(&stage.node, name).await.err(), Some(401), "{name:?}");
    }
    stage.found_unharmed().await;
}

/// Every call that the name can stand in.
async fn each(caller: &mut Caller, id: &str, name: &str) {
    let (is_good, escaped) = (is_name(name), percent_encoded(name));
    let (hub, other) = ("/api/hubs/default", "/api/hubs/other");
    let (user, group) = (format!("{hub}/users/{escaped}"), format!("{hub}/groups/{escaped}"));
    let groups = json!({"groups": [name]}).to_string();
    // Good names come to this status, and all others are refused.
    for (method, path, body, status) in [
        ("PUT", format!("{group}/connections/{id}"), "", 200),
        ("HEAD", group.clone(), "", 200),
        ("POST", format!("{group}/:send?excluded={id}"), "x", 202),
        ("DELETE", format!("{group}/connections/{id}"), "", 204),
        ("HEAD", group.clone(), "", 404),
        ("POST", format!("{group}/:closeConnections?reason={escaped}"), "", 204),
        ("PUT", format!("{user}/groups/{escaped}"), "", 200),
        ("DELETE", format!("{user}/groups/{escaped}"), "", 204),
        ("DELETE", format!("{user}/groups"), "", 204),
        ("GET", format!("{user}/:count"), "", 200),
        ("GET", format!("{user}/connections"), "", 200),
        ("POST", format!("{user}/:send"), "x", 202),
        ("POST", format!("{hub}/:generateToken?userId={escaped}&group={escaped}"), "", 200),
        ("POST", format!("{hub}/:generateToken?userId=ann&group={escaped}"), "", 200),
        ("POST", format!("{other}/:addToGroups"), &groups, 200),
        ("POST", format!("{other}/:removeFromGroups"), &groups, 200),
        ("POST", "/api/revocations".to_owned(), &json!({"user": name}).to_string(), 200),
    ] {
        let expected = if is_good { status } else { 400 };
        assert_eq!(caller.ask(method, &path, body).await, expected, "{name:?}: {method} {path}");
    }
    let is_hub = (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    // No name is that of a connection or of a hub here; the rest may be any text.
    for (method, path, body, status) in [
        ("GET", format!("{hub}/connections/{escaped}"), "", 404),
        ("PUT", format!("{hub}/groups/red/connections/{escaped}"), "", 404),
        ("GET", format!("/api/hubs/{escaped}/:count"), "", if is_hub { 404 } else { 400 }),
        ("POST", format!("{hub}/users/bob/:send?excluded={escaped}&{escaped}=1"), "x", 202),
        ("POST", "/api/revocations".to_owned(), &json!({"jti": name}).to_string(), 200),
    ] {
        assert_eq!(caller.ask(method, &path, body).await, status, "{name:?}: {method} {path}");
    }
}
