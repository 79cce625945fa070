//! The door without a socket: its paths against its description, who is let in, and what is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http_body_util::BodyExt;
use serde_json::Value;

use super::*;
use crate::auth::TokenError;
use crate::config::{AuthMode, Jwt, Route, SecretSource};
use crate::event::Peer;
use crate::hub::{Mailbox, Registered, Table};
use crate::id::{ConnectionId, GroupName, HubName, NameError, NodeId};

const KEY: &str = "0123456789abcdef0123456789abcdef";
const MAX_BODY: usize = 64;

/// A door whose hub `default` has one connection, of `ann`.
struct Stage {
    door: Management,
    ann: Arc<Peer>,
    mailbox: Mailbox,
    registered: Registered,
}

impl Stage {
    async fn new() -> Self {
        let (metrics, tasks) = (Metrics::new(), Tasks::new());
        let table = Table::new(&Limits::default(), &metrics);
        let fleet = Fleet::solo(table.clone());
        fleet.open([HubName::default()].iter()).await;
        let ann = Peer::on(Route::new("/ws", AuthMode::None), Some("ann"));
        let (registered, mailbox) = table.register(&ann);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), KEY).unwrap();
        let keys = AccessKeys::read("", &[SecretSource::File(file.path().to_owned())]).unwrap();
        let rules = Rules {
            keys,
            acceptor: None,
            verifier: None,
            minter: Minter::new(&Jwt::default()).unwrap(),
            limits: Limits::default(),
            max_body: MAX_BODY,
            published: vec![HubName::default()],
            replaced: CancellationToken::new(),
        };
        let revocations = Revocations::solo(Duration::from_secs(3600), table, &tasks);
        let door = Management::new(fleet, revocations, Arc::new(rules), &metrics, &tasks);
        Self { door, ann, mailbox, registered }
    }

    /// Asks with the key and the type `text/plain`.
    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let request = request(method, path).header(AUTHORIZATION, format!("Bearer {KEY}"));
        let request = request.header(CONTENT_TYPE, "text/plain");
        self.answer(request.body(Full::from(body.to_owned())).unwrap()).await
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> (u16, Value) {
        let response = self.door.answer(request, false).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// The status and the code of a refusal.
    async fn refused(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let (status, body) = self.ask(method, path, body).await;
        (status, body["error"]["code"].as_str().unwrap_or_default().to_owned())
    }
}

fn request(method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(format!("http://localhost{path}"))
}

/// The methods of each path in the description.
fn described() -> BTreeMap<String, BTreeSet<String>> {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let methods = |path: &Value| -> BTreeSet<String> {
        let keys = path.as_object().unwrap().keys().filter(|key| *key != "parameters");
        keys.map(|method| method.to_uppercase()).collect()
    };
    let paths = document["paths"].as_object().unwrap();
    paths.iter().map(|(path, entry)| (path.clone(), methods(entry))).collect()
}

/// The methods that do something at the place that a path names; none where it names nothing.
fn served(path: &str) -> Option<BTreeSet<String>> {
    let methods = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE];
    let all = methods.into_iter().chain([Method::PATCH, Method::OPTIONS]);
    let served: BTreeSet<String> = match Place::find(path) {
        Err(Refusal::NoPath) => return None,
        Err(refusal) => panic!("{path}: {refusal}"),
        Ok(Place::InHub(_, resource)) => {
            all.filter(|method| resource.action(method).is_ok()).map(|m| m.to_string()).collect()
        }
        Ok(Place::Revocations | Place::Publish) => {
            all.filter(|m| place::only_post(m).is_ok()).map(|m| m.to_string()).collect()
        }
        Ok(_) => all.filter(|m| place::only_read(m).is_ok()).map(|m| m.to_string()).collect(),
    };
    Some(served)
}

