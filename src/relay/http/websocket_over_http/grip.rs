//! GRIP on a connection: messages of the backend begin with a prefix and go to the client, or with `c:`
//! and say what is to be done.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::error::Category;

use super::events::CONTROL_MAX;
use super::memory::Memory;
use super::{Broken, LONGEST_INTERVAL};
use crate::event::{Action, Content, KeepAlive};
use crate::id::GroupName;
use crate::message::{Kind, Message};

/// What a message begins with when it is none.
const CONTROL: &[u8] = b"c:";
/// The prefix of messages unless the backend names another.
const PREFIX: &str = "m:";

/// One control message. What else stands in it is not looked at.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
enum Control {
    Subscribe {
        channel: String,
        #[serde(default)]
        filters: Vec<String>,
    },
    Unsubscribe {
        channel: String,
    },
    Detach {},
    Session {
        id: Option<String>,
    },
    SetMeta {
        name: String,
        value: Option<String>,
    },
    KeepAlive {
        #[serde(flatten)]
        said: Said,
        mode: Option<Mode>,
    },
    SendDelayed {
        #[serde(flatten)]
        said: Said,
    },
    FlushDelayed {},
}

/// What is to be sent, and after so many seconds.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Said {
    content: Option<String>,
    content_bin: Option<String>,
    #[serde(default)]
    message_type: MessageType,
    timeout: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum MessageType {
    #[default]
    Text,
    Binary,
    Ping,
    Pong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Idle,
    Interval,
}

/// The prefix of messages, where a `Sec-WebSocket-Extensions` of the backend turns GRIP on.
pub(super) fn prefix_of(extensions: &str) -> Option<String> {
    extensions.split(',').find_map(|extension| {
        let mut parts = extension.split(';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case("grip") {
            return None;
        }
        let named = parts.filter_map(|part| part.split_once('='));
        let mut named =
            named.filter(|(name, _)| name.trim().eq_ignore_ascii_case("message-prefix"));
        let prefix = named.next().map_or(PREFIX, |(_, value)| value.trim().trim_matches('"'));
        Some(prefix.to_owned())
    })
}

/// What a message of the backend comes to, on a connection that speaks GRIP.
///
/// # Errors
/// When it is a control message that says nothing that is known.
pub(super) fn take(
    memory: &mut Memory,
    message: Message,
    actions: &mut Vec<Action>,
) -> Result<(), Broken> {
    let Some(prefix) = &memory.prefix else {
        actions.push(Action::Send(message));
        return Ok(());
    };
    let kind = message.kind();
    let data = message.into_data();
    if kind == Kind::Text && data.starts_with(CONTROL) {
        return control(memory, data.get(CONTROL.len()..).unwrap_or_default(), actions);
    }
    // What does not begin with the prefix is not for the client.
    if data.starts_with(prefix.as_bytes()) {
        let rest = data.slice(prefix.len()..);
        // Text stays text: the prefix is text as well.
        actions.push(Action::Send(Message::of_kind(kind, rest)));
    }
    Ok(())
}

fn control(memory: &mut Memory, json: &[u8], actions: &mut Vec<Action>) -> Result<(), Broken> {
    // An array would be read as an object's values in their order.
    if !json.trim_ascii_start().starts_with(b"{") {
        return Err(Broken::Control("expected a JSON object".to_owned()));
    }
    let control = serde_json::from_slice(json);
    match control.map_err(|error: serde_json::Error| wrong(&error))? {
        Control::Subscribe { channel, filters } => {
            if !filters.is_empty() {
                let message = format!("no filter is known ({} were named)", filters.len());
                return Err(Broken::Control(message));
            }
            actions.push(Action::Join(group(&channel)?));
        }
        Control::Unsubscribe { channel } => actions.push(Action::Leave(group(&channel)?)),
        Control::Detach {} => {
            memory.is_detached = true;
            actions.push(Action::PollEvery(None));
        }
        Control::Session { id } => memory.session = id.filter(|id| !id.is_empty()),
        Control::SetMeta { name, value } => memory.set(&name, &value.unwrap_or_default())?,
        Control::KeepAlive { said, mode } => {
            let after = said.after(55);
            let keep_alive = said.content()?.map(|content| {
                Box::new(KeepAlive { content, after, is_steady: mode == Some(Mode::Interval) })
            });
            actions.push(Action::KeepAlive(keep_alive));
        }
        Control::SendDelayed { said } => {
            let after = said.after(1);
            if let Some(content) = said.content()? {
                actions.push(Action::SendLater(after, Box::new(content)));
            }
        }
        Control::FlushDelayed {} => actions.push(Action::SendNow),
    }
    Ok(())
}

