//! What two configs differ in, key by key, and which keys a running node cannot change.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::config::Config;

/// The keys that a reload changes, with all below them. Every other key needs a restart, also one that
/// is new here: what is made of it at the start lives as long as the node.
const CHANGEABLE: [&str; 17] = [
    "listeners.public.tls",
    "listeners.public.proxy_protocol",
    "listeners.public.forwarded",
    "listeners.plain.proxy_protocol",
    "listeners.plain.forwarded",
    "listeners.management.tls",
    "listeners.management.key_files",
    "listeners.management.max_body",
    "jwt",
    "upstream",
    "routes",
    "plans",
    "heartbeat",
    "limits",
    "shutdown",
    "log.level",
    // A node does not look at it.
    "bridge",
];

/// The path of the first key that differs and needs a restart.
pub(super) fn first_fixed(old: &Config, new: &Config) -> Option<String> {
    fixed("", &tree(old), &tree(new))
}

/// The sections that differ.
pub(super) fn sections(old: &Config, new: &Config) -> Vec<String> {
    let (old, new) = (tree(old), tree(new));
    keys(&old, &new).into_iter().filter(|key| at(&old, key) != at(&new, key)).collect()
}

fn fixed(path: &str, old: &Value, new: &Value) -> Option<String> {
    if old == new || CHANGEABLE.contains(&path) {
        return None;
    }
    if !(old.is_object() && new.is_object()) {
        return Some(path.to_owned());
    }
    keys(old, new).into_iter().find_map(|key| {
        let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        fixed(&below, at(old, &key), at(new, &key))
    })
}

/// What is under a key; nothing where there is none.
fn at<'a>(tree: &'a Value, key: &str) -> &'a Value {
    tree.get(key).unwrap_or(&Value::Null)
}

/// The keys of either.
fn keys(old: &Value, new: &Value) -> BTreeSet<String> {
    let sections = [old, new].into_iter().filter_map(Value::as_object);
    sections.flat_map(|section| section.keys().cloned()).collect()
}

/// A config serializes without a failure, as `Config::to_yaml` has it too; were it not so, every
/// difference would need a restart.
fn tree(config: &Config) -> Value {
    serde_json::to_value(config).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Format;

    const BASE: &str = "listeners:\n  public: {address: '0.0.0.0:1', tls: {certificate: c, key: k}}\n\
        \x20 admin: {address: '0.0.0.0:2'}\nnats: {servers: ['nats://a:4222']}\n\
        routes:\n- {path: /ws, auth: none}\n";

    fn config(text: &str) -> Config {
        Config::parse(text, Format::Yaml, "test", std::iter::empty()).unwrap()
    }

    #[test]
    fn a_key_that_needs_a_restart_is_named() {
        let base = config(BASE);
        assert_eq!(first_fixed(&base, &base), None);
        let more = |text: &str| format!("{BASE}{text}");
        for (text, key) in [
            (BASE.replace("0:1", "0:3"), Some("listeners.public.address")),
            (BASE.replace("0.0.0.0:2", "0.0.0.0:4"), Some("listeners.admin.address")),
            (BASE.replace("admin", "plain"), Some("listeners.admin")),
            (BASE.replace("  admin", "  console: true\n  admin"), Some("listeners.console")),
            (BASE.replace("//a:", "//b:"), Some("nats.servers")),
            (BASE.replace("['nats", "['nats://c:4222', 'nats"), Some("nats.servers")),
            (more("log: {format: human}"), Some("log.format")),
            (more("log: {level: debug}"), None),
            (more("upstream: 'http://a:1'"), None),
            (more("limits: {max_connections: 7}\nheartbeat: {ping_interval: 9s}"), None),
            (more("shutdown: {drain: 9s}\njwt: {jwks: {location: k}}"), None),
            (BASE.replace("key: k", "key: other, client_ca: ca"), None),
            (BASE.replace("/ws", "/other"), None),
        ] {
            assert_eq!(first_fixed(&base, &config(&text)).as_deref(), key, "{text}");
        }
    }

    #[test]
    fn of_the_backends_door_only_the_address_needs_a_restart() {
        let door = |keys: &str| {
            let door = format!("  management: {{address: '127.0.0.1:3', {keys}}}\n");
            config(&BASE.replacen("nats:", &format!("{door}nats:"), 1))
        };
        let base = door("key_files: [a]");
        for keys in [
            "key_files: [b, c]",
            "key_files: [a], max_body: 2KiB",
            "tls: {certificate: c, key: k, client_ca: ca}",
        ] {
            assert_eq!(first_fixed(&base, &door(keys)), None, "{keys}");
        }
        let other = config(&base.to_yaml().replace("127.0.0.1:3", "127.0.0.1:4"));
        let address = Some("listeners.management.address");
        assert_eq!(first_fixed(&base, &other).as_deref(), address);
        let none = Some("listeners.management");
        assert_eq!(first_fixed(&base, &config(BASE)).as_deref(), none);
    }

    #[test]
    fn the_sections_that_differ_are_told() {
        let other = BASE.replace("/ws", "/other") + "limits: {max_connections: 7}";
        assert_eq!(sections(&config(BASE), &config(&other)), ["limits", "routes"]);
        assert!(sections(&config(BASE), &config(BASE)).is_empty());
    }
}
