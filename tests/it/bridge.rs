//! `moorline bridge`: services that only know HTTP as workers of nodes elsewhere, and what becomes of
//! events while they, bridges or NATS go and come back.

use std::collections::HashSet;
use std::time::Duration;

use async_nats::{HeaderMap, RequestErrorKind};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{
    FAILURE, NatsServer, Node, Request, Service, ServiceAnswer as Answer, echo, eventually,
    exchange, talk,
};

const READY: &[u8] = b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n";

/// A node whose workers are behind NATS.
async fn edge(nats: &NatsServer, keys: &str) -> Node {
    let node = Node::start(&format!(
        "nats: {{servers: ['{}']}}\nroutes:\n- {{path: /ws, hub: app, {keys}}}\n",
        nats.url()
    ));
    node.reaches_nats().await;
    node
}

fn bridge(nats: &NatsServer, service: &Service, keys: &str) -> Node {
    with_backend(nats, &format!("{{http: '{}'}}", service.url()), keys)
}

fn with_backend(nats: &NatsServer, backend: &str, keys: &str) -> Node {
    Node::bridge(&format!(
        "nats: {{servers: ['{}']}}\nbridge: {{hub: app, backend: {backend}{keys}}}\n",
        nats.url()
    ))
}

/// Waits until the bridge is in its group.
async fn joins(bridge: &Node) {
    bridge.metric_becomes("moorline_bridge_joined", &["hub=\"app\""], 1.0).await;
    let round = async || exchange(bridge.admin(), READY).await.0;
    eventually("readiness", async || (round().await == 200).then_some(())).await;
}

async fn events(bridge: &Node, outcome: &str) -> f64 {
    let label = format!("outcome=\"{outcome}\"");
    bridge.metric("moorline_bridge_events_total", &["hub=\"app\"", &label]).await
}

async fn has_its_share(bridge: &Node) {
    let share = async || (events(bridge, "replied").await >= 100.0).then_some(());
    eventually("it has its share", share).await;
}

async fn outcomes(node: &Node, outcome: &str) -> f64 {
    let label = format!("outcome=\"{outcome}\"");
    node.metric("moorline_backend_requests_total", &[&label, "transport=\"nats\""]).await
}

