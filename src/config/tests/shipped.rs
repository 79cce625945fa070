//! The files in `config/`: they list every key, their defaults are the built-in ones, their examples
//! are valid.

use std::{collections::BTreeSet, fs, path::PathBuf};

use serde_json::Value as Json;

use super::super::{
    Bridge, Heartbeat, Nats, Plan, Route, Upstream, schema,
    source::{Node, Value, read_yaml},
};
use super::*;

const REFERENCE: &str = include_str!("../../../config/moorline.yaml");

/// The reference with its `#key` examples in use, and of the `#or key` ones that which begins so.
fn with_examples(or: Option<&str>) -> String {
    let mut text = String::new();
    for line in REFERENCE.lines() {
        let (indent, rest) = line.split_at(line.len() - line.trim_start().len());
        let example = match rest.strip_prefix('#') {
            None => Some(rest),
            Some("") => None,
            Some(rest) if rest.starts_with(' ') => None,
            Some(rest) => match rest.strip_prefix("or ") {
                Some(rest) => or.filter(|or| rest.starts_with(or)).map(|_| rest),
                None if or.is_some() && replaced(rest) => None,
                None => Some(rest),
            },
        };
        if let Some(example) = example {
            text.extend([indent, example, "\n"]);
        }
    }
    text
}

/// Whether an `#or` example stands in place of this one.
fn replaced(example: &str) -> bool {
    example.starts_with("user: moorline") || example.starts_with("password:")
}

#[test]
fn what_is_not_commented_out_is_the_default() {
    let tree = read_yaml(REFERENCE).unwrap();
    let read: Config = serde::Deserialize::deserialize(super::super::reader::Reader::new(&tree))
        .unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(read, Config::default());
    // Each default that is not a list or an absent thing is written out.
    for section in ["listeners", "heartbeat", "limits", "shutdown", "log"] {
        let written = tree.key(section).map(keys).unwrap_or_default();
        let defaults = serde_json::to_value(Config::default()).unwrap();
        for (key, value) in defaults[section].as_object().unwrap() {
            assert_eq!(written.contains(key), !value.is_null(), "{section}.{key}");
        }
    }
}

#[test]
fn every_example_is_valid() {
    let text = with_examples(None);
    let config = yaml(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(config.routes.len(), 4);
    assert_eq!(yaml(&config.to_yaml()).as_ref(), Ok(&config));
    let alternatives: Vec<_> = REFERENCE
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("#or ")?.split(':').next())
        .collect();
    assert_eq!(alternatives, ["token", "credentials", "nkey"]);
    for or in alternatives {
        let text = with_examples(Some(or));
        let config = yaml(&text).unwrap_or_else(|error| panic!("{or}: {error}"));
        let nats = config.nats.unwrap();
        assert!(nats.user.is_none() && nats.password.is_none(), "{or}");
        assert_eq!(
            [nats.token.is_some(), nats.credentials.is_some(), nats.nkey.is_some()],
            ["token", "credentials", "nkey"].map(|way| way == or)
        );
    }
}

#[test]
fn examples_of_what_has_a_default_show_it() {
    let config = yaml(&with_examples(None)).unwrap();
    let nats = config.nats.unwrap();
    let shown = Nats { user: None, password: None, tls: None, ..nats };
    assert_eq!(shown, Nats::default());

    let jwt = config.jwt.unwrap();
    let least = "location: /jwks.json";
    let small = yaml(&format!("{SMALL}jwt: {{jwks: {{{least}}}}}")).unwrap().jwt.unwrap();
    let (shown, default) = (jwt.jwks.clone().unwrap(), small.jwks.clone().unwrap());
    assert_eq!(
        crate::config::Jwks { location: default.location.clone(), ca: None, ..shown },
        default
    );
    assert_eq!((jwt.leeway, &jwt.claims), (small.leeway, &small.claims));
    assert_eq!(jwt.sources.header, small.sources.header);
    assert_eq!(jwt.sources.subprotocol, small.sources.subprotocol);

    let upstream = config.upstream.unwrap();
    assert_eq!(Upstream { ca: None, ..upstream.clone() }, Upstream::new(upstream.url));

    assert_eq!(config.plans.get("default"), Some(&Plan::default()));

    let bridge = config.bridge.unwrap();
    assert_eq!(bridge, Bridge::new(bridge.backend.clone()));

    let default = yaml(&format!(
        "listeners: {{plain: {{address: '127.0.0.1:0'}}}}\nnats: {{prefix: a}}\n\
         jwt: {{jwks: {{{least}}}}}\nroutes: [{{path: '/ws/{{room}}', auth: jwt}}]"
    ))
    .unwrap()
    .routes
    .remove(0);
    let shown = config.routes[0].clone();
    assert_eq!(shown.heartbeat, Some(Heartbeat::default()));
    let shown = Route {
        name: None,
        origins: Vec::new(),
        subprotocols: Vec::new(),
        forward_headers: None,
        actions: crate::config::Actions { names: Vec::new(), ..shown.actions },
        groups: Vec::new(),
        heartbeat: None,
        ..shown
    };
    assert_eq!(shown, default);
}

