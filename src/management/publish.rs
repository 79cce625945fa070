//! What GRIP libraries publish: items for channels, which are groups of the hubs whose services speak
//! WebSocket-over-HTTP. Only what is for WebSockets is looked at.

use std::collections::HashSet;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::try_join_all;
use http::header::{ACCEPT, AUTHORIZATION};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::answer::Answer;
use super::body::{Body, Payload};
use super::desk::obeyed;
use super::refusal::Refusal;
use super::seen::{Key, Seen, key};
use crate::auth::Token;
use crate::close::is_sendable;
use crate::hub::{Command, Fleet, Push, Target};
use crate::id::{GroupName, HubName};
use crate::message::{Kind, Message};

/// The body of a request.
#[derive(Debug, Deserialize)]
struct Items {
    items: Vec<Item>,
}

/// One item. Formats for other ways to clients, and what only filters look at, are passed over.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Item {
    channel: String,
    id: Option<String>,
    #[serde(default)]
    formats: Formats,
    /// Where older libraries have it.
    ws_message: Option<WsMessage>,
}

#[derive(Debug, Default, Deserialize)]
struct Formats {
    #[serde(rename = "ws-message")]
    ws_message: Option<WsMessage>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WsMessage {
    content: Option<String>,
    content_bin: Option<String>,
    #[serde(rename = "type")]
    kind: Option<MessageType>,
    #[serde(default)]
    action: Action,
    code: Option<u16>,
    reason: Option<String>,
    #[serde(default)]
    content_filters: Vec<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum MessageType {
    Text,
    Binary,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    #[default]
    Send,
    Close,
    Refresh,
}

/// What is done with the members of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    channel: GroupName,
    /// What is known of the item, when it has an id.
    key: Option<Key>,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Send(Message),
    Command(Command),
}

/// How long the nodes may take.
const FLEET_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages that are on their way to nodes at once.
const AT_ONCE: usize = 64;

/// Publishes what the body says to the channels of `hubs`.
///
/// # Errors
/// When the body says nothing that can be done, which then is not done even in part, or not everybody
/// is known to have been told.
pub(super) async fn publish<B: Payload>(
    fleet: &Fleet,
    hubs: &[HubName],
    seen: &Seen,
    headers: &HeaderMap,
    body: &mut Body<B>,
) -> Result<Answer, Refusal> {
    let is_json = wants_json(headers)?;
    let message = body.message().await?;
    let wishes = parse(message.data())?;
    // Messages go out in their order; what is done with connections waits for those before it.
    for wishes in wishes.chunk_by(|a, b| a.is_send() && b.is_send()).flat_map(|c| c.chunks(AT_ONCE))
    {
        let now = Instant::now();
        let fresh: Vec<_> = wishes.iter().filter(|wish| seen.is_new(wish.key, now)).collect();
        let unsaid = seen.unsaid(fresh.iter().filter_map(|wish| wish.key).collect());
        try_join_all(fresh.iter().map(|wish| wish.fulfil(fleet, hubs))).await?;
        unsaid.arrived();
    }
    Ok(match is_json {
        true => Answer::json(StatusCode::OK, r#"{"message":"Published"}"#),
        false => Answer::text(StatusCode::OK, "Published\n"),
    })
}

/// The key in an `Authorization: Basic`, where some libraries have it as the password.
pub(super) fn basic(headers: &HeaderMap) -> Option<Token> {
    let field = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = field.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?;
    Token::new(text.split_once(':')?.1)
}

/// Whether the answer is JSON; else it is text.
fn wants_json(headers: &HeaderMap) -> Result<bool, Refusal> {
    let mut types =
        headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    if types.peek().is_none() {
        return Ok(false);
    }
    let names = types.flat_map(|list| list.split(','));
    let names =
        names.map(|item| item.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    let first = names.map(|name| match name.as_str() {
        "application/json" | "application/*" => Some(true),
        "text/plain" | "text/*" | "*/*" => Some(false),
        _ => None,
    });
    first.flatten().next().ok_or(Refusal::NotAcceptable)
}

/// All that a body wishes for, or what is wrong with it.
fn parse(body: &[u8]) -> Result<Vec<Wish>, Refusal> {
    let wrong = |problem: String| Refusal::Item(format!("Invalid format: {problem}"));
    let value: Value = serde_json::from_slice(body)
        .map_err(|_| Refusal::Item("Body is not valid JSON.".to_owned()))?;
    if !value.is_object() {
        return Err(wrong("expected an object".to_owned()));
    }
    let Items { items } = Items::deserialize(value).map_err(|error| wrong(error.to_string()))?;
    let wishes = items
        .into_iter()
        .enumerate()
        .map(|(i, item)| item.wish().map_err(|problem| wrong(format!("items[{i}]: {problem}"))));
    Ok(wishes.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

impl Item {
    /// What it wishes for; nothing when it is not for WebSockets.
    fn wish(self) -> Result<Option<Wish>, String> {
        let channel = GroupName::new(&self.channel).map_err(|error| format!("channel: {error}"))?;
        let Some(message) = self.formats.ws_message.or(self.ws_message) else { return Ok(None) };
        let key = self.id.as_deref().map(|id| key(&self.channel, id));
        let what = message.what().map_err(|problem| format!("ws-message: {problem}"))?;
        Ok(Some(Wish { channel, key, what }))
    }
}

impl WsMessage {
    fn what(self) -> Result<What, String> {
        if let Some(filter) = self.content_filters.first() {
            return Err(format!("content-filters: {filter:?} is not known here"));
        }
        match self.action {
            Action::Refresh => return Ok(What::Command(Command::Poll)),
            Action::Close => {
                let code = self.code.unwrap_or(1000);
                if !is_sendable(code) {
                    return Err(format!("code: {code} may not be sent"));
                }
                let (reason, exclude) = (self.reason.unwrap_or_default(), HashSet::new());
                return Ok(What::Command(Command::Close { code, reason, exclude }));
            }
            Action::Send => {}
        }
        let (default, data) = match (self.content, self.content_bin) {
            (Some(text), _) => (MessageType::Text, Bytes::from(text)),
            (None, Some(base64)) => {
                let data = STANDARD.decode(base64);
                (
                    MessageType::Binary,
                    data.map_err(|_| "content-bin: not base64".to_owned())?.into(),
                )
            }
            (None, None) => return Err("expected `content` or `content-bin`".to_owned()),
        };
        Ok(What::Send(match self.kind.unwrap_or(default) {
            MessageType::Text => Message::of_kind(Kind::Text, data),
            MessageType::Binary => Message::binary(data),
        }))
    }
}

impl Wish {
    const fn is_send(&self) -> bool {
        matches!(self.what, What::Send(_))
    }

    async fn fulfil(&self, fleet: &Fleet, hubs: &[HubName]) -> Result<(), Refusal> {
        let (target, deadline) =
            (Target::Group(self.channel.clone()), Instant::now() + FLEET_TIMEOUT);
        for hub in hubs {
            match &self.what {
                What::Send(message) => {
                    let (target, message) = (target.clone(), message.clone());
                    let push = Push { target, message, exclude: HashSet::new(), expires: None };
                    obeyed(fleet.push(hub, &push, deadline).await?)?;
                }
                What::Command(command) => {
                    obeyed(fleet.command(hub, &target, command, deadline).await?)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(json: &str) -> Result<Vec<Wish>, Refusal> {
        parse(format!(r#"{{"items":[{json}]}}"#).as_bytes())
    }

    fn wish(json: &str) -> What {
        let json = format!(r#"{{"channel":"room 1","formats":{{"ws-message":{json}}}}}"#);
        item(&json).unwrap().remove(0).what
    }

    #[test]
    fn items_say_what_is_sent_to_whom() {
        let send = What::Send;
        for (json, expected) in [
            (r#"{"content":"hi"}"#, send(Message::text("hi"))),
            (r#"{"content":"hi","type":"binary","new":1}"#, send(Message::binary("hi"))),
            (r#"{"content-bin":"AAE="}"#, send(Message::binary(&[0u8, 1][..]))),
            (r#"{"content-bin":"aGk=","type":"text","action":"send"}"#, send(Message::text("hi"))),
            (r#"{"action":"refresh"}"#, What::Command(Command::Poll)),
        ] {
            assert_eq!(wish(json), expected, "{json}");
        }
        let What::Command(Command::Close { code, reason, .. }) =
            wish(r#"{"action":"close","code":4000,"reason":"bye"}"#)
        else {
            panic!("no close")
        };
        assert_eq!((code, &*reason), (4000, "bye"));
        let older = item(r#"{"channel":"a","id":"1","ws-message":{"content":"hi"}}"#).unwrap();
        assert_eq!(older[0].key, Some(key("a", "1")));
        let other = item(r#"{"channel":"a","formats":{"http-stream":{"content":"hi"}}}"#);
        assert_eq!(other, Ok(vec![]));
        assert_eq!(parse(br#"{"items":[]}"#), Ok(vec![]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let said = |body: &str| match parse(body.as_bytes()) {
            Err(Refusal::Item(problem)) => problem,
            other => panic!("{other:?}"),
        };
        assert_eq!(said("{"), "Body is not valid JSON.");
        for (body, part) in [
            ("[]", "expected an object"),
            ("{}", "missing field `items`"),
            (r#"{"items":{}}"#, "expected a sequence"),
            (r#"{"items":[{"formats":{}}]}"#, "missing field `channel`"),
            (r#"{"items":[{"channel":""}]}"#, "items[0]: channel: "),
        ] {
            let said = said(body);
            assert!(said.starts_with("Invalid format: ") && said.contains(part), "{body}: {said}");
        }
        for (json, part) in [
            ("{}", "expected `content` or `content-bin`"),
            (r#"{"content-bin":"%"}"#, "content-bin: not base64"),
            (r#"{"content":"x","type":"ping"}"#, "unknown variant `ping`"),
            (r#"{"action":"hint"}"#, "unknown variant `hint`"),
            (r#"{"action":"close","code":1006}"#, "code: 1006 may not be sent"),
            (r#"{"content":"x","content-filters":["skip-self"]}"#, "\"skip-self\" is not known"),
        ] {
            let json =
                format!(r#"{{"items":[{{"channel":"a","formats":{{"ws-message":{json}}}}}]}}"#);
            let said = said(&json);
            assert!(said.starts_with("Invalid format: ") && said.contains(part), "{json}: {said}");
        }
    }

    #[test]
    fn the_answer_is_of_a_type_that_is_taken() {
        let wants = |accept: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(ACCEPT, accept.parse().unwrap());
            }
            wants_json(&headers)
        };
        for (accept, expected) in [
            (None, Ok(false)),
            (Some("*/*"), Ok(false)),
            (Some("text/plain"), Ok(false)),
            (Some("Application/JSON; q=0.9, text/plain"), Ok(true)),
            (Some("image/png, text/*"), Ok(false)),
            (Some("image/png"), Err(Refusal::NotAcceptable)),
        ] {
            assert_eq!(wants(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn a_key_may_be_a_password() {
        let token = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            basic(&headers)
        };
        let basic = format!("Basic {}", STANDARD.encode("realm:a-key"));
        assert_eq!(token(&basic), Token::new("a-key"));
        assert_eq!(token(&basic.replace("Basic", "BASIC")), Token::new("a-key"));
        for other in ["Bearer a-key", "Basic", "Basic %", "Basic cmVhbG0="] {
            assert_eq!(token(other), None, "{other}");
        }
    }
}