#[tokio::test]
async fn a_service_behind_a_bridge_does_all_that_a_worker_does() {
    let nats = NatsServer::start().await;
    let service = Service::start(|asked| match (asked.header("ce-type"), &*asked.body) {
        ("moorline.connect", offer) if offer.contains("deny=1") => {
            Answer::status("403 Forbidden", "no entry").header("moorline-status: 403")
        }
        ("moorline.connect", _) => Answer::ok(
            r#"{"user_id": "jürgen", "state": "s 0", "groups": ["a b"], "subprotocol": "v2",
                "headers": {"set-cookie": ["x=1", "y=2"]}}"#,
        ),
        ("moorline.message", "in") => Answer::ok("").header("moorline-join: c%2Cd, e"),
        ("moorline.message", "out") => Answer::ok("").header("moorline-leave: a%20b,e"),
        ("moorline.message", "no") => Answer::status("409 No", "no").header("moorline-status: 409"),
        ("moorline.message", "fail") => Answer::status("500 No", "<html>"),
        ("moorline.message", "end") => {
            Answer::ok("x").header("moorline-state: s1").header("Moorline-Close: 4000 bye bye")
        }
        _ => echo(asked),
    })
    .await;
    let keys = format!(
        "auth: connect, origins: ['https://a.example'], forward_headers: [Cookie, Content-Type], \
         subprotocols: [v1, v2], events: [connect, connected, message, disconnected], {FAILURE}"
    );
    let node = edge(&nats, &keys).await;
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "hunter2").unwrap();
    let bridge = with_backend(
        &nats,
        &format!("{{http: '{}', secret_file: {}}}", service.url(), secret.path().display()),
        "",
    );
    joins(&bridge).await;
    let ask = |path| {
        let request = Request::new(path).header("origin", "https://a.example");
        let request = request.header("sec-websocket-protocol", "v1, v2");
        request.header("cookie", "session=1").header("content-type", "text/html").connect(node.ws())
    };
    let denied = ask("/ws?deny=1").await.err().expect("a refusal");
    assert_eq!(denied, (403, "no entry".to_owned()));
    let mut client = ask("/ws?q=1").await.expect("accepted");
    assert_eq!(client.headers["sec-websocket-protocol"], "v2");
    assert_eq!(client.headers.get_all("set-cookie").iter().count(), 2);
    assert_eq!(client.ask("hello").await, "hello");
    client.send(Message::binary(&b"abc"[..])).await;
    assert_eq!(client.next().await.unwrap(), Message::binary(&b"abc"[..]));
    client.send("in").await;
    node.metric_becomes("moorline_groups", &[], 3.0).await;
    client.send("out").await;
    node.metric_becomes("moorline_groups", &[], 1.0).await;
    assert_eq!(client.ask("no").await, "no");
    assert_eq!(client.ask("fail").await, "refused 8");
    client.send("end").await;
    assert_eq!(client.next_text().await, "x");
    assert_eq!(client.closed().await, Some((4000, "bye bye".to_owned())));
    eventually("all events", async || (service.asked().len() == 11).then_some(())).await;

    let asked = service.asked();
    let of = |name: &str| -> Vec<_> {
        asked[1..].iter().map(|asked| asked.header(name).to_owned()).collect()
    };
    assert_eq!(asked[0].target, "/ws-events");
    assert_eq!(of("ce-sequence"), ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]);
    let kinds = [["connect", "connected"], ["message"; 2], ["message"; 2], ["message"; 2]];
    let kinds = kinds.concat().into_iter().chain(["message", "disconnected"]);
    assert_eq!(of("ce-type"), kinds.map(|kind| format!("moorline.{kind}")).collect::<Vec<_>>());
    let connection = of("ce-connectionid").remove(0);
    let ids = (1..10).map(|n| format!("{connection}-{n}")).chain([format!("{connection}-end")]);
    assert_eq!(of("ce-id"), ids.collect::<Vec<_>>());
    assert_eq!(of("ce-userid")[1..], ["j%C3%BCrgen"; 9]);
    assert_eq!(of("ce-state")[1..9], ["s%200"; 8]);
    assert_eq!((&*of("ce-state")[9], &*of("ce-hub")[9]), ("s1", "app"));
    // The handshake's headers come with the connect event only, and not those of a request itself.
    assert_eq!(of("cookie")[..2], ["session=1", ""]);
    assert_eq!(of("content-type")[0], "application/json");
    assert_eq!(of("moorline-secret"), ["hunter2"; 10]);
    let end: serde_json::Value = serde_json::from_str(&asked[10].body).unwrap();
    assert_eq!((&end["code"], &end["cause"]), (&4000.into(), &"backend-closed".into()));
    assert_eq!(outcomes(&node, "replied").await, 8.0);
    assert_eq!(outcomes(&node, "refused").await, 3.0);
    assert_eq!((events(&bridge, "replied").await, events(&bridge, "refused").await), (8.0, 3.0));
    let log = bridge.whole_log();
    assert!(["session=1", "hello", "hunter2"].iter().all(|text| !log.contains(text)), "{log}");
}

