//! Any answer of a service that speaks WebSocket-over-HTTP: a status, headers and a body.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};

use super::management::ann;
use super::reply::check;
use crate::close::{Cause, Close, REASON_MAX, is_sendable};
use crate::event::{Action, Content, Ended, Event, EventBody, Offer, Outcome, State, Trace};
use crate::message::Message;
use crate::relay;

/// Whatever a service answers, only what the protocol has comes of it: its own kind of outcome, codes,
/// texts, pings and times that may be, and nothing after an end. The lowest bits of the first byte say what
/// was asked, and whether the connection speaks GRIP; the rest is `HTTP/1.1` with a status, header lines,
/// an empty line and the body.
pub fn websocket_over_http(input: &[u8]) {
    let Some((asked, rest)) = input.split_first() else { return };
    let event = event(*asked);
    let Some(outcome) = relay::websocket_over_http_outcome(&event, &read(rest)) else { return };
    match (outcome, &event.body) {
        (Outcome::Refused(refusal), body) => {
            let least = if matches!(body, EventBody::Connect(_)) { 300 } else { 400 };
            assert!((least..600).contains(&refusal.status), "{}", refusal.status);
            assert!(refusal.message.is_none_or(|message| message.data().len() <= 4096));
        }
        (Outcome::Accepted(grant), EventBody::Connect(offer)) => {
            assert!(grant.subprotocol.is_none_or(|chosen| offer.subprotocols.contains(&chosen)));
            for (name, _) in &grant.headers {
                let families = ["sec-websocket-", "moorline-", "set-meta-", "grip-"];
                let is_ours = families.iter().any(|family| name.as_str().starts_with(family));
                assert!(!is_ours && !["connection", "upgrade"].contains(&name.as_str()), "{name}");
            }
            check_actions(&grant.actions);
        }
        (Outcome::Replied(actions), EventBody::Message(_) | EventBody::Poll) => {
            check_actions(&actions);
        }
        (Outcome::Replied(actions), EventBody::Disconnected(_)) => assert_eq!(actions, []),
        (other, body) => panic!("{} to {:?}", other.as_str(), body.kind()),
    }
}

fn check_actions(actions: &[Action]) {
    let is_end = |action: &Action| matches!(action, Action::Close(_) | Action::Cut);
    assert!(actions.iter().rev().skip(1).all(|action| !is_end(action)), "{actions:?}");
    let check_content = |content: &Content| match content {
        Content::Message(message) => check(message),
        Content::Ping(data) => assert!(data.len() <= 125),
    };
    let second = Duration::from_secs(1);
    for action in actions {
        match action {
            Action::Send(message) => check(message),
            Action::Ping(data) => assert!(data.len() <= 125),
            Action::Close(close) => {
                assert!(is_sendable(close.code) && close.reason.len() <= REASON_MAX);
            }
            Action::PollEvery(interval) => {
                assert!(interval.is_none_or(|interval| interval >= 20 * second));
            }
            Action::KeepAlive(Some(keep)) => {
                assert!(keep.after >= second);
                check_content(&keep.content);
            }
            Action::SendLater(after, content) => {
                assert!(*after >= second);
                check_content(content);
            }
            Action::State(Some(state)) => assert!(state.as_str().len() <= State::MAX),
            Action::State(None)
            | Action::KeepAlive(None)
            | Action::Join(_)
            | Action::Leave(_)
            | Action::Cut
            | Action::SendNow => {}
        }
    }
}

fn event(asked: u8) -> Event {
    let body = match asked % 4 {
        0 => EventBody::Connect(Box::new(Offer {
            subprotocols: vec!["chat".to_owned(), "v2".to_owned()],
            ..Offer::default()
        })),
        1 => EventBody::Message(Message::text("hello")),
        2 => EventBody::Poll,
        _ => EventBody::Disconnected(Box::new(Ended {
            close: Close::of(Cause::Client),
            duration: Duration::ZERO,
        })),
    };
    let kept = if asked & 4 == 0 { "" } else { r#"{"meta":{"user":"ann"},"prefix":"m:"}"# };
    Event {
        peer: Arc::new(ann()),
        sequence: 1,
        time: SystemTime::UNIX_EPOCH,
        state: State::new(kept).unwrap(),
        trace: Trace::start(),
        body,
        written: None,
    }
}

/// The answer as the client library reads it: lines that are no headers are not there.
fn read(bytes: &[u8]) -> Response<Bytes> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, body) = match end {
        Some(end) => (&bytes[..end], &bytes[end + 4..]),
        None => (&[][..], bytes),
    };
    let mut answer = Response::new(Bytes::copy_from_slice(body));
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let status = lines.next().and_then(|line| line.strip_prefix(b"HTTP/1.1 "));
    let status = status.and_then(|status| StatusCode::from_bytes(status.get(..3)?).ok());
    *answer.status_mut() = status.unwrap_or(StatusCode::OK);
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            answer.headers_mut().append(name, value);
        }
    }
    answer
}
