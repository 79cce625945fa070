//! Tokens that are revoked by backends.

use serde_json::{Value, json};

use super::{KEY, Response, Stage, authorization, id, token};
use crate::harness::{Client, Request};

async fn revoke(stage: &Stage, what: &Value) -> Response {
    let headers = [&authorization(KEY), "content-type: application/json"];
    stage.ask_with("POST", "/api/revocations", &headers, &what.to_string()).await
}

async fn connect(stage: &Stage, token: &str) -> Result<Client, u16> {
    let connected = Request::new("/ws").bearer(token).connect(stage.node.ws()).await;
    connected.map_err(|(status, _)| status)
}

#[tokio::test]
async fn a_revoked_token_is_refused_everywhere_and_its_clients_are_closed() {
    let stage = Stage::new();
    let lost = token(&json!({"sub": "ann", "jti": "1"}), 300);
    let other = token(&json!({"sub": "ann", "jti": "2"}), 300);
    let mut first = connect(&stage, &lost).await.unwrap();
    let mut second = connect(&stage, &other).await.unwrap();
    let mut bob = stage.client("bob").await.0;
    let answer = revoke(&stage, &json!({"jti": "1"})).await;
    assert_eq!(answer.body, json!({"connections": 1, "changed": 1}));
    assert_eq!((answer.status, answer.header("moorline-changed")), (200, Some("1")));
    assert_eq!(first.closed().await, Some((4403, "revoked".to_owned())));
    assert_eq!(connect(&stage, &lost).await.err(), Some(401));
    assert_eq!(second.ask("still here").await, "still here");

    // Nor does it keep another connection of its user open.
    let path = format!("/api/hubs/default/connections/{}/:refresh", id(&second));
    let headers = [&authorization(KEY), "content-type: application/json"];
    let body = json!({ "token": lost }).to_string();
    let refused = stage.ask_with("POST", &path, &headers, &body).await;
    assert_eq!((refused.status, refused.code()), (400, "BadRequest"));
    assert!(refused.body["error"]["message"].as_str().unwrap().contains("revoked"));

    assert_eq!(revoke(&stage, &json!({"user": "ann"})).await.status, 200);
    assert_eq!(second.closed().await, Some((4403, "revoked".to_owned())));
    assert_eq!(connect(&stage, &other).await.err(), Some(401));
    assert_eq!(bob.ask("still here").await, "still here");
    let now = super::now();
    assert_eq!(revoke(&stage, &json!({"before": now, "until": now + 300})).await.status, 200);
    assert_eq!(bob.closed().await, Some((4403, "revoked".to_owned())), "it does not say its age");
}

#[tokio::test]
async fn what_cannot_be_revoked_is_told_why() {
    let stage = Stage::new();
    let now = super::now();
    for (what, part) in [
        (json!({}), "expected one of"),
        (json!({"jti": "1", "user": "ann"}), "expected one of"),
        (json!({"user": ""}), "must not be empty"),
        (json!({"jit": "1"}), "unknown field `jit`"),
        (json!({"before": now * 1000}), "before: "),
        (json!({"jti": "1", "until": now * 1000}), "until: "),
    ] {
        let answer = revoke(&stage, &what).await;
        assert_eq!((answer.status, answer.code()), (400, "BadRequest"), "{what}");
        let message = answer.body["error"]["message"].as_str().unwrap();
        assert!(message.contains(part), "{what}: {message}");
    }
    let headers = [&authorization(KEY), "content-type: application/json"];
    let answer = stage.ask_with("GET", "/api/revocations", &headers, "").await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
    let answer = stage.ask_with("POST", "/api/revocations", &[], "{}").await;
    assert_eq!(answer.status, 401);
}
