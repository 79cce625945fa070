//! Tokens at the door: every place they may stand in, and 60 that must not let anybody in.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Client, Node, Request, exchange_raw};

pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const OTHER_SECRET: &[u8] = b"fedcba9876543210fedcba9876543210";

struct Door {
    node: Node,
    public_key_pem: String,
    _folder: TempDir,
}

/// A node that takes HS256 by a secret and ES256 by a public key, for one issuer and audience.
fn door(route: &str, sources: &str) -> Door {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let public_key_pem = rcgen::KeyPair::generate().unwrap().public_key_pem();
    let public = folder.path().join("public.pem");
    std::fs::write(&public, &public_key_pem).unwrap();
    let node = Node::start(&format!(
        "jwt:\n  issuer: https://issuer\n  audience: [moorline]\n  leeway: 0s\n  keys:\n\
         \x20 - {{kid: main, algorithms: [HS256], secret: {}}}\n\
         \x20 - {{algorithms: [ES256], public_key: {}}}\n{sources}\
         routes:\n- {{path: /ws, auth: jwt, backend: {{echo: true}}{route}}}\n",
        secret.display(),
        public.display()
    ));
    Door { node, public_key_pem, _folder: folder }
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claims() -> Value {
    json!({"sub": "alice", "iss": "https://issuer", "aud": "moorline", "exp": now() + 300})
}

/// The good claims with one changed; null removes it.
fn with(name: &str, value: Value) -> Value {
    let mut all = claims();
    match value {
        Value::Null => drop(all.as_object_mut().unwrap().remove(name)),
        value => all[name] = value,
    }
    all
}

fn token_of(header: &str, claims: &str, secret: &[u8]) -> String {
    let signed = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    format!("{signed}.{}", BASE64.encode(hmac::sign(&key, signed.as_bytes())))
}

#[expect(clippy::needless_pass_by_value, reason = "every caller makes one on the spot")]
pub(crate) fn token(header: Value, claims: &Value) -> String {
    token_of(&header.to_string(), &claims.to_string(), SECRET)
}

fn good() -> String {
    token(json!({"alg": "HS256", "typ": "JWT"}), &claims())
}

fn hostile(public_key_pem: &str) -> Vec<(&'static str, String)> {
    let hs = || json!({"alg": "HS256", "typ": "JWT"});
    let header = |more: Value| {
        let mut all = hs();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        token(all, &claims())
    };
    let unsigned = |alg: &str| {
        let head = BASE64.encode(json!({"alg": alg}).to_string());
        format!("{head}.{}.", BASE64.encode(claims().to_string()))
    };
    let raw = |text: &str| token_of(&hs().to_string(), text, SECRET);
    let (n, text) = (now(), claims().to_string());
    let mut all = vec![
        ("alg none", unsigned("none")),
        ("alg None", unsigned("None")),
        ("alg NONE", unsigned("NONE")),
        ("alg nOnE", unsigned("nOnE")),
        ("alg empty", unsigned("")),
        ("alg none with a signature", token(json!({"alg": "none"}), &claims())),
        ("no alg", token(json!({"typ": "JWT"}), &claims())),
        ("alg of a number", token(json!({"alg": 256}), &claims())),
        ("alg in lower case", token(json!({"alg": "hs256"}), &claims())),
        ("HS384 with the HS256 key", token(json!({"alg": "HS384"}), &claims())),
        ("RS256 where none is allowed", token(json!({"alg": "RS256"}), &claims())),
        ("ES256 with an HMAC signature", token(json!({"alg": "ES256"}), &claims())),
        ("the public key as a secret", {
            token_of(&hs().to_string(), &text, public_key_pem.as_bytes())
        }),
        ("another secret", token_of(&hs().to_string(), &text, OTHER_SECRET)),
        ("empty secret", token_of(&hs().to_string(), &text, b"")),
        ("unknown kid", header(json!({"kid": "other"}))),
        ("kid of a path", header(json!({"kid": "../../../dev/null"}))),
        ("kid of SQL", header(json!({"kid": "x' UNION SELECT 'secret'--"}))),
        ("kid of a number", header(json!({"kid": 1}))),
        ("crit", header(json!({"crit": ["exp"]}))),
        ("b64 false", header(json!({"crit": ["b64"], "b64": false}))),
        ("empty crit", header(json!({"crit": []}))),
        ("expired", token(hs(), &with("exp", json!(n - 10)))),
        ("expired long ago", token(hs(), &with("exp", json!(1)))),
        ("exp nil", token(hs(), &with("exp", json!(0)))),
        ("no exp", token(hs(), &with("exp", Value::Null))),
        ("exp of text", token(hs(), &with("exp", json!((n + 300).to_string())))),
        ("exp null", raw(&text.replace("\"exp\":", "\"exp\":null,\"was\":"))),
        ("exp negative", token(hs(), &with("exp", json!(-1)))),
        ("exp of a list", token(hs(), &with("exp", json!([n + 300])))),
        ("exp of an object", token(hs(), &with("exp", json!({"at": n + 300})))),
        ("exp true", token(hs(), &with("exp", json!(true)))),
        ("exp 1e400", raw(&text.replace("\"exp\":", "\"exp\":1e400,\"was\":"))),
        ("exp NaN", raw(&text.replace("\"exp\":", "\"exp\":NaN,\"was\":"))),
        ("exp twice", raw(&text.replace("\"exp\":", "\"exp\":1,\"exp\":"))),
        ("not yet valid", token(hs(), &with("nbf", json!(n + 60)))),
        ("nbf of text", token(hs(), &with("nbf", json!("soon")))),
        ("another audience", token(hs(), &with("aud", json!("other")))),
        ("a list of other audiences", token(hs(), &with("aud", json!(["a", "b"])))),
        ("no audience", token(hs(), &with("aud", Value::Null))),
        ("audience of a number", token(hs(), &with("aud", json!(1)))),
        ("audience almost", token(hs(), &with("aud", json!("moorline ")))),
        ("another issuer", token(hs(), &with("iss", json!("https://evil")))),
        ("no issuer", token(hs(), &with("iss", Value::Null))),
        ("a list of issuers", token(hs(), &with("iss", json!(["https://issuer"])))),
        ("issuer almost", token(hs(), &with("iss", json!("https://issuer/")))),
        ("no user", token(hs(), &with("sub", Value::Null))),
        ("empty user", token(hs(), &with("sub", json!("")))),
        ("user of a number", token(hs(), &with("sub", json!(7)))),
        ("user with CR LF", token(hs(), &with("sub", json!("a\r\nPUB evil 0")))),
        ("user with NUL", token(hs(), &with("sub", json!("a\0b")))),
        ("user too long", token(hs(), &with("sub", json!("x".repeat(500))))),
        ("claims of a list", raw("[]")),
        ("claims of text", raw("\"alice\"")),
        ("claims not JSON", raw("{")),
        ("claims empty", raw("")),
        ("header not JSON", token_of("{", &text, SECRET)),
        ("one part", "abc".to_owned()),
        ("two parts", "abc.def".to_owned()),
        ("four parts", format!("{}.x", good())),
        ("empty parts", "..".to_owned()),
        ("cut signature", good()[..good().len() - 2].to_owned()),
        ("padding", format!("{}==", good())),
    ];
    let jku = header(json!({"jku": "http://127.0.0.1:1/", "kid": "other"}));
    all.push(("jku to keys of its own", jku));
    all.push(("jwk of its own", header(json!({"kid": "x", "jwk": {"kty": "oct", "k": "AAAA"}}))));
    all
}

#[tokio::test]
async fn hostile_tokens_let_nobody_in() {
    let door = door("", "");
    let address = door.node.ws();
    let mut wrong = Vec::new();
    let cases = hostile(&door.public_key_pem);
    assert!(cases.len() >= 60, "{}", cases.len());
    for (name, token) in &cases {
        match Request::new("/ws").bearer(token).connect(address).await {
            Ok(_) => wrong.push(format!("{name}: let in")),
            Err((401, _)) => {}
            Err((status, body)) => wrong.push(format!("{name}: {status} {body}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let log = door.node.whole_log();
    for (name, token) in cases.iter().filter(|(_, token)| token.len() > 8) {
        assert!(!log.contains(token.as_str()), "{name} is in the log");
    }
    let labels = ["result=\"bad-token\""];
    let refused = door.node.metric("moorline_handshakes_total", &labels).await;
    assert_eq!(refused, cases.len() as f64);
}

#[tokio::test]
async fn a_refusal_names_its_error_as_rfc_6750_says() {
    let door = door("", "");
    let ask = async |more: &str| {
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
        );
        exchange_raw(door.node.ws(), request.as_bytes()).await.to_ascii_lowercase()
    };
    let answer = ask("").await;
    assert!(answer.starts_with("http/1.1 401 "), "{answer}");
    assert!(answer.contains("www-authenticate: bearer\r\n"), "no token, no error word: {answer}");
    let answer = ask("Authorization: Bearer a.b.c\r\n").await;
    assert!(answer.starts_with("http/1.1 401 "), "{answer}");
    assert!(answer.contains("www-authenticate: bearer error=\"invalid_token\""), "{answer}");
    let twice = format!("Authorization: Bearer {0}\r\nAuthorization: Bearer {0}\r\n", good());
    let answer = ask(&twice).await;
    assert!(answer.starts_with("http/1.1 400 "), "{answer}");
    assert!(answer.contains("error=\"invalid_request\""), "{answer}");
    let answer = ask("Authorization: Bearer\r\n").await;
    assert!(answer.starts_with("http/1.1 400 "), "{answer}");
    let answer = ask("Authorization: Basic YTpi\r\n").await;
    assert!(answer.starts_with("http/1.1 401 "), "{answer}");
}

#[tokio::test]
async fn a_good_token_gets_in_from_every_place() {
    let door = door(
        ", origins: ['https://good.com']",
        "  sources: {cookie: session, query: access_token}\n",
    );
    let address = door.node.ws();
    let request = || Request::new("/ws").header("origin", "https://good.com");
    let token = good();
    let client = request().bearer(&token).connect(address).await.unwrap();
    client.close().await;
    let cookie = format!("a=b; session={token}; c=d");
    request().header("cookie", cookie).connect(address).await.unwrap().close().await;
    let url = format!("/ws?x=1&access_token={token}");
    let query = Request::new(&url).header("origin", "https://good.com");
    query.connect(address).await.unwrap().close().await;
    let protocols = format!("chat, bearer.{token}");
    let client =
        request().header("sec-websocket-protocol", protocols).connect(address).await.unwrap();
    assert_eq!(client.headers["sec-websocket-protocol"], "chat", "a token is never echoed");
    client.close().await;
    // In two places nobody can say which one counts (RFC 6750 section 2).
    let both = Request::new(&url).header("origin", "https://good.com").bearer(&token);
    assert_eq!(both.connect(address).await.err().unwrap().0, 400);
    // A cookie is sent by any page's doing; a page must be listed.
    let cookie = format!("session={token}");
    let foreign =
        Request::new("/ws").header("cookie", &cookie).header("origin", "https://evil.com");
    assert_eq!(foreign.connect(address).await.err().unwrap().0, 403);
    let nowhere = Request::new("/ws").header("cookie", &cookie);
    assert_eq!(nowhere.connect(address).await.err().unwrap().0, 403);
    assert!(!door.node.whole_log().contains(&token), "a token is in the log");
    let line = door.node.wait_for("connection ended", |_| true);
    assert_eq!(line["user"], "alice");
}

#[tokio::test]
async fn the_query_is_no_place_for_a_token_unless_the_operator_says_so() {
    let door = door("", "");
    let request = Request::new(&format!("/ws?access_token={}", good()));
    assert_eq!(request.connect(door.node.ws()).await.err().unwrap().0, 401);
}

#[tokio::test]
async fn the_tokens_end_is_the_connections_end() {
    let door = door("", "");
    let short = token(json!({"alg": "HS256"}), &with("exp", json!(now() + 3)));
    let mut client = Request::new("/ws").bearer(&short).connect(door.node.ws()).await.unwrap();
    let opened = std::time::Instant::now();
    assert_eq!(client.ask("still good").await, "still good");
    assert_eq!(client.closed().await, Some((4401, "token-expired".to_owned())));
    let lived = opened.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(8)).contains(&lived), "{lived:?}");
}

#[tokio::test]
async fn where_a_token_is_optional_a_bad_one_is_still_bad() {
    let door = door(", anonymous: true", "");
    Client::connect(door.node.ws()).await.close().await;
    let line = door.node.wait_for("connection ended", |_| true);
    assert_eq!(line.get("user"), None);
    let bad = Request::new("/ws").bearer("a.b.c").connect(door.node.ws()).await;
    assert_eq!(bad.err().unwrap().0, 401);
}

#[tokio::test]
async fn a_browser_is_told_4401() {
    let door = door(", refuse: close", "");
    let mut client = Request::new("/ws").bearer("a.b.c").connect(door.node.ws()).await.unwrap();
    assert_eq!(client.closed().await, Some((4401, "bad-token".to_owned())));
    let mut client = Client::connect(door.node.ws()).await;
    assert_eq!(client.closed().await, Some((4401, "no-token".to_owned())));
}

#[tokio::test]
async fn a_token_names_the_plan_of_its_connection() {
    let limits = "plans:\n  strict: {connection: {inbound: {messages: \
                  {per_second: 1, burst: 2, action: close}}}}\n";
    let door = door("", limits);
    for (plan, is_closed) in [
        (json!("strict"), true),
        (json!("unknown"), false),
        (json!(7), false),
        (Value::Null, false),
    ] {
        let token = token(json!({"alg": "HS256", "kid": "main"}), &with("plan", plan.clone()));
        let mut client = Request::new("/ws").bearer(&token).connect(door.node.ws()).await.unwrap();
        for n in 0..3 {
            client.send(format!("{n}")).await;
        }
        let mut answers = 0;
        let closed = loop {
            match client.next().await {
                Ok(_) if answers == 2 => break None,
                Ok(_) => answers += 1,
                Err(closed) => break closed,
            }
        };
        let expected = is_closed.then(|| (4429, "rate-limited".to_owned()));
        assert_eq!(closed, expected, "{plan}");
    }
    door.node.wait_for("the token names an unknown plan", |_| true);
    let lines = door.node.lines("the token names an unknown plan");
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["claimed"], "unknown");
}
