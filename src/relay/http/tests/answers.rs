//! What each answer comes to, and what a request looks like.

use super::*;

#[tokio::test]
async fn an_event_is_posted_and_answered_on_one_connection() {
    let service = Service::start(ok("there")).await;
    let edge = Edge::to(&service);
    for _ in 0..20 {
        assert_eq!(edge.ask("hi").await, said("there"));
    }
    let head = service.last_head();
    assert!(head.starts_with("POST /ws-events?a=b HTTP/1.1\r\n"), "{head}");
    for line in [
        &format!("host: {}", service.address),
        "content-type: text/plain; charset=utf-8",
        "content-length: 2",
        "ce-specversion: 1.0",
        "ce-type: moorline.message",
        "ce-subject: /ws/a%20b",
        "ce-sequence: 1",
    ] {
        assert!(head.lines().any(|other| other == line), "{line} in {head}");
    }
    assert!(!head.contains("moorline-") && !head.contains("datacontenttype"), "{head}");
    assert_eq!((service.connections(), service.bodies()[0].as_str()), (1, "hi"));
    assert_eq!(edge.outcomes("replied"), 20);
    edge.assert_at_rest();
    until("closed when idle", || service.open() == 0).await;
}

#[tokio::test]
async fn each_answer_has_one_outcome() {
    let service = Service::start(ok("")).await;
    let edge = Edge::to(&service);
    let shown = Refusal::new(409, Some(Message::text("no")));
    let text = |text: &str| Does::Ends(text.to_owned());
    for (does, expected) in [
        (ok(""), Outcome::Replied(Vec::new())),
        (text("HTTP/1.1 204 No Content\r\n\r\n"), Outcome::Replied(Vec::new())),
        (with("201 Created", &[], "x"), said("x")),
        (text("HTTP/1.0 200 OK\r\n\r\nuntil the end"), said("until the end")),
        (
            text("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"),
            said("x"),
        ),
        (with("404 Not Found", &[], "<html>"), refused(404)),
        (with("500 No", &[], "trace"), refused(500)),
        (with("200 OK", &["moorline-status: 409"], "no"), Outcome::Refused(shown.clone())),
        (with("409 No", &["Moorline-Status: 409"], "no"), Outcome::Refused(shown)),
        (with("302 Found", &["Location: http://127.0.0.1:1/"], ""), broken()),
        (with("304 Not Modified", &[], ""), broken()),
        (
            text("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
            broken(),
        ),
        (with("200 OK", &["Content-Encoding: gzip"], "x"), broken()),
        (with("200 OK", &["moorline-close: 1006"], "x"), broken()),
        (text("SSH-2.0-OpenSSH\r\n\r\n"), broken()),
        (with("200 OK", &[&format!("x: {}", "y".repeat(20_000))], ""), broken()),
        (with("200 OK", &["x: y"; 100], ""), broken()),
        (Does::Streams, broken()),
        (text("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n"), broken()),
        (text("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhal"), Outcome::Unknown),
        (text("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal"), Outcome::Unknown),
        (text("HTTP/1.1 200 OK\r\nContent-Length"), Outcome::Unknown),
        (text(""), Outcome::Unknown),
        (Does::Resets, Outcome::Unknown),
    ] {
        service.now(does.clone());
        assert_eq!(edge.ask("x").await, expected, "{does:?}");
        service.now(ok("fine again"));
        assert_eq!(edge.ask("x").await, said("fine again"), "after {does:?}");
    }
    // An answer is an answer.
    service.now(with("200 OK", &["x: y"; 100], ""));
    for _ in 0..10 {
        assert_eq!(edge.ask("x").await, broken());
    }
    assert_eq!(edge.circuits(), 0);
    edge.assert_at_rest();
    // None of the bad ones is used again, and none stays open.
    until("closed", || service.open() == 0).await;
}

#[tokio::test]
async fn a_large_answer_that_is_not_too_large_passes() {
    let service = Service::start(ok(&"x".repeat(MAX_ANSWER))).await;
    let edge = Edge::to(&service);
    let Outcome::Replied(actions) = edge.ask("x").await else { panic!() };
    assert!(matches!(&actions[..], [Action::Send(m)] if m.data().len() == MAX_ANSWER));
    service.now(ok(&"x".repeat(MAX_ANSWER + 1)));
    assert_eq!(edge.ask("x").await, broken());
}

#[tokio::test]
async fn replies_act_and_connect_events_are_decided() {
    let headers = ["moorline-join: a,b%20c", "moorline-state: s", "moorline-close: 4000 bye"];
    let service = Service::start(with("200 OK", &headers, "x")).await;
    let edge = Edge::to(&service);
    let Outcome::Replied(actions) = edge.ask("x").await else { panic!() };
    assert_eq!(actions.len(), 5);
    assert!(matches!(&actions[2], Action::Join(group) if group.as_str() == "b c"));
    assert!(matches!(&actions[4], Action::Close(close) if close.code == 4000));

    let connect = || EventBody::Connect(Box::default());
    service.now(ok(r#"{"user_id": "alice"}"#));
    let accepted = edge.ask_with(connect()).await;
    assert!(matches!(accepted, Outcome::Accepted(grant) if grant.user.is_some()));
    service.now(Does::Ends("HTTP/1.1 204 No Content\r\n\r\n".into()));
    assert_eq!(edge.ask_with(connect()).await, Outcome::Accepted(Box::default()));
    service.now(with("403 Forbidden", &["moorline-status: 403"], "closed today"));
    let shown = Refusal::new(403, Some(Message::text("closed today")));
    assert_eq!(edge.ask_with(connect()).await, Outcome::Refused(shown));
    service.now(with("401 No", &[], "<html>"));
    assert_eq!(edge.ask_with(connect()).await, refused(401));
    assert!(service.last_head().contains("ce-type: moorline.connect\r\n"));
}

#[tokio::test]
async fn the_secret_and_the_clients_own_headers_go_with_every_event() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "hunter2\n").unwrap();
    let service = Service::start(ok("")).await;
    let mut edge = Edge::new(vec![service.url()], |_, backend| {
        backend.secret_file = Some(file.path().to_str().unwrap().to_owned().into());
    });
    let mut peer = peer("app", None);
    let header = |name: &str, value: &str| (name.parse().unwrap(), value.parse().unwrap());
    peer.forwarded =
        [header("cookie", "a=1"), header("cookie", "b=2"), header("ce-type", "forged")].into();
    edge.peer = Arc::new(peer);
    edge.ask("x").await;
    let head = service.last_head();
    for line in ["cookie: a=1", "cookie: b=2", "moorline-secret: hunter2"] {
        assert!(head.lines().any(|other| other == line), "{line} in {head}");
    }
    assert!(!head.contains("forged"), "{head}");
    assert!(!format!("{:?}", edge.relay).contains("hunter2"));
}

#[tokio::test]
async fn what_cannot_be_used_is_named() {
    let error = |change: &dyn Fn(&mut HttpBackend)| {
        let mut backend = HttpBackend::new(Urls::One("http://a/".into()));
        change(&mut backend);
        let mut route = route("app");
        route.name = Some("chat".into());
        route.backend = Backend::Http(Box::new(backend));
        let (gates, fence) = (Gates::new(&Tasks::new()), Fence::open());
        let made = Relay::new(&route, None, &gates, &Hold::new(0), &fence, &Metrics::new());
        made.unwrap_err().to_string()
    };
    let said = error(&|backend| backend.urls = Urls::One("app:5000".into()));
    assert!(said.contains("backend.http"), "{said}");
    let missing = std::path::PathBuf::from("/nowhere/s");
    let said = error(&|b| b.secret_file = Some("/nowhere/s".to_owned().into()));
    assert!(said.contains("backend.secret_file"), "{said}");
    let said = error(&|backend| {
        (backend.urls, backend.ca) = (Urls::One("https://a/".into()), Some(missing.clone()));
    });
    assert!(said.contains("backend.ca"), "{said}");
}

#[tokio::test]
async fn messages_that_name_an_action_go_below_the_others() {
    let service = Service::start(ok("")).await;
    let edge = Edge::new(vec![service.url()], |route, _| route.actions.names = vec!["join".into()]);
    edge.ask(r#"{"action": "join"}"#).await;
    assert!(service.last_head().starts_with("POST /ws-events/join?a=b HTTP/1.1\r\n"));
    edge.ask(r#"{"action": "leave"}"#).await;
    assert!(service.last_head().starts_with("POST /ws-events?a=b HTTP/1.1\r\n"));
    for (own, expected) in [("/", "/join"), ("/a/", "/a/join"), ("/a?b/", "/a/join?b/")] {
        assert_eq!(target(&own.parse().unwrap(), Some("join")), expected);
    }
}

#[tokio::test]
async fn a_request_is_small() {
    let service = Service::start(ok("")).await;
    let edge = Edge::to(&service);
    let message = event(&edge.peer, EventBody::Message(Message::text("x")));
    let size = size_of_val(&edge.relay.request(message));
    // It is part of every connection with a message in flight.
    assert!(size <= 2048, "{size} bytes");
}
