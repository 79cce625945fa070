//! What clients see.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use rustls::{ProtocolVersion, crypto::CryptoProvider};
use tokio::io::AsyncReadExt;

use super::fixture::{Authority, ENOUGH, connect, ends, open};
use crate::config::{Certificate, ClientCertificate, TlsVersion};
use crate::tls::acceptor::resumed_after_its_end;
use crate::tls::{
    AcceptError, Acceptor, TlsError, client_config, inspect, install_provider, peer_certificate,
    self_signed,
};

#[tokio::test]
async fn the_name_the_client_asks_for_chooses_the_certificate() {
    let authority = Authority::new();
    let first = authority.sign("first", &["first.example", "127.0.0.1"]);
    let second = authority.sign("second", &["chat.example", "*.wild.example"]);
    let mut section = first.section();
    section.additional =
        vec![Certificate { certificate: second.certificate.clone(), key: second.key.clone() }];
    let (acceptor, client) = (open(&section).await, authority.client());

    for (name, pair) in [
        ("first.example", &first),
        ("chat.example", &second),
        ("CHAT.example", &second),
        ("any.wild.example", &second),
        // No name is sent for an address.
        ("127.0.0.1", &first),
    ] {
        let connected = connect(&acceptor, &client, name).await;
        assert!(connected.was_shown(&pair.certificate), "{name}");
    }
    let (unknown, _) = ends(&acceptor, &client, "unknown.example").await;
    assert!(unknown.unwrap_err().to_string().contains("certificate not valid for name"));
    let facts = inspect(&section).unwrap();
    assert_eq!(facts, acceptor.certificates());
    assert_eq!(facts[0].names, ["first.example", "127.0.0.1"]);
    assert_eq!(facts[1].file, second.certificate);
}

#[tokio::test]
async fn http_1_1_is_the_only_protocol() {
    let authority = Authority::new();
    let acceptor = open(&authority.sign("c", &["a.example"]).section()).await;
    let mut client = authority.client();
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let connected = connect(&acceptor, &client, "a.example").await;
    assert_eq!(connected.server.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    client.alpn_protocols = vec![b"h2".to_vec()];
    let (refused, _) = ends(&acceptor, &client, "a.example").await;
    assert!(refused.unwrap_err().to_string().contains("NoApplicationProtocol"));
}

#[tokio::test]
async fn tls_1_2_is_refused_when_1_3_is_the_minimum() {
    let authority = Authority::new();
    let mut section = authority.sign("c", &["a.example"]).section();
    let old = authority.client_with_tls_1_2();
    let connected = connect(&open(&section).await, &old, "a.example").await;
    let version = connected.server.get_ref().1.protocol_version();
    assert_eq!(version, Some(ProtocolVersion::TLSv1_2));

    section.min_version = TlsVersion::V1_3;
    let acceptor = open(&section).await;
    let (client, server) = ends(&acceptor, &old, "a.example").await;
    assert!(client.unwrap_err().to_string().contains("ProtocolVersion"));
    assert_eq!(server.unwrap_err().reason(), "failed");
    connect(&acceptor, &authority.client(), "a.example").await;
}

#[tokio::test]
async fn a_silent_client_is_given_up_and_its_socket_closed() {
    let made = self_signed(&["localhost"]).unwrap();
    let acceptor = Acceptor::from_pem(&made.certificate_pem, &made.key_pem).unwrap();
    let (mut client, server) = tokio::io::duplex(64);
    let error = acceptor.accept(server, Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(error, AcceptError::Timeout { .. }));
    assert_eq!(error.reason(), "timeout");
    assert_eq!(error.to_string(), "the TLS handshake took longer than 20ms");
    let read = tokio::time::timeout(ENOUGH, client.read(&mut [0])).await.unwrap();
    assert_eq!(read.unwrap(), 0);
}

#[tokio::test]
async fn a_self_signed_certificate_serves_names_and_addresses() {
    let made = self_signed(&["localhost", "127.0.0.1", "::1"]).unwrap();
    let acceptor = Acceptor::from_pem(&made.certificate_pem, &made.key_pem).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.pem");
    fs::write(&file, &made.certificate_pem).unwrap();
    let client = client_config(Some(&file), None).unwrap();
    for name in ["localhost", "127.0.0.1", "::1"] {
        connect(&acceptor, &client, name).await;
    }
}

#[tokio::test]
async fn a_client_certificate_tells_who_it_is() {
    let authority = Authority::new();
    let mut section = authority.sign("c", &["a.example"]).section();
    section.client_ca = Some(authority.file());
    let acceptor = open(&section).await;
    let pair = authority.sign_client("client", "alice");
    let connected = connect(&acceptor, &authority.client_as(&pair), "a.example").await;
    let certificate = peer_certificate(&connected.server).unwrap();
    assert_eq!(certificate.subject, "O=Acme,CN=alice");
    assert_eq!(certificate.common_name.as_deref(), Some("alice"));
    assert_eq!(certificate.names, ["alice", "a@example.com", "spiffe://acme/a"]);
    assert_eq!(certificate.fingerprint.len(), 64);

    let anonymous = connect(&acceptor, &authority.client(), "a.example").await;
    assert_eq!(peer_certificate(&anonymous.server), None);
}

#[tokio::test]
async fn a_resumed_session_ends_with_its_client_certificate() {
    let authority = Authority::new();
    let mut section = authority.sign("c", &["a.example"]).section();
    section.client_ca = Some(authority.file());
    let acceptor = open(&section).await;
    let now = SystemTime::now();
    let later = now + Duration::from_secs(7_200);
    let pair = authority.sign_until("client", &["alice"], now + Duration::from_secs(3_600));
    let client = authority.client_as(&pair);

    let full = connect(&acceptor, &client, "a.example").await;
    assert!(!full.is_resumed() && !resumed_after_its_end(full.server.get_ref().1, later));
    let resumed = connect(&acceptor, &client, "a.example").await;
    assert!(resumed.is_resumed() && resumed_after_its_end(resumed.server.get_ref().1, later));
    assert!(!resumed_after_its_end(resumed.server.get_ref().1, now));

    let anonymous = authority.client();
    connect(&acceptor, &anonymous, "a.example").await;
    let resumed = connect(&acceptor, &anonymous, "a.example").await;
    assert!(resumed.is_resumed() && !resumed_after_its_end(resumed.server.get_ref().1, later));
}

#[tokio::test]
async fn client_certificates_are_checked_and_may_be_required() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let mut section = authority.sign("c", &["a.example"]).section();
    section.client_certificate = ClientCertificate::Required;
    let unchecked = inspect(&section).unwrap_err();
    assert!(matches!(unchecked, TlsError::NoClientAuthorities), "{unchecked}");
    section.client_ca = Some(authority.file());
    let acceptor = open(&section).await;
    let known = authority.sign_client("known", "alice");
    connect(&acceptor, &authority.client_as(&known), "a.example").await;

    let (_, without) = ends(&acceptor, &authority.client(), "a.example").await;
    assert_eq!(without.unwrap_err().reason(), "failed");
    let strange = stranger.sign_client("strange", "alice");
    let (_, refused) = ends(&acceptor, &authority.client_as(&strange), "a.example").await;
    assert_eq!(refused.unwrap_err().reason(), "failed");
}

#[test]
fn the_provider_can_be_installed_again() {
    install_provider();
    install_provider();
    assert!(CryptoProvider::get_default().is_some());
}
