//! Pushes to many clients on several nodes: each of those that are meant gets each push once.

use std::time::Duration;

use async_nats::HeaderMap;
use futures_util::{StreamExt, stream};
use serde_json::Value;
use tokio::time::timeout;

use super::{PROBE, Stage, connect, id};
use crate::harness::{Client, Node, eventually};

const NODES: usize = 3;
const CLIENTS: usize = 3_000;
/// Every third client is in the group, on each node as many.
const MEMBERS: usize = CLIENTS / 3;
/// Connections of the one user who has several, on each node as many.
const DEVICES: usize = 12;
/// Pushes to each target.
const PUSHES: usize = 10;
const LAST: &str = "the end";
/// Handshakes at the same time.
const LANES: usize = 32;
/// The clients come from one address.
const LIMITS: &str = "limits: {max_connections_per_ip: 5000, handshakes_per_ip: {per_second: 0}, \
    handshakes: {per_second: 0}}\n";

/// A client, and what it is.
struct Listener {
    client: Client,
    node: usize,
    is_member: bool,
    is_ann: bool,
    /// Whether every other push excludes it.
    is_excluded: bool,
}

impl Stage {
    /// Pushes, and adds up the answers of all nodes; none when not all have answered in a while.
    async fn push_to_nodes(&self, target: &str, exclude: &[String], text: &str) -> Option<u64> {
        let inbox = self.publisher.new_inbox();
        let mut answers = self.publisher.subscribe(inbox.clone()).await.unwrap();
        let mut headers = HeaderMap::new();
        headers.append("moorline-exclude", exclude.join(","));
        let (subject, text) = (format!("moorline.default.out.{target}"), text.to_owned());
        let push =
            self.publisher.publish_with_reply_and_headers(subject, inbox, headers, text.into());
        push.await.unwrap();
        let mut deliveries = 0;
        for _ in 0..NODES {
            let answer = timeout(Duration::from_secs(2), answers.next()).await.ok()??;
            let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
            deliveries += answer["deliveries"].as_u64().unwrap();
        }
        Some(deliveries)
    }

    /// The same, when all nodes are known to answer.
    async fn push_everywhere(&self, target: &str, exclude: &[String], text: &str) -> u64 {
        self.push_to_nodes(target, exclude, text).await.expect("an answer of each node")
    }
}

impl Listener {
    async fn connect(nodes: &[Node], number: usize) -> Self {
        let is_member = number.is_multiple_of(3);
        let is_ann = number < NODES * DEVICES;
        let user = if is_ann { "ann".to_owned() } else { format!("user-{number}") };
        let group = if is_member { "=red" } else { "" };
        // Not by the remainder that makes a member, so that each node has all kinds.
        let node = number / 3 % NODES;
        let client = connect(&nodes[node], &format!("/ws?{user}{group}")).await;
        Self { client, node, is_member, is_ann, is_excluded: false }
    }

    /// What it is to get, in order of the texts.
    fn expected(&self) -> Vec<String> {
        let is_for = |kind: &str| if kind == "group" { self.is_member } else { self.is_ann };
        let kinds = ["group", "user"].into_iter().filter(|kind| is_for(kind));
        let pushes = |kind| (0..PUSHES).map(move |push| (kind, push));
        let all = kinds.flat_map(pushes).filter(|(_, push)| !self.is_excluded || push % 2 == 0);
        all.map(|(kind, push)| text(kind, push)).collect()
    }

    /// What was pushed to it before the last push, in order of the texts.
    async fn read(&mut self) -> Vec<String> {
        let mut texts = Vec::new();
        loop {
            match self.client.next_text().await {
                text if text == LAST => break,
                text if text == PROBE => {}
                text => texts.push(text),
            }
        }
        texts.sort_unstable();
        texts
    }
}

fn text(kind: &str, push: usize) -> String {
    format!("{kind} {push}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_thousand_clients_on_three_nodes_get_each_push_for_them_once() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let stage = Stage::new().await;
    let mut nodes = Vec::new();
    for _ in 0..NODES {
        nodes.push(stage.node_with(LIMITS).await);
    }
    let connecting = stream::iter(0..CLIENTS).map(|number| Listener::connect(&nodes, number));
    let mut listeners: Vec<Listener> = connecting.buffer_unordered(LANES).collect().await;
    let sizes = [("group.red", MEMBERS), ("user.ann", NODES * DEVICES), ("all", CLIENTS)];
    for (target, size) in sizes {
        eventually(&format!("a push to {target} reaches {size}"), async || {
            let deliveries = stage.push_to_nodes(target, &[], PROBE).await?;
            (deliveries == size as u64).then_some(())
        })
        .await;
    }

    // On each node one who is only a member, one who is only a device, and one who is both.
    for node in 0..NODES {
        for kind in [(true, false), (false, true), (true, true)] {
            let is_kind = |l: &&mut Listener| l.node == node && (l.is_member, l.is_ann) == kind;
            listeners.iter_mut().find(is_kind).unwrap().is_excluded = true;
        }
    }
    let excluded = listeners.iter().filter(|listener| listener.is_excluded);
    let excluded: Vec<String> = excluded.map(|listener| id(&listener.client)).collect();
    for push in 0..PUSHES {
        let (exclude, left_out) =
            if push % 2 == 0 { (&[][..], 0) } else { (&excluded[..], 2 * NODES) };
        for (target, size) in sizes.into_iter().take(2) {
            let (kind, _) = target.split_once('.').unwrap();
            let deliveries = stage.push_everywhere(target, exclude, &text(kind, push)).await;
            assert_eq!(deliveries, (size - left_out) as u64, "{kind} {push}");
        }
    }
    // Each node has given out all others before, for it has answered them.
    assert_eq!(stage.push_everywhere("all", &[], LAST).await, CLIENTS as u64);
    for listener in &mut listeners {
        assert_eq!(listener.read().await, listener.expected());
    }
    for node in &nodes {
        assert_eq!(node.metric("moorline_nats_slow_consumer_total", &[]).await, 0.0);
    }
}
