//! Every call, and what the clients see of it.

use serde_json::{Value, json};

use super::{KEY, Stage, authorization, id, token};
use crate::harness::{Client, NatsServer, Node, Request, eventually};

#[tokio::test]
async fn a_message_reaches_those_it_is_for() {
    let stage = Stage::new();
    let (mut ann, first) = stage.client("ann").await;
    let (mut bob, second) = stage.client("bob").await;
    let joined = stage.ask("PUT", &format!("/groups/a%20b%2F%C3%BC/connections/{first}"), "").await;
    assert_eq!((joined.status, &joined.body), (200, &json!({"connections": 1, "changed": 1})));
    for (to, text, deliveries) in [
        ("", "all", 2),
        ("/users/ann", "user", 1),
        ("/users/carol", "nobody", 0),
        ("/groups/a%20b%2F%C3%BC", "group", 1),
        ("/groups/a%20b", "nobody", 0),
        (&format!("/connections/{second}"), "connection", 1),
    ] {
        assert_eq!(stage.send(to, text).await, deliveries, "{to}");
    }
    let excluded = format!("/:send?excluded={first}&excluded={second}&api-version=2023-07-01");
    let nobody = stage.ask("POST", &excluded, "nobody").await;
    assert_eq!((nobody.status, &nobody.body), (202, &json!({"deliveries": 0, "partial": false})));
    let headers = [&authorization(KEY), "content-type: application/octet-stream"];
    let path = "/api/hubs/default/users/ann/:send?messageTtlSeconds=300";
    assert_eq!(stage.ask_with("POST", path, &headers, "binary").await.status, 202);
    assert_eq!([ann.next_text().await, ann.next_text().await], ["all", "user"]);
    assert_eq!(ann.next_text().await, "group");
    assert_eq!(ann.next().await.unwrap(), "binary".as_bytes().to_vec().into());
    assert_eq!([bob.next_text().await, bob.next_text().await], ["all", "connection"]);
    // Another hub is another world.
    let mut other = Request::new("/other").connect(stage.node.ws()).await.unwrap();
    let headers = [&authorization(KEY), "content-type: text/plain"];
    let sent = stage.ask_with("POST", "/api/hubs/other/:send", &headers, "other").await;
    assert_eq!((sent.status, &sent.body["deliveries"]), (202, &json!(1)));
    assert_eq!(other.next_text().await, "other");
    let gone = stage.ask("POST", &format!("/connections/{}/:send", id(&other)), "x").await;
    assert_eq!((gone.status, &gone.body["deliveries"]), (202, &json!(0)), "it is in another hub");
}

#[tokio::test]
async fn groups_are_joined_and_left() {
    let stage = Stage::new();
    let (_ann, first) = stage.client("ann").await;
    let (_ann_again, _) = stage.client("ann").await;
    let (_bob, second) = stage.client("bob").await;
    let count = async |group: &str| {
        let answer = stage.ask("GET", &format!("/groups/{group}/:count"), "").await;
        answer.body["connections"].as_u64().unwrap()
    };
    let ask = async |method: &str, path: &str| {
        let answer = stage.ask(method, path, "").await;
        let changed = answer.header("moorline-changed").map(|n| n.parse().unwrap());
        (answer.status, changed)
    };
    assert_eq!(ask("PUT", "/users/ann/groups/red").await, (200, Some(2)));
    assert_eq!(ask("PUT", "/users/ann/groups/red").await, (200, Some(0)), "nothing new");
    assert_eq!(ask("PUT", &format!("/groups/red/connections/{second}")).await, (200, Some(1)));
    assert_eq!(ask("PUT", "/users/carol/groups/red").await, (200, Some(0)));
    assert_eq!(count("red").await, 3);
    assert_eq!(ask("DELETE", &format!("/groups/red/connections/{first}")).await, (204, Some(1)));
    assert_eq!(ask("DELETE", "/users/ann/groups/red").await, (204, Some(1)));
    assert_eq!(count("red").await, 1);
    let headers = [&authorization(KEY), "content-type: application/json"];
    let post = async |verb: &str, body: Value| {
        let path = format!("/api/hubs/default/:{verb}");
        stage.ask_with("POST", &path, &headers, &body.to_string()).await
    };
    let added = post("addToGroups", json!({"groups": ["red", "blue"], "filter": null})).await;
    assert_eq!((added.status, &added.body), (200, &json!({"connections": 3, "changed": 3})));
    assert_eq!((count("red").await, count("blue").await), (3, 3));
    assert_eq!(ask("DELETE", &format!("/connections/{first}/groups")).await, (204, Some(1)));
    assert_eq!(ask("DELETE", "/users/ann/groups").await.0, 204);
    assert_eq!((count("red").await, count("blue").await), (1, 1));
    assert_eq!(post("removeFromGroups", json!({"groups": ["red"]})).await.status, 200);
    assert_eq!((count("red").await, count("blue").await), (0, 1));
    for body in [
        json!({"groups": ["red"], "filter": "userId eq 'ann'"}),
        json!({"groups": ["a\nb"]}),
        json!({"groups": vec!["x"; 1001]}),
        json!({}),
        json!([]),
    ] {
        let refused = post("addToGroups", body.clone()).await;
        assert_eq!((refused.status, refused.code()), (400, "BadRequest"), "{body}");
    }
    // A connection that is gone cannot join, and is in no group.
    let letter = if &first[15..16] == "c" { "d" } else { "c" };
    let gone = format!("{}{letter}{}", &first[..15], &first[16..]);
    let refused = stage.ask("PUT", &format!("/groups/red/connections/{gone}"), "").await;
    assert_eq!((refused.status, refused.code()), (404, "ConnectionNotFound"));
    assert_eq!(ask("DELETE", &format!("/groups/red/connections/{gone}")).await.0, 204);
}

