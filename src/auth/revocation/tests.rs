//! Revocations of a fleet on a real JetStream, and of a node alone.

use std::task::{Context, Poll, Waker};

use futures_util::FutureExt;

use super::*;
use crate::config::{AuthMode, Limits, Route};
use crate::hub::{Mailbox, Registered, Wish};
use crate::metrics::Metrics;
use crate::nats::testing::{NatsServer, until, within};
use crate::nats::{Key, Nats, Revision};

const LIFETIME: Duration = Duration::from_secs(3600);

/// A server whose JetStream outlives it.
struct Fleet {
    server: NatsServer,
    _folder: tempfile::TempDir,
}

/// What revokes on one node, and the connections there.
struct Node {
    revocations: Revocations,
    table: Table,
    /// None on a node alone.
    store: Option<(Nats, Store)>,
}

type Connection = (Registered, Mailbox);

impl Fleet {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = format!("jetstream {{ store_dir: {:?} }}", folder.path());
        Self { server: NatsServer::with_config(&config), _folder: folder }
    }

    /// A node that knows what was revoked.
    async fn node(&self) -> Node {
        let node = Node::on(&self.server, JetStream::Required).await;
        until("the revocations are read", || node.revocations.are_known()).await;
        node
    }
}

impl Node {
    fn solo() -> Self {
        let table = Table::new(&Limits::default(), &Metrics::new());
        let revocations = Revocations::solo(LIFETIME, table.clone(), &Tasks::new());
        Self { revocations, table, store: None }
    }

    async fn on(server: &NatsServer, need: JetStream) -> Self {
        let (metrics, tasks) = (Metrics::new(), Tasks::new());
        let nats = Box::pin(server.nats(&metrics)).await;
        let store = Store::open(&nats, 1, &tasks, &metrics).await;
        tokio::time::timeout_at(within(10), store.up()).await.unwrap();
        let table = Table::new(&Limits::default(), &metrics);
        let revocations = Revocations::cluster(LIFETIME, table.clone(), &store, need, &tasks);
        Self { revocations, table, store: Some((nats, store)) }
    }

    async fn revoke(&self, what: Revoked) -> Result<usize, RevocationError> {
        self.revocations.revoke(what, None, within(10)).await
    }

    /// Somebody who came in by this token.
    fn connect(&self, token: &TokenFacts) -> Connection {
        let mut peer = Peer::on(Route::new("/ws", AuthMode::Jwt), Some(token.user.as_str()));
        Arc::get_mut(&mut peer).unwrap().token = Some(Box::new(token.clone()));
        self.table.register(&peer)
    }

    async fn refuses(&self, token: &TokenFacts) {
        until("the token is refused", || self.revocations.cover(token)).await;
    }
}

fn token(name: &str, id: &str) -> TokenFacts {
    let user = UserId::new(name).unwrap();
    TokenFacts { user, id: Some(TokenId::of(id)), issued_at: Some(unix_now() - 60) }
}

fn one(id: &str) -> Revoked {
    Revoked::Token(id.to_owned())
}

fn all_of(name: &str) -> Revoked {
    Revoked::User { user: UserId::new(name).unwrap(), before: SystemTime::now() }
}

/// The wish to end that the connection has, if any.
fn wish(connection: &mut Connection) -> Option<Wish> {
    match connection.1.poll_wish(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(wish) => Some(wish),
        Poll::Pending => None,
    }
}

fn is_cut(connection: &mut Connection) -> bool {
    wish(connection) == Some(Wish::Cut(Close::of(Cause::Revoked)))
}

#[tokio::test]
async fn alone_a_node_closes_and_refuses_who_is_revoked_and_nobody_else() {
    let node = Node::solo();
    assert!(node.revocations.are_known());
    let (ann, also_ann, bob) = (token("ann", "1"), token("ann", "2"), token("bob", "3"));
    let mut open = [&ann, &also_ann, &bob].map(|token| node.connect(token));
    assert_eq!(node.revoke(one("1")).await.unwrap(), 1);
    assert_eq!(open.each_mut().map(is_cut), [true, false, false]);
    assert_eq!(node.revoke(all_of("ann")).await.unwrap(), 2, "also who has not left yet");
    assert_eq!(open.each_mut().map(is_cut), [true, true, false]);
    assert!(node.revocations.cover(&ann) && node.revocations.cover(&also_ann));
    assert!(!node.revocations.cover(&bob));
    let fresh = TokenFacts { issued_at: Some(unix_now() + 2), ..token("ann", "4") };
    assert!(!node.revocations.cover(&fresh), "made after the cutoff");
    assert_eq!(node.revoke(Revoked::Before(SystemTime::now())).await.unwrap(), 3);
    assert!(is_cut(&mut open[2]));
}

