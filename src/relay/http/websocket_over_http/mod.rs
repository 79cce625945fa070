//! WebSocket-over-HTTP with GRIP, as backends of Pushpin and Fanout speak it: what happens on a connection
//! as a row of events in the body of a request, what is to happen in that of its answer. Pure but for the
//! clock of the signature, and without memory: that is the connection's state.
//!
//! The protocol: <https://pushpin.org/docs/protocols/websocket-over-http>.

mod events;
mod grip;
mod memory;
mod signature;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_PROTOCOL,
};
use http::uri::PathAndQuery;
use http::{HeaderMap, Response, StatusCode};

use crate::close::{Cause, Close, is_sendable};
use crate::event::{Action, Ended, Event, EventBody, Grant, Offer, Outcome, Peer, Refusal, State};
use crate::message::{Kind, Message};
use crate::relay::reply::grant::{HEADERS_MAX, is_ours};
use crate::relay::reply::{BAD_GATEWAY, REFUSAL_MAX};
use events::{Malformed, WsEvent};
use memory::Memory;

pub(super) use signature::Signer;

/// How an answer broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    #[error("the answer's body: {0}")]
    Body(#[from] Malformed),
    #[error("the answer is of another type than application/websocket-events")]
    Type,
    #[error("the answer to OPEN is {0}, which neither accepts nor refuses")]
    Status(StatusCode),
    #[error("the answer to OPEN does not begin with OPEN")]
    NotOpen,
    #[error("the answer to OPEN selects a subprotocol that was not offered")]
    Subprotocol,
    #[error("the answer to OPEN has over {HEADERS_MAX} bytes of headers for the client")]
    Headers,
    #[error("Content-Bytes-Accepted is no number, or more than were offered")]
    Accepted,
    #[error("Content-Bytes-Accepted is {accepted} of {offered}: all of it must be")]
    Partly { accepted: usize, offered: usize },
    #[error("an item of Set-Meta- or set-meta cannot be told in a header")]
    Meta,
    #[error("what is kept of the connection is over {max} bytes ({0} bytes)", max = State::MAX)]
    State(usize),
    #[error("a control message: {0}")]
    Control(String),
}

/// The most bytes of an answer's body.
pub(super) const MAX_ANSWER: usize = 1_000_000;

const EVENTS: HeaderValue = HeaderValue::from_static("application/websocket-events");
const CONNECTION_ID: HeaderName = HeaderName::from_static("connection-id");
const CONTENT_BYTES_ACCEPTED: HeaderName = HeaderName::from_static("content-bytes-accepted");
const GRIP_SIG: HeaderName = HeaderName::from_static("grip-sig");
const KEEP_ALIVE_INTERVAL: HeaderName = HeaderName::from_static("keep-alive-interval");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const SET_META: &str = "set-meta-";
/// The least time between two requests that only ask.
const LEAST_INTERVAL: u64 = 20;
/// The longest, so that any number of seconds is a time.
const LONGEST_INTERVAL: u64 = 24 * 3600;
/// What a refused client is shown of the answer's headers.
const SHOWN: [&str; 6] =
    ["allow", "content-type", "location", "retry-after", "set-cookie", "www-authenticate"];

/// Whether the backend is not told of this: it has left the connection to its channels.
pub(super) fn is_unheard(event: &Event) -> bool {
    Memory::read(event.state.as_ref()).is_detached
}

/// Where a request goes: to where the client went.
pub(super) fn target(peer: &Peer) -> Result<PathAndQuery, http::uri::InvalidUri> {
    match &*peer.query {
        "" => peer.path.parse(),
        query => format!("{}?{query}", peer.path).parse(),
    }
}

/// The body of a request with this event.
pub(super) fn body(event: &EventBody) -> Bytes {
    let event = match event {
        EventBody::Connect(_) => WsEvent::Open,
        EventBody::Message(message) if message.kind() == Kind::Text => {
            WsEvent::Text(message.data().clone())
        }
        EventBody::Message(message) => WsEvent::Binary(message.data().clone()),
        EventBody::Disconnected(ended) => end(ended),
        EventBody::Connected | EventBody::Poll => return Bytes::new(),
    };
    let mut body = Vec::with_capacity(event_room(&event));
    events::encode(&event, &mut body);
    body.into()
}

fn event_room(event: &WsEvent) -> usize {
    match event {
        WsEvent::Text(content) | WsEvent::Binary(content) => content.len() + 24,
        _ => 24,
    }
}

