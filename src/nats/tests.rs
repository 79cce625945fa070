//! Requests over a real nats-server: each ends exactly once and as it should, whatever the server
//! and the workers do.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::testing::{NatsServer, start, until, within};
use super::*;
use crate::config::{EventKind, NatsTls, Period, SecretSource};
use crate::id::HubName;

fn subject(nats: &Nats) -> Subject {
    nats.subjects().event(&HubName::default(), EventKind::Message)
}

async fn ask(nats: &Nats, text: &'static str, deadline: Instant) -> Result<Reply, RequestError> {
    let key = ConnectionId::random(NodeId::random());
    let payload = Bytes::from_static(text.as_bytes());
    nats.request(key, &subject(nats), HeaderMap::new(), payload, deadline).await
}

/// A worker that answers with what it got, and counts.
async fn echo(server: &NatsServer) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let mut requests = take(server).await;
    let (client, seen) = (server.client().await, Arc::clone(&count));
    Tasks::new().spawn("echo", async move {
        while let Some(request) = requests.next().await {
            seen.fetch_add(1, Ordering::SeqCst);
            client.publish(request.reply.unwrap(), request.payload).await.unwrap();
        }
    });
    count
}

/// A worker's subscription, known to the server when this returns.
async fn take(server: &NatsServer) -> async_nats::Subscriber {
    let client = server.client().await;
    let requests = client.queue_subscribe("moorline.*.in.*", "workers".into()).await.unwrap();
    // A request of its own is the round trip after which the subscription is in force.
    let _ = client.request("nobody", Bytes::new()).await;
    requests
}

#[tokio::test]
async fn a_request_gets_its_own_reply() {
    let server = NatsServer::start();
    let seen = echo(&server).await;
    let mut settings = server.settings();
    settings.connections = 3;
    let metrics = Metrics::new();
    let nats = start(&settings, &metrics).await;
    until("all connections up", || metrics.nats_connected().get() == 3).await;

    let texts = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    let replies = join_all(texts.map(|text| ask(&nats, text, within(5)))).await;
    for (text, reply) in texts.iter().zip(replies) {
        assert_eq!(reply.unwrap().payload, *text);
    }
    assert_eq!(seen.load(Ordering::SeqCst), texts.len());
    assert_eq!((nats.pending(), metrics.late_replies().get()), (0, 0));
    assert!(nats.was_connected() && nats.max_payload() == 1 << 20);
    assert!(nats.server_version().is_some_and(|version| version.starts_with("2.")));
}

#[tokio::test]
async fn nobody_listening_is_said_at_once() {
    let server = NatsServer::start();
    let nats = server.nats(&Metrics::new()).await;
    assert_eq!(ask(&nats, "x", within(60)).await.unwrap_err(), RequestError::NoResponders);
}

#[tokio::test]
async fn a_message_over_the_servers_limit_is_not_sent() {
    let server = NatsServer::with_config("max_payload: 1000");
    let seen = echo(&server).await;
    let nats = server.nats(&Metrics::new()).await;
    let key = ConnectionId::random(NodeId::random());
    let send = |headers, size| {
        let payload = Bytes::from(vec![b'x'; size]);
        let nats = nats.clone();
        async move { nats.request(key, &subject(&nats), headers, payload, within(5)).await }
    };
    let mut headers = HeaderMap::new();
    headers.insert("ce-state", "y".repeat(500));
    let too_large = |size| RequestError::TooLarge { size, maximum: 1000 };
    assert_eq!(send(HeaderMap::new(), 1001).await.unwrap_err(), too_large(1001));
    assert_eq!(send(headers, 600).await.unwrap_err(), too_large(600));
    assert_eq!(send(HeaderMap::new(), 1000).await.unwrap().payload.len(), 1000);
    assert_eq!((seen.load(Ordering::SeqCst), nats.pending()), (1, 0));
}

