//! Any reply of a worker: headers as they stand in a NATS message, and a payload.

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;

use crate::close::{Cause, Close, REASON_MAX, is_sendable};
use crate::event::{Action, Ended, EventBody, Offer, Outcome};
use crate::id::GroupName;
use crate::message::{Kind, Message};
use crate::nats::Reply;
use crate::relay;

/// Whatever a worker answers, the client gets only what the contract has: its own kind of outcome,
/// actions in their order, codes and texts that may be sent. The first byte says what was asked; the
/// rest is `NATS/1.0` with an optional status, header lines, an empty line and the payload.
pub fn reply(input: &[u8]) {
    let Some((asked, rest)) = input.split_first() else { return };
    let body = body(*asked);
    let reply = read(rest);
    let Some(outcome) = relay::outcome_of(&body, &reply) else { return };
    match outcome {
        Outcome::Refused(refusal) => {
            assert!((400..600).contains(&refusal.status), "{}", refusal.status);
            if let Some(message) = &refusal.message {
                check(message);
                assert_eq!(*message.data(), reply.payload);
            }
        }
        Outcome::Accepted(grant) => {
            let EventBody::Connect(offer) = &body else { panic!("nobody asked to come in") };
            assert!(grant.subprotocol.is_none_or(|chosen| offer.subprotocols.contains(&chosen)));
            for (name, _) in &grant.headers {
                let name = name.as_str();
                let is_ours = name.starts_with("sec-websocket-") || name.starts_with("moorline-");
                assert!(!is_ours && !["connection", "upgrade"].contains(&name), "{name}");
            }
        }
        Outcome::Replied(actions) => {
            assert!(actions.is_empty() || matches!(body, EventBody::Message(_)));
            assert!(actions.is_sorted_by_key(place), "{actions:?}");
            actions.iter().for_each(|action| match action {
                Action::Send(message) => check(message),
                Action::Join(group) | Action::Leave(group) => {
                    assert_eq!(GroupName::from_token(&group.token()).as_ref(), Ok(group));
                }
                Action::State(_) => {}
                Action::Close(close) => {
                    assert!(is_sendable(close.code) && close.reason.len() <= REASON_MAX);
                }
                other => panic!("no contract has {other:?}"),
            });
        }
        other => panic!("a reply is never {}", other.as_str()),
    }
}

fn body(asked: u8) -> EventBody {
    match asked % 4 {
        0 => EventBody::Connect(Box::new(Offer {
            subprotocols: vec!["chat".to_owned(), "v2".to_owned()],
            ..Offer::default()
        })),
        1 => EventBody::Message(Message::text("?")),
        2 => EventBody::Message(Message::binary("?")),
        _ => EventBody::Disconnected(Box::new(Ended {
            close: Close::of(Cause::Client),
            duration: std::time::Duration::ZERO,
        })),
    }
}

/// The message as the client library reads it: lines that are no headers are not there.
fn read(bytes: &[u8]) -> Reply {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, payload) = match end {
        Some(end) => (&bytes[..end], &bytes[end + 4..]),
        None => (&[][..], bytes),
    };
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("NATS/1.0 "));
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let (name, value) = (name.parse::<HeaderName>(), value.trim().parse::<HeaderValue>());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let status = status.and_then(|status| status.get(..3)?.parse().ok());
    Reply { status, headers, payload: Bytes::copy_from_slice(payload) }
}

/// Payload, then groups, then state, then close.
fn place(action: &Action) -> u8 {
    match action {
        Action::Send(_) => 0,
        Action::Join(_) => 1,
        Action::Leave(_) => 2,
        Action::State(_) => 3,
        Action::Close(_) => 4,
        _ => 5,
    }
}

pub(super) fn check(message: &Message) {
    let is_text = std::str::from_utf8(message.data()).is_ok();
    assert!(message.kind() == Kind::Binary || is_text, "text is UTF-8");
}