#[tokio::test]
async fn a_bridge_that_drains_under_load_loses_nothing() {
    let nats = NatsServer::start().await;
    let service = Service::start(|asked| echo(asked).after(Duration::from_millis(2))).await;
    let node = edge(&nats, &format!("auth: none, {FAILURE}")).await;
    let stays = bridge(&nats, &service, "");
    joins(&stays).await;
    let talks = talk(&node, 50, 200);
    let comes_and_goes = async {
        for how in ["TERM", "/drain?wait=true", "INT"] {
            let mut goes = bridge(&nats, &service, "");
            joins(&goes).await;
            has_its_share(&goes).await;
            if how.starts_with('/') {
                let request =
                    format!("POST {how} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
                let (status, body) = exchange(goes.admin(), request.as_bytes()).await;
                assert_eq!(status, 200, "{body}");
            } else {
                goes.signal(how);
            }
            assert!(goes.ends().await.success(), "{}", goes.whole_log());
            assert_eq!(goes.lines("drained")[0]["events"], 0);
            assert!(goes.lines("NATS did not say that it has the last replies").is_empty());
        }
    };
    let (failed, ()) = tokio::join!(talks, comes_and_goes);
    assert_eq!(failed, []);
    assert_eq!(outcomes(&node, "replied").await, 10_000.0);
    assert_eq!(service.asked().len(), 10_000, "each once");
}

#[tokio::test]
async fn a_bridge_that_is_killed_loses_what_it_had_and_no_more() {
    let nats = NatsServer::start().await;
    let service = Service::start(|asked| echo(asked).after(Duration::from_millis(2))).await;
    let keys = format!("auth: none, request_timeout: 2s, {FAILURE}");
    let node = edge(&nats, &keys).await;
    let (stays, mut dies) = (bridge(&nats, &service, ""), bridge(&nats, &service, ""));
    joins(&stays).await;
    joins(&dies).await;
    const CLIENTS: usize = 50;
    let talks = talk(&node, CLIENTS, 100);
    let killed = async {
        has_its_share(&dies).await;
        dies.signal("KILL");
        dies.ends().await;
    };
    let (failed, ()) = tokio::join!(talks, killed);
    assert!(failed.len() <= CLIENTS, "{failed:?}");
    assert!(failed.iter().all(|(_, said)| said.starts_with("unknown ")), "{failed:?}");
    assert_eq!(outcomes(&node, "unknown").await, failed.len() as f64);
    let bodies: Vec<_> = service.asked().into_iter().map(|asked| asked.body).collect();
    let once: HashSet<_> = bodies.iter().cloned().collect();
    assert_eq!(bodies.len(), once.len(), "nothing came twice");
}

#[tokio::test]
async fn a_service_that_restarts_under_load_loses_what_it_had_and_no_more() {
    let nats = NatsServer::start().await;
    let mut service = Service::start(|asked| echo(asked).after(Duration::from_millis(2))).await;
    let node =
        edge(&nats, &format!("auth: none, hold: 30s, request_timeout: 60s, {FAILURE}")).await;
    let bridge = bridge(&nats, &service, ", hold: 30s");
    joins(&bridge).await;
    let talks = talk(&node, 100, 60);
    let restarts = async {
        for _ in 0..3 {
            service.is_asked(500).await;
            service.kill().await;
            bridge.metric_becomes("moorline_bridge_joined", &[], 0.0).await;
            service.resume().await;
        }
    };
    let (failed, ()) = tokio::join!(talks, restarts);
    // It had them, and their answers are lost; each connection knows of one.
    assert!(failed.iter().all(|(_, said)| said.starts_with("refused ")), "{failed:?}");
    let failed: HashSet<_> = failed.into_iter().map(|(text, _)| text).collect();
    assert_eq!(events(&bridge, "unknown").await, failed.len() as f64);
    let bodies: Vec<_> = service.asked().into_iter().map(|asked| asked.body).collect();
    let once: HashSet<_> = bodies.iter().cloned().collect();
    assert_eq!(bodies.len(), once.len(), "nothing came twice");
    assert!(bodies.len() + failed.difference(&once).count() == 6000);
    for outcome in ["unavailable", "unknown", "overloaded"] {
        assert_eq!(outcomes(&node, outcome).await, 0.0, "{outcome}");
    }
    assert_eq!(events(&bridge, "unavailable").await, 0.0);
    assert!(bridge.lines("left the queue group").len() >= 3);
}

#[tokio::test]
async fn without_a_service_nodes_hear_that_nobody_listens() {
    let nats = NatsServer::start().await;
    let mut service = Service::start(echo).await;
    service.kill().await;
    let node = edge(&nats, &format!("auth: none, hold: 0s, {FAILURE}")).await;
    let mut bridge = bridge(&nats, &service, ", hold: 0s");
    bridge.metric_becomes("moorline_nats_connected", &[], 1.0).await;
    let (status, why) = exchange(bridge.admin(), READY).await;
    assert_eq!((status, why.as_str()), (503, "the service or NATS was not reached yet\n"));
    let mut client = Request::new("/ws").connect(node.ws()).await.expect("accepted");
    assert_eq!(client.ask("a").await, "unavailable 1");
    service.resume().await;
    joins(&bridge).await;
    assert_eq!(client.ask("b").await, "b");

    service.kill().await;
    // Some find out; after them it is not in the group.
    eventually("it leaves", async || {
        (client.ask("c").await.starts_with("unavailable")).then_some(())
    })
    .await;
    bridge.metric_becomes("moorline_bridge_joined", &[], 0.0).await;
    assert_eq!(exchange(bridge.admin(), READY).await.0, 200, "nobody else could help");
    service.resume().await;
    joins(&bridge).await;
    assert_eq!(client.ask("d").await, "d");
    bridge.signal("TERM");
    assert!(bridge.ends().await.success());
    assert!(client.ask("e").await.starts_with("unavailable"));
    assert!(service.asked().iter().all(|asked| ["b", "d"].contains(&&*asked.body)));
}

#[tokio::test]
async fn a_service_that_hangs_has_its_bridge_leave_and_another_takes_over() {
    let nats = NatsServer::start().await;
    let (hangs, works) = (Service::start(|_| Answer::Never).await, Service::start(echo).await);
    let node = edge(&nats, &format!("auth: none, {FAILURE}")).await;
    let bad = bridge(&nats, &hangs, ", request_timeout: 100ms, hold: 0s");
    joins(&bad).await;
    let mut client = Request::new("/ws").connect(node.ws()).await.expect("accepted");
    for n in 1..=5 {
        assert_eq!(client.ask("x").await, format!("refused {n}"));
    }
    // It soon tries again.
    bad.wait_for("left the queue group", |_| true);
    assert_eq!(events(&bad, "unknown").await, 5.0);
    let good = bridge(&nats, &works, "");
    joins(&good).await;
    // Each time that the bad one tries again costs one.
    let failed = talk(&node, 1, 200).await;
    assert!(failed.len() < 50, "{failed:?}");
    assert!(events(&good, "replied").await >= 150.0);
}

#[tokio::test]
async fn what_is_no_event_is_answered_and_counted() {
    let nats = NatsServer::start().await;
    let service = Service::start(echo).await;
    let bridge = bridge(&nats, &service, "");
    joins(&bridge).await;
    let client = nats.client().await;
    let mut headers = HeaderMap::new();
    headers.append("ce-specversion", "1.0");
    headers.append("ce-type", "moorline.message");
    headers.append("ce-hub", "other");
    for (headers, expected) in [
        (HeaderMap::new(), "it has no header ce-specversion"),
        (headers, "the hub in ce-hub is another one"),
    ] {
        let subject = "moorline.app.in.message";
        let reply = client.request_with_headers(subject, headers, "?".into()).await.unwrap();
        let headers = reply.headers.unwrap();
        assert_eq!(headers.get("moorline-status").unwrap().as_str(), "502");
        assert_eq!(headers.get("Nats-Service-Error").unwrap().as_str(), expected);
        assert!(reply.payload.is_empty());
    }
    // Where its permissions may reach further than those of whoever asks.
    for reply in ["moorline.app.out.all", "$JS.API.INFO"] {
        client.publish_with_reply("moorline.app.in.message", reply, "?".into()).await.unwrap();
    }
    client.publish("moorline.app.in.message", "?".into()).await.unwrap();
    bridge.metric_becomes("moorline_bridge_events_total", &["outcome=\"not-an-event\""], 5.0).await;
    bridge.wait_for("a message is no event", |line| line["hub"] == "app");
    let elsewhere = client.request("moorline.other.in.message", "?".into()).await.unwrap_err();
    assert_eq!(elsewhere.kind(), RequestErrorKind::NoResponders);
    assert!(service.asked().is_empty());
}

#[tokio::test]
async fn what_a_bridge_has_no_room_for_is_refused_at_once() {
    let nats = NatsServer::with_config("max_payload: 65536").await;
    let service = Service::start(|asked| match &*asked.body {
        "large" => Answer::ok("x".repeat(100_000)),
        "several" => Answer::ok("").header("moorline-state: a").header("moorline-state: b"),
        "slow" => Answer::Never,
        _ => echo(asked),
    })
    .await;
    let keys = format!("auth: none, request_timeout: 60s, max_message: 40KiB, {FAILURE}");
    let node = edge(&nats, &keys).await;
    let bridge = bridge(&nats, &service, ", max_events: 1, request_timeout: 3s");
    joins(&bridge).await;
    let mut client = Request::new("/ws").connect(node.ws()).await.expect("accepted");
    let mut other = Request::new("/ws").connect(node.ws()).await.expect("accepted");
    assert_eq!(client.ask("several").await, "refused 1");
    assert_eq!(client.ask("large").await, "refused 2");
    bridge.wait_for("answer cannot be carried over NATS", |line| {
        line["error"].as_str().unwrap().contains("over the 65536 bytes")
    });
    assert_eq!(events(&bridge, "not-carried").await, 1.0);
    client.send("slow").await;
    eventually("it is there", async || (service.asked().len() == 3).then_some(())).await;
    assert_eq!(other.ask("hello").await, "refused 1");
    assert_eq!(events(&bridge, "overloaded").await, 1.0);
    assert_eq!(client.next_text().await, "refused 3", "504");
    assert_eq!(other.ask("hello").await, "hello");
    assert_eq!(service.asked().len(), 4);
}

#[tokio::test]
async fn a_bridge_outlives_nats_and_a_second_signal_ends_it_at_once() {
    let mut nats = NatsServer::start().await;
    let service = Service::start(|asked| match &*asked.body {
        "slow" => Answer::Never,
        _ => echo(asked),
    })
    .await;
    let node = edge(&nats, &format!("auth: none, hold: 20s, {FAILURE}")).await;
    let mut bridge = bridge(&nats, &service, ", request_timeout: 60s");
    joins(&bridge).await;
    let mut client = Request::new("/ws").connect(node.ws()).await.expect("accepted");
    assert_eq!(client.ask("before").await, "before");
    nats.kill();
    bridge.metric_becomes("moorline_nats_connected", &[], 0.0).await;
    nats.resume().await;
    bridge.metric_becomes("moorline_nats_connected", &[], 1.0).await;
    assert_eq!(client.ask("after").await, "after");
    client.send("slow").await;
    eventually("it is there", async || (service.asked().len() == 3).then_some(())).await;
    bridge.signal("TERM");
    bridge.wait_for("draining", |line| line["events"] == 1);
    assert_eq!(exchange(bridge.admin(), READY).await, (503, "draining\n".to_owned()));
    bridge.signal("TERM");
    assert!(!bridge.ends().await.success());
    assert!(bridge.whole_log().contains("stopped at once"));
}

#[tokio::test]
async fn a_reply_that_nats_does_not_take_is_counted() {
    let mut nats = NatsServer::start().await;
    let service = Service::start(|asked| {
        let answer = match &*asked.body {
            "large" => Answer::ok("x".repeat(100_000)),
            _ => echo(asked),
        };
        answer.after(Duration::from_secs(1))
    })
    .await;
    let node = edge(&nats, &format!("auth: none, {FAILURE}")).await;
    let bridge = bridge(&nats, &service, ", max_bytes: 64KiB");
    joins(&bridge).await;
    let mut client = Request::new("/ws").connect(node.ws()).await.expect("accepted");
    let mut other = Request::new("/ws").connect(node.ws()).await.expect("accepted");
    assert_eq!(client.ask("large").await.len(), 100_000, "it does not wait");
    other.send("large").await;
    client.send("x").await;
    eventually("they are there", async || (service.asked().len() == 3).then_some(())).await;
    nats.kill();
    bridge.metric_becomes("moorline_bridge_lost_replies_total", &["hub=\"app\""], 2.0).await;
    let first = bridge.wait_for("reply lost", |_| true);
    assert_eq!(first["error"], "no room on the way to NATS");
    assert_eq!(client.next_text().await, "unknown 2");
    assert_eq!(other.next_text().await, "unknown 1");
}

#[tokio::test]
async fn a_bridge_whose_subscription_is_refused_is_no_member_until_it_is_permitted() {
    let (nats, secret) = NatsServer::with_users_of_the_contract("secret").await;
    let service = Service::start(echo).await;
    let bridge = Node::bridge(&format!(
        "nats: {{servers: ['{}'], user: app-bridge, password: {}}}\n\
         bridge: {{hub: app, queue: payments, backend: {{http: '{}'}}}}\n",
        nats.url(),
        secret.path().display(),
        service.url()
    ));
    let refused = async |times: usize| {
        eventually("the refusal", async || {
            let lines = bridge.lines("NATS refuses the bridge a subscription");
            (lines.len() >= times).then_some(())
        })
        .await;
        let answer = exchange(bridge.admin(), READY).await;
        assert_eq!(answer, (503, "NATS refuses the bridge a subscription\n".to_owned()));
    };
    // It asks again.
    refused(2).await;
    assert_eq!(bridge.metric("moorline_bridge_joined", &["hub=\"app\""]).await, 0.0);
    let (workers, payments) =
        ("moorline.app.in.> workers\", \"_", "moorline.app.in.> payments\", \"_");
    nats.change(workers, payments);
    joins(&bridge).await;
    let before = bridge.lines("NATS refuses the bridge a subscription").len();
    nats.change(payments, workers);
    refused(before + 1).await;
    bridge.metric_becomes("moorline_bridge_joined", &["hub=\"app\""], 0.0).await;
}

#[tokio::test]
async fn a_bridge_that_may_have_no_more_subscriptions_is_no_member() {
    // One is the bridge's inbox.
    let nats = NatsServer::with_config("max_subscriptions: 1").await;
    let service = Service::start(echo).await;
    let bridge = bridge(&nats, &service, "");
    bridge.wait_for("NATS refuses the bridge a subscription", |line| line["hub"] == "app");
    let answer = exchange(bridge.admin(), READY).await;
    assert_eq!(answer, (503, "NATS refuses the bridge a subscription\n".to_owned()));
}

#[tokio::test]
async fn the_permissions_of_a_bridge_in_the_contract_suffice() {
    let (nats, secret) = NatsServer::with_users_of_the_contract("secret").await;
    let service = Service::start(echo).await;
    let nats_of = |user: &str| {
        let (url, file) = (nats.url(), secret.path().display());
        format!("nats: {{servers: ['{url}'], user: {user}, password: {file}}}\n")
    };
    let node =
        Node::start(&format!("{}routes: [{{path: /ws, hub: app, auth: none}}]\n", nats_of("node")));
    node.reaches_nats().await;
    let mut bridge = Node::bridge(&format!(
        "{}bridge: {{hub: app, backend: {{http: '{}'}}}}\n",
        nats_of("app-bridge"),
        service.url()
    ));
    joins(&bridge).await;
    let mut client = Request::new("/ws").connect(node.ws()).await.expect("accepted");
    assert_eq!(client.ask("hello").await, "hello");
    bridge.signal("TERM");
    assert!(bridge.ends().await.success());
    for line in ["NATS server reported an error", "NATS did not say that it has the last replies"] {
        assert!(bridge.lines(line).is_empty(), "{}", bridge.whole_log());
    }
}

#[tokio::test]
async fn a_service_of_another_dialect_is_a_worker_too() {
    let event = |name: &str, text: &str| format!("{name} {:x}\r\n{text}\r\n", text.len());
    let echoed = event("TEXT", "hello");
    let service = Service::start(move |asked| {
        let answer = match &*asked.body {
            "OPEN\r\n" => "OPEN\r\n".to_owned(),
            body if body.contains("twice") => [body, body].concat(),
            body if body.starts_with("TEXT") => body.to_owned(),
            _ => String::new(),
        };
        Answer::ok(answer).header("content-type: application/websocket-events")
    })
    .await;
    let nats = NatsServer::start().await;
    let keys = format!(
        "auth: none, origins: ['https://a.example'], forward_headers: [Cookie], \
         events: [connect, message, disconnected], {FAILURE}"
    );
    let node = edge(&nats, &keys).await;
    let backend = format!("{{http: '{}', dialect: websocket-over-http}}", service.origin());
    let bridge = with_backend(&nats, &backend, "");
    joins(&bridge).await;
    let request = Request::new("/ws?a=b").header("origin", "https://a.example");
    let request = request.header("cookie", "session=1");
    let mut client = request.connect(node.ws()).await.expect("accepted");
    assert_eq!(client.ask("hello").await, "hello");
    assert_eq!(client.ask("twice").await, "refused 3");
    bridge.wait_for("answer cannot be carried over NATS", |line| {
        line["error"].as_str().unwrap().contains("several messages")
    });
    client.close().await;
    eventually("its end is told", async || (service.asked().len() == 4).then_some(())).await;
    let asked = service.asked();
    assert_eq!((&*asked[0].target, asked[0].header("cookie")), ("/ws?a=b", "session=1"));
    // What only the handshake had is not known any more.
    assert_eq!((&*asked[1].target, &*asked[1].body), ("/ws", &*echoed));
    assert_eq!(asked[1].header("connection-id"), asked[0].header("connection-id"));
    assert!(asked[3].body.starts_with("CLOSE") || asked[3].body.starts_with("DISCONNECT"));
}