/// The client's close frame, or the end of any other kind. Without the reason: libraries find the code
/// only when it stands alone.
fn end(ended: &Ended) -> WsEvent {
    match (ended.close.cause, ended.close.code) {
        (Cause::Client, 1005) => WsEvent::Close(Bytes::new()),
        (Cause::Client, code) => WsEvent::Close(Bytes::copy_from_slice(&code.to_be_bytes())),
        _ => WsEvent::Disconnect,
    }
}

/// Writes the headers of a request with this event.
pub(super) fn write(event: &Event, signer: Option<&Signer>, headers: &mut HeaderMap) {
    headers.insert(ACCEPT, EVENTS);
    headers.insert(CONTENT_TYPE, EVENTS);
    headers.insert(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static("grip"));
    let texts =
        [(CONNECTION_ID, event.peer.id.to_string()), (TRACEPARENT, event.trace.to_string())];
    for (name, text) in texts {
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(name, value);
        }
    }
    if let Some(signature) = signer.and_then(Signer::signature) {
        headers.insert(GRIP_SIG, signature);
    }
    headers.extend(Memory::read(event.state.as_ref()).headers());
}

/// What the answer comes to.
pub(super) fn outcome(event: &Event, answer: &Response<Bytes>) -> Result<Outcome, Broken> {
    let status = answer.status();
    match &event.body {
        EventBody::Connect(_) if status != StatusCode::OK => refusal(answer).map(Outcome::Refused),
        EventBody::Connect(offer) => {
            Ok(Outcome::Accepted(Box::new(accepted(event, offer, answer)?)))
        }
        // It has heard of the end, whatever it makes of it, unless a proxy in front of it says this.
        EventBody::Disconnected(_) => Ok(match status.as_u16() {
            gateway @ 502..=504 => Outcome::Refused(Refusal::new(gateway, None)),
            _ => Outcome::Replied(Vec::new()),
        }),
        _ if status != StatusCode::OK => {
            let is_error = status.is_client_error() || status.is_server_error();
            let status = if is_error { status.as_u16() } else { BAD_GATEWAY };
            Ok(Outcome::Refused(Refusal::new(status, None)))
        }
        body => {
            let events = events_of(answer)?;
            check_accepted(body, answer.headers())?;
            let mut memory = Memory::read(event.state.as_ref());
            Ok(Outcome::Replied(actions(
                event.state.as_ref(),
                &mut memory,
                events,
                answer.headers(),
            )?))
        }
    }
}

/// A no to a client that asks to come in, in the backend's own words.
fn refusal(answer: &Response<Bytes>) -> Result<Refusal, Broken> {
    let status = answer.status().as_u16();
    if !(300..600).contains(&status) {
        return Err(Broken::Status(answer.status()));
    }
    let body = answer.body().slice(..answer.body().len().min(REFUSAL_MAX));
    let shown = answer.headers().iter().filter(|(name, _)| SHOWN.contains(&name.as_str()));
    let headers = shown.map(|(name, value)| (name.clone(), value.clone())).collect();
    let message = (!body.is_empty()).then(|| Message::of_kind(Kind::Text, body));
    Ok(Refusal { headers, ..Refusal::new(status, message) })
}

fn accepted(event: &Event, offer: &Offer, answer: &Response<Bytes>) -> Result<Grant, Broken> {
    let mut events = events_of(answer)?;
    if events.first() != Some(&WsEvent::Open) {
        return Err(Broken::NotOpen);
    }
    events.remove(0);
    let headers = answer.headers();
    let subprotocol = headers.get(SEC_WEBSOCKET_PROTOCOL).map(|value| value.to_str());
    let subprotocol = subprotocol.transpose().map_err(|_| Broken::Subprotocol)?.map(str::trim);
    let subprotocol = subprotocol.filter(|name| !name.is_empty()).map(str::to_owned);
    if subprotocol.as_ref().is_some_and(|name| !offer.subprotocols.contains(name)) {
        return Err(Broken::Subprotocol);
    }
    let extensions = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter();
    let prefix = extensions.filter_map(|value| value.to_str().ok()).find_map(grip::prefix_of);
    let mut memory = Memory { prefix, ..Memory::default() };
    let mut grant = Grant { subprotocol, headers: for_client(headers)?, ..Grant::default() };
    // Before the 101 what can be: who is told that it is in is in its groups.
    for action in actions(event.state.as_ref(), &mut memory, events, headers)? {
        match action {
            Action::Join(group) => grant.groups.push(group),
            Action::Leave(group) => grant.groups.retain(|joined| *joined != group),
            Action::State(state) => grant.state = state,
            action => grant.actions.push(action),
        }
    }
    Ok(grant)
}