#[tokio::test]
async fn who_asks_and_leaves_has_asked() {
    let node = Node::solo();
    let mut ann = node.connect(&token("ann", "1"));
    let asked = Box::pin(node.revoke(one("1"))).now_or_never();
    assert!(asked.is_none(), "it is dropped before it is done");
    until("she is closed", || is_cut(&mut ann)).await;
    assert!(node.revocations.cover(&token("ann", "1")));
}

#[tokio::test]
async fn what_was_made_in_the_second_of_the_cutoff_was_made_before_it() {
    let node = Node::solo();
    let second = Duration::from_secs(unix_now() - 10);
    let made = |at: Duration| TokenFacts { issued_at: Some(at.as_secs()), ..token("ann", "1") };
    let cutoff = |at| Revoked::Before(SystemTime::UNIX_EPOCH + at);
    node.revoke(cutoff(second)).await.unwrap();
    assert!(!node.revocations.cover(&made(second)));
    node.revoke(cutoff(second + Duration::from_millis(1))).await.unwrap();
    assert!(node.revocations.cover(&made(second)));
    assert!(!node.revocations.cover(&made(second + Duration::from_secs(1))));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_what_is_over_does_nothing() {
    let node = Node::solo();
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    // Milliseconds in place of seconds.
    let error = node.revoke(Revoked::Before(at(unix_now() * 1000))).await.unwrap_err();
    assert!(error.to_string().starts_with("before: "), "{error}");
    let revoke = |until| node.revocations.revoke(one("1"), Some(at(until)), within(1));
    let error = revoke(unix_now() * 1000).await.unwrap_err();
    assert!(error.to_string().starts_with("until: "), "{error}");
    assert!(!node.revocations.cover(&token("ann", "1")));
    assert_eq!(revoke(unix_now() - 24 * 3600).await.unwrap(), 0);
    assert!(!node.revocations.cover(&token("ann", "1")));
    revoke(unix_now() + 60).await.unwrap();
    assert!(node.revocations.cover(&token("ann", "1")));
}

#[tokio::test]
async fn what_one_node_revokes_all_refuse_also_those_that_start_later() {
    let fleet = Fleet::start();
    let (here, there) = (fleet.node().await, fleet.node().await);
    let (ann, bob) = (token("ann", "1"), token("bob", "2"));
    let mut open = [&ann, &bob].map(|token| there.connect(token));
    assert_eq!(here.revoke(all_of("ann")).await.unwrap(), 0);
    assert!(here.revocations.cover(&ann), "at once on the node that was told");
    until("she is closed on the other node", || is_cut(&mut open[0])).await;
    assert!(there.revocations.cover(&ann) && !there.revocations.cover(&bob));
    assert_eq!(there.revoke(one("2")).await.unwrap(), 1);
    assert!(is_cut(&mut open[1]));
    here.refuses(&bob).await;
    let late = fleet.node().await;
    assert!(late.revocations.cover(&ann) && late.revocations.cover(&bob));
}

#[tokio::test]
async fn an_earlier_cutoff_never_takes_the_place_of_a_later_one() {
    let fleet = Fleet::start();
    let nodes = [fleet.node().await, fleet.node().await];
    let user = UserId::new("ann").unwrap();
    let now = SystemTime::now();
    let writes = (0..20).map(|n| {
        let before = now - Duration::from_secs(if n == 7 { 10 } else { 100 + n });
        let what = Revoked::User { user: user.clone(), before };
        nodes[n as usize % 2].revoke(what)
    });
    for written in futures_util::future::join_all(writes).await {
        written.unwrap();
    }
    let late = fleet.node().await;
    let made = TokenFacts { issued_at: Some(unix_now() - 50), ..token("ann", "1") };
    for node in nodes.iter().chain([&late]) {
        node.refuses(&made).await;
    }
}

#[tokio::test]
async fn a_server_that_comes_back_has_them_and_what_was_not_written_is_an_error() {
    let mut fleet = Fleet::start();
    let (here, there) = (fleet.node().await, fleet.node().await);
    here.revoke(one("1")).await.unwrap();
    fleet.server.kill();
    let stores = [&here, &there].map(|node| &node.store.as_ref().unwrap().1);
    until("the server is missed", || stores.iter().all(|store| !store.is_up())).await;
    let error = here.revoke(one("2")).await.unwrap_err();
    assert!(matches!(error, RevocationError::Store(StoreError::Away)), "{error:?}");
    assert!(!here.revocations.cover(&token("ann", "2")), "it counts nowhere");
    fleet.server.restart();
    for node in [&here, &there] {
        node.refuses(&token("ann", "1")).await;
        tokio::time::timeout_at(within(10), node.store.as_ref().unwrap().1.up()).await.unwrap();
    }
    let again = here.revocations.revoke(one("2"), None, within(10)).await;
    assert!(again.is_ok(), "{again:?}");
    there.refuses(&token("ann", "2")).await;
    assert!(fleet.node().await.revocations.cover(&token("ann", "1")));
}

#[tokio::test]
async fn a_bucket_that_was_deleted_is_filled_again() {
    let fleet = Fleet::start();
    let node = fleet.node().await;
    for id in 0..100 {
        node.revoke(one(&id.to_string())).await.unwrap();
    }
    let jetstream = async_nats::jetstream::new(fleet.server.client().await);
    jetstream.delete_stream("KV_moorline_revoked").await.unwrap();
    let bucket = node.store.as_ref().unwrap().1.bucket("revoked");
    let deadline = within(20);
    while bucket.all(None, within(5)).await.map_or(0, |all| all.len()) < 100 {
        assert!(Instant::now() < deadline, "the bucket was not filled again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let late = fleet.node().await;
    assert!((0..100).all(|id| late.revocations.cover(&token("ann", &id.to_string()))));
    node.revoke(one("100")).await.unwrap();
    late.refuses(&token("ann", "100")).await;
}

#[tokio::test]
async fn a_record_that_is_removed_is_taken_back_and_foreign_ones_are_passed_over() {
    let fleet = Fleet::start();
    let (here, there) = (fleet.node().await, fleet.node().await);
    let bucket = here.store.as_ref().unwrap().1.bucket("revoked");
    for (key, value) in [("user", "{}"), ("other", "{}"), ("all", "7"), ("jti", "")] {
        bucket.put(&Key::of(&[key, "x"]), value.into(), within(5)).await.unwrap();
    }
    here.revoke(all_of("ann")).await.unwrap();
    let ann = token("ann", "1");
    there.refuses(&ann).await;
    bucket.forget(&Key::of(&["user", "ann"]), None, within(5)).await.unwrap();
    until("it is taken back", || !here.revocations.cover(&ann) && !there.revocations.cover(&ann))
        .await;
    here.revoke(all_of("ann")).await.unwrap();
    there.refuses(&ann).await;
}

#[tokio::test]
async fn a_record_ends_with_its_revocation() {
    let fleet = Fleet::start();
    let node = fleet.node().await;
    let until = SystemTime::now() + Duration::from_secs(60);
    node.revocations.revoke(one("1"), Some(until), within(5)).await.unwrap();
    let client = fleet.server.client().await;
    let stream = async_nats::jetstream::new(client);
    let stream = stream.get_stream("KV_moorline_revoked").await.unwrap();
    let subject = format!("$KV.moorline_revoked.{}", Scope::Token(TokenId::of("1")).key());
    let headers = stream.get_last_raw_message_by_subject(&subject).await.unwrap().headers;
    let lifetime = headers.get("Nats-TTL").unwrap().as_str().trim_end_matches('s');
    let lifetime: u64 = lifetime.parse().unwrap();
    // A minute, and a quarter of an hour for the leeway of tokens.
    assert!((900..=961).contains(&lifetime), "{lifetime}");
}

#[tokio::test]
async fn without_jetstream_a_node_that_needs_it_knows_nothing_and_another_its_own() {
    let server = NatsServer::start();
    let strict = Node::on(&server, JetStream::Required).await;
    let error = strict.revoke(one("1")).await.unwrap_err();
    assert!(matches!(error, RevocationError::Store(StoreError::NoJetStream(_))), "{error:?}");
    assert!(!strict.revocations.are_known());
    let lenient = Node::on(&server, JetStream::Optional).await;
    assert!(lenient.revocations.are_known());
    lenient.revoke(one("1")).await.unwrap();
    assert!(lenient.revocations.cover(&token("ann", "1")));
}

#[tokio::test]
async fn own_revocations_are_written_when_jetstream_comes() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = NatsServer::with_config("");
    let node = Node::on(&server, JetStream::Optional).await;
    node.revoke(one("1")).await.unwrap();
    server.kill();
    server.reconfigure(&format!("jetstream {{ store_dir: {:?} }}", folder.path()));
    server.restart();
    let bucket = node.store.as_ref().unwrap().1.bucket("revoked");
    let deadline = within(20);
    while !bucket.all(None, within(5)).await.is_ok_and(|all| all.len() == 1) {
        assert!(Instant::now() < deadline, "it was not written");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let page = bucket.changes(Revision::NONE, None, within(5)).await.unwrap();
    assert_eq!(page.records[0].key, Scope::Token(TokenId::of("1")).key().as_str());
}
