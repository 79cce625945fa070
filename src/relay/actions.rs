//! Routing by content: messages that say what they are, at a JSON pointer (RFC 6901), have a place of
//! their own at the backend.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::config;
use crate::message::{Kind, Message};

/// What each action of a route has.
#[derive(Debug)]
pub(super) struct Actions<T> {
    /// The tokens of the pointer.
    pointer: Box<[Box<str>]>,
    places: HashMap<Box<str>, T>,
}

impl<T> Actions<T> {
    /// The route's actions, each with its place.
    pub(super) fn new(config: &config::Actions, place: impl Fn(&str) -> T) -> Self {
        let token = |token: &str| token.replace("~1", "/").replace("~0", "~").into();
        let pointer = config.pointer.split('/').skip(1).map(token).collect();
        let places = config.names.iter().map(|name| (name.as_str().into(), place(name))).collect();
        Self { pointer, places }
    }

    /// The place of a message; none for one that names no action of the route: a binary one, one that
    /// is not JSON, or that has something else there.
    ///
    /// Of a name that stands twice in an object the last one counts, as in the JSON parsers of most
    /// languages: a worker must not see another action than the one it was chosen by.
    pub(super) fn place(&self, message: &Message) -> Option<&T> {
        if self.places.is_empty() || message.kind() != Kind::Text {
            return None;
        }
        let mut json = serde_json::Deserializer::from_slice(message.data());
        let place = self.below(&self.pointer).deserialize(&mut json).ok()?;
        json.end().ok()?;
        place
    }

    fn below<'a>(&'a self, tokens: &'a [Box<str>]) -> Below<'a, T> {
        Below { actions: self, tokens }
    }
}

/// Reads the value that is at the tokens below here.
struct Below<'a, T> {
    actions: &'a Actions<T>,
    tokens: &'a [Box<str>],
}

impl<'a, 'de, T> DeserializeSeed<'de> for Below<'a, T> {
    type Value = Option<&'a T>;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Self::Value, D::Error> {
        value.deserialize_any(self)
    }
}

impl<'a, 'de, T> Visitor<'de> for Below<'a, T> {
    type Value = Option<&'a T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(if self.tokens.is_empty() { self.actions.places.get(text) } else { None })
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut place = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match self.tokens.split_first() {
                Some((token, rest)) if **token == *key => {
                    place = map.next_value_seed(self.actions.below(rest))?;
                }
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(place)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let wanted = self.tokens.split_first();
        let (mut place, mut at) = (None, 0_usize);
        loop {
            match wanted {
                Some((token, rest)) if **token == *at.to_string() => {
                    match seq.next_element_seed(self.actions.below(rest))? {
                        Some(found) => place = found,
                        None => return Ok(place),
                    }
                }
                _ if seq.next_element::<IgnoredAny>()?.is_none() => return Ok(place),
                _ => {}
            }
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actions(pointer: &str, names: &[&str]) -> Actions<String> {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        Actions::new(&config::Actions { pointer: pointer.to_owned(), names }, str::to_owned)
    }

    fn place<'a>(actions: &'a Actions<String>, json: &str) -> Option<&'a str> {
        actions.place(&Message::text(json)).map(String::as_str)
    }

    #[test]
    fn a_message_goes_where_it_says() {
        let actions = actions("/action", &["join", "say"]);
        assert_eq!(place(&actions, r#"{"action":"join","room":7}"#), Some("join"));
        assert_eq!(place(&actions, r#" {"a":{"action":"say"},"action":"s\u0061y"} "#), Some("say"));
        assert_eq!(place(&actions, r#"{"action":"join","action":"say"}"#), Some("say"));
        for other in [
            r#"{"action":"leave"}"#,
            r#"{"action":"join","action":1}"#,
            r#"{"action":["join"]}"#,
            r#"{"action":{"":"join"}}"#,
            r#"{"Action":"join"}"#,
            r#"["action","join"]"#,
            r#""join""#,
            r#"{"action":"join"} x"#,
            r#"{"action":"join""#,
            "join",
            "7",
            "null",
            "",
        ] {
            assert_eq!(place(&actions, other), None, "{other}");
        }
        let binary = Message::binary(r#"{"action":"join"}"#);
        assert_eq!(actions.place(&binary), None);
        assert_eq!(self::actions("/action", &[]).place(&Message::text("{}")), None);
    }

    #[test]
    fn a_pointer_goes_through_objects_and_arrays() {
        let deep = actions("/a~1b/1/~0", &["x"]);
        assert_eq!(place(&deep, r#"{"a/b":[{"~":"y"},{"~":"x"},3]}"#), Some("x"));
        assert_eq!(place(&deep, r#"{"a/b":[{"~":"x"}]}"#), None);
        let first = actions("/0", &["x"]);
        assert_eq!(place(&first, r#"["x",[1,2]]"#), Some("x"));
        assert_eq!(place(&first, r#"{"0":"x"}"#), Some("x"));
        assert_eq!(place(&first, "[]"), None);
        let whole = actions("", &["x"]);
        assert_eq!(place(&whole, r#""x""#), Some("x"));
        assert_eq!(place(&whole, r#"{"x":"x"}"#), None);
    }

    #[test]
    fn what_is_deep_is_read_without_a_deep_stack() {
        let actions = actions("/action", &["x"]);
        let (open, close) = ("[".repeat(30_000), "]".repeat(30_000));
        let text = format!(r#"{{"data":{open}{close},"action":"x"}}"#);
        assert_eq!(place(&actions, &text), Some("x"));
        let deep = "{\"action\":".repeat(30_000);
        assert_eq!(place(&actions, &deep), None);
    }

    proptest::proptest! {
        #[test]
        fn what_a_json_library_finds_is_found(
            text in r#"[\[\]{}",:0-1ax]{0,40}"#,
            pointer in "(/[a01]?){0,3}",
        ) {
            let actions = actions(&pointer, &["a", "x", ""]);
            let value: Option<serde_json::Value> = serde_json::from_str(&text).ok();
            let found = value.as_ref().and_then(|value| value.pointer(&pointer)).and_then(|v| v.as_str());
            let known = found.filter(|found| ["a", "x", ""].contains(found));
            proptest::prop_assert_eq!(place(&actions, &text), known);
        }
    }
}
