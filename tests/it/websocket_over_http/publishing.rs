//! Channels: who is subscribed, and `POST /publish/`.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use moorline::config::JwtAlgorithm;
use serde_json::{Map, Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{KEY, OPEN, bodies, events, keyed, said, text};
use crate::harness::{Client, NatsServer, Node, Request, Service, eventually, exchange_raw};

/// A service whose connections subscribe to the channel that their path names, and a node that takes
/// items for it.
async fn stage() -> (Service, Node, tempfile::TempDir) {
    let service = service().await;
    let (node, files) = node(&service, "");
    (service, node, files)
}

async fn service() -> Service {
    Service::start(|asked| {
        let control = |kind: &str, channel: &str| {
            text(&format!(r#"c:{{"type":"{kind}","channel":"{channel}"}}"#))
        };
        let channel = asked.target.rsplit('/').next().unwrap();
        match said(asked) {
            None if asked.body.is_empty() => events(&[&text("m:polled")]),
            None => events(&[OPEN, &control("subscribe", channel), &text("m:welcome")])
                .header("sec-websocket-extensions: grip"),
            Some("leave") => events(&[&control("unsubscribe", channel), &text("m:left")]),
            Some(_) => events(&[]),
        }
    })
    .await
}

/// A node that is told what to publish, with more of its config.
fn node(service: &Service, more: &str) -> (Node, tempfile::TempDir) {
    let (files, key, listeners) = keyed();
    let config = format!(
        "{more}routes:\n- {{path: '/ws/{{*rest}}', auth: none, forward_headers: [], hub: rooms, \
         backend: {{http: '{}', dialect: websocket-over-http, \
         grip: {{issuer: realm, key_file: '{key}'}}}}}}\n\
         - {{path: /echo, auth: none, backend: {{echo: true}}}}\n",
        service.origin()
    );
    (Node::with_listeners(&listeners, &config), files)
}

async fn member(node: &Node, channel: &str) -> Client {
    let mut client =
        Request::new(&format!("/ws/{channel}")).connect(node.ws()).await.expect("accepted");
    assert_eq!(client.next_text().await, "welcome");
    client
}

/// Status, head and body.
async fn ask(to: SocketAddr, line: &str, headers: &[&str], body: &str) -> (u16, String, String) {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    let answer = exchange_raw(to, request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_owned(), body.to_owned())
}

async fn try_to_publish(node: &Node, items: &Value) -> (u16, String) {
    publish_body(node.management(), &json!({"items": items}).to_string()).await
}

pub(super) async fn publish_body(to: SocketAddr, body: &str) -> (u16, String) {
    let bearer = format!("authorization: Bearer {KEY}");
    let (status, _, said) = ask(to, "POST /publish/", &[&bearer], body).await;
    (status, said)
}

async fn publish(node: &Node, items: &Value) {
    assert_eq!(try_to_publish(node, items).await, (200, "Published\n".to_owned()));
}

fn message(channel: &str, message: &Value) -> Value {
    json!({"channel": channel, "formats": {"ws-message": message}})
}

#[tokio::test]
async fn members_of_a_channel_get_what_is_published() {
    let (service, node, _files) = stage().await;
    let (mut ann, mut bob) = (member(&node, "a").await, member(&node, "a").await);
    let mut carol = member(&node, "b").await;
    publish(
        &node,
        &json!([
            message("a", &json!({"content": "one"})),
            message("b", &json!({"content": "for b"})),
            message("a", &json!({"content-bin": "AP8="})),
            {"channel": "a", "formats": {"http-stream": {"content": "not for us\n"}}},
            message("a", &json!({"content": "two"})),
        ]),
    )
    .await;
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.next_text().await, "one");
        assert_eq!(client.next().await.unwrap(), Message::binary(&[0, 255][..]));
        assert_eq!(client.next_text().await, "two");
    }
    assert_eq!(carol.next_text().await, "for b");

    let with_id = |id: &str| {
        let mut item = message("a", &json!({"content": id}));
        item["id"] = id.into();
        item["prev-id"] = "unknown".into();
        item
    };
    publish(&node, &json!([with_id("1"), with_id("1"), with_id("2")])).await;
    publish(&node, &json!([with_id("2"), with_id("3")])).await;
    for expected in ["1", "2", "3"] {
        assert_eq!(ann.next_text().await, expected, "each once");
    }
    assert_eq!(bob.ask("leave").await, "1");
    for expected in ["2", "3", "left"] {
        assert_eq!(bob.next_text().await, expected);
    }
    let asked = service.asked().len();
    publish(&node, &json!([message("a", &json!({"action": "refresh"}))])).await;
    assert_eq!(ann.next_text().await, "polled");
    assert_eq!(bodies(&service, asked + 1).await[asked], "", "only those who are there");
    let close = json!({"action": "close", "code": 4000, "reason": "bye"});
    publish(&node, &json!([message("a", &json!({"content": "last"})), message("a", &close)])).await;
    assert_eq!(ann.next_text().await, "last");
    assert_eq!(ann.closed().await, Some((4000, "bye".to_owned())));
    bob.send("still here").await;
    assert_eq!(bodies(&service, asked + 3).await.len(), asked + 3);
}

#[tokio::test]
async fn what_may_not_have_arrived_is_not_called_published_and_is_heard_again() {
    let mut nats = NatsServer::start().await;
    let service = service().await;
    let (node, _files) = node(&service, &format!("nats: {{servers: ['{}']}}\n", nats.url()));
    node.reaches_nats().await;
    let mut client = member(&node, "a").await;
    let mut item = message("a", &json!({"content": "one"}));
    item["id"] = "1".into();
    let close = message("a", &json!({"action": "close", "code": 4000}));
    let (item, close) = (json!([item]), json!([close]));
    nats.signal("STOP");
    let (said, closed) = tokio::join!(try_to_publish(&node, &item), try_to_publish(&node, &close));
    for (status, said) in [said, closed] {
        assert!(status == 503 || status == 504, "{status} {said}");
        assert!(said.contains("ask again") || said.contains("cannot be reached"), "{said}");
    }
    nats.kill();
    nats.resume().await;
    eventually("it is published", async || {
        (try_to_publish(&node, &item).await.0 == 200).then_some(())
    })
    .await;
    assert_eq!(client.next_text().await, "one");
}

#[tokio::test]
async fn publishing_is_for_those_with_a_key() {
    let (service, node, _files) = stage().await;
    let _client = member(&node, "a").await;
    let signature = service.asked()[0].header("grip-sig").to_owned();
    let to = node.management();
    let bearer = |token: &str| format!("authorization: Bearer {token}");
    let basic = |text: &str| format!("authorization: Basic {}", STANDARD.encode(text));
    let mint = |claims: &Value, key: &str| {
        let claims: Map<_, _> = claims.as_object().unwrap().clone();
        moorline::auth::mint(JwtAlgorithm::HS256, key.as_bytes(), None, &claims).unwrap()
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let grip = mint(&json!({"iss": "realm", "exp": now + 600}), KEY);
    let old = mint(&json!({"iss": "realm", "exp": now - 600}), KEY);
    let other = mint(
        &json!({"iss": "realm", "exp": now + 600}),
        "another-key-that-is-as-long-as-it-must-be",
    );
    let items = r#"{"items":[]}"#;
    for (authorization, expected) in [
        (bearer(KEY), 200),
        (bearer(&grip), 200),
        (basic(&format!("realm:{KEY}")), 200),
        (bearer("another-key-that-is-as-long-as-it-must-be"), 401),
        (bearer(&signature), 401),
        (bearer(&old), 401),
        (bearer(&other), 401),
        (basic("realm:no"), 401),
        ("x-nothing: 1".to_owned(), 401),
    ] {
        for line in ["POST /publish/", "POST /publish"] {
            let (status, ..) = ask(to, line, &[&authorization], items).await;
            assert_eq!(status, expected, "{line} {authorization}");
        }
    }
    // A token that names no path is good for nothing else.
    let (status, ..) = ask(to, "POST /api/hubs/rooms/:send", &[&bearer(&grip)], "x").await;
    assert_eq!(status, 401);

    let key = bearer(KEY);
    let said = async |line: &str, headers: &[&str], body: &str| {
        ask(to, line, &[&[key.as_str()], headers].concat(), body).await
    };
    let json = said("POST /publish/", &["accept: application/json"], items).await;
    assert_eq!((json.0, &*json.2), (200, r#"{"message":"Published"}"#));
    assert_eq!(said("POST /publish/", &["accept: image/png"], items).await.0, 406);
    let (status, head, _) = said("GET /publish/", &[], "").await;
    assert!(status == 405 && head.contains("\r\nallow: POST\r\n"), "{head}");
    for (body, expected) in [
        ("{", "Body is not valid JSON.\n"),
        ("{}", "Invalid format: missing field `items`\n"),
        ("[]", "Invalid format: expected an object\n"),
    ] {
        let (status, head, said) = said("POST /publish/", &[], body).await;
        assert_eq!((status, &*said), (400, expected));
        assert!(head.contains("content-type: text/plain"), "{head}");
    }
    // What is wrong with one keeps all back.
    let mut client = member(&node, "a").await;
    let good = message("a", &json!({"content": "x"}));
    let bad = message("a", &json!({"content": "x", "content-filters": ["skip-self"]}));
    let (status, _, said) =
        said("POST /publish/", &[], &json!({"items": [good, bad]}).to_string()).await;
    assert!(status == 400 && said.contains("items[1]: ws-message: content-filters"), "{said}");
    publish(&node, &json!([message("a", &json!({"content": "the first"}))])).await;
    assert_eq!(client.next_text().await, "the first");
}
