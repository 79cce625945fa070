//! Slots of users: on a real JetStream, without one, and on a node by itself.

use super::*;
use crate::cluster::tests::{Node, jetstream, route};
use crate::config::{Limits, WhenUserFull};
use crate::hub::Mailbox;
use crate::metrics::Metrics;
use crate::nats::testing::{until, within};

const TWO: UserQuota = UserQuota { max: 2, when_full: WhenUserFull::RejectNew };
const OLDEST: UserQuota = UserQuota { max: 2, when_full: WhenUserFull::EvictOldest };

fn peer(user: Option<&str>) -> Arc<Peer> {
    Peer::on(route(), user)
}

async fn take(node: &Node, quota: UserQuota) -> Result<Option<Box<Slot>>, UserFull> {
    node.cluster.seat(&peer(Some("alice")), quota).await
}

/// How many slots are held.
async fn held(node: &Node) -> usize {
    node.store.bucket("users").all(None, within(10)).await.unwrap().len()
}

async fn becomes(node: &Node, count: usize) {
    let deadline = within(10);
    while held(node).await != count {
        assert!(Instant::now() < deadline, "{} slots are held", held(node).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_user_has_so_many_connections_on_all_nodes_and_no_more() {
    let (_folder, server) = jetstream();
    let (one, two) = (Node::start(&server).await, Node::start(&server).await);
    let first = take(&one, TWO).await.unwrap().unwrap();
    let second = take(&two, TWO).await.unwrap().unwrap();
    assert_eq!(take(&one, TWO).await.unwrap_err(), UserFull);
    assert_eq!(take(&two, TWO).await.unwrap_err(), UserFull);
    assert!(one.cluster.seat(&peer(Some("bob")), TWO).await.unwrap().is_some());
    assert!(one.cluster.seat(&peer(None), TWO).await.unwrap().is_none(), "nobody is not counted");
    becomes(&one, 2).await;
    drop(first);
    becomes(&one, 1).await;
    let third = take(&two, TWO).await.unwrap();
    assert_eq!(take(&one, TWO).await.unwrap_err(), UserFull);
    drop((second, third));
    becomes(&one, 0).await;
    let (a, b) = tokio::join!(take(&one, TWO), take(&two, TWO));
    let (a, b) = (a.unwrap(), b.unwrap());
    let (c, d) = tokio::join!(take(&one, TWO), take(&two, TWO));
    assert!(c.is_err() && d.is_err());
    drop((a, b));
    one.tasks.stop();
    two.tasks.stop();
}

#[tokio::test]
async fn the_slots_of_a_node_that_is_no_more_are_free() {
    let (_folder, server) = jetstream();
    let (one, two) = (Node::start(&server).await, Node::start(&server).await);
    let lost = [take(&one, TWO).await.unwrap(), take(&one, TWO).await.unwrap()];
    std::mem::forget(lost);
    assert!(one.cluster.release(within(10)).await);
    one.tasks.stop();
    let deadline = within(10);
    while take(&two, TWO).await.is_err() {
        assert!(Instant::now() < deadline);
    }
    two.tasks.stop();
}

#[tokio::test]
async fn while_nats_is_away_each_node_counts_its_own() {
    let (_folder, mut server) = jetstream();
    let node = Node::start(&server).await;
    let first = take(&node, TWO).await.unwrap();
    server.kill();
    until("NATS is away", || !node.store.is_up()).await;
    let second = take(&node, TWO).await.unwrap();
    assert_eq!(take(&node, TWO).await.unwrap_err(), UserFull);
    server.restart();
    timeout_at(within(10), node.store.up()).await.unwrap();
    // Both of this node, one with a slot, one without.
    drop((first, second));
    becomes(&node, 0).await;
    node.tasks.stop();
}

#[tokio::test]
async fn on_a_node_by_itself_the_oldest_makes_room() {
    let (metrics, tasks) = (Metrics::new(), Tasks::new());
    let table = Table::new(&Limits::default(), &metrics);
    let quotas = Quotas::new(None, &table, &Fleet::solo(table.clone()), &tasks);
    let mut clients = Vec::new();
    let connect = async || {
        let peer = peer(Some("alice"));
        let slot = quotas.take(&peer, None, OLDEST).await.unwrap();
        (table.register(&peer), slot)
    };
    for _ in 0..3 {
        clients.push(connect().await);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let is_evicted = |mailbox: &mut Mailbox| {
        let waker = futures_util::task::noop_waker();
        let wish = mailbox.poll_wish(&mut std::task::Context::from_waker(&waker));
        wish.is_ready()
    };
    let evicted: Vec<_> = clients.iter_mut().map(|((_, mailbox), _)| is_evicted(mailbox)).collect();
    assert_eq!(evicted, [true, false, false]);
}