/// What is wrong with a control message, without a word of what it says: that is not for logs.
fn wrong(error: &serde_json::Error) -> Broken {
    Broken::Control(match (error.classify(), error.to_string()) {
        // Of a name of ours.
        (Category::Data, text) if text.starts_with("missing field") => text,
        (Category::Data, _) => "an unknown type, or a member of a wrong kind".to_owned(),
        (category, _) => {
            format!("{category:?} error at line {} column {}", error.line(), error.column())
        }
    })
}

fn group(channel: &str) -> Result<GroupName, Broken> {
    GroupName::new(channel).map_err(|error| Broken::Control(format!("channel: {error}")))
}

impl Said {
    fn after(&self, default: u64) -> Duration {
        Duration::from_secs(self.timeout.unwrap_or(default).clamp(1, LONGEST_INTERVAL))
    }

    /// What is to be sent, if anything.
    fn content(self) -> Result<Option<Content>, Broken> {
        let data = match (self.content, self.content_bin) {
            (Some(text), _) => Bytes::from(text),
            (None, Some(base64)) => {
                let data = STANDARD.decode(base64);
                data.map_err(|_| Broken::Control("content-bin is not base64".to_owned()))?.into()
            }
            (None, None) => return Ok(None),
        };
        Ok(match self.message_type {
            MessageType::Text => Some(Content::Message(Message::of_kind(Kind::Text, data))),
            MessageType::Binary => Some(Content::Message(Message::binary(data))),
            MessageType::Ping if data.len() > CONTROL_MAX => {
                return Err(Broken::Control("a ping has at most 125 bytes".to_owned()));
            }
            MessageType::Ping => Some(Content::Ping(data)),
            // The heartbeat is ours.
            MessageType::Pong => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speaking(prefix: &str) -> Memory {
        Memory { prefix: Some(prefix.to_owned()), ..Memory::default() }
    }

    fn taken(memory: &mut Memory, message: Message) -> Result<Vec<Action>, Broken> {
        let mut actions = Vec::new();
        take(memory, message, &mut actions).map(|()| actions)
    }

    fn done(control: &str) -> Result<Vec<Action>, Broken> {
        taken(&mut speaking("m:"), Message::text(format!("c:{control}")))
    }

    fn group(name: &str) -> GroupName {
        GroupName::new(name).unwrap()
    }

    #[test]
    fn grip_is_turned_on_with_a_prefix() {
        for (extensions, expected) in [
            ("grip", Some("m:")),
            ("GRIP", Some("m:")),
            ("grip; message-prefix=x:", Some("x:")),
            ("grip; message-prefix=\"\"", Some("")),
            ("permessage-deflate; a=b, grip;other=1; Message-Prefix=\"p\"", Some("p")),
            ("", None),
            ("gripper", None),
            ("permessage-deflate", None),
        ] {
            assert_eq!(prefix_of(extensions).as_deref(), expected, "{extensions}");
        }
    }

    #[test]
    fn only_what_begins_with_the_prefix_goes_to_the_client() {
        let send = |message| Ok(vec![Action::Send(message)]);
        let none = || Ok(vec![]);
        for (prefix, message, expected) in [
            ("m:", Message::text("m:hi"), send(Message::text("hi"))),
            ("m:", Message::text("m:"), send(Message::text(""))),
            ("m:", Message::text("hi"), none()),
            ("m:", Message::text(""), none()),
            ("m:", Message::text("M:hi"), none()),
            ("m:", Message::binary("m:\u{0}x"), send(Message::binary("\u{0}x"))),
            ("m:", Message::binary("c:{}"), none()),
            ("", Message::text("hi"), send(Message::text("hi"))),
            ("", Message::binary("c:{}"), send(Message::binary("c:{}"))),
        ] {
            assert_eq!(taken(&mut speaking(prefix), message.clone()), expected, "{message:?}");
        }
        let plain = Message::text("c:{}");
        assert_eq!(taken(&mut Memory::default(), plain.clone()), send(plain));
    }

    #[test]
    fn each_control_message_does_its_work() {
        let text = |text| Content::Message(Message::text(text));
        let keep_alive = |content, seconds, is_steady| {
            let after = Duration::from_secs(seconds);
            vec![Action::KeepAlive(Some(Box::new(KeepAlive { content, after, is_steady })))]
        };
        let later = |content, seconds| {
            vec![Action::SendLater(Duration::from_secs(seconds), Box::new(content))]
        };
        for (json, expected) in [
            (r#"{"type":"subscribe","channel":"room 1"}"#, vec![Action::Join(group("room 1"))]),
            (
                r#"{"type":"subscribe","channel":"a","filters":[],"new":1}"#,
                vec![Action::Join(group("a"))],
            ),
            (r#"{"channel":"a","type":"unsubscribe"}"#, vec![Action::Leave(group("a"))]),
            (r#"{"type":"flush-delayed"}"#, vec![Action::SendNow]),
            (r#"{"type":"keep-alive"}"#, vec![Action::KeepAlive(None)]),
            (r#"{"type":"keep-alive","content":"{}"}"#, keep_alive(text("{}"), 55, false)),
            (
                r#"{"type":"keep-alive","content":"x","message-type":"binary","timeout":7,"mode":"interval"}"#,
                keep_alive(Content::Message(Message::binary("x")), 7, true),
            ),
            (
                r#"{"type":"keep-alive","content-bin":"eA==","message-type":"ping","mode":"idle"}"#,
                keep_alive(Content::Ping(Bytes::from_static(b"x")), 55, false),
            ),
            (
                r#"{"type":"keep-alive","content":"x","message-type":"pong"}"#,
                vec![Action::KeepAlive(None)],
            ),
            (r#"{"type":"send-delayed","content":"x"}"#, later(text("x"), 1)),
            (r#"{"type":"send-delayed","content":"x","timeout":0}"#, later(text("x"), 1)),
            (r#"{"type":"send-delayed","content":"x","timeout":30}"#, later(text("x"), 30)),
        ] {
            assert_eq!(done(json), Ok(expected), "{json}");
        }
        let mut memory = speaking("m:");
        for json in [
            r#"{"type":"set-meta","name":"User","value":"ann"}"#,
            r#"{"type":"set-meta","name":"room","value":"1"}"#,
            r#"{"type":"set-meta","name":"ROOM"}"#,
            r#"{"type":"session","id":"s1"}"#,
        ] {
            assert_eq!(taken(&mut memory, Message::text(format!("c:{json}"))), Ok(vec![]));
        }
        assert_eq!(memory.meta.iter().collect::<Vec<_>>(), [(&"user".into(), &"ann".into())]);
        assert_eq!(memory.session.as_deref(), Some("s1"));
        let detached = taken(&mut memory, Message::text(r#"c:{"type":"detach"}"#));
        assert_eq!(detached, Ok(vec![Action::PollEvery(None)]));
        assert!(memory.is_detached);
    }

    #[test]
    fn a_control_message_that_says_nothing_known_is_broken() {
        for (json, part) in [
            ("", "expected a JSON object"),
            ("{", "Eof error at line 1 column 1"),
            (r#"{"secret"}"#, "Syntax error at line 1"),
            ("{}", "missing field `type`"),
            (r#"["detach"]"#, "expected a JSON object"),
            (r#"{"type":"explode secret"}"#, "an unknown type"),
            (r#"{"type":"subscribe"}"#, "missing field `channel`"),
            (r#"{"type":"subscribe","channel":""}"#, "channel: "),
            (r#"{"type":"subscribe","channel":"a","filters":["secret"]}"#, "no filter is known"),
            (r#"{"type":"keep-alive","content":"x","message-type":"secret"}"#, "a wrong kind"),
            (r#"{"type":"keep-alive","content":"x","timeout":"secret"}"#, "a wrong kind"),
            (r#"{"type":"keep-alive","content-bin":"%"}"#, "base64"),
        ] {
            let Err(Broken::Control(error)) = done(json) else { panic!("{json}") };
            assert!(error.contains(part) && !error.contains("secret"), "{json}: {error}");
        }
        let long = format!(
            r#"{{"type":"keep-alive","content":"{}","message-type":"ping"}}"#,
            "x".repeat(126)
        );
        assert!(done(&long).is_err());
        assert_eq!(done(r#"{"type":"set-meta","name":"a b","value":"x"}"#), Err(Broken::Meta));
    }
}