#[tokio::test]
async fn timed_out_requests_leave_nothing_behind_and_late_replies_are_counted() {
    let server = NatsServer::start();
    let mut requests = take(&server).await;
    let metrics = Metrics::new();
    let nats = server.nats(&metrics).await;
    for _ in 0..10 {
        let deadline = Instant::now() + Duration::from_millis(100);
        let ended = join_all((0..1000).map(|_| ask(&nats, "x", deadline))).await;
        let timed_out = |end: &Result<_, _>| matches!(end, Err(RequestError::TimedOut));
        assert_eq!(ended.iter().filter(|end| timed_out(end)).count(), 1000);
    }
    assert_eq!(nats.pending(), 0);

    let client = server.client().await;
    for _ in 0..3 {
        let request = requests.next().await.unwrap();
        client.publish(request.reply.unwrap(), "late".into()).await.unwrap();
    }
    until("three late replies", || metrics.late_replies().get() == 3).await;
}

#[tokio::test]
async fn a_request_that_is_dropped_frees_its_slot() {
    let server = NatsServer::start();
    let mut requests = take(&server).await;
    let nats = server.nats(&Metrics::new()).await;
    let asking = Box::pin(ask(&nats, "x", within(60)));
    let taken = Box::pin(requests.next());
    let asking = match futures_util::future::select(asking, taken).await {
        futures_util::future::Either::Right((_, asking)) => asking,
        futures_util::future::Either::Left(_) => panic!("nobody answered"),
    };
    assert_eq!(nats.pending(), 1);
    drop(asking);
    assert_eq!(nats.pending(), 0);
}

#[tokio::test]
async fn a_forged_reply_is_nobodys() {
    let server = NatsServer::start();
    let mut requests = take(&server).await;
    let (client, metrics) = (server.client().await, Metrics::new());
    let nats = server.nats(&metrics).await;
    let forge = async {
        let reply = requests.next().await.unwrap().reply.unwrap();
        let (inbox, token) = reply.rsplit_once('.').unwrap();
        for bad in ["x", "0", "000000000000000000000000", &token[1..], &format!("{token}0")] {
            client.publish(format!("{inbox}.{bad}"), "forged".into()).await.unwrap();
        }
        client.publish(reply.clone(), "true".into()).await.unwrap();
        client.publish(reply, "twice".into()).await.unwrap();
    };
    let (reply, ()) = tokio::join!(ask(&nats, "x", within(5)), forge);
    assert_eq!(reply.unwrap().payload, "true");
    until("six forged or doubled", || metrics.late_replies().get() == 6).await;
}

#[tokio::test]
async fn a_killed_server_ends_all_requests_at_once_and_work_resumes_within_two_seconds() {
    let mut server = NatsServer::start();
    let mut requests = take(&server).await;
    let metrics = Metrics::new();
    let nats = server.nats(&metrics).await;
    let start = Instant::now();
    let kill = async {
        for _ in 0..200 {
            requests.next().await.unwrap();
        }
        server.kill();
    };
    let all = join_all((0..200).map(|_| ask(&nats, "x", within(60))));
    let (ended, ()) = tokio::join!(all, kill);
    assert!(ended.iter().all(|end| matches!(end, Err(RequestError::Lost))));
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(!nats.is_connected() && nats.was_connected());
    assert_eq!((nats.pending(), metrics.nats_connected().get()), (0, 0));

    // Nothing that was asked meanwhile may come to a worker later.
    for _ in 0..10 {
        let end = ask(&nats, "stale", within(60)).await;
        assert_eq!(end.unwrap_err(), RequestError::NotConnected);
    }
    drop(requests);
    server.restart();
    let back = Instant::now();
    nats.connected(within(5)).await.unwrap();
    assert!(back.elapsed() < Duration::from_secs(2), "{:?}", back.elapsed());
    let seen = echo(&server).await;
    assert_eq!(ask(&nats, "fresh", within(5)).await.unwrap().payload, "fresh");
    assert_eq!(seen.load(Ordering::SeqCst), 1, "only the fresh one came");
    assert_eq!((metrics.nats_connected().get(), metrics.nats_reconnects().get()), (1, 1));
}

