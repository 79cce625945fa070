//! Files that change while clients come and go.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use tokio::sync::oneshot;

use super::fixture::{Authority, ENOUGH, Pair, connect, ends, open, replace};
use crate::metrics::Metrics;
use crate::tls::{Acceptor, Reloaded, TlsError, inspect, peer_certificate};

#[tokio::test]
async fn a_reload_serves_the_new_certificate_and_keeps_connections_and_resumption() {
    let authority = Authority::new();
    let pair = authority.sign("c", &["a.example"]);
    let (acceptor, client) = (open(&pair.section()).await, authority.client());
    assert_eq!(acceptor.reload().await.unwrap(), Reloaded::Unchanged);
    let mut early = connect(&acceptor, &client, "a.example").await;
    assert!(!early.is_resumed());

    let next = authority.sign("next", &["a.example"]);
    pair.become_like(&next);
    assert_eq!(acceptor.reload().await.unwrap(), Reloaded::Changed);
    assert_eq!(acceptor.reload().await.unwrap(), Reloaded::Unchanged);

    early.exchange().await;
    let resumed = connect(&acceptor, &client, "a.example").await;
    assert!(resumed.is_resumed());
    let fresh = connect(&acceptor, &authority.client(), "a.example").await;
    assert!(!fresh.is_resumed() && fresh.was_shown(&next.certificate));
}

#[tokio::test]
async fn bad_files_are_refused_at_start_and_on_reload_and_the_old_ones_stay() {
    let authority = Authority::new();
    let pair = authority.sign("c", &["a.example"]);
    let acceptor = open(&pair.section()).await;
    let good = authority.sign("good", &["a.example"]);
    good.become_like(&pair);
    let past = SystemTime::now() - Duration::from_secs(60);
    let expired = authority.sign_until("expired", &["a.example"], past);
    let stranger = authority.sign("stranger", &["a.example"]);
    let text = fs::read(&pair.certificate).unwrap();

    let bad: [(&str, &dyn Fn()); 6] = [
        ("expired on 2", &|| pair.become_like(&expired)),
        ("does not belong to certificate", &|| {
            fs::copy(&stranger.key, &pair.key).unwrap();
        }),
        ("a section has no END line", &|| {
            fs::write(&pair.certificate, &text[..text.len() / 2]).unwrap();
        }),
        ("no certificate found in the file", &|| fs::write(&pair.certificate, "").unwrap()),
        ("no private key found in the file", &|| fs::write(&pair.key, "").unwrap()),
        ("cannot be read", &|| fs::remove_file(&pair.key).unwrap()),
    ];
    for (said, break_it) in bad {
        pair.become_like(&good);
        break_it();
        let error = acceptor.reload().await.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        assert!(error.contains(&*pair.key.with_extension("").to_string_lossy()), "{error}");
        let connected = connect(&acceptor, &authority.client(), "a.example").await;
        assert!(connected.was_shown(&good.certificate), "{said}");
        assert_eq!(inspect(&pair.section()).unwrap_err().to_string(), error);
        let start = Acceptor::open("tls", &pair.section()).await;
        assert_eq!(start.unwrap_err().to_string(), error);
    }
    pair.become_like(&good);
    assert_eq!(acceptor.reload().await.unwrap(), Reloaded::Unchanged);
}

#[tokio::test]
async fn an_authority_that_is_out_is_out_for_resumed_sessions_too() {
    let (old, new) = (Authority::new(), Authority::new());
    let mut section = old.sign("c", &["a.example"]).section();
    let authorities = old.file().with_file_name("clients.pem");
    fs::copy(old.file(), &authorities).unwrap();
    section.client_ca = Some(authorities.clone());
    let acceptor = open(&section).await;
    let client = old.client_as(&old.sign_client("client", "alice"));
    assert!(!connect(&acceptor, &client, "a.example").await.is_resumed());
    let resumed = connect(&acceptor, &client, "a.example").await;
    assert!(resumed.is_resumed() && peer_certificate(&resumed.server).is_some());

    replace(&authorities, &fs::read(new.file()).unwrap());
    assert_eq!(acceptor.reload().await.unwrap(), Reloaded::Changed);
    let (_, refused) = ends(&acceptor, &client, "a.example").await;
    assert_eq!(refused.unwrap_err().reason(), "failed");

    fs::write(&authorities, "").unwrap();
    let error = acceptor.reload().await.unwrap_err();
    assert!(matches!(error, TlsError::NoCertificate { .. }), "{error}");
}

