//! An answered join is in force everywhere, and so is an answered leave, whatever is published
//! meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use tokio::task::yield_now;

use super::{Stage, id};
use crate::harness::Client;

/// What is pushed to a client when there is nothing more to come.
const MARK: &str = "the end";

/// What is published to the group all the time: numbers that grow. `published` is the last that is
/// with the server.
struct Numbers {
    published: Arc<AtomicU64>,
    publishing: tokio::task::JoinHandle<()>,
}

impl Numbers {
    async fn start(stage: &Stage, group: &str) -> Self {
        let publisher = stage.nats.client().await;
        let published = Arc::new(AtomicU64::new(0));
        let (counter, subject) =
            (Arc::clone(&published), format!("moorline.default.out.group.{group}"));
        let publishing = tokio::spawn(async move {
            for n in 1.. {
                publisher.publish(subject.clone(), n.to_string().into()).await.unwrap();
                // A round trip: the server has given it out.
                let _ = publisher.request("nobody", "".into()).await;
                counter.store(n, Ordering::Release);
            }
        });
        Self { published, publishing }
    }

    fn last(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// Waits until numbers are out that were not begun before.
    async fn go_on(&self) {
        let before = self.last();
        while self.last() < before + 2 {
            yield_now().await;
        }
    }
}

impl Drop for Numbers {
    fn drop(&mut self) {
        self.publishing.abort();
    }
}

/// The next number, none at the mark.
async fn next(client: &mut Client) -> Option<u64> {
    let text = client.next_text().await;
    (text != MARK).then(|| text.parse().unwrap())
}

async fn told(stage: &Stage, client: &Client, command: serde_json::Value) {
    let answer = stage.command_one(&id(client), &command.to_string()).await.unwrap();
    assert_eq!((&answer["changed"], &answer["refused"]), (&json!(1), &json!(null)), "{answer}");
}

#[tokio::test]
async fn everything_after_joined_arrives_and_nothing_after_left() {
    let stage = Stage::new(2).await;
    let mut client = stage.connect(0, "ann").await;
    for round in 0..50 {
        // A new group each time, which the node has not asked NATS for before.
        let group = format!("g{round}");
        let numbers = Numbers::start(&stage, &group).await;
        told(&stage, &client, json!({"command": "join", "groups": [group]})).await;
        // The next one may have been under way when the answer came.
        let joined = numbers.last() + 2;
        let mut got = vec![next(&mut client).await.unwrap()];
        while got.last() < Some(&(joined + 3)) {
            got.extend(next(&mut client).await);
        }
        told(&stage, &client, json!({"command": "leave", "groups": [group]})).await;
        let left = numbers.last() + 1;
        numbers.go_on().await;
        let subject = format!("moorline.default.out.conn.{}", id(&client));
        stage.publisher.request(subject, MARK.into()).await.unwrap();
        while let Some(number) = next(&mut client).await {
            got.push(number);
        }
        assert!(got[0] <= joined, "{} is the first after {joined}", got[0]);
        assert!(got.windows(2).all(|two| two[1] == two[0] + 1), "a hole: {got:?}");
        assert!(got.last() <= Some(&left), "after {left}: {got:?}");
    }
}

#[tokio::test]
async fn many_joins_and_leaves_do_not_reach_nats() {
    let stage = Stage::new(1).await;
    let client = stage.connect(0, "ann").await;
    let group = |command: &str| json!({"command": command, "groups": ["red"]});
    told(&stage, &client, group("join")).await;
    let before = stage.subscriptions().await;
    for _ in 0..200 {
        told(&stage, &client, group("leave")).await;
        told(&stage, &client, group("join")).await;
    }
    assert_eq!(stage.subscriptions().await, before, "made since the server began");
}
