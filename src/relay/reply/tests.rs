//! Replies and what they come to, as tables, and that no reply makes the node fall.

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::event::Ended;

fn reply(headers: &[(&str, &str)], payload: &'static [u8]) -> Reply {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        map.append(name, value.parse::<HeaderValue>().unwrap());
    }
    Reply { status: None, headers: map, payload: Bytes::from_static(payload) }
}

fn asked() -> EventBody {
    EventBody::Message(Message::text("?"))
}

fn replied(headers: &[(&str, &str)], payload: &'static [u8]) -> Vec<Action> {
    match outcome(&asked(), &reply(headers, payload)) {
        Ok(Outcome::Replied(actions)) => actions,
        other => panic!("{headers:?}: {other:?}"),
    }
}

fn send(message: Message) -> Action {
    Action::Send(message)
}

fn state(text: &str) -> Action {
    Action::State(State::new(text).unwrap())
}

fn close(code: u16, reason: &str) -> Action {
    Action::Close(Close::said(Cause::BackendClosed, code, reason))
}

#[test]
fn the_payload_becomes_a_message() {
    let octets = [("Content-Type", "application/octet-stream")];
    assert_eq!(replied(&[], b""), []);
    assert_eq!(replied(&[], b"hi"), [send(Message::text("hi"))]);
    assert_eq!(replied(&octets, b"hi"), [send(Message::binary("hi"))]);
    assert_eq!(replied(&[], &[0xff]), [send(Message::binary(&[0xff][..]))]);
    assert_eq!(
        replied(&[("content-type", "text/html")], &[0xff]),
        [send(Message::binary(&[0xff][..]))]
    );
    let binary = EventBody::Message(Message::binary("?"));
    let back = outcome(&binary, &reply(&[], b"hi"));
    assert_eq!(back, Ok(Outcome::Replied(vec![send(Message::binary("hi"))])));
}

#[test]
fn headers_act_after_the_payload_in_one_order() {
    let headers = [
        ("Moorline-Close", "4000 see you"),
        ("MOORLINE-STATE", "step 2"),
        ("Moorline-Join", "a, room%2C%20one ,"),
        ("moorline-leave", "c"),
        ("ce-id", "echoed"),
        ("ce-state", "echoed"),
    ];
    let group = |name| GroupName::new(name).unwrap();
    let expected = [
        send(Message::text("hi")),
        Action::Join(group("a")),
        Action::Join(group("room, one")),
        Action::Leave(group("c")),
        state("step 2"),
        close(4000, "see you"),
    ];
    assert_eq!(replied(&headers, b"hi"), expected);
    assert_eq!(replied(&[("moorline-state", "")], b""), [state("")]);
}

#[test]
fn a_group_is_a_name_or_the_reply_is_refused() {
    let long = "x".repeat(201);
    for name in ["%00", "%0d%0a", "%ff", &long] {
        for header in ["moorline-join", "moorline-leave"] {
            let refused = outcome(&asked(), &reply(&[(header, name)], b""));
            assert_eq!(refused, Err(Broken::Group), "{name}");
        }
    }
    assert_eq!(replied(&[("moorline-join", " , ")], b""), []);
}

#[test]
fn a_close_is_a_code_that_may_be_sent_and_a_reason() {
    let long = format!("3000 {}", "é".repeat(100));
    for (text, expected) in [
        ("1000", close(1000, "")),
        ("4999 ", close(4999, "")),
        ("4000  two spaces", close(4000, "two spaces")),
        ("1013 try later", close(1013, "try later")),
        (&long, close(3000, &"é".repeat(61))),
    ] {
        assert_eq!(replied(&[("moorline-close", text)], b""), [expected], "{text}");
    }
    let bad = [
        "",
        " ",
        "bye",
        "1005",
        "1006 x",
        "1015",
        "999",
        "0",
        "5000",
        "+400",
        "04000",
        "4000x",
        "4000\tx",
        "99999",
        "-1000",
        "１０００",
    ];
    for text in bad {
        let broken = outcome(&asked(), &reply(&[("moorline-close", text)], b"hi"));
        assert_eq!(broken, Err(Broken::Close), "{text:?}");
    }
}

#[test]
fn a_state_has_a_bound() {
    let full = "x".repeat(State::MAX);
    assert_eq!(replied(&[("moorline-state", &full)], b""), [state(&full)]);
    for size in [State::MAX + 1, 1 << 20] {
        let long = "x".repeat(size);
        let broken = outcome(&asked(), &reply(&[("moorline-state", &long)], b""));
        assert_eq!(broken, Err(Broken::State(size)));
    }
    let broken = outcome(&asked(), &reply(&[("moorline-state", "a\0b")], b""));
    assert_eq!(broken, Err(Broken::State(3)));
}

#[test]
fn a_header_that_stands_twice_must_say_the_same() {
    for name in ["moorline-state", "moorline-close", "moorline-status", "Nats-Service-Error-Code"] {
        let upper = name.to_uppercase();
        for second in [name, &upper] {
            let broken = outcome(&asked(), &reply(&[(name, "4000"), (second, "4001")], b""));
            assert!(matches!(broken, Err(Broken::Twice(_))), "{name} and {second}");
        }
    }
    let twice = [("moorline-close", "4000"), ("Moorline-Close", "4000")];
    assert_eq!(replied(&twice, b""), [close(4000, "")]);
}