#[test]
fn every_path_is_described_and_every_description_is_served() {
    let id = ConnectionId::random(NodeId::random()).to_string();
    let described = described();
    for (path, methods) in &described {
        let path = path.replace("{hub}", "app").replace("{connection}", &id);
        let path =
            path.replace("{user}", "a%20b").replace("{group}", "x").replace("{permission}", "p");
        assert_eq!(served(&path).as_ref(), Some(methods), "{path}");
    }
    // Each path of up to four of these words below a hub, whose places are told apart by the words.
    let verbs = [":send", ":closeConnections", ":count", ":addToGroups", ":removeFromGroups"];
    let more =
        [":generateToken", ":refresh", ":trace", "connections", "users", "groups", "permissions"];
    let words: Vec<&str> = verbs.into_iter().chain(more).chain([id.as_str(), ""]).collect();
    let is_described = |path: &str| {
        let fits = |template: &str| {
            let (mut given, mut template) = (path.split('/'), template.split('/'));
            given.by_ref().zip(template.by_ref()).all(|(a, b)| a == b || b.starts_with('{'))
                && given.next().is_none()
                && template.next().is_none()
        };
        described.keys().any(|template| {
            path.split('/').count() == template.split('/').count() && fits(template)
        })
    };
    let mut paths = vec!["/api/hubs/app".to_owned()];
    for _ in 0..4 {
        let longer = |path: &String| -> Vec<String> {
            words.iter().map(|word| format!("{path}/{word}")).collect()
        };
        paths = paths.iter().flat_map(longer).collect();
        for path in &paths {
            // Names that are none are refused before anything else.
            if let Ok(Place::InHub(..)) = Place::find(path) {
                assert!(is_described(path), "{path} is not described");
            }
        }
    }
    for nothing in ["/", "", "/api", "/api/hubs", "/api/hubs/app", "/api/hubs/app/", "//api/health"]
    {
        assert_eq!(served(nothing), None, "{nothing}");
    }
}

#[test]
fn the_codes_of_refusals_are_those_in_the_description() {
    let hub = HubName::default();
    let conflict = Refusal::Conflict { connections: 1, changed: 0, reason: String::new() };
    let all = [
        Refusal::Browser,
        Refusal::NoCredentials,
        Refusal::Denied(""),
        Refusal::Credentials(TokenError::Twice),
        Refusal::NoPath,
        Refusal::NoHub(hub),
        Refusal::NoConnection,
        Refusal::Method(String::new()),
        Refusal::Name("", NameError::Empty),
        Refusal::Parameter("", ""),
        Refusal::Request(""),
        Refusal::Wrong(String::new()),
        Refusal::TooLarge(0),
        Refusal::Oversized(String::new()),
        Refusal::Late,
        Refusal::MediaType(""),
        conflict,
        Refusal::Not(""),
        Refusal::Crowded,
        Refusal::Unavailable(""),
        Refusal::Partial,
        Refusal::Bug(String::new()),
    ];
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let codes = &document["components"]["schemas"]["Error"]["properties"]["error"]["properties"];
    let codes = codes["code"]["enum"].as_array().unwrap().iter();
    let listed: BTreeSet<&str> = codes.map(|code| code.as_str().unwrap()).collect();
    assert_eq!(all.iter().map(Refusal::code).collect::<BTreeSet<_>>(), listed);
    for refusal in &all {
        let response = refusal.to_response();
        assert!(Answer::RESULTS.contains(&refusal.result()), "{refusal:?}");
        assert_eq!(response.headers().contains_key(RETRY_AFTER), response.status() == 503);
        assert_eq!(response.headers().contains_key(ALLOW), response.status() == 405);
        assert!(response.status() != 401 || response.headers().contains_key(WWW_AUTHENTICATE));
    }
}

#[tokio::test]
async fn nobody_learns_anything_without_a_key() {
    let stage = Stage::new().await;
    let ask = async |request: http::request::Builder| {
        stage.door.answer(request.body(Full::default()).unwrap(), false).await
    };
    for path in ["/api/hubs/default/:count", "/api/hubs/none/:count", "/nowhere", "/", "/%ff"] {
        let response = ask(request("GET", path)).await;
        assert_eq!(response.status(), 401, "{path}");
        assert_eq!(response.headers()[WWW_AUTHENTICATE], "Bearer");
        assert_eq!(response.headers()[CONNECTION], "close");
        let bad = request("GET", path).header(AUTHORIZATION, "Bearer not-the-key");
        let response = ask(bad).await;
        assert_eq!(response.status(), 401, "{path}");
        assert_eq!(response.headers()[WWW_AUTHENTICATE], "Bearer error=\"invalid_token\"");
    }
    let bearer = format!("Bearer {KEY}");
    let two = request("GET", "/").header(AUTHORIZATION, &bearer).header(AUTHORIZATION, &bearer);
    assert_eq!(ask(two).await.status(), 400);
    let basic = request("GET", "/").header(AUTHORIZATION, "Basic YTpi");
    assert_eq!(ask(basic).await.status(), 401);
    let page = request("GET", "/api/health").header(ORIGIN, "null").header(AUTHORIZATION, &bearer);
    assert_eq!(ask(page).await.status(), 403);
    for (site, status) in [("same-origin", 403), ("cross-site", 403), ("none", 200)] {
        let page = request("GET", "/openapi.json").header("sec-fetch-site", site);
        assert_eq!(ask(page).await.status(), status, "{site}");
    }
    assert_eq!(ask(request("HEAD", "/api/health")).await.status(), 200);
    assert_eq!(ask(request("GET", "/openapi.json")).await.status(), 200);
    let certified = request("GET", "/api/hubs/default/:count").body(Full::<Bytes>::default());
    assert_eq!(stage.door.answer(certified.unwrap(), true).await.status(), 200);
}

