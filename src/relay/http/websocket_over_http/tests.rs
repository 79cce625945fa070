//! What is written of each event, and what each answer comes to.

use std::sync::Arc;

use super::*;
use crate::event::Trace;
use crate::id::GroupName;
use crate::relay::testing::{event, peer};

fn of(body: EventBody) -> Event {
    let mut peer = peer("app", None);
    peer.path = "/ws/a%20b".into();
    event(&Arc::new(peer), body)
}

fn hello() -> EventBody {
    EventBody::Message(Message::text("hello"))
}

fn connect() -> EventBody {
    let subprotocols = ["chat", "v2"].map(str::to_owned).into();
    EventBody::Connect(Box::new(Offer { subprotocols, ..Offer::default() }))
}

fn ended(cause: Cause, code: u16) -> EventBody {
    let close = Close::said(cause, code, "why");
    EventBody::Disconnected(Box::new(Ended { close, duration: Duration::ZERO }))
}

fn answer(status: u16, headers: &[(&'static str, &str)], body: &[u8]) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::copy_from_slice(body));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        answer.headers_mut().append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    answer
}

const TYPE: (&str, &str) = ("content-type", "application/websocket-events");

/// What an answer of the right type comes to.
fn told(
    body: EventBody,
    headers: &[(&'static str, &str)],
    events: &[u8],
) -> Result<Outcome, Broken> {
    outcome(&of(body), &answer(200, &[&[TYPE], headers].concat(), events))
}

fn actions_of(headers: &[(&'static str, &str)], events: &[u8]) -> Vec<Action> {
    match told(hello(), headers, events) {
        Ok(Outcome::Replied(actions)) => actions,
        other => panic!("{other:?}"),
    }
}

fn grant_of(headers: &[(&'static str, &str)], events: &[u8]) -> Grant {
    match told(connect(), headers, events) {
        Ok(Outcome::Accepted(grant)) => *grant,
        other => panic!("{other:?}"),
    }
}

fn send(text: &str) -> Action {
    Action::Send(Message::text(text))
}

fn state(json: &str) -> Option<State> {
    State::new(json).unwrap()
}

#[test]
fn each_event_is_a_body() {
    for (event, expected) in [
        (connect(), &b"OPEN\r\n"[..]),
        (hello(), b"TEXT 5\r\nhello\r\n"),
        (EventBody::Message(Message::binary("\u{0}")), b"BINARY 1\r\n\x00\r\n"),
        (EventBody::Message(Message::text("")), b"TEXT 0\r\n\r\n"),
        (EventBody::Poll, b""),
        (ended(Cause::Client, 1001), b"CLOSE 2\r\n\x03\xe9\r\n"),
        (ended(Cause::Client, 1005), b"CLOSE\r\n"),
        (ended(Cause::Vanished, 1006), b"DISCONNECT\r\n"),
        (ended(Cause::BackendClosed, 4000), b"DISCONNECT\r\n"),
        (ended(Cause::NodeLost, 1006), b"DISCONNECT\r\n"),
    ] {
        assert_eq!(body(&event), expected);
    }
}

#[test]
fn a_request_goes_where_the_client_went_and_says_whose_it_is() {
    let trace = Trace::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
    let state = state(r#"{"meta":{"user":"ann","room":"1"},"prefix":"m:"}"#);
    let mut event = Event { state, trace, ..of(hello()) };
    assert_eq!(target(&event.peer).unwrap(), "/ws/a%20b");
    let mut peer = peer("app", None);
    (peer.path, peer.query) = ("/ws".into(), "a=b&c".into());
    assert_eq!(target(&peer).unwrap(), "/ws?a=b&c");
    let mut headers = HeaderMap::new();
    // No handshake brings these here, and if one did, they would not stand.
    headers.insert("connection-id", HeaderValue::from_static("forged"));
    headers.insert("accept", HeaderValue::from_static("text/html"));
    write(&event, None, &mut headers);
    let id = event.peer.id.to_string();
    for (name, expected) in [
        ("accept", "application/websocket-events"),
        ("content-type", "application/websocket-events"),
        ("connection-id", &id),
        ("sec-websocket-extensions", "grip"),
        ("meta-user", "ann"),
        ("meta-room", "1"),
    ] {
        let all: Vec<_> = headers.get_all(name).iter().collect();
        assert_eq!(all, [expected], "{name}");
    }
    assert!(headers["traceparent"].to_str().unwrap().contains("0af7651916cd43dd8448eb211c80319c"));
    assert!(!headers.contains_key("grip-sig") && !headers.contains_key("grip-feature"));
    assert!(!is_unheard(&event));
    event.state = State::new(r#"{"is_detached":true}"#).unwrap();
    assert!(is_unheard(&event));
}

#[test]
fn a_client_is_let_in_with_all_that_goes_with_it() {
    assert_eq!(grant_of(&[], b"OPEN\r\n"), Grant::default());
    let grant = grant_of(
        &[
            ("sec-websocket-protocol", "v2"),
            ("sec-websocket-extensions", "grip; message-prefix=\"\""),
            ("set-meta-user", "ann"),
            ("keep-alive-interval", "5"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("x-served-by", "w1"),
            ("grip-hold", "stream"),
            ("connection", "close"),
            ("date", "now"),
            ("moorline-connection-id", "x"),
        ],
        b"OPEN\r\nTEXT 2\r\nhi\r\nTEXT 24\r\nc:{\"type\":\"subscribe\",\"channel\":\"a\"}\r\n\
          TEXT 24\r\nc:{\"type\":\"subscribe\",\"channel\":\"b\"}\r\n\
          TEXT 26\r\nc:{\"type\":\"unsubscribe\",\"channel\":\"b\"}\r\n",
    );
    assert_eq!(grant.subprotocol.as_deref(), Some("v2"));
    assert_eq!(grant.state, state(r#"{"meta":{"user":"ann"},"prefix":""}"#));
    assert_eq!(grant.groups, [GroupName::new("a").unwrap()]);
    assert_eq!(grant.actions, [Action::PollEvery(Some(Duration::from_secs(20))), send("hi")]);
    let headers: Vec<_> = grant
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    assert_eq!(headers, [("set-cookie", "a=1"), ("set-cookie", "b=2"), ("x-served-by", "w1")]);
    // Parameters of the type are not looked at.
    let charset = ("content-type", "Application/WebSocket-Events; charset=utf-8");
    let accepted = outcome(&of(connect()), &answer(200, &[charset], b"OPEN\r\n"));
    assert!(matches!(accepted, Ok(Outcome::Accepted(_))));
}

#[test]
fn a_no_is_told_in_the_backends_own_words() {
    let refused = |status, headers: &[(&'static str, &str)], body: &[u8]| match outcome(
        &of(connect()),
        &answer(status, headers, body),
    ) {
        Ok(Outcome::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(403, &[("x-internal", "1")], b""), Refusal::new(403, None));
    let login = refused(302, &[("location", "/login"), ("server", "x")], b"");
    assert_eq!((login.status, login.headers.len()), (302, 1));
    let told =
        refused(401, &[("content-type", "text/html"), ("www-authenticate", "Basic")], b"<p>no");
    assert_eq!(told.message, Some(Message::text("<p>no")));
    assert_eq!(told.headers.len(), 2);
    let long = refused(500, &[TYPE], &[b'x'; 5000]);
    assert_eq!(long.message.unwrap().data().len(), REFUSAL_MAX);
}

#[test]
fn what_neither_accepts_nor_refuses_is_broken() {
    let page = ("content-type", "text/html");
    for (status, headers, body, expected) in [
        (204, &[TYPE][..], &b""[..], Broken::Status(StatusCode::NO_CONTENT)),
        (200, &[], b"OPEN\r\n", Broken::Type),
        (200, &[page], b"OPEN\r\n", Broken::Type),
        (200, &[TYPE], b"", Broken::NotOpen),
        (200, &[TYPE, ("keep-alive-interval", "30")], b"", Broken::NotOpen),
        (200, &[TYPE], b"TEXT 2\r\nhi\r\nOPEN\r\n", Broken::NotOpen),
        (200, &[TYPE], b"OPEN", Broken::Body(Malformed::Line(0))),
        (200, &[TYPE, ("sec-websocket-protocol", "other")], b"OPEN\r\n", Broken::Subprotocol),
        (200, &[TYPE, ("sec-websocket-protocol", "chat, v2")], b"OPEN\r\n", Broken::Subprotocol),
    ] {
        assert_eq!(outcome(&of(connect()), &answer(status, headers, body)), Err(expected));
    }
    let long = "x".repeat(HEADERS_MAX);
    assert_eq!(told(connect(), &[("x-long", &long)], b"OPEN\r\n"), Err(Broken::Headers));
    let long = "x".repeat(State::MAX);
    let kept = told(connect(), &[("set-meta-long", &long)], b"OPEN\r\n");
    assert!(matches!(kept, Err(Broken::State(size)) if size > State::MAX), "{kept:?}");
}

#[test]
fn events_become_actions_in_their_order() {
    let closed = |code, reason| Action::Close(Close::said(Cause::BackendClosed, code, reason));
    let binary = || Action::Send(Message::binary("\u{1}"));
    for (events, expected) in [
        (&b""[..], vec![]),
        (b"TEXT 1\r\na\r\nBINARY 1\r\n\x01\r\nTEXT 0\r\n\r\n", vec![send("a"), binary(), send("")]),
        (b"PING 1\r\na\r\nPONG\r\n", vec![Action::Ping(Bytes::from_static(b"a"))]),
        (b"CLOSE\r\nTEXT 1\r\na\r\n", vec![closed(1000, "")]),
        (b"CLOSE 2\r\n\x00\x00\r\n", vec![closed(1000, "")]),
        (b"CLOSE 2\r\n\x03\xed\r\n", vec![closed(1000, "")]),
        (b"CLOSE 2\r\n\x03\xee\r\n", vec![closed(1000, "")]),
        (b"CLOSE 2\r\n\x03\xf7\r\n", vec![closed(1000, "")]),
        (b"CLOSE 5\r\n\x0f\xa0bye\r\n", vec![closed(4000, "bye")]),
        (b"TEXT 1\r\na\r\nDISCONNECT\r\nTEXT 1\r\nb\r\n", vec![send("a"), Action::Cut]),
        (b"OPEN\r\nTEXT 1\r\nb\r\n", vec![Action::Cut]),
    ] {
        let text = String::from_utf8_lossy(events);
        assert_eq!(actions_of(&[], events), expected, "{text}");
    }
    let polled = told(EventBody::Poll, &[], b"TEXT 1\r\na\r\n");
    assert_eq!(polled, Ok(Outcome::Replied(vec![send("a")])));
}

#[test]
fn what_is_kept_changes_only_when_it_does() {
    let spoken = |kept: &str, headers: &[(&'static str, &str)], events: &[u8]| {
        let event = Event { state: State::new(kept).unwrap(), ..of(hello()) };
        outcome(&event, &answer(200, &[&[TYPE], headers].concat(), events))
    };
    let replied = |actions| Ok(Outcome::Replied(actions));
    let kept = r#"{"meta":{"user":"ann"},"prefix":"m:"}"#;
    assert_eq!(
        spoken(kept, &[("set-meta-user", "ann")], b"TEXT 3\r\nm:a\r\n"),
        replied(vec![send("a")])
    );
    let without = Action::State(state(r#"{"prefix":"m:"}"#));
    assert_eq!(
        spoken(kept, &[("set-meta-USER", "")], b"TEXT 3\r\nm:a\r\nTEXT 1\r\nx\r\n"),
        replied(vec![without, send("a")])
    );
    let none = spoken(r#"{"meta":{"user":"ann"}}"#, &[("set-meta-user", "")], b"CLOSE\r\n");
    let closed = Action::Close(Close::said(Cause::BackendClosed, 1000, ""));
    assert_eq!(none, replied(vec![Action::State(None), closed]));
    // GRIP is turned on by the answer to OPEN alone.
    let late = spoken("", &[("sec-websocket-extensions", "grip")], b"TEXT 1\r\na\r\n");
    assert_eq!(late, replied(vec![send("a")]));
    let bad = [("set-meta-a", "\u{e9}\u{0}")];
    assert!(HeaderValue::from_bytes(bad[0].1.as_bytes()).is_err());
    let latin = answer_with_bytes("set-meta-a", b"\xe9");
    assert_eq!(outcome(&of(hello()), &latin), Err(Broken::Meta));
}

fn answer_with_bytes(name: &'static str, value: &[u8]) -> Response<Bytes> {
    let mut answer = answer(200, &[TYPE], b"");
    answer.headers_mut().insert(name, HeaderValue::from_bytes(value).unwrap());
    answer
}

#[test]
fn how_often_it_is_asked_the_backend_says() {
    for (value, expected) in [
        ("1", Some(20)),
        ("20", Some(20)),
        (" 120 ", Some(120)),
        ("999999999999", Some(24 * 3600)),
        ("0", None),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("1.5", None),
    ] {
        let expected = Action::PollEvery(expected.map(Duration::from_secs));
        assert_eq!(actions_of(&[("keep-alive-interval", value)], b""), [expected], "{value:?}");
    }
    assert_eq!(actions_of(&[], b""), [], "nothing said, nothing changed");
}

#[test]
fn all_is_accepted_or_the_answer_is_broken() {
    for (value, expected) in [
        ("5", Ok(Outcome::Replied(vec![]))),
        ("6", Err(Broken::Accepted)),
        ("4", Err(Broken::Partly { accepted: 4, offered: 5 })),
        ("0", Err(Broken::Partly { accepted: 0, offered: 5 })),
        ("-1", Err(Broken::Accepted)),
        ("all", Err(Broken::Accepted)),
    ] {
        assert_eq!(told(hello(), &[("content-bytes-accepted", value)], b""), expected, "{value}");
    }
    let partly = Broken::Partly { accepted: 4, offered: 5 }.to_string();
    assert!(partly.contains("Content-Bytes-Accepted is 4 of 5"), "{partly}");
    let polled = told(EventBody::Poll, &[("content-bytes-accepted", "0")], b"");
    assert_eq!(polled, Ok(Outcome::Replied(vec![])));
}

#[test]
fn another_status_is_a_failure_and_the_end_is_told_once() {
    for (status, expected) in [(204, 502), (302, 502), (404, 404), (500, 500), (503, 503)] {
        let outcome = outcome(&of(hello()), &answer(status, &[TYPE], b"TEXT 1\r\na\r\n"));
        assert_eq!(outcome, Ok(Outcome::Refused(Refusal::new(expected, None))));
    }
    assert_eq!(outcome(&of(hello()), &answer(200, &[], b"")), Err(Broken::Type));
    for (status, is_accepted) in
        [(200, true), (404, true), (500, true), (502, false), (503, false), (504, false)]
    {
        let outcome = outcome(&of(ended(Cause::Client, 1000)), &answer(status, &[], b"?"));
        assert_eq!(matches!(outcome, Ok(Outcome::Replied(_))), is_accepted, "{status}");
    }
}
