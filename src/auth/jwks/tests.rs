//! Key sets from files and from a small server of the test: rotation, floods, and every bad answer.

use std::time::SystemTime;

use futures_util::future::join_all;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use super::*;
use crate::auth::forge::{self, ED, NOW, P256, P384, RSA, SECRET, Signer, token};
use crate::auth::{Identity, Verifier};
use crate::config::{Jwt, JwtAlgorithm, Period, Size};
use crate::http_client::fixture::{Answer, Server, client};

const CLAIMS: &str = r#"{"sub":"alice","exp":1800000060}"#;

fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

fn config(location: &str) -> Jwt {
    let jwks = config::Jwks {
        location: location.to_owned(),
        ca: None,
        algorithms: vec![JwtAlgorithm::RS256, JwtAlgorithm::ES256, JwtAlgorithm::EdDSA],
        refresh: Period::secs(600),
        min_refresh: Period::secs(30),
        max_stale: Period::secs(24 * 3600),
        timeout: Period::secs(20),
        max_size: Size::kib(64),
    };
    Jwt { jwks: Some(jwks), ..Jwt::default() }
}

/// The configuration of a key set with `change`d settings.
fn changed(location: &str, change: impl FnOnce(&mut config::Jwks)) -> Jwt {
    let mut config = config(location);
    config.jwks.as_mut().map(change).unwrap();
    config
}

async fn start(server: &Server) -> Verifier {
    Verifier::new(&config(&server.url()), Some(client(None)), &Tasks::new()).unwrap()
}

async fn verify(verifier: &Verifier, text: &str) -> Result<(), Denied> {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    verifier.verify_at(&token(text), now).await.map(|_: Identity| ())
}