#[tokio::test]
async fn what_is_asked_badly_is_told_why() {
    let stage = Stage::new().await;
    let id = stage.ann.id;
    let hub = "/api/hubs/default";
    let send = format!("{hub}/:send");
    let large = "x".repeat(MAX_BODY + 1);
    let long = "x".repeat(201);
    for (method, path, body, expected) in [
        ("POST", send.as_str(), "hello", (202, "")),
        ("POST", &send, &large, (413, "TooLarge")),
        ("POST", &format!("{send}?messageTtlSeconds=301"), "", (400, "BadRequest")),
        (
            "POST",
            &format!("{send}?messageTtlSeconds=1&messageTtlSeconds=1"),
            "",
            (400, "BadRequest"),
        ),
        ("POST", &format!("{send}?filter=userId%20eq%20'x'"), "", (400, "BadRequest")),
        ("POST", &format!("{send}?api-version=2035-01-01"), "", (400, "BadRequest")),
        ("POST", &format!("{send}?reason=%ff"), "", (400, "BadRequest")),
        ("GET", &send, "", (405, "MethodNotAllowed")),
        ("PATCH", &format!("{hub}/users/ann"), "", (405, "MethodNotAllowed")),
        ("DELETE", "/api/health", "", (405, "MethodNotAllowed")),
        ("POST", "/api/hubs/none/:send", "hello", (404, "HubNotFound")),
        ("POST", "/api/hubs/a.b/:send", "hello", (400, "InvalidName")),
        ("POST", "/api/hubs/default/send", "hello", (404, "NotFound")),
        ("POST", &format!("{hub}/users/a%0Ab/:send"), "hello", (400, "InvalidName")),
        ("POST", &format!("{hub}/users/%/:send"), "hello", (400, "BadRequest")),
        ("POST", &format!("{hub}/users/%ff/:send"), "hello", (400, "BadRequest")),
        ("POST", &format!("{hub}/users//:send"), "hello", (400, "InvalidName")),
        ("POST", &format!("{hub}/groups/{long}/:send"), "hello", (400, "InvalidName")),
        ("GET", &format!("{hub}/connections/x.y"), "", (404, "ConnectionNotFound")),
        ("PUT", &format!("{hub}/groups/red/connections/x"), "", (404, "ConnectionNotFound")),
        ("GET", &format!("{hub}/connections?limit=0"), "", (400, "BadRequest")),
        ("GET", &format!("{hub}/connections?limit=1001"), "", (400, "BadRequest")),
        ("GET", &format!("{hub}/connections?continuationToken=x"), "", (400, "BadRequest")),
        ("DELETE", &format!("{hub}/connections/{id}?code=1006"), "", (400, "BadRequest")),
        ("DELETE", &format!("{hub}/connections/{id}?code=70000"), "", (400, "BadRequest")),
        ("POST", &format!("{hub}/connections/{id}/:trace?seconds=601"), "", (400, "BadRequest")),
        ("POST", &format!("{hub}/connections/{id}/:refresh"), "{}", (415, "UnsupportedMediaType")),
        ("POST", &format!("{hub}/:addToGroups"), "{}", (415, "UnsupportedMediaType")),
        ("POST", &format!("{hub}/:generateToken?userId=a"), "", (501, "NotImplemented")),
        ("PUT", &format!("{hub}/permissions/p/connections/{id}"), "", (501, "NotImplemented")),
    ] {
        let refused = stage.refused(method, path, body).await;
        assert_eq!((refused.0, refused.1.as_str()), expected, "{method} {path}");
    }
    assert!(stage.mailbox.has_waiting(), "the first one was sent");
}

