//! The text of a config as a tree that remembers where each key and value stands.
//!
//! YAML, TOML and environment variables become the same tree, so every mistake is found and told in
//! one way. A scalar stays the text it was written as: what it means is decided by the type that
//! reads it, and `kid: 007` keeps its zeros.

mod yaml;
mod toml;

use std::sync::Arc;

pub(super) use self::{toml::read as read_toml, yaml::read as read_yaml};

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// A key with nothing written behind it, or `null`.
    Nothing,
    /// A scalar as it was written.
    Text(String),
    /// Items in order.
    List(Vec<Node>),
    /// Keys in the order they were written, each once.
    Section(Vec<(Key, Node)>),
}

/// A key and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) place: Place,
}

/// Where a key or a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The file, counted from 1.
    At { line: u32, column: u32 },
    /// The environment variable of this name.
    Variable(Arc<str>),
}

/// What is wrong with a text that is not YAML or TOML, and where.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SyntaxError {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) problem: String,
}

impl Place {
    /// The first character of a file.
    pub(super) const START: Self = Self::At { line: 1, column: 1 };
}

impl Node {
    /// The node under a key of a section.
    pub(super) fn key(&self, name: &str) -> Option<&Self> {
        match &self.value {
            Value::Section(entries) => {
                entries.iter().find(|(key, _)| key.name == name).map(|(_, node)| node)
            }
            _ => None,
        }
    }

    /// The item of a list.
    pub(super) fn item(&self, index: usize) -> Option<&Self> {
        match &self.value {
            Value::List(items) => items.get(index),
            _ => None,
        }
    }

    /// Where the value at `path` (`routes[1].origins[0]`) stands. What is not written, as a default
    /// or a missing key, stands where the nearest thing around it does.
    pub(super) fn locate(&self, path: &str) -> &Place {
        let mut node = self;
        for step in path.split(['.', '[']).filter(|step| !step.is_empty()) {
            let next = match step.strip_suffix(']') {
                Some(index) => index.parse().ok().and_then(|index| node.item(index)),
                None => node.key(step),
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        &node.place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: u32, column: u32) -> Place {
        Place::At { line, column }
    }

    #[test]
    fn a_path_is_found_in_yaml() {
        let tree = read_yaml("a:\n  - b: [x, y]\n    c: &anchor 5\n  - d: *anchor\n").unwrap();
        assert_eq!(tree.locate("a[0].b[1]"), &at(2, 12));
        assert_eq!(tree.locate("a[0].c"), &at(3, 16));
        assert_eq!(tree.locate("a[0].missing.deep"), &at(2, 5));
        assert_eq!(tree.locate("a[1].d"), &at(4, 8));
        assert_eq!(tree.locate("a[7]"), &at(2, 3));
        assert_eq!(tree.locate("nothing"), &at(1, 1));
    }

    #[test]
    fn a_path_is_found_in_toml() {
        let tree = read_toml("'ü' = 'é'\n[[a]]\nb = ['é', 1_0]\n[[a]]\nd.e = 0x10\n").unwrap();
        assert_eq!(tree.locate("a[0].b[1]"), &at(3, 11));
        assert_eq!(tree.locate("a[1].d.e"), &at(5, 7));
        let text = |node: Option<&Node>| node.map(|node| node.value.clone());
        let d = tree.key("a").and_then(|a| a.item(1)).and_then(|a| a.key("d"));
        assert_eq!(text(d.and_then(|d| d.key("e"))), Some(Value::Text("16".to_owned())));
    }

    #[test]
    fn a_scalar_keeps_its_text() {
        let tree = read_yaml("a: 007\nb: 1.20\nc: True\nd: ~\ne: '5'\nf: !!str 1_0\ng:\nh: .inf\n")
            .unwrap();
        let text = |key| tree.key(key).map(|node| node.value.clone());
        for (key, written) in
            [("a", "007"), ("b", "1.20"), ("c", "True"), ("e", "5"), ("f", "1_0"), ("h", ".inf")]
        {
            assert_eq!(text(key), Some(Value::Text(written.to_owned())), "{key}");
        }
        assert_eq!((text("d"), text("g")), (Some(Value::Nothing), Some(Value::Nothing)));
    }
}
