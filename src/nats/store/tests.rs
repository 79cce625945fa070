//! Buckets on a real JetStream.

use bytes::Bytes;

use super::*;
use crate::nats::testing::{NatsServer, until, within};

struct Scene {
    server: NatsServer,
    store: Store,
    bucket: Bucket,
    /// Where the server keeps its streams.
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = format!("jetstream {{ store_dir: {:?} }}", folder.path());
        let server = NatsServer::with_config(&config);
        let metrics = Metrics::new();
        let nats = server.nats(&metrics).await;
        let store = Store::open(&nats, 1, &Tasks::new(), &metrics).await;
        tokio::time::timeout_at(within(10), store.up()).await.unwrap();
        // The connection lasts as long as the node's way to NATS.
        std::mem::forget(nats);
        let bucket = store.bucket("things");
        bucket.ensure(within(10)).await.unwrap();
        Self { server, store, bucket, _folder: folder }
    }
}

fn key(text: &str) -> Key {
    Key::of(&text.split('.').collect::<Vec<_>>())
}

fn value(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[tokio::test]
async fn a_bucket_is_made_once_and_never_altered() {
    let scene = Scene::new().await;
    scene.store.is_there(within(10)).await.unwrap();
    let first = scene.bucket.ensure(within(10)).await.unwrap();
    assert_eq!(scene.bucket.ensure(within(10)).await.unwrap(), first);
    let jetstream = async_nats::jetstream::new(scene.server.client().await);
    let mut config =
        jetstream.get_stream("KV_moorline_things").await.unwrap().get_info().await.unwrap().config;
    config.allow_direct = false;
    Box::pin(jetstream.update_stream(config)).await.unwrap();
    let error = scene.bucket.ensure(within(10)).await.unwrap_err();
    assert!(error.to_string().contains("KV_moorline_things"), "{error}");
    assert!(error.to_string().contains("allow_direct"), "{error}");
    jetstream.delete_stream("KV_moorline_things").await.unwrap();
    let put = scene.bucket.put(&key("a"), value("1"), within(10)).await;
    assert!(matches!(put, Err(StoreError::NoBucket(_))), "{put:?}");
    let read = scene.bucket.all(None, within(10)).await;
    assert!(matches!(read, Err(StoreError::NoBucket(_))), "{read:?}");
    let read = scene.bucket.get(&key("a"), within(10)).await;
    assert!(matches!(read, Err(StoreError::NoBucket(_))), "{read:?}");
    assert_ne!(scene.bucket.ensure(within(10)).await.unwrap(), first);
    scene.bucket.put(&key("a"), value("1"), within(10)).await.unwrap();
}

#[tokio::test]
async fn a_write_is_a_compare_and_set() {
    let Scene { bucket, .. } = &Scene::new().await;
    let a = key("a.b");
    let first = bucket.create(&a, value("1"), within(10)).await.unwrap();
    assert_eq!(bucket.create(&a, value("x"), within(10)).await, Err(StoreError::Conflict));
    let second = bucket.update(&a, value("2"), first, within(10)).await.unwrap();
    assert_eq!(bucket.update(&a, value("x"), first, within(10)).await, Err(StoreError::Conflict));
    assert_eq!(bucket.forget(&a, Some(first), within(10)).await, Err(StoreError::Conflict));
    let record = bucket.get(&a, within(10)).await.unwrap().unwrap();
    assert_eq!(record, Record { key: "a.b".into(), value: Some(value("2")), revision: second });
    assert_eq!(bucket.get(&key("nobody"), within(10)).await.unwrap(), None);
    bucket.forget(&a, Some(second), within(10)).await.unwrap();
    assert_eq!(bucket.get(&a, within(10)).await.unwrap().unwrap().value, None);
    bucket.create(&a, value("3"), within(10)).await.unwrap();
    bucket.put(&a, value("4"), within(10)).await.unwrap();
    assert_eq!(bucket.get(&a, within(10)).await.unwrap().unwrap().value, Some(value("4")));
}

#[tokio::test]
async fn what_was_written_is_read_in_pages() {
    let Scene { bucket, .. } = &Scene::new().await;
    let page = bucket.changes(Revision::NONE, None, within(10)).await.unwrap();
    assert_eq!(page, Page::default());
    for n in 0..600 {
        let group = if n % 2 == 0 { "even" } else { "odd" };
        bucket.put(&Key::of(&[group, &n.to_string()]), value("x"), within(10)).await.unwrap();
    }
    assert_eq!(bucket.all(None, within(10)).await.unwrap().len(), 600);
    let even = bucket.all(Some(&key("even")), within(10)).await.unwrap();
    assert_eq!(even.len(), 300);
    assert!(even.iter().all(|record| record.key.starts_with("even.")));
    let page = bucket.changes(even[298].revision, Some(&key("even")), within(10)).await.unwrap();
    assert_eq!((page.records.len(), page.has_more), (1, false));
    assert_eq!(page.records[0].revision, Revision(599));
    bucket.forget(&key("even.0"), None, within(10)).await.unwrap();
    assert_eq!(bucket.all(None, within(10)).await.unwrap().len(), 599);
    let page = bucket.changes(Revision(600), None, within(10)).await.unwrap();
    assert_eq!(page.records[0].key, "even.0");
    assert_eq!((page.records[0].value.clone(), page.records.len()), (None, 1));
}

#[tokio::test]
async fn what_was_acknowledged_outlives_the_server() {
    let mut scene = Scene::new().await;
    scene.bucket.put(&key("a"), value("1"), within(10)).await.unwrap();
    scene.server.kill();
    until("the connection is lost", || !scene.store.is_up()).await;
    let put = scene.bucket.put(&key("a"), value("2"), within(10)).await;
    assert_eq!(put, Err(StoreError::Away));
    scene.server.restart();
    tokio::time::timeout_at(within(10), scene.store.up()).await.unwrap();
    let record = scene.bucket.get(&key("a"), within(10)).await.unwrap().unwrap();
    assert_eq!(record.value, Some(value("1")));
}

#[tokio::test]
async fn without_jetstream_it_says_so() {
    let (server, metrics) = (NatsServer::start(), Metrics::new());
    let nats = server.nats(&metrics).await;
    let store = Store::open(&nats, 1, &Tasks::new(), &metrics).await;
    tokio::time::timeout_at(within(10), store.up()).await.unwrap();
    let there = store.is_there(within(10)).await;
    assert!(matches!(there, Err(StoreError::NoJetStream(_))), "{there:?}");
    let ensured = store.bucket("things").ensure(within(10)).await;
    assert!(matches!(ensured, Err(StoreError::NoJetStream(_))), "{ensured:?}");
}