#[test]
fn every_key_of_the_schema_is_in_the_reference() {
    let schema = schema();
    let mut text = with_examples(None);
    for line in REFERENCE.lines().filter(|line| line.trim_start().starts_with("#or ")) {
        // After the line of the key they replace, so that they are in the same section.
        let example = line.trim_start().trim_start_matches("#or ");
        text = text.replacen("  user: moorline\n", &format!("  user: moorline\n  {example}\n"), 1);
    }
    let tree = read_yaml(&text).unwrap_or_else(|error| panic!("{error:?}"));
    let (mut known, mut seen) = (BTreeSet::new(), BTreeSet::new());
    walk(&schema, &schema, "Config", Some(&tree), &mut known, &mut seen);
    let missing: Vec<_> = known.difference(&seen).collect();
    assert!(missing.is_empty(), "config/moorline.yaml does not show {missing:?}");
    assert!(known.len() > 60, "{}", known.len());
}

#[test]
fn the_schema_file_is_the_schema() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/moorline.schema.json");
    let now = format!("{:#}\n", schema());
    if std::env::var_os("MOORLINE_BLESS").is_some() {
        fs::write(&path, &now).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == now,
        "config/moorline.schema.json is not the schema of the config any more; write it again with \
         `MOORLINE_BLESS=1 cargo test --lib the_schema_file_is_the_schema`"
    );
}

/// Collects the (type, key) pairs that the schema knows, and those that the tree shows.
fn walk(
    schema: &Json,
    at: &Json,
    name: &str,
    node: Option<&Node>,
    known: &mut BTreeSet<(String, String)>,
    seen: &mut BTreeSet<(String, String)>,
) {
    if let Some(reference) = at["$ref"].as_str() {
        let target = schema.pointer(reference.trim_start_matches('#')).unwrap();
        let name = reference.rsplit('/').next().unwrap_or_default();
        return walk(schema, target, name, node, known, seen);
    }
    for choice in ["anyOf", "oneOf"] {
        for at in at[choice].as_array().into_iter().flatten() {
            walk(schema, at, name, node, known, seen);
        }
    }
    if let Some(Value::List(items)) = node.map(|node| &node.value) {
        for item in items {
            walk(schema, &at["items"], name, Some(item), known, seen);
        }
    }
    if let Some(Value::Section(entries)) = node.map(|node| &node.value) {
        for (_, entry) in entries.iter().filter(|_| at["additionalProperties"].is_object()) {
            walk(schema, &at["additionalProperties"], name, Some(entry), known, seen);
        }
    }
    for (key, at) in at["properties"].as_object().into_iter().flatten() {
        known.insert((name.to_owned(), key.clone()));
        let below = node.and_then(|node| node.key(key));
        if below.is_some() {
            seen.insert((name.to_owned(), key.clone()));
        }
        if below.is_some() || at.get("$ref").is_none() {
            walk(schema, at, name, below, known, seen);
        }
    }
}

fn keys(node: &Node) -> Vec<String> {
    match &node.value {
        Value::Section(entries) => entries.iter().map(|(key, _)| key.name.clone()).collect(),
        _ => Vec::new(),
    }
}