#[tokio::test]
async fn too_many_at_once_are_told_to_come_again() {
    let stage = Stage::new().await;
    stage.door.requests.set_max(0);
    let refused = stage.refused("GET", "/api/hubs/default/:count", "").await;
    assert_eq!(refused, (503, "Unavailable".to_owned()));
    assert_eq!(stage.ask("GET", "/api/health", "").await.0, 200);
    stage.door.requests.set_max(1);
    assert_eq!(stage.ask("GET", "/api/hubs/default/:count", "").await.0, 200);
    let text = String::from_utf8(stage.door.metrics.to_text()).unwrap();
    for (operation, result) in [("count", "failed"), ("count", "ok"), ("health", "ok")] {
        let line = format!("{{operation=\"{operation}\",result=\"{result}\"}} 1");
        assert!(text.contains(&line), "{line}");
    }
}

#[tokio::test]
async fn a_body_is_what_its_type_says() {
    let stage = Stage::new().await;
    let ask = async |content_type: &str, body: &'static [u8]| {
        let request = request("POST", "/api/hubs/default/users/ann/:send");
        let request = request.header(AUTHORIZATION, format!("Bearer {KEY}"));
        let request = request.header(CONTENT_TYPE, content_type).body(Full::from(body)).unwrap();
        let (status, _) = stage.answer(request).await;
        let kind = stage.mailbox.take().map(|message| message.kind().as_str());
        (status, kind)
    };
    for (content_type, body, expected) in [
        ("text/plain", b"hello".as_slice(), (202, Some("text"))),
        ("Text/Plain; charset=UTF-8", "grüße".as_bytes(), (202, Some("text"))),
        ("application/json;charset=\"utf-8\"", b"{}", (202, Some("text"))),
        ("application/octet-stream", b"hello", (202, Some("binary"))),
        ("application/octet-stream", b"\xff", (202, Some("binary"))),
        ("text/plain", b"", (202, Some("text"))),
        ("text/plain", b"\xff", (400, None)),
        ("application/json", b"\xff", (400, None)),
        ("text/plain; charset=latin1", b"hello", (415, None)),
        ("text/html", b"hello", (415, None)),
        ("", b"hello", (415, None)),
        ("application/x-www-form-urlencoded", b"hello", (415, None)),
    ] {
        assert_eq!(ask(content_type, body).await, expected, "{content_type}");
    }
}

#[tokio::test]
async fn who_is_there_is_described_and_counted() {
    let stage = Stage::new().await;
    stage.registered.join(&GroupName::new("red").unwrap()).unwrap();
    let id = stage.ann.id.to_string();
    let (status, list) =
        stage.ask("GET", "/api/hubs/default/users/ann/connections?top=7", "").await;
    let one = &list["value"][0];
    assert_eq!((status, &list["connections"], &list["partial"]), (200, &1.into(), &false.into()));
    assert_eq!(
        (one["connectionId"].as_str(), one["userId"].as_str()),
        (Some(id.as_str()), Some("ann"))
    );
    assert_eq!((&one["groups"][0], &one["route"]), (&"red".into(), &"/ws".into()));
    assert!(one["since"].as_str().unwrap().ends_with('Z'), "{one}");
    let (status, same) = stage.ask("GET", &format!("/api/hubs/default/connections/{id}"), "").await;
    assert_eq!((status, &same), (200, one));
    for (path, count) in [("", 1), ("/users/ann", 1), ("/users/bob", 0), ("/groups/red", 1)] {
        let (status, body) = stage.ask("GET", &format!("/api/hubs/default{path}/:count"), "").await;
        assert_eq!((status, &body["connections"]), (200, &count.into()), "{path}");
        if !path.is_empty() {
            let (status, _) = stage.ask("HEAD", &format!("/api/hubs/default{path}"), "").await;
            assert_eq!(status, if count == 0 { 404 } else { 200 }, "{path}");
        }
    }
}

proptest::proptest! {
    #[test]
    fn no_path_and_no_query_panics(path in "[/:%a-z0-9. ]{0,40}", query in ".{0,40}") {
        if let Ok(Place::InHub(_, resource)) = Place::find(&format!("/api/hubs/a/{path}")) {
            let _ = resource.action(&Method::POST);
        }
        if let Ok(query) = Query::parse(&query) {
            let _ = (query.check_version(), query.excluded(), query.number("a", 0..=9, ""));
        }
    }
}
