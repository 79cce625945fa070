//! A backend's reply as an outcome, by the contract with backends (payload first, then groups, then
//! state, then close). Pure: no I/O, no clock, and nothing a backend sends makes it panic.

pub(super) mod grant;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use percent_encoding::percent_decode_str;

use crate::close::{Cause, Close, is_sendable};
use crate::event::{Action, EventBody, Outcome, Refusal, State};
use crate::id::GroupName;
use crate::message::{Kind, Message};
use crate::nats::Reply;

/// How a reply broke the contract. The event counts as refused with [`BAD_GATEWAY`], and the client
/// sees nothing of the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    #[error("header {0} stands there twice with two values")]
    Twice(&'static str),
    #[error("header {0} is not UTF-8")]
    Text(&'static str),
    #[error("moorline-status or Nats-Service-Error-Code is not a status of 100 to 599")]
    Status,
    #[error("moorline-state is over {max} bytes or has control characters ({0} bytes)", max = State::MAX)]
    State(usize),
    #[error("a group in moorline-join, moorline-leave or the answer to a connect event is no name")]
    Group,
    #[error("moorline-close is not a code that may be sent and a reason")]
    Close,
    #[error("the answer to a connect event is not the JSON object of the contract")]
    Json,
    #[error("the answer to a connect event is over {max} bytes ({0} bytes)", max = grant::MAX)]
    TooLong(usize),
    #[error("the answer to a connect event names a user that cannot be one")]
    User,
    #[error("the answer to a connect event selects a subprotocol that was not offered")]
    Subprotocol,
    #[error("the answer to a connect event has a header that a 101 cannot carry")]
    Header,
}

/// The headers of a reply that mean something; all others, `ce-*` among them, are not looked at,
/// for some client libraries send the request's headers back.
#[derive(Debug, Default)]
struct Fields<'a> {
    content_type: Option<&'a str>,
    join: Option<&'a str>,
    leave: Option<&'a str>,
    state: Option<&'a str>,
    close: Option<&'a str>,
    status: Option<&'a str>,
    service_error: Option<&'a str>,
}

/// The status of a failure that has none of its own to show: Bad Gateway.
pub(super) const BAD_GATEWAY: u16 = 502;
/// The most bytes of a refusal that a client of a refused handshake is shown.
pub(super) const REFUSAL_MAX: usize = 4096;

/// What a reply over NATS to an event with this body comes to.
pub(super) fn outcome(body: &EventBody, reply: &Reply) -> Result<Outcome, Broken> {
    let headers = reply.headers.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values.iter().map(move |value| (name, value.as_str().as_bytes()))
    });
    outcome_of(body, reply.status, headers, &reply.payload)
}

/// What a reply to an event with this body comes to: the status that its transport gives it, its headers
/// and its payload.
pub(super) fn outcome_of<'a>(
    body: &EventBody,
    status: Option<u16>,
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    payload: &Bytes,
) -> Result<Outcome, Broken> {
    let fields = Fields::read(headers)?;
    if let Some(failure) = failure(&fields, status)? {
        return Ok(Outcome::Refused(refusal(body, &fields, failure, payload)));
    }
    match body {
        EventBody::Connect(offer) => {
            let grant = grant::parse(payload, &offer.subprotocols)?;
            Ok(Outcome::Accepted(Box::new(grant)))
        }
        EventBody::Connected | EventBody::Disconnected(_) | EventBody::Poll => {
            Ok(Outcome::Replied(Vec::new()))
        }
        EventBody::Message(message) => {
            Ok(Outcome::Replied(actions(message.kind(), &fields, payload)?))
        }
    }
}

/// A failed request: its status, and whether the backend meant that for the client.
#[derive(Debug, Clone, Copy)]
struct Failure {
    status: u16,
    is_explicit: bool,
}

fn failure(fields: &Fields<'_>, of_transport: Option<u16>) -> Result<Option<Failure>, Broken> {
    let explicit = fields.status.map(status).transpose()?;
    let service = fields.service_error.map(status).transpose()?;
    let is_failure = |status: &u16| !(200..300).contains(status);
    let failed = explicit.filter(is_failure).map(|status| (status, true));
    let failed = failed
        .or_else(|| service.or(of_transport).filter(is_failure).map(|status| (status, false)));
    Ok(failed.map(|(status, is_explicit)| Failure {
        status: if (400..600).contains(&status) { status } else { BAD_GATEWAY },
        is_explicit,
    }))
}