/// The headers for the 101: all but those that are for us, and those that are ours.
fn for_client(headers: &HeaderMap) -> Result<Vec<(HeaderName, HeaderValue)>, Broken> {
    let is_for_us = |name: &HeaderName| {
        let text = name.as_str();
        *name == KEEP_ALIVE_INTERVAL || text.starts_with(SET_META) || text.starts_with("grip-")
    };
    // RFC 9110 section 7.6.1.
    let options = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let of_hop: Vec<_> = options.flat_map(|list| list.split(',')).map(str::trim).collect();
    let is_of_hop = |name: &str| of_hop.iter().any(|option| option.eq_ignore_ascii_case(name));
    let is_passed = |name: &HeaderName| {
        !is_ours(name.as_str()) && !is_of_hop(name.as_str()) && !is_for_us(name)
    };
    let passed = headers.iter().filter(|(name, _)| is_passed(name));
    let passed: Vec<_> = passed.map(|(name, value)| (name.clone(), value.clone())).collect();
    let size: usize = passed.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if size > HEADERS_MAX { Err(Broken::Headers) } else { Ok(passed) }
}

/// The events of an answer that is one.
fn events_of(answer: &Response<Bytes>) -> Result<Vec<WsEvent>, Broken> {
    let content_type = answer.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let name = content_type.unwrap_or_default().split(|byte| *byte == b';').next();
    if !name.unwrap_or_default().trim_ascii().eq_ignore_ascii_case(EVENTS.as_bytes()) {
        return Err(Broken::Type);
    }
    Ok(events::decode(answer.body())?)
}

/// Whether the backend has taken all that it was offered.
fn check_accepted(body: &EventBody, headers: &HeaderMap) -> Result<(), Broken> {
    let Some(value) = headers.get(CONTENT_BYTES_ACCEPTED) else { return Ok(()) };
    let offered = match body {
        EventBody::Message(message) => message.data().len(),
        _ => 0,
    };
    let accepted = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    match accepted.ok_or(Broken::Accepted)? {
        accepted if accepted > offered => Err(Broken::Accepted),
        accepted if accepted < offered => Err(Broken::Partly { accepted, offered }),
        _ => Ok(()),
    }
}

/// What the events and headers of an answer do to the connection.
fn actions(
    state: Option<&State>,
    memory: &mut Memory,
    events: Vec<WsEvent>,
    headers: &HeaderMap,
) -> Result<Vec<Action>, Broken> {
    for (name, value) in headers {
        if let Some(name) = name.as_str().strip_prefix(SET_META) {
            memory.set(name, std::str::from_utf8(value.as_bytes()).map_err(|_| Broken::Meta)?)?;
        }
    }
    let mut actions = Vec::new();
    if let Some(value) = headers.get(KEEP_ALIVE_INTERVAL) {
        let seconds = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
        let seconds = seconds.filter(|seconds| *seconds > 0);
        let seconds = seconds.map(|seconds| seconds.clamp(LEAST_INTERVAL, LONGEST_INTERVAL));
        actions.push(Action::PollEvery(seconds.map(Duration::from_secs)));
    }
    for event in events {
        match event {
            WsEvent::Text(text) => {
                grip::take(memory, Message::of_kind(Kind::Text, text), &mut actions)?;
            }
            WsEvent::Binary(data) => grip::take(memory, Message::binary(data), &mut actions)?,
            WsEvent::Ping(data) => actions.push(Action::Ping(data)),
            // The heartbeat answers pings.
            WsEvent::Pong(_) => {}
            WsEvent::Close(said) => {
                actions.push(Action::Close(close(&said)));
                break;
            }
            WsEvent::Disconnect | WsEvent::Open => {
                actions.push(Action::Cut);
                break;
            }
        }
    }
    let kept = memory.to_state()?;
    if kept.as_ref() != state {
        // First, because nothing counts after an end.
        actions.insert(0, Action::State(kept));
    }
    Ok(actions)
}

/// A code that no endpoint may send says no more than that it is over.
fn close(said: &Bytes) -> Close {
    let (code, reason) = match said.split_first_chunk() {
        Some((code, reason)) => (u16::from_be_bytes(*code), reason),
        None => (0, &[][..]),
    };
    let code = if is_sendable(code) { code } else { Cause::BackendClosed.code() };
    Close::said(Cause::BackendClosed, code, &String::from_utf8_lossy(reason))
}
