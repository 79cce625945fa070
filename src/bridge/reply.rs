//! What came of an event as the reply that a node reads the same out of. Pure.

use std::collections::BTreeMap;
use std::fmt::Display;

use async_nats::{HeaderMap, HeaderValue};
use bytes::Bytes;
use http::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use crate::close::{Close, is_sendable};
use crate::event::{Action, Grant, Outcome, Refusal, State};
use crate::id::GroupName;
use crate::message::Message;
use crate::nats::Reply;

/// What of an answer no reply over NATS can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotCarried {
    #[error("the answer has several messages, and a reply carries one")]
    Messages,
    #[error("the answer has an empty message, which a reply cannot tell from none")]
    Empty,
    #[error("the answer to a connect event does more than a reply to it can")]
    First,
    #[error("the answer has something sent later, or the connection cut, which a reply cannot")]
    Wish,
    #[error("the state begins or ends with a space")]
    State,
    #[error("the close code {0} is one that nobody may send")]
    Close(u16),
    #[error("a header for the 101 is not UTF-8")]
    Header,
    #[error("the answer is over the {0} bytes that the NATS server takes")]
    TooLarge(usize),
}

/// The reply that comes to this outcome at a node. One that only this side knows of is told as a status:
/// 503 when the service certainly has not seen the event, 504 when it may have.
pub(super) fn write(outcome: &Outcome) -> Result<Reply, NotCarried> {
    match outcome {
        Outcome::Replied(actions) => replied(actions),
        Outcome::Accepted(grant) => accepted(grant),
        Outcome::Refused(refusal) => Ok(refused(refusal)),
        Outcome::Unavailable => {
            Ok(failed(StatusCode::SERVICE_UNAVAILABLE, &"the service cannot be reached"))
        }
        Outcome::Overloaded => {
            Ok(failed(StatusCode::SERVICE_UNAVAILABLE, &"the bridge has no room"))
        }
        Outcome::Unknown => {
            Ok(failed(StatusCode::GATEWAY_TIMEOUT, &"the service did not answer in time"))
        }
    }
}

/// A failure of the bridge's own. `why` is for who looks at replies; nodes pass it over.
pub(super) fn failed(status: StatusCode, why: &dyn Display) -> Reply {
    let mut headers = HeaderMap::new();
    put(&mut headers, "moorline-status", status.as_str());
    put(&mut headers, "Nats-Service-Error", &why.to_string());
    Reply { headers, ..Reply::default() }
}

fn refused(refusal: &Refusal) -> Reply {
    let mut reply = Reply::default();
    put(&mut reply.headers, "moorline-status", &refusal.status.to_string());
    if let Some(message) = &refusal.message {
        say(&mut reply, message);
    }
    reply
}

fn accepted(grant: &Grant) -> Result<Reply, NotCarried> {
    let mut headers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in &grant.headers {
        let value = std::str::from_utf8(value.as_bytes()).map_err(|_| NotCarried::Header)?;
        headers.entry(name.as_str()).or_default().push(value);
    }
    let mut answer = Answer {
        user_id: grant.user.as_ref().map(|user| user.as_str()),
        groups: grant.groups.iter().map(GroupName::as_str).collect(),
        subprotocol: grant.subprotocol.as_deref(),
        state: grant.state.as_ref().map(State::as_str),
        headers,
    };
    for action in &grant.actions {
        match action {
            Action::Join(group) => answer.groups.push(group.as_str()),
            Action::State(state) => answer.state = state.as_ref().map(State::as_str),
            action if is_of_the_way(action) => {}
            _ => return Err(NotCarried::First),
        }
    }
    // A struct of texts has a JSON form.
    let payload = Bytes::from(serde_json::to_vec(&answer).unwrap_or_default());
    Ok(Reply { payload, ..Reply::default() })
}

/// A yes to a connect event, by the contract with backends.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subprotocol: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<&'a str, Vec<&'a str>>,
}