fn es(signer: &Signer, kid: &str) -> String {
    signer.sign(&format!(r#"{{"alg":"ES256","kid":"{kid}"}}"#), CLAIMS)
}

#[tokio::test]
async fn a_new_key_is_fetched_when_a_token_names_it() {
    let server = Server::start(Answer::ok(set(&[P256.jwk("old")]))).await;
    let verifier = start(&server).await;
    assert_eq!(verify(&verifier, &es(&P256, "old")).await, Ok(()));
    assert_eq!(server.requests(), 1);
    let new = Signer::p256();
    server.set(Answer::ok(set(&[P256.jwk("old"), new.jwk("new")])));
    assert_eq!(verify(&verifier, &es(&new, "new")).await, Ok(()));
    assert_eq!(verify(&verifier, &es(&P256, "old")).await, Ok(()));
    assert_eq!(verify(&verifier, &es(&P256, "new")).await, Err(Denied::SIGNATURE));
    assert_eq!(server.requests(), 2);
    // The next one has to wait for `min_refresh`.
    let newer = Signer::p256();
    server.set(Answer::ok(set(&[newer.jwk("newer")])));
    assert_eq!(verify(&verifier, &es(&newer, "newer")).await, Err(Denied::UNKNOWN_KEY));
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn a_flood_of_unknown_kids_causes_one_fetch() {
    let server = Server::start(Answer::ok(set(&[P256.jwk("good")]))).await;
    let verifier = start(&server).await;
    verifier.fetched().await.unwrap();
    let texts: Vec<String> = (0..200).map(|i| es(&P256, &format!("x{i}"))).collect();
    let found = join_all(texts.iter().map(|text| verify(&verifier, text))).await;
    assert!(found.iter().all(|found| *found == Err(Denied::UNKNOWN_KEY)));
    assert_eq!(server.requests(), 2);
    let found = join_all(texts.iter().map(|text| verify(&verifier, text))).await;
    assert!(found.iter().all(|found| *found == Err(Denied::UNKNOWN_KEY)));
    assert_eq!(verify(&verifier, &es(&P256, "good")).await, Ok(()));
    assert_eq!(server.requests(), 2);
    // What no key set can bring causes nothing either.
    let hs = forge::hmac(Algorithm::HS256, SECRET, r#"{"alg":"HS256","kid":"y"}"#, CLAIMS);
    assert_eq!(verify(&verifier, &hs).await, Err(Denied::ALGORITHM));
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn a_failed_fetch_takes_no_keys_away() {
    let other = Server::start(Answer::ok(set(&[P256.jwk("evil")]))).await;
    let server = Server::start(Answer::ok(set(&[P256.jwk("good")]))).await;
    let config = changed(&server.url(), |jwks| jwks.min_refresh = Period::millis(0));
    let verifier = Verifier::new(&config, Some(client(None)), &Tasks::new()).unwrap();
    verifier.fetched().await.unwrap();
    let redirect = format!("302 Found\r\nLocation: {}", other.url());
    let many: Vec<Value> = (0..101).map(|i| P256.jwk(&i.to_string())).collect();
    let bad = [
        Answer::status("500 Internal Server Error"),
        Answer::status("404 Not Found"),
        Answer::status(&redirect),
        Answer::Endless,
        Answer::ok(" ".repeat(64 * 1024 + 1)),
        Answer::ok(""),
        Answer::ok("<html>"),
        Answer::ok("[]"),
        Answer::ok("{}"),
        Answer::ok(r#"{"keys":{}}"#),
        Answer::ok(set(&[])),
        Answer::ok(set(&[json!({"kty":"oct","k":"AAAA","kid":"evil"}), json!(1), json!(null)])),
        Answer::ok(set(&many)),
        Answer::ok(format!(r#"{{"keys":[],"keys":[{}]}}"#, P256.jwk("evil"))),
        Answer::Raw(b"\x16\x03\x01garbage\r\n\r\n".to_vec()),
    ];
    for (i, answer) in bad.into_iter().enumerate() {
        let before = server.requests();
        server.set(answer.clone());
        let evil = format!(
            r#"{{"alg":"ES256","kid":"evil","jku":"{0}","x5u":"{0}","jwk":{1}}}"#,
            other.url(),
            P256.jwk("evil")
        );
        let unknown = P256.sign(&evil, CLAIMS);
        assert_eq!(verify(&verifier, &unknown).await, Err(Denied::UNKNOWN_KEY), "{i}: {answer:?}");
        assert!(server.requests() > before, "{i}");
        assert_eq!(verify(&verifier, &es(&P256, "good")).await, Ok(()), "{i}: {answer:?}");
    }
    assert_eq!(other.requests(), 0);
}

#[tokio::test]
async fn a_silent_server_holds_a_token_up_until_the_deadline_only() {
    let server = Server::start(Answer::ok(set(&[P256.jwk("good")]))).await;
    let verifier = start(&server).await;
    verifier.fetched().await.unwrap();
    server.set(Answer::Silence);
    // From here on time passes only when nobody has anything left to do.
    tokio::time::pause();
    let before = Instant::now();
    assert_eq!(verify(&verifier, &es(&P256, "x")).await, Err(Denied::UNKNOWN_KEY));
    let passed = before.elapsed();
    assert!(passed >= Duration::from_secs(20) && passed < Duration::from_secs(22), "{passed:?}");
    assert_eq!(verify(&verifier, &es(&P256, "good")).await, Ok(()));
}

#[tokio::test]
async fn a_key_set_that_never_came_is_unavailable_not_invalid() {
    let server = Server::start(Answer::status("503 Service Unavailable")).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hs");
    std::fs::write(&path, SECRET).unwrap();
    let mut config = config(&server.url());
    let stranger = folder.path().join("stranger.pem");
    std::fs::write(&stranger, Signer::rsa().pair.public_key_pem()).unwrap();
    config.keys = vec![
        config::JwtKey {
            kid: Some("hs".to_owned()),
            algorithms: vec![JwtAlgorithm::HS256],
            secret: Some(config::SecretSource::File(path)),
            public_key: None,
        },
        config::JwtKey {
            kid: None,
            algorithms: vec![JwtAlgorithm::RS256],
            secret: None,
            public_key: Some(stranger),
        },
    ];
    let verifier = Verifier::new(&config, Some(client(None)), &Tasks::new()).unwrap();
    assert_eq!(verify(&verifier, &es(&P256, "good")).await, Err(Denied::Unavailable));
    let error = verifier.fetched().await.unwrap_err();
    assert!(matches!(*error, JwksError::Fetch(FetchError::Status(_))), "{error:?}");
    // Keys from files work all the same.
    let hs = forge::hmac(Algorithm::HS256, SECRET, r#"{"alg":"HS256","kid":"hs"}"#, CLAIMS);
    assert_eq!(verify(&verifier, &hs).await, Ok(()));
    let forged = forge::hmac(Algorithm::HS256, b"x", r#"{"alg":"HS256","kid":"hs"}"#, CLAIMS);
    assert_eq!(verify(&verifier, &forged).await, Err(Denied::SIGNATURE));
    // A token that any key may have signed, and not that of the file.
    let unnamed = RSA.sign(r#"{"alg":"RS256"}"#, CLAIMS);
    assert_eq!(verify(&verifier, &unnamed).await, Err(Denied::Unavailable));
    // It is tried again without a token asking for it.
    server.set(Answer::ok(set(&[P256.jwk("good")])));
    let works = async {
        while verify(&verifier, &es(&P256, "good")).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), works).await.unwrap();
}

#[tokio::test]
async fn a_key_set_comes_over_tls() {
    let server = Server::start_tls(Answer::ok(set(&[ED.jwk("ed")]))).await;
    let fetch = Some(client(Some(&server)));
    let verifier = Verifier::new(&config(&server.url()), fetch, &Tasks::new()).unwrap();
    let text = ED.sign(r#"{"alg":"EdDSA","kid":"ed"}"#, CLAIMS);
    assert_eq!(verify(&verifier, &text).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_file_is_read_again_and_its_keys_end_when_it_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    std::fs::write(&path, set(&[P256.jwk("a")])).unwrap();
    let verifier = Verifier::new(&config(path.to_str().unwrap()), None, &Tasks::new()).unwrap();
    assert_eq!(verify(&verifier, &es(&P256, "a")).await, Ok(()));

    std::fs::write(&path, set(&[P256.jwk("a"), P256.jwk("b")])).unwrap();
    assert_eq!(verify(&verifier, &es(&P256, "b")).await, Ok(()));
    assert_eq!(verify(&verifier, &es(&P256, "c")).await, Err(Denied::UNKNOWN_KEY));
    std::fs::write(&path, set(&[P256.jwk("a"), P256.jwk("c")])).unwrap();
    tokio::time::sleep(Duration::from_secs(29)).await;
    assert_eq!(verify(&verifier, &es(&P256, "c")).await, Err(Denied::UNKNOWN_KEY));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(verify(&verifier, &es(&P256, "c")).await, Ok(()));
    assert_eq!(verify(&verifier, &es(&P256, "b")).await, Err(Denied::UNKNOWN_KEY));

    // Without any token asking, within `refresh`.
    std::fs::write(&path, set(&[P256.jwk("d")])).unwrap();
    tokio::time::sleep(Duration::from_secs(601)).await;
    assert_eq!(verify(&verifier, &es(&P256, "d")).await, Ok(()));
    assert_eq!(verify(&verifier, &es(&P256, "a")).await, Err(Denied::UNKNOWN_KEY));

    std::fs::remove_file(&path).unwrap();
    tokio::time::sleep(Duration::from_secs(23 * 3600)).await;
    assert_eq!(verify(&verifier, &es(&P256, "d")).await, Ok(()));
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
    assert_eq!(verify(&verifier, &es(&P256, "d")).await, Err(Denied::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn a_kid_that_was_not_brought_waits_longer_than_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    std::fs::write(&path, set(&[P256.jwk("a")])).unwrap();
    let verifier = Verifier::new(&config(path.to_str().unwrap()), None, &Tasks::new()).unwrap();
    assert_eq!(verify(&verifier, &es(&P256, "old")).await, Err(Denied::UNKNOWN_KEY));
    tokio::time::sleep(Duration::from_secs(31)).await;
    // The old one does not take the fetch that the new one needs.
    assert_eq!(verify(&verifier, &es(&P256, "old")).await, Err(Denied::UNKNOWN_KEY));
    std::fs::write(&path, set(&[P256.jwk("a"), P256.jwk("new")])).unwrap();
    assert_eq!(verify(&verifier, &es(&P256, "new")).await, Ok(()));
    std::fs::write(&path, set(&[P256.jwk("old")])).unwrap();
    tokio::time::sleep(Duration::from_secs(91)).await;
    assert_eq!(verify(&verifier, &es(&P256, "old")).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_of_strangers_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    std::fs::write(&path, set(&[P256.jwk("a")])).unwrap();
    let jwks = config(path.to_str().unwrap()).jwks.unwrap();
    let cache = JwksCache::new(&jwks, None, &Tasks::new()).unwrap();
    for i in 0..2 * ABSENT_MAX {
        cache.shared.remember_absent(&i.to_string());
    }
    assert_eq!(cache.shared.asking().absent.len(), ABSENT_MAX);
    tokio::time::sleep(Duration::from_secs(121)).await;
    cache.shared.remember_absent("later");
    assert_eq!(cache.shared.asking().absent.len(), 1);
    assert!(!cache.shared.ask_for(&"x".repeat(KID_MAX + 1)).await);
}

#[tokio::test]
async fn only_fit_keys_of_a_set_are_used() {
    let with = |mut jwk: Value, name: &str, value: Value| {
        jwk[name] = value;
        jwk
    };
    let ec = |name: &str, value: Value| with(P256.jwk(name), name, value);
    let keys = [
        with(P256.jwk("good"), "use", json!("sig")),
        with(P256.jwk("ops"), "key_ops", json!(["verify"])),
        ec("use", json!("enc")),
        ec("key_ops", json!(["sign"])),
        ec("alg", json!("ES384")),
        ec("crv", json!("P-384")),
        ec("x", json!("AAAA")),
        ec("y", json!(1)),
        with(RSA.jwk("n"), "n", json!("AQAB")),
        with(RSA.jwk("alg"), "alg", json!("RSA-OAEP")),
        P384.jwk("p384"),
        with(ED.jwk("ed"), "crv", json!("X25519")),
        json!({"kty":"oct","k":"AAAA","kid":"oct","alg":"HS256"}),
        json!({"kty":"AKP","pub":"AAAA","kid":"pq","alg":"ML-DSA-44"}),
        json!({"kid":"nothing"}),
        json!("text"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    std::fs::write(&path, set(&keys)).unwrap();
    let verifier = Verifier::new(&config(path.to_str().unwrap()), None, &Tasks::new()).unwrap();
    let shown = verifier.describe();
    assert_eq!(shown.len(), keys.len());
    let used: Vec<_> = shown.iter().filter(|key| key.unused.is_none()).collect();
    assert_eq!(used.len(), 2);
    assert_eq!(used[0].to_string(), r#"jwt.jwks: EC P-256, kid "good", [ES256]"#);
    let oct = shown.iter().find(|key| key.kid.as_deref() == Some("oct")).unwrap();
    let expected =
        "jwt.jwks: oct, kid \"oct\", not used: symmetric keys of a key set are never used";
    assert_eq!(oct.to_string(), expected);
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let url = "https://example.com/keys";
    let cases = [
        (changed(url, |jwks| jwks.refresh = Period::secs(0)), "jwt.jwks.refresh: "),
        (changed(url, |jwks| jwks.timeout = Period::secs(0)), "jwt.jwks.timeout: "),
        (changed(url, |jwks| jwks.timeout = Period::secs(61)), "jwt.jwks.timeout: "),
        (changed(url, |jwks| jwks.refresh = Period::secs(u64::MAX)), "jwt.jwks: expected refresh"),
        (changed(url, |jwks| jwks.min_refresh = Period::secs(u64::MAX)), "jwt.jwks: expected ref"),
        (changed(url, |jwks| jwks.max_stale = Period::secs(1)), "jwt.jwks.max_stale: "),
        (changed(url, |jwks| jwks.algorithms.clear()), "jwt.jwks.algorithms: "),
        (
            changed(url, |jwks| jwks.algorithms.push(JwtAlgorithm::HS256)),
            "jwt.jwks.algorithms: HS256 ",
        ),
        (config("http://example.com/keys"), "jwt.jwks.location: expected an https URL, "),
        (config("https://a:b@example.com/"), "jwt.jwks.location: expected an https URL, "),
        (config("https://"), "jwt.jwks.location: expected an https URL, "),
        (config(url), "jwt.jwks.location: expected a file"),
        (
            config("/missing/keys.json"),
            "jwt.jwks.location: /missing/keys.json: the key set cannot be read",
        ),
    ];
    for (config, expected) in cases {
        let error = Verifier::new(&config, None, &Tasks::new()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[tokio::test]
async fn a_reload_keeps_fetched_keys_unless_the_set_is_another() {
    let server = Server::start(Answer::ok(set(&[P256.jwk("a")]))).await;
    let verifier = start(&server).await;
    verifier.fetched().await.unwrap();
    let same = Jwt { leeway: Period::secs(1), ..config(&server.url()) };
    let verifier = verifier.renewed(&same, Some(client(None))).unwrap();
    assert_eq!(verify(&verifier, &es(&P256, "a")).await, Ok(()));
    assert_eq!(server.requests(), 1);
    let other = Server::start(Answer::ok(set(&[P256.jwk("b")]))).await;
    let verifier = verifier.renewed(&config(&other.url()), Some(client(None))).unwrap();
    assert_eq!(verify(&verifier, &es(&P256, "b")).await, Ok(()));
    assert_eq!((server.requests(), other.requests()), (1, 1));
}

#[tokio::test]
async fn a_reload_reads_a_file_again_and_keeps_the_old_keys_of_a_bad_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    std::fs::write(&path, set(&[P256.jwk("a")])).unwrap();
    let config = changed(path.to_str().unwrap(), |jwks| jwks.min_refresh = Period::secs(3600));
    let verifier = Verifier::new(&config, None, &Tasks::new()).unwrap();
    // Takes the one fetch that a token may cause.
    assert_eq!(verify(&verifier, &es(&P256, "x")).await, Err(Denied::UNKNOWN_KEY));
    std::fs::write(&path, "{}").unwrap();
    let error = verifier.renewed(&config, None).unwrap_err().to_string();
    assert!(error.ends_with("keys.json: not a JSON Web Key Set"), "{error}");
    assert_eq!(verify(&verifier, &es(&P256, "a")).await, Ok(()));
    std::fs::write(&path, set(&[P256.jwk("b")])).unwrap();
    let verifier = verifier.renewed(&config, None).unwrap();
    assert_eq!(verify(&verifier, &es(&P256, "b")).await, Ok(()));
    assert_eq!(verify(&verifier, &es(&P256, "a")).await, Err(Denied::UNKNOWN_KEY));
}

#[tokio::test]
async fn a_warning_tells_the_cause_and_no_query() {
    let error = JwksError::Fetch(FetchError::Timeout(Duration::from_secs(5)));
    let told = chain(&error);
    assert_eq!(told, "the key set was not fetched: no complete answer within 5s");
    let jwks = config("https://example.com:8443/keys?secret=1").jwks.unwrap();
    let source = Source::url(&jwks, Some(client(None))).unwrap();
    assert_eq!(source.to_string(), "https://example.com:8443/keys");
}

#[tokio::test]
async fn the_task_ends_with_the_node_or_with_the_verifier() {
    let server = Server::start(Answer::Silence).await;
    let (tasks, others) = (Tasks::new(), Tasks::new());
    let verifier = Verifier::new(&config(&server.url()), Some(client(None)), &tasks).unwrap();
    tasks.stop();
    timeout(Duration::from_secs(20), tasks.ended()).await.unwrap();
    drop(verifier);
    let verifier = Verifier::new(&config(&server.url()), Some(client(None)), &others).unwrap();
    drop(verifier);
    timeout(Duration::from_secs(20), others.ended()).await.unwrap();
}
