//! YAML 1.2 to the tree, with small bounds on depth and aliases: a config needs little of either.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{
    Error, Location, MessageFormatter, NonFiniteFloatPolicy, Options, Spanned,
    UserMessageFormatter, alias_limits, budget, options,
};

use super::{Key, Node, Place, SyntaxError, Value};

/// Reads a document. An empty one is `Nothing`.
pub(in crate::config) fn read(text: &str) -> Result<Node, SyntaxError> {
    // The library takes an empty document for null only where null is one of the choices.
    let read: Result<Option<Spanned<Raw>>, _> = serde_saphyr::from_str_with_options(text, bounds());
    match read {
        Ok(Some(root)) => Ok(node(root, text)),
        Ok(None) => Ok(Node { place: Place::START, value: Value::Nothing }),
        Err(error) => Err(syntax_error(&error)),
    }
}

/// A value as the library reports it.
enum Raw {
    Nothing,
    /// A boolean or a number; its text is in the source.
    Plain(String),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Section(Vec<(Spanned<String>, Spanned<Raw>)>),
}

struct RawVisitor;

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Nothing)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut section = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            section.push(entry);
        }
        Ok(Raw::Section(section))
    }
}

fn node(raw: Spanned<Raw>, source: &str) -> Node {
    let place = place(raw.referenced);
    let value = match raw.value {
        Raw::Nothing => Value::Nothing,
        Raw::Plain(value) => Value::Text(written(raw.defined, source).unwrap_or(value)),
        Raw::Text(text) => Value::Text(text),
        Raw::List(items) => Value::List(items.into_iter().map(|item| node(item, source)).collect()),
        Raw::Section(entries) => Value::Section(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let place = self::place(key.referenced);
                    (Key { name: key.value, place }, node(value, source))
                })
                .collect(),
        ),
    };
    Node { place, value }
}

/// The text of a plain scalar.
fn written(at: Location, source: &str) -> Option<String> {
    let start = usize::try_from(at.span().byte_offset()?).ok()?;
    let end = start.checked_add(usize::try_from(at.span().byte_len()?).ok()?)?;
    source.get(start..end).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn place(at: Location) -> Place {
    let (line, column) = line_column(at);
    Place::At { line, column }
}

fn line_column(at: Location) -> (u32, u32) {
    let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).max(1);
    (count(at.line()), count(at.column()))
}

fn bounds() -> Options {
    options! {
        budget: budget! {
            max_depth: 32,
            max_nodes: 100_000,
            max_events: 400_000,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_merge_keys: 1_000,
        },
        alias_limits: alias_limits! { max_total_replayed_events: 10_000 },
        strict_booleans: true,
        reject_unsupported_tags: true,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        emit_comments: false,
        with_snippet: false,
    }
}

fn syntax_error(error: &Error) -> SyntaxError {
    let (line, column) = line_column(error.location().unwrap_or(Location::UNKNOWN));
    SyntaxError { line, column, problem: problem(error) }
}

/// The library's messages speak to programmers in places; these speak to operators.
fn problem(error: &Error) -> String {
    match error {
        Error::WithSnippet { error, .. } | Error::AliasError { error, .. } => problem(error),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key {} is given twice in this section", crate::config::error::quoted(key))
        }
        Error::DuplicateMappingKey { .. } => "a key is given twice in this section".to_owned(),
        Error::MultipleDocuments { .. } => {
            "a config is one YAML document; a second one starts here".to_owned()
        }
        Error::Budget { .. }
        | Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::RecursiveReferencesRequireWeakTypes { .. } => {
            "nested or repeated too much for a config".to_owned()
        }
        Error::UnknownAnchor { .. } => "this alias has no anchor before it".to_owned(),
        Error::Eof { .. } => "the text ends too early".to_owned(),
        Error::UnsupportedTag { .. }
        | Error::InvalidBinaryBase64 { .. }
        | Error::BinaryNotUtf8 { .. } => "tags (`!name`) are not taken here".to_owned(),
        Error::MergeValueNotMapOrSeqOfMaps { .. } => {
            "`<<` takes a section, or a list of sections, to merge".to_owned()
        }
        Error::NullIntoString { .. }
        | Error::Unexpected { .. }
        | Error::TaggedScalarCannotDeserializeIntoString { .. } => {
            "expected a key before the colon".to_owned()
        }
        other => scanner_problem(&UserMessageFormatter.format_message(other)),
    }
}

/// The scanner's messages name the productions of YAML's grammar. The common ones are told as the
/// slip that leads to them.
fn scanner_problem(message: &str) -> String {
    SLIPS
        .iter()
        .find(|(part, _)| message.contains(part))
        .map_or_else(|| message.escape_debug().to_string(), |(_, slip)| (*slip).to_owned())
}

const SLIPS: [(&str, &str); 10] = [
    ("tabs disallowed", "a tab cannot indent YAML; use spaces"),
    ("mapping values are not allowed", "unexpected `:`; put a text that holds `: ` in quotes"),
    ("illegal placement of ':'", "unexpected `:`; is a bracket before it not closed?"),
    ("expected ',' or '}'", "a `{` is not closed, or a comma is missing"),
    ("expected ',' or ']'", "a `[` is not closed, or a comma is missing"),
    ("expected key", "expected a key; the indentation fits no line above"),
    ("expected '-' indicator", "expected an item (`- `); the indentation is that of a list"),
    ("expected <document start>", "the indentation fits no line above"),
    (
        "unknown escape character",
        "unknown escape after `\\` in double quotes; single quotes have none",
    ),
    ("unexpected character", "unexpected character; put a text that begins with it in quotes"),
];