#[tokio::test]
async fn a_group_without_room_is_a_conflict_that_says_why() {
    let stage = Stage::new();
    stage.node.rewrite(|text| format!("{text}limits: {{max_group_members: 1}}\n"));
    stage.node.signal("HUP");
    stage.node.wait_for("config reloaded; all files were read again", |_| true);
    let _clients = [stage.client("ann").await, stage.client("ann").await];
    let refused = stage.ask("PUT", "/users/ann/groups/red", "").await;
    assert_eq!((refused.status, refused.code()), (409, "Conflict"));
    let message = refused.body["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("done for 1 of 2 connections: "), "{message}");
    assert!(message.contains("limits.max_group_members"), "{message}");
}

#[tokio::test]
async fn who_is_there_is_told() {
    let stage = Stage::new();
    let (ann, first) = stage.client("ann@example.com").await;
    let nobody = Request::new("/ws").connect(stage.node.ws()).await.unwrap();
    stage.ask("PUT", &format!("/groups/red/connections/{first}"), "").await;
    let list = stage.ask("GET", "/connections", "").await;
    assert_eq!(
        (list.status, &list.body["connections"], &list.body["partial"]),
        (200, &json!(2), &json!(false))
    );
    let one = &list.body["value"][0];
    assert_eq!((&one["connectionId"], &one["userId"]), (&json!(first), &json!("ann@example.com")));
    assert_eq!((&one["groups"], &one["route"]), (&json!(["red"]), &json!("/ws")));
    assert_eq!((&one["subprotocol"], &one["outboxBytes"]), (&Value::Null, &json!(0)));
    assert!(one["remoteAddress"].as_str().unwrap().starts_with("127.0.0.1:"), "{one}");
    assert_eq!(list.body["value"][1]["userId"], Value::Null);
    let few = stage.ask("GET", "/connections?limit=1", "").await;
    assert_eq!(
        (few.body["value"].as_array().unwrap().len(), &few.body["connections"]),
        (1, &json!(2))
    );
    assert_eq!(stage.ask("GET", &format!("/connections/{first}"), "").await.body, *one);
    for path in ["/users/ann%40example.com/connections", "/groups/red/connections?top=5000"] {
        assert_eq!(stage.ask("GET", path, "").await.body["value"], json!([one]), "{path}");
    }
    for (path, status) in [
        (format!("/connections/{first}"), 200),
        (format!("/connections/{}", id(&nobody)), 200),
        ("/connections/nobody".to_owned(), 404),
        ("/users/ann%40example.com".to_owned(), 200),
        ("/users/bob".to_owned(), 404),
        ("/groups/red".to_owned(), 200),
        ("/groups/blue".to_owned(), 404),
    ] {
        let answer = stage.ask("HEAD", &path, "").await;
        assert_eq!((answer.status, answer.body), (status, Value::Null), "{path}");
    }
    ann.close().await;
    eventually("she is gone", async || {
        let count = stage.ask("GET", "/users/ann%40example.com/:count", "").await;
        (count.body["connections"] == 0).then_some(())
    })
    .await;
    assert_eq!(stage.ask("HEAD", &format!("/connections/{first}"), "").await.status, 404);
    let described = stage.ask("GET", &format!("/connections/{first}"), "").await;
    assert_eq!((described.status, described.code()), (404, "ConnectionNotFound"));
}

#[tokio::test]
async fn connections_are_closed_with_code_and_reason() {
    let stage = Stage::new();
    let (mut ann, first) = stage.client("ann").await;
    let (mut bob, second) = stage.client("bob").await;
    let (mut carol, _) = stage.client("carol").await;
    let (mut dave, _) = stage.client("dave").await;
    stage.ask("PUT", "/users/carol/groups/red", "").await;
    let closed = async |method: &str, path: &str, changed: &str| {
        let answer = stage.ask(method, path, "").await;
        assert_eq!(
            (answer.status, answer.header("moorline-changed")),
            (204, Some(changed)),
            "{path}"
        );
    };
    closed("DELETE", &format!("/connections/{first}?reason=so+long"), "1").await;
    assert_eq!(ann.closed().await, Some((1000, "so long".to_owned())));
    closed("POST", "/users/bob/:closeConnections?code=4000&reason=%C3%BC", "1").await;
    assert_eq!(bob.closed().await, Some((4000, "ü".to_owned())));
    closed("POST", "/groups/red/:closeConnections", "1").await;
    assert_eq!(carol.closed().await.unwrap().0, 1000);
    eventually("three are gone", async || {
        (stage.ask("GET", "/:count", "").await.body["connections"] == 1).then_some(())
    })
    .await;
    closed("DELETE", &format!("/connections/{second}"), "0").await;
    closed("POST", &format!("/:closeConnections?excluded={}", id(&dave)), "0").await;
    assert_eq!(dave.ask("still here").await, "still here");
    closed("POST", "/:closeConnections", "1").await;
    assert_eq!(dave.closed().await.unwrap().0, 1000);
    let line = stage.node.wait_for("connection ended", |line| line["user"] == "bob");
    assert_eq!((&line["code"], &line["cause"]), (&json!(4000), &json!("backend-closed")));
}

#[tokio::test]
async fn a_fresh_token_lets_a_connection_live_on() {
    let stage = Stage::new();
    let short = token(&json!({"sub": "ann"}), 2);
    let request = Request::new("/ws").bearer(&short);
    let mut ann = request.connect(stage.node.ws()).await.unwrap();
    let mut other = Request::new("/ws").bearer(&short).connect(stage.node.ws()).await.unwrap();
    let headers = [&authorization(KEY), "content-type: application/json"];
    let refresh = async |id: &str, token: &str| {
        let path = format!("/api/hubs/default/connections/{id}/:refresh");
        stage.ask_with("POST", &path, &headers, &json!({"token": token}).to_string()).await
    };
    let fresh = token(&json!({"sub": "ann"}), 300);
    let answer = refresh(&id(&ann), &fresh).await;
    assert_eq!((answer.status, &answer.body["changed"]), (200, &json!(1)), "{}", answer.body);
    // Neither another's token nor an old one does.
    let others = refresh(&id(&other), &token(&json!({"sub": "bob"}), 300)).await;
    assert_eq!((others.status, others.code()), (409, "Conflict"), "{}", others.body);
    for bad in ["x", "a.b.c", "", "*"] {
        let answer = refresh(&id(&other), bad).await;
        assert_eq!((answer.status, answer.code()), (400, "BadRequest"), "{bad}");
    }
    assert_eq!(other.closed().await, Some((4401, "token-expired".to_owned())));
    assert_eq!(ann.ask("still here").await, "still here");
    eventually("the other one is gone", async || {
        (refresh(&id(&other), &fresh).await.status == 404).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_token_is_made_that_lets_in() {
    let stage = Stage::new();
    let path = "/:generateToken?userId=ann%40x&role=admin&group=red&group=b+c&minutesToExpire=5";
    let made = stage.ask("POST", path, "").await;
    assert_eq!(made.status, 200, "{}", made.body);
    let token = made.body["token"].as_str().unwrap();
    let mut client = Request::new("/ws").bearer(token).connect(stage.node.ws()).await.unwrap();
    assert_eq!(client.ask("hello").await, "hello");
    let one = stage.ask("GET", &format!("/connections/{}", id(&client)), "").await.body;
    assert_eq!((&one["userId"], &one["groups"]), (&json!("ann@x"), &json!(["b c", "red"])));
    for (query, code) in [
        ("", "BadRequest"),
        ("?userId=a%0Ab", "InvalidName"),
        ("?userId=a&group=%00", "InvalidName"),
        ("?userId=a&minutesToExpire=0", "BadRequest"),
        ("?userId=a&minutesToExpire=10081", "BadRequest"),
        ("?userId=a&clientType=MQTT", "BadRequest"),
    ] {
        let refused = stage.ask("POST", &format!("/:generateToken{query}"), "").await;
        assert_eq!((refused.status, refused.code()), (400, code), "{query}");
    }
}

#[tokio::test]
async fn a_traced_connection_is_logged_at_info_without_payloads() {
    let stage = Stage::new();
    let (mut ann, first) = stage.client("ann").await;
    let traced = stage.ask("POST", &format!("/connections/{first}/:trace?seconds=30"), "").await;
    assert_eq!((traced.status, &traced.body["connections"]), (200, &json!(1)));
    let before = stage.node.whole_log().lines().count();
    ann.ask("secret-payload").await;
    ann.close().await;
    stage.node.wait_for("connection ended", |_| true);
    let log = stage.node.whole_log();
    let lines = log.lines().skip(before).filter(|line| line.contains(&first));
    assert!(lines.filter(|line| line.contains("\"INFO\"")).count() > 1, "{log}");
    assert!(!log.contains("secret-payload"), "{log}");
}

/// A node of a cluster with a management listener.
fn node(nats: &NatsServer, key: &tempfile::NamedTempFile) -> Node {
    let listeners = format!(
        "plain: {{address: '127.0.0.1:0'}}\nmanagement: {{address: '127.0.0.1:0', key_files: [{}]}}",
        key.path().display()
    );
    let route = "{path: /ws, auth: none, backend: {echo: true}}";
    let config = format!("nats: {{servers: ['{}']}}\nroutes: [{route}]\n", nats.url());
    Node::with_listeners(&listeners, &config)
}

#[tokio::test]
async fn any_node_reaches_the_clients_of_all() {
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), KEY).unwrap();
    let mut nats = NatsServer::start().await;
    let nodes = [node(&nats, &key), node(&nats, &key)];
    let mut clients: Vec<Client> = Vec::new();
    for node in &nodes {
        node.reaches_nats().await;
        clients.push(Client::connect(node.ws()).await);
    }
    let headers = [&authorization(KEY), "content-type: text/plain"];
    let ask = async |node: &Node, method: &str, path: &str| {
        let path = format!("/api/hubs/default{path}");
        super::ask(node.management(), method, &path, &headers, b"hello").await
    };
    let ids: Vec<String> = clients.iter().map(id).collect();
    for (node, other) in [(&nodes[0], &ids[1]), (&nodes[1], &ids[0])] {
        let path = format!("/groups/red/connections/{other}");
        assert_eq!(ask(node, "PUT", &path).await.status, 200);
        let path = format!("/connections/{other}/:send");
        let sent = ask(node, "POST", &path).await;
        assert_eq!((sent.status, &sent.body["deliveries"]), (202, &json!(1)), "{}", sent.body);
    }
    for client in &mut clients {
        assert_eq!(client.next_text().await, "hello");
    }
    for path in ["/groups/red/:send", "/:send"] {
        eventually(&format!("{path} reaches both"), async || {
            let sent = ask(&nodes[0], "POST", path).await;
            (sent.body["deliveries"] == 2).then_some(())
        })
        .await;
    }
    assert_eq!(ask(&nodes[1], "DELETE", &format!("/connections/{}", ids[0])).await.status, 204);
    assert_eq!(clients[0].closed().await.unwrap().0, 1000);
    eventually("it is gone", async || {
        (ask(&nodes[1], "HEAD", &format!("/connections/{}", ids[0])).await.status == 404)
            .then_some(())
    })
    .await;
    // A node that does not answer may have connections that are meant.
    let (other, stopped) = (&ids[1], &nodes[1]);
    stopped.signal("STOP");
    let send = format!("/connections/{other}/:send");
    let join = format!("/groups/red/connections/{other}");
    let (sent, joined) = tokio::join!(ask(&nodes[0], "POST", &send), ask(&nodes[0], "PUT", &join));
    assert_eq!((sent.status, &sent.body), (202, &json!({"deliveries": 0, "partial": true})));
    assert_eq!((joined.status, joined.code()), (504, "Partial"));
    stopped.signal("CONT");
    nats.kill();
    nodes[0].metric_becomes("moorline_nats_connected", &[], 0.0).await;
    let refused = ask(&nodes[0], "POST", "/:send").await;
    assert_eq!((refused.status, refused.code()), (503, "Unavailable"));
    assert!(refused.header("retry-after").is_some(), "{}", refused.head);
}