/// What the client may see of a failure: for a message, the body under an explicit 4xx; for a
/// connect event, a short text under an explicit status, for it becomes the body of an HTTP
/// refusal.
fn refusal(body: &EventBody, fields: &Fields<'_>, failure: Failure, payload: &Bytes) -> Refusal {
    let Failure { status, is_explicit } = failure;
    let is_shown = is_explicit && !payload.is_empty();
    let message = match body {
        EventBody::Message(asked) if is_shown && status < 500 => {
            Some(Message::from_backend(fields.content_type, asked.kind(), payload.clone()))
        }
        EventBody::Connect(_) if is_shown && payload.len() <= REFUSAL_MAX => {
            Some(Message::of_kind(Kind::Text, payload.clone()))
                .filter(|message| message.kind() == Kind::Text)
        }
        _ => None,
    };
    Refusal::new(status, message)
}

fn actions(asked: Kind, fields: &Fields<'_>, payload: &Bytes) -> Result<Vec<Action>, Broken> {
    let mut actions = Vec::new();
    if !payload.is_empty() {
        let message = Message::from_backend(fields.content_type, asked, payload.clone());
        actions.push(Action::Send(message));
    }
    for group in groups(fields.join)? {
        actions.push(Action::Join(group));
    }
    for group in groups(fields.leave)? {
        actions.push(Action::Leave(group));
    }
    if let Some(state) = fields.state {
        actions.push(Action::State(State::new(state).map_err(Broken::State)?));
    }
    if let Some(close) = fields.close {
        actions.push(Action::Close(parse_close(close).ok_or(Broken::Close)?));
    }
    Ok(actions)
}

impl<'a> Fields<'a> {
    fn read(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Result<Self, Broken> {
        let mut fields = Self::default();
        for (name, value) in headers {
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            let (field, known) = if is("content-type") {
                (&mut fields.content_type, "Content-Type")
            } else if is("moorline-join") {
                (&mut fields.join, "moorline-join")
            } else if is("moorline-leave") {
                (&mut fields.leave, "moorline-leave")
            } else if is("moorline-state") {
                (&mut fields.state, "moorline-state")
            } else if is("moorline-close") {
                (&mut fields.close, "moorline-close")
            } else if is("moorline-status") {
                (&mut fields.status, "moorline-status")
            } else if is("nats-service-error-code") {
                (&mut fields.service_error, "Nats-Service-Error-Code")
            } else {
                continue;
            };
            let value = std::str::from_utf8(value).map_err(|_| Broken::Text(known))?;
            // Which of two is meant cannot be told: names in two spellings come in any order.
            if field.replace(value).is_some_and(|before| before != value) {
                return Err(Broken::Twice(known));
            }
        }
        Ok(fields)
    }
}

/// Group names, percent-encoded (RFC 3986 section 2.1) and separated by commas.
fn groups(list: Option<&str>) -> Result<Vec<GroupName>, Broken> {
    let names = list.into_iter().flat_map(|list| list.split(',')).map(str::trim);
    let name = |text: &str| {
        let name = percent_decode_str(text).decode_utf8().map_err(|_| Broken::Group)?;
        GroupName::new(&name).map_err(|_| Broken::Group)
    };
    names.filter(|text| !text.is_empty()).map(name).collect()
}

/// A number of 100 to 599, written with three digits.
fn status(text: &str) -> Result<u16, Broken> {
    let text = text.trim();
    let is_number = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
    let status = text.parse().ok().filter(|_| is_number);
    status.filter(|status| (100..600).contains(status)).ok_or(Broken::Status)
}

/// `4000` or `4000 reason`.
fn parse_close(text: &str) -> Option<Close> {
    let (code, reason) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    let is_number = code.len() == 4 && code.bytes().all(|b| b.is_ascii_digit());
    let code = code.parse().ok().filter(|code| is_number && is_sendable(*code))?;
    Some(Close::said(Cause::BackendClosed, code, reason.trim_start()))
}
