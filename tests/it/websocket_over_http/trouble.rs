//! What goes wrong between a service, its clients and pages that should not be among them.

use std::time::Duration;

use super::{KEY, OPEN, bodies, events, keyed, said, text};
use crate::harness::{Node, Request, Service, ServiceAnswer as Answer};

#[tokio::test]
async fn a_token_lets_in_programs_and_listed_pages_only_where_the_service_sees_cookies() {
    let service = Service::start(|_| events(&[OPEN])).await;
    let node = Node::with_variable(
        ("GRIP_KEY", KEY),
        &format!(
            "jwt: {{audience: [a], keys: [{{algorithms: [HS256], secret: 'env:GRIP_KEY'}}]}}\n\
             routes:\n- {{path: /ws, auth: jwt, anonymous: true, origins: ['https://a.example'], \
             backend: {{http: '{}', dialect: websocket-over-http}}}}",
            service.origin()
        ),
    );
    let ask = || Request::new("/ws").header("cookie", "session=1");
    let from = |page| ask().header("origin", page);
    let evil = from("https://evil.example").connect(node.ws()).await.err().expect("a refusal");
    assert_eq!(evil.0, 403);
    assert!(service.asked().is_empty());
    from("https://a.example").connect(node.ws()).await.expect("accepted");
    ask().connect(node.ws()).await.expect("a program is accepted");
}

#[tokio::test]
async fn a_service_that_let_a_client_in_by_a_broken_answer_hears_of_its_end() {
    let service = Service::start(|asked| match (asked.target.as_str(), asked.body.as_str()) {
        (_, "DISCONNECT\r\n") => events(&[]),
        ("/ws/subprotocol", _) => events(&[OPEN]).header("sec-websocket-protocol: v3"),
        ("/ws/control", _) => events(&[OPEN, &text(r#"c:{"type":"explode"}"#)])
            .header("sec-websocket-extensions: grip"),
        ("/ws/headers", _) => events(&[OPEN]).header(&format!("x: {}", "y".repeat(9000))),
        ("/ws/coding", _) => events(&[OPEN]).header("content-encoding: gzip"),
        // As of a gateway before the service, or a bridge.
        ("/ws/gateway", _) => Answer::status("504 Gateway Timeout", ""),
        _ => Answer::status("403 No", ""),
    })
    .await;
    let node = super::node(&service, "", "");
    let mut count = 0;
    for (path, status) in [
        ("/ws/subprotocol", 502),
        ("/ws/control", 502),
        ("/ws/headers", 502),
        ("/ws/coding", 502),
        ("/ws/gateway", 504),
    ] {
        let refused = Request::new(path).connect(node.ws()).await.err().expect("a refusal");
        assert_eq!(refused.0, status, "{path}");
        count += 2;
        assert_eq!(bodies(&service, count).await[count - 2..], ["OPEN\r\n", "DISCONNECT\r\n"]);
        let asked = service.asked();
        let id = |n: usize| asked[n].header("connection-id");
        assert_eq!(id(count - 1), id(count - 2), "{path}");
    }
    let refused = Request::new("/ws/no").connect(node.ws()).await.err().expect("a refusal");
    assert_eq!(refused.0, 403);
    node.metric_becomes("moorline_disconnect_events_total", &["result=\"accepted\""], 5.0).await;
    assert_eq!(service.asked().len(), count + 1, "a plain no has no end");
}

#[tokio::test]
async fn a_refresh_of_more_members_than_the_service_takes_at_once_closes_nobody() {
    const MEMBERS: usize = 12;
    let service = Service::start(|asked| match said(asked) {
        None if asked.body.is_empty() => {
            events(&[&text("m:polled")]).after(Duration::from_millis(150))
        }
        None => events(&[OPEN, &text(r#"c:{"type":"subscribe","channel":"a"}"#), &text("m:in")])
            .header("sec-websocket-extensions: grip"),
        Some(_) => Answer::status("500 No", ""),
    })
    .await;
    let (_files, _, listeners) = keyed();
    let node = Node::with_listeners(
        &listeners,
        &format!(
            "routes:\n- {{path: /ws, auth: none, forward_headers: [], backend: {{http: '{}', \
             dialect: websocket-over-http, max_requests: 2, queue_timeout: 200ms}}}}",
            service.origin()
        ),
    );
    let mut clients = Vec::new();
    for _ in 0..MEMBERS {
        let mut client = Request::new("/ws").connect(node.ws()).await.expect("accepted");
        assert_eq!(client.next_text().await, "in");
        clients.push(client);
    }
    let refresh = r#"{"items":[{"channel":"a","formats":{"ws-message":{"action":"refresh"}}}]}"#;
    assert_eq!(super::publishing::publish_body(node.management(), refresh).await.0, 200);
    for client in &mut clients {
        assert_eq!(client.next_text().await, "polled");
    }
    let overloaded = ["outcome=\"overloaded\"", "transport=\"http\""];
    assert!(node.metric("moorline_backend_requests_total", &overloaded).await > 0.0);
}

#[tokio::test]
async fn what_is_of_the_hop_does_not_reach_the_client() {
    let service = Service::start(|_| {
        let answer = events(&[OPEN]).header("connection: x-hop, X-Hop-Too").header("x-hop: 1");
        let answer = answer.header("x-hop-too: 1").header("proxy-authenticate: Basic");
        answer.header("proxy-authentication-info: a=b").header("x-end: 1")
    })
    .await;
    let node = super::node(&service, "", "");
    let client = super::connect(&node).await;
    assert_eq!(client.headers["x-end"], "1");
    for name in ["x-hop", "x-hop-too", "proxy-authenticate", "proxy-authentication-info"] {
        assert!(!client.headers.contains_key(name), "{name}");
    }
}