#[test]
fn a_failed_message_shows_its_body_only_when_told_to() {
    let (ours, service) = ("moorline-status", "Nats-Service-Error-Code");
    let shown = Some(Message::text("no"));
    for (headers, status, message) in [
        (&[(ours, "404")][..], 404, &shown),
        (&[("MOORLINE-STATUS", " 422 ")], 422, &shown),
        (&[(ours, "404"), (service, "500")], 404, &shown),
        (&[(ours, "500")], 500, &None),
        (&[(ours, "302")], BAD_GATEWAY, &None),
        (&[(ours, "100")], BAD_GATEWAY, &None),
        (&[(service, "400")], 400, &None),
        (&[(service, "503")], 503, &None),
        (&[(ours, "200"), (service, "500")], 500, &None),
        (&[(ours, "404"), ("moorline-close", "bad")], 404, &shown),
    ] {
        let message = if status == BAD_GATEWAY { &None } else { message };
        let expected = Refusal::new(status, message.clone());
        let refused = outcome(&asked(), &reply(headers, b"no"));
        assert_eq!(refused, Ok(Outcome::Refused(expected)), "{headers:?}");
    }
    let binary = [(ours, "404"), ("Content-Type", "application/octet-stream")];
    let expected = Refusal::new(404, Some(Message::binary("no")));
    assert_eq!(outcome(&asked(), &reply(&binary, b"no")), Ok(Outcome::Refused(expected)));
    assert_eq!(replied(&[(ours, "204"), (service, "200")], b""), []);
    for bad in ["", "abc", "99", "600", "0404", "+40", "4 4"] {
        assert_eq!(outcome(&asked(), &reply(&[(ours, bad)], b"")), Err(Broken::Status), "{bad}");
    }
    let inline = Reply { status: Some(503), ..reply(&[], b"body") };
    let expected = Refusal::new(503, None);
    assert_eq!(outcome(&asked(), &inline), Ok(Outcome::Refused(expected)));
}

#[test]
fn a_connect_event_is_accepted_or_refused() {
    let offer = || EventBody::Connect(Box::default());
    let accepted = outcome(&offer(), &reply(&[], br#"{"user_id":"alice"}"#));
    let Ok(Outcome::Accepted(grant)) = accepted else { panic!("{accepted:?}") };
    assert_eq!(grant.user.unwrap().as_str(), "alice");
    assert!(matches!(outcome(&offer(), &reply(&[], b"")), Ok(Outcome::Accepted(_))));
    assert_eq!(outcome(&offer(), &reply(&[], b"yes")), Err(Broken::Json));

    let refused =
        |headers: &[(&str, &str)], payload| match outcome(&offer(), &reply(headers, payload)) {
            Ok(Outcome::Refused(Refusal { status, message, .. })) => (status, message),
            other => panic!("{other:?}"),
        };
    let no = Some(Message::text("no"));
    assert_eq!(refused(&[("moorline-status", "403")], b"no"), (403, no.clone()));
    assert_eq!(refused(&[("moorline-status", "503")], b"no"), (503, no));
    assert_eq!(refused(&[("moorline-status", "401")], b""), (401, None));
    assert_eq!(refused(&[("moorline-status", "401")], &[0xff]), (401, None));
    assert_eq!(refused(&[("moorline-status", "401")], &[b'x'; REFUSAL_MAX + 1]), (401, None));
    assert_eq!(refused(&[("Nats-Service-Error-Code", "500")], b"trace"), (500, None));
}

#[test]
fn other_events_only_succeed_or_fail() {
    let ended = Ended { close: Close::of(Cause::Client), duration: std::time::Duration::ZERO };
    for body in [EventBody::Connected, EventBody::Disconnected(Box::new(ended))] {
        let accepted = outcome(&body, &reply(&[("moorline-close", "bad")], b"ignored"));
        assert_eq!(accepted, Ok(Outcome::Replied(Vec::new())));
        let refused = outcome(&body, &reply(&[("moorline-status", "404")], b"no"));
        let expected = Refusal::new(404, None);
        assert_eq!(refused, Ok(Outcome::Refused(expected)));
    }
}

const NAMES: [&str; 8] = [
    "Content-Type",
    "moorline-state",
    "moorline-close",
    "moorline-status",
    "Moorline-Status",
    "Nats-Service-Error-Code",
    "moorline-join",
    "ce-id",
];

proptest! {
    #[test]
    fn any_reply_comes_to_something(
        headers in prop::collection::vec((0..NAMES.len(), "[0-9]{3,4} ?\\PC{0,8}|\\PC{0,30}"), 0..6),
        status in prop::option::of(100u16..999),
        payload in prop::collection::vec(any::<u8>(), 0..64),
        kind in 0..4,
    ) {
        let mut map = HeaderMap::new();
        for (name, value) in &headers {
            let name: HeaderName = NAMES[*name].parse().unwrap();
            if let Ok(value) = value.parse::<HeaderValue>() {
                map.append(name, value);
            }
        }
        let reply = Reply { status, headers: map, payload: Bytes::from(payload) };
        let body = match kind {
            0 => EventBody::Connect(Box::default()),
            1 => EventBody::Connected,
            2 => EventBody::Message(Message::binary("?")),
            _ => asked(),
        };
        match outcome(&body, &reply) {
            Ok(Outcome::Refused(refusal)) => prop_assert!((400..600).contains(&refusal.status)),
            Ok(Outcome::Replied(actions)) => {
                for action in actions {
                    if let Action::Close(close) = action {
                        prop_assert!(is_sendable(close.code) && close.reason.len() <= 123);
                    }
                }
            }
            Ok(Outcome::Accepted(_)) | Err(_) => {}
            Ok(other) => prop_assert!(false, "a reply is never {}", other.as_str()),
        }
    }
}
