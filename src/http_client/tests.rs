//! The client against servers that keep to the rules, and servers that do not.

use super::fixture::{Answer, Server, client};
use super::*;
use crate::task::Tasks;
use std::sync::Arc;

const BOUNDS: Bounds = Bounds { timeout: Duration::from_secs(20), max_size: 1000 };

async fn get(server: &Server) -> Result<Bytes, FetchError> {
    client(Some(server)).get(&server.url().parse().unwrap(), "text/plain", BOUNDS).await
}

#[tokio::test]
async fn a_document_is_had_over_http_and_https() {
    let plain = Server::start(Answer::ok("hello")).await;
    assert_eq!(get(&plain).await.unwrap(), "hello");
    let tls = Server::start_tls(Answer::ok("hello")).await;
    assert_eq!(get(&tls).await.unwrap(), "hello");
    let url = tls.url().parse().unwrap();
    let refused = client(None).get(&url, "text/plain", BOUNDS).await;
    assert!(matches!(refused, Err(FetchError::Connect(_))), "{refused:?}");
    assert_eq!(tls.requests(), 1);
}

#[tokio::test]
async fn a_request_is_answered_with_whatever_came_but_a_redirect() {
    let server = Server::start(Answer::Silence).await;
    let send = async |max_size| {
        let request = Request::builder().uri(server.url()).body(Bytes::new()).unwrap();
        client(None).send(request, Bounds { max_size, ..BOUNDS }).await
    };
    let refused = "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone";
    server.set(Answer::Raw(refused.into()));
    let answer = send(4).await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.body()[..]), (404, &b"gone"[..]));
    assert!(matches!(send(3).await, Err(FetchError::TooLarge(3))));
    server.set(Answer::status("307 There\r\nLocation: http://127.0.0.1/"));
    assert!(matches!(send(4).await, Err(FetchError::Redirect(_))));
    let elsewhere = Request::builder().uri("http://192.0.2.1/").body(Bytes::new()).unwrap();
    assert!(matches!(Client::plain().send(elsewhere, BOUNDS).await, Err(FetchError::Url)));
}

#[tokio::test]
async fn anything_but_a_whole_200_is_an_error() {
    let target = Server::start(Answer::ok("target")).await;
    let server = Server::start(Answer::Silence).await;
    for status in ["301 Moved Permanently", "302 Found", "303 See Other", "307 T", "308 P"] {
        let moved = format!("{status}\r\nLocation: {}", target.url());
        server.set(Answer::status(&moved));
        let refused = get(&server).await;
        assert!(matches!(refused, Err(FetchError::Redirect(_))), "{refused:?}");
    }
    assert_eq!(target.requests(), 0);
    for status in ["204 No Content", "206 Partial Content", "404 Not Found", "500 No", "503 No"] {
        server.set(Answer::status(status));
        let refused = get(&server).await;
        assert!(matches!(refused, Err(FetchError::Status(_))), "{refused:?}");
    }
    let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello".to_vec();
    server.set(Answer::Raw(whole));
    assert!(matches!(get(&server).await, Err(FetchError::Body(_))));
    for broken in [&b""[..], b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"] {
        server.set(Answer::Raw(broken.to_vec()));
        assert!(matches!(get(&server).await, Err(FetchError::Connect(_))), "{broken:?}");
    }
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(2 * MAX_HEAD));
    server.set(Answer::Raw(long.into_bytes()));
    assert!(matches!(get(&server).await, Err(FetchError::Connect(_))));
}

#[tokio::test]
async fn a_body_over_the_limit_is_not_read_on() {
    let server = Server::start(Answer::ok([b'x'; 1000])).await;
    assert_eq!(get(&server).await.unwrap().len(), 1000);
    server.set(Answer::ok([b'x'; 1001]));
    assert!(matches!(get(&server).await, Err(FetchError::TooLarge(1000))));
    // The length alone is enough: the rest is not waited for.
    server.set(Answer::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\nhello".to_vec()));
    assert!(matches!(get(&server).await, Err(FetchError::TooLarge(1000))));
    server.set(Answer::Endless);
    assert!(matches!(get(&server).await, Err(FetchError::TooLarge(1000))));
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let server = Server::start(Answer::Silence).await;
    let short = Bounds { timeout: Duration::from_millis(50), max_size: 1000 };
    let url = server.url().parse().unwrap();
    let refused = client(None).get(&url, "text/plain", short).await;
    let error = refused.unwrap_err();
    assert_eq!(error.to_string(), "no complete answer within 50ms");
}

#[test]
fn only_https_and_loopback_urls_are_asked() {
    let fits = |url: &str| Client::check(&url.parse().unwrap()).is_ok();
    for url in [
        "https://example.com/k",
        "HTTPS://10.0.0.1:8443",
        "http://127.0.0.1:80/",
        "http://127.9.9.9",
        "http://[::1]:80/k",
        "http://LocalHost/k",
    ] {
        assert!(fits(url), "{url}");
    }
    for url in [
        "http://example.com/k",
        "http://10.0.0.1/",
        "http://127.0.0.1.example.com/",
        "http://[::2]/",
        "ftp://127.0.0.1/",
        "/path",
        "https://a:b@example.com/",
        "localhost:80",
        "http://localhost.example.com/",
        "http://user@127.0.0.1/",
    ] {
        assert!(!fits(url), "{url}");
    }
}

#[tokio::test]
async fn a_server_is_asked_over_tls_if_it_is_who_it_should_be() {
    let server = Server::start_tls(Answer::ok("hello")).await;
    let config = |trusted: bool| {
        let mut roots = rustls::RootCertStore::empty();
        if trusted {
            roots.add(server.certificate.clone().unwrap()).unwrap();
        }
        let provider = rustls::crypto::aws_lc_rs::default_provider().into();
        let builder = rustls::ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    };
    let (tasks, timeout) = (Tasks::new(), Duration::from_secs(20));
    let backend = |url: &str, trusted| {
        super::Server::new(&url.parse().unwrap(), Some(&config(trusted)), timeout, &tasks).unwrap()
    };
    let good = backend(&server.url(), true);
    let request = Request::builder().uri(good.target().clone()).body(Bytes::new()).unwrap();
    let answer = Box::pin(good.connection().await.unwrap().exchange(request, 5)).await.unwrap();
    assert_eq!(answer.body(), "hello");
    let other = server.url().replace("localhost", "127.0.0.1");
    for wrong in [backend(&server.url(), false), backend(&other, true)] {
        assert!(matches!(wrong.connection().await, Err(ConnectError::Tls(_))));
    }
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_connection_that_does_not_come_up_is_given_up_in_time() {
    // Nobody accepts there; once the queue is full, not even the system does.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://127.0.0.1:{}/", listener.local_addr().unwrap().port());
    let config = rustls::ClientConfig::builder_with_provider(
        rustls::crypto::aws_lc_rs::default_provider().into(),
    )
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(rustls::RootCertStore::empty())
    .with_no_client_auth();
    let (tasks, timeout) = (Tasks::new(), Duration::from_millis(100));
    let url = url.parse().unwrap();
    let server = super::Server::new(&url, Some(&Arc::new(config)), timeout, &tasks).unwrap();
    assert!(matches!(server.connection().await, Err(ConnectError::Timeout)));
    for (url, is_known) in
        [("http://a", true), ("https://a", false), ("ftp://a", false), ("/", false)]
    {
        let made = super::Server::new(&url.parse().unwrap(), None, timeout, &tasks);
        assert_eq!(made.is_ok(), is_known, "{url}");
    }
}