#[tokio::test]
async fn a_watched_change_is_served_and_told() {
    let authority = Authority::new();
    let pair = authority.sign("c", &["a.example"]);
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    let next = authority.sign_until("next", &["a.example"], end);
    let acceptor = open(&pair.section()).await;
    let metrics = Metrics::new();
    let (stop, stopping) = oneshot::channel::<()>();
    let watch = acceptor.clone().watch(metrics.clone(), async {
        let _ = stopping.await;
    });
    let story = async {
        pair.become_like(&next);
        let line = "expiry_timestamp_seconds{certificate=\"listeners.public.tls\"} 4000000000\n";
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        while !text(&metrics).contains(line) {
            looks.tick().await;
        }
        let connected = connect(&acceptor, &authority.client(), "a.example").await;
        assert!(connected.was_shown(&next.certificate));
        stop.send(()).unwrap();
    };
    let both = Box::pin(async { tokio::join!(watch, story) });
    tokio::time::timeout(ENOUGH, both).await.unwrap();
}

#[tokio::test]
async fn a_failure_is_counted_once() {
    let authority = Authority::new();
    let pair = authority.sign("c", &["a.example"]);
    let next = authority.sign("next", &["a.example"]);
    let acceptor = open(&pair.section()).await;
    let metrics = Metrics::new();
    let counted = |result| {
        let start = format!("moorline_config_reloads_total{{result=\"{result}\"}} ");
        let text = text(&metrics);
        let count = text.lines().find_map(|line| line.strip_prefix(&start));
        count.map_or(0, |count| count.parse::<u64>().unwrap())
    };
    let mut last = acceptor.poll(None, &metrics).await;
    assert_eq!((counted("ok"), counted("failed")), (0, 0));

    let steps: [Step<'_>; 6] = [
        (&|| replace(&pair.key, b"no key"), (0, 1)),
        (&|| replace(&pair.key, b"no key either"), (0, 2)),
        (&|| fs::remove_file(&pair.key).unwrap(), (0, 3)),
        (&|| pair.become_like(&next), (1, 3)),
        (&|| replace(&pair.key, b"no key"), (1, 4)),
        (&|| pair.become_like(&next), (1, 4)),
    ];
    for (step, expected) in steps {
        step();
        for _ in 0..3 {
            last = acceptor.poll(last, &metrics).await;
            assert_eq!((counted("ok"), counted("failed")), expected);
        }
    }
}

#[tokio::test]
async fn another_section_has_an_acceptor_of_its_own_that_clients_resume_with() {
    let authority = Authority::new();
    let (pair, next) = (authority.sign("c", &["a.example"]), authority.sign("d", &["a.example"]));
    let (acceptor, client) = (open(&pair.section()).await, authority.client());
    assert!(!connect(&acceptor, &client, "a.example").await.is_resumed());
    assert!(acceptor.renewed(&pair.section()).await.unwrap().is(&acceptor), "nothing changed");

    let renewed = acceptor.renewed(&next.section()).await.unwrap();
    assert!(!renewed.is(&acceptor));
    assert!(connect(&renewed, &client, "a.example").await.is_resumed());
    let fresh = connect(&renewed, &authority.client(), "a.example").await;
    assert!(fresh.was_shown(&next.certificate));
    let old = connect(&acceptor, &authority.client(), "a.example").await;
    assert!(old.was_shown(&pair.certificate), "until it is no longer used");

    replace(&next.key, b"no key");
    assert!(renewed.renewed(&next.section()).await.is_err());
    assert!(acceptor.renewed(&next.section()).await.is_err());
}

#[tokio::test]
async fn a_kubernetes_mount_is_followed_through_its_link() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let version = |name: &str| {
        let signed = authority.sign(name, &["a.example"]);
        let inside = folder.path().join(name);
        fs::create_dir(&inside).unwrap();
        fs::copy(&signed.certificate, inside.join("tls.crt")).unwrap();
        fs::copy(&signed.key, inside.join("tls.key")).unwrap();
        inside
    };
    let (first, second) = (version("..1"), version("..2"));
    let link = folder.path().join("..data");
    std::os::unix::fs::symlink(&first, &link).unwrap();
    let pair = Pair { certificate: link.join("tls.crt"), key: link.join("tls.key") };
    let acceptor = open(&pair.section()).await;

    std::os::unix::fs::symlink(&second, folder.path().join("..next")).unwrap();
    fs::rename(folder.path().join("..next"), &link).unwrap();
    assert_eq!(acceptor.reload().await.unwrap(), Reloaded::Changed);
    let connected = connect(&acceptor, &authority.client(), "a.example").await;
    assert!(connected.was_shown(&second.join("tls.crt")));
}

/// What is done to the files, and how often `ok` and `failed` are counted after it.
type Step<'a> = (&'a dyn Fn(), (u64, u64));

fn text(metrics: &Metrics) -> String {
    String::from_utf8(metrics.to_text()).unwrap()
}