#[tokio::test]
async fn a_hung_server_is_noticed_within_three_seconds() {
    let mut server = NatsServer::start();
    let _requests = take(&server).await;
    let nats = server.nats(&Metrics::new()).await;
    server.freeze();
    let start = Instant::now();
    assert_eq!(ask(&nats, "x", within(30)).await.unwrap_err(), RequestError::Lost);
    assert!(start.elapsed() < Duration::from_millis(4500), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_server_that_takes_nothing_is_waited_for_until_the_deadline_only() {
    let mut server = NatsServer::start();
    let seen = echo(&server).await;
    let mut settings = server.settings();
    // No ping notices in time that the server is frozen.
    settings.ping_interval = Period::secs(60);
    let nats = start(&settings, &Metrics::new()).await;
    nats.connected(within(5)).await.unwrap();
    server.freeze();
    let (key, deadline) = (ConnectionId::random(NodeId::random()), within(2));
    let payload = Bytes::from(vec![b'x'; 64 * 1024]);
    let subject = subject(&nats);
    let send = || nats.send(key, &subject, HeaderMap::new(), payload.clone(), deadline);
    let mut sent = Vec::new();
    let end = loop {
        match send().await {
            Ok(pending) => sent.push(pending),
            Err(error) => break error,
        }
    };
    assert_eq!(end, RequestError::Full);
    assert_eq!(nats.pending(), sent.len(), "what was not sent has no slot");
    assert_eq!(seen.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn nats_may_come_after_us() {
    let mut server = NatsServer::start();
    server.kill();
    let metrics = Metrics::new();
    let nats = start(&server.settings(), &metrics).await;
    let soon = Instant::now() + Duration::from_millis(300);
    let error = nats.connected(soon).await.unwrap_err().to_string();
    assert!(error.contains(&server.url()), "{error}");
    assert_eq!(ask(&nats, "x", within(9)).await.unwrap_err(), RequestError::NotConnected);
    assert!(!nats.was_connected());
    server.restart();
    nats.connected(within(2)).await.unwrap();
    assert_eq!(ask(&nats, "x", within(9)).await.unwrap_err(), RequestError::NoResponders);
    assert_eq!(metrics.nats_reconnects().get(), 0, "the first time is no reconnect");
}

#[tokio::test]
async fn a_wrong_password_is_said_and_a_right_one_works() {
    let server = NatsServer::with_config("authorization: {user: moorline, password: s3cret}");
    let dir = tempfile::tempdir().unwrap();
    let try_with = |password: &str| {
        let path = dir.path().join("password");
        std::fs::write(&path, password).unwrap();
        let mut settings = server.settings();
        settings.user = Some("moorline".into());
        settings.password = Some(SecretSource::File(path));
        try_connect(settings)
    };
    let error = try_with("wrong").await.unwrap_err().to_string();
    assert!(error.contains("authorization violation") && !error.contains("wrong"), "{error}");
    try_with("s3cret").await.unwrap();
}

#[tokio::test]
async fn tokens_and_nkeys_work() {
    let dir = tempfile::tempdir().unwrap();
    let (token, seed) = (dir.path().join("token"), dir.path().join("seed"));
    std::fs::write(&token, "s3cret\n").unwrap();
    std::fs::write(&seed, "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY").unwrap();

    let server = NatsServer::with_config("authorization: {token: s3cret}");
    let settings = server.settings();
    try_connect(config::Nats { token: Some(SecretSource::File(token)), ..settings }).await.unwrap();

    let user = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
    let server = NatsServer::with_config(&format!("authorization: {{users: [{{nkey: {user}}}]}}"));
    let settings = server.settings();
    try_connect(config::Nats { nkey: Some(SecretSource::File(seed)), ..settings }).await.unwrap();
}

async fn try_connect(settings: config::Nats) -> Result<(), NatsError> {
    let nats = Box::pin(start(&settings, &Metrics::new())).await;
    let soon = Instant::now() + Duration::from_millis(1500);
    nats.connected(soon).await
}

#[tokio::test]
async fn tls_is_spoken_when_configured() {
    let dir = tempfile::tempdir().unwrap();
    let (key, certificate) = (dir.path().join("k.pem"), dir.path().join("c.pem"));
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (c, k) = (certificate.display(), key.display());
    let server =
        NatsServer::with_config(&format!("tls: {{cert_file: \"{c}\", key_file: \"{k}\"}}"));

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut settings = server.settings();
    settings.tls = Some(NatsTls::default());
    let (node, metrics) = (NodeId::random(), Metrics::new());
    let nats = Nats::connect(&settings, node, Some(tls), &Tasks::new(), &metrics).await.unwrap();
    nats.connected(within(5)).await.unwrap();
    assert_eq!(ask(&nats, "x", within(9)).await.unwrap_err(), RequestError::NoResponders);
}

#[tokio::test]
async fn a_reply_that_breaks_the_client_costs_two_seconds_at_most() {
    // A bare carriage return makes the client library's task panic, and bytes that are not UTF-8
    // make it drop the connection.
    for header in [&b"NATS/1.0\r\nx: a\rb\r\n\r\n"[..], b"NATS/1.0\r\nx: \xff\r\n\r\n"] {
        let server = NatsServer::start();
        let metrics = Metrics::new();
        let nats = server.nats(&metrics).await;
        let mut requests = take(&server).await;
        let hostile = async {
            let reply = requests.next().await.unwrap().reply.unwrap();
            let mut raw = tokio::net::TcpStream::connect(&server.url()[7..]).await.unwrap();
            let length = header.len();
            let hello = b"CONNECT {\"verbose\":false,\"headers\":true}\r\n";
            raw.write_all(hello).await.unwrap();
            let publish = format!("HPUB {reply} {length} {length}\r\n");
            raw.write_all(publish.as_bytes()).await.unwrap();
            raw.write_all(header).await.unwrap();
            raw.write_all(b"\r\nPING\r\n").await.unwrap();
            let mut buffer = [0; 4096];
            while raw.read(&mut buffer).await.unwrap() > 0 {
                if buffer.windows(4).any(|word| word == b"PONG") {
                    break;
                }
            }
        };
        let (reply, ()) = tokio::join!(ask(&nats, "x", within(9)), hostile);
        assert_eq!(reply.unwrap_err(), RequestError::Lost);
        drop(requests);
        nats.connected(within(2)).await.unwrap();
        let seen = echo(&server).await;
        assert_eq!(ask(&nats, "after", within(5)).await.unwrap().payload, "after");
        assert_eq!(seen.load(Ordering::SeqCst), 1);
        assert_eq!(metrics.nats_connected().get(), 1);
    }
}

#[tokio::test]
async fn a_drained_connection_has_written_all_and_takes_no_more() {
    let server = NatsServer::start();
    let mut requests = take(&server).await;
    let nats = server.nats(&Metrics::new()).await;
    let key = ConnectionId::random(NodeId::random());
    let pending = nats.send(key, &subject(&nats), HeaderMap::new(), "last".into(), within(5)).await;
    let mut pending = pending.unwrap();
    assert!(nats.drain(within(5)).await);
    assert_eq!(requests.next().await.unwrap().payload, "last");
    assert_eq!(pending.reply(within(5)).await.unwrap_err(), RequestError::Lost);
    until("the connection ended", || !nats.is_connected()).await;
    assert_eq!(ask(&nats, "x", within(5)).await.unwrap_err(), RequestError::NotConnected);
}