/// A reply's actions come in one order, which none of them minds but those on one group, and those on the
/// state: of these the last one counts. After a close nothing has an effect.
fn replied(actions: &[Action]) -> Result<Reply, NotCarried> {
    let mut reply = Reply::default();
    let mut message: Option<&Message> = None;
    let mut groups: Vec<(&GroupName, bool)> = Vec::new();
    let mut state: Option<Option<&State>> = None;
    let mut close: Option<&Close> = None;
    for action in actions {
        match action {
            Action::Send(said) if said.data().is_empty() => return Err(NotCarried::Empty),
            Action::Send(said) => {
                if message.replace(said).is_some() {
                    return Err(NotCarried::Messages);
                }
            }
            Action::Join(group) | Action::Leave(group) => {
                groups.retain(|(known, _)| *known != group);
                groups.push((group, matches!(action, Action::Join(_))));
            }
            Action::State(to) => state = Some(to.as_ref()),
            Action::Close(ends) => {
                close = Some(ends);
                break;
            }
            action if is_of_the_way(action) => {}
            _ => return Err(NotCarried::Wish),
        }
    }
    if let Some(message) = message {
        say(&mut reply, message);
    }
    for (name, is_join) in [("moorline-join", true), ("moorline-leave", false)] {
        let names = groups.iter().filter(|(_, joins)| *joins == is_join);
        let names: Vec<_> = names.map(|(group, _)| encoded(group)).collect();
        if !names.is_empty() {
            put(&mut reply.headers, name, &names.join(","));
        }
    }
    if let Some(state) = state {
        let text = state.map_or("", State::as_str);
        // Who reads a header takes the spaces around it for none of its own.
        if text.trim() != text {
            return Err(NotCarried::State);
        }
        put(&mut reply.headers, "moorline-state", text);
    }
    if let Some(Close { code, reason, .. }) = close {
        if !is_sendable(*code) {
            return Err(NotCarried::Close(*code));
        }
        put(&mut reply.headers, "moorline-close", &format!("{code} {reason}"));
    }
    Ok(reply)
}

/// Whether an action only keeps the way to the client or to the service open, which is the node's own
/// matter where a queue group is between them.
fn is_of_the_way(action: &Action) -> bool {
    match action {
        Action::PollEvery(_) | Action::KeepAlive(_) | Action::Ping(_) | Action::SendNow => true,
        Action::Send(_) | Action::Join(_) | Action::Leave(_) | Action::State(_) => false,
        Action::Close(_) | Action::Cut | Action::SendLater(..) => false,
    }
}

fn say(reply: &mut Reply, message: &Message) {
    put(&mut reply.headers, "Content-Type", message.kind().content_type());
    reply.payload = message.data().clone();
}

fn encoded(group: &GroupName) -> String {
    utf8_percent_encode(group.as_str(), NON_ALPHANUMERIC).to_string()
}

/// A header. What would end its line becomes a space, which only a close reason may have.
fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    let value = value.replace(['\r', '\n'], " ");
    if let Ok(value) = value.parse::<HeaderValue>() {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue as HttpValue};
    use proptest::prelude::*;

    use super::*;
    use crate::close::Cause;
    use crate::event::{Ended, EventBody, Offer};
    use crate::id::UserId;
    use crate::relay::outcome_of;

    fn asked() -> EventBody {
        EventBody::Message(Message::text("?"))
    }

    fn offered() -> EventBody {
        EventBody::Connect(Box::new(Offer {
            subprotocols: vec!["chat".into()],
            ..Offer::default()
        }))
    }

    fn group(name: &str) -> GroupName {
        GroupName::new(name).unwrap()
    }

    /// What a node reads, as the library gives it: without the spaces around a value.
    fn read_back(body: &EventBody, outcome: &Outcome) -> Option<Outcome> {
        let mut reply = write(outcome).unwrap();
        let mut headers = HeaderMap::new();
        for (name, values) in reply.headers.iter() {
            values.iter().for_each(|value| headers.append(name.clone(), value.as_str().trim()));
        }
        reply.headers = headers;
        outcome_of(body, &reply)
    }

    fn messages() -> impl Strategy<Value = Message> {
        prop_oneof![
            "\\PC{1,40}".prop_map(Message::text),
            prop::collection::vec(any::<u8>(), 1..40).prop_map(Message::binary),
        ]
    }

    fn states() -> impl Strategy<Value = Option<State>> {
        "([!-~]\\PC{0,20}[!-~])?".prop_map(|text| State::new(&text).ok().flatten())
    }

    fn replies() -> impl Strategy<Value = Outcome> {
        let names = || prop::collection::hash_set("\\PC{1,12}", 0..5);
        let close = (prop_oneof![1000..=1003_u16, 3000..=4999_u16], "([!-~]\\PC{0,20}[!-~])?");
        let message = prop::option::of(messages());
        let actions = (message, names(), prop::option::of(states()), prop::option::of(close));
        actions.prop_map(|(message, names, state, close)| {
            let groups = names.iter().filter_map(|name| GroupName::new(name).ok());
            let mut actions: Vec<_> = message.map(Action::Send).into_iter().collect();
            let (joins, leaves): (Vec<_>, Vec<_>) =
                groups.partition(|group| group.as_str().len() % 2 == 0);
            actions.extend(joins.into_iter().map(Action::Join));
            actions.extend(leaves.into_iter().map(Action::Leave));
            actions.extend(state.map(Action::State));
            let said =
                |(code, reason): (_, String)| Close::said(Cause::BackendClosed, code, &reason);
            actions.extend(close.map(|close| Action::Close(said(close))));
            Outcome::Replied(actions)
        })
    }

    fn grants() -> impl Strategy<Value = Outcome> {
        let header = ("[a-c]", prop::collection::vec("[ -~]{0,12}", 1..3));
        let headers = prop::collection::btree_map(header.0, header.1, 0..4);
        let user = prop::option::of("\\PC{1,20}");
        let groups = prop::collection::vec("\\PC{1,12}", 0..4);
        (user, groups, any::<bool>(), states(), headers).prop_map(
            |(user, groups, chooses, state, headers)| {
                let headers = headers.into_iter().flat_map(|(name, values)| {
                    let name: HeaderName = name.parse().unwrap();
                    values
                        .into_iter()
                        .map(move |value| (name.clone(), HttpValue::try_from(value).unwrap()))
                });
                Outcome::Accepted(Box::new(Grant {
                    user: user.and_then(|user| UserId::new(&user).ok()),
                    groups: groups.iter().filter_map(|name| GroupName::new(name).ok()).collect(),
                    subprotocol: chooses.then(|| "chat".to_owned()),
                    state,
                    headers: headers.collect(),
                    actions: Vec::new(),
                }))
            },
        )
    }

    proptest! {
        #[test]
        fn a_node_reads_what_was_written(
            replied in replies(),
            accepted in grants(),
            message in prop::option::of(messages()),
            status in 400..600_u16,
        ) {
            prop_assert_eq!(read_back(&asked(), &replied), Some(replied));
            prop_assert_eq!(read_back(&offered(), &accepted), Some(accepted));
            let message = message.filter(|_| status < 500);
            let refused = Outcome::Refused(Refusal::new(status, message));
            prop_assert_eq!(read_back(&asked(), &refused), Some(refused));
        }

        #[test]
        fn a_refused_handshake_shows_its_text(status in 400..600_u16, text in "\\PC{1,100}") {
            let refused = Outcome::Refused(Refusal::new(status, Some(Message::text(text))));
            prop_assert_eq!(read_back(&offered(), &refused), Some(refused));
        }
    }

    #[test]
    fn what_only_the_bridge_knows_is_a_status() {
        for (outcome, status) in
            [(Outcome::Unavailable, 503), (Outcome::Overloaded, 503), (Outcome::Unknown, 504)]
        {
            let expected = Outcome::Refused(Refusal::new(status, None));
            assert_eq!(read_back(&asked(), &outcome), Some(expected.clone()), "{outcome:?}");
            assert_eq!(read_back(&offered(), &outcome), Some(expected), "{outcome:?}");
        }
    }

    #[test]
    fn what_comes_after_something_else_still_counts() {
        let state = |text| Action::State(State::new(text).unwrap());
        let bye = || Action::Close(Close::said(Cause::BackendClosed, 4000, "bye"));
        let said = || Action::Send(Message::text("x"));
        for (actions, expected) in [
            (vec![Action::Join(group("a")), said()], vec![said(), Action::Join(group("a"))]),
            (
                vec![
                    Action::Leave(group("a")),
                    Action::Join(group("a")),
                    Action::Leave(group("b")),
                ],
                vec![Action::Join(group("a")), Action::Leave(group("b"))],
            ),
            (vec![state("1"), state("")], vec![state("")]),
            (vec![bye(), said()], vec![bye()]),
        ] {
            let read = read_back(&asked(), &Outcome::Replied(actions));
            assert_eq!(read, Some(Outcome::Replied(expected)));
        }
        let lines = Action::Close(Close::said(Cause::BackendClosed, 4000, "a\r\nb"));
        let read = read_back(&asked(), &Outcome::Replied(vec![lines]));
        let expected = Action::Close(Close::said(Cause::BackendClosed, 4000, "a  b"));
        assert_eq!(read, Some(Outcome::Replied(vec![expected])));
    }

    #[test]
    fn what_cannot_be_carried_is_named() {
        let said = |text| Action::Send(Message::text(text));
        let no_code = Close { code: 1005, ..Close::of(Cause::BackendClosed) };
        for (actions, expected) in [
            (vec![said("a"), said("b")], NotCarried::Messages),
            (vec![said("")], NotCarried::Empty),
            (vec![Action::State(State::new(" a").unwrap())], NotCarried::State),
            (vec![Action::Close(no_code)], NotCarried::Close(1005)),
        ] {
            assert_eq!(write(&Outcome::Replied(actions)).unwrap_err(), expected);
        }
        let odd = (HeaderName::from_static("x"), HttpValue::from_bytes(&[0xff]).unwrap());
        let grant = Grant { headers: vec![odd], ..Grant::default() };
        let error = write(&Outcome::Accepted(Box::new(grant))).unwrap_err();
        assert_eq!(error, NotCarried::Header);
    }

    #[test]
    fn other_events_are_answered_too() {
        let ended = Ended { close: Close::of(Cause::Client), duration: Default::default() };
        for body in [EventBody::Connected, EventBody::Disconnected(Box::new(ended))] {
            let fine = Outcome::Replied(Vec::new());
            assert_eq!(read_back(&body, &fine), Some(fine));
        }
    }
}
