//! Environment variables over the file: `MOORLINE_<SECTION>__<KEY>`, two underscores between levels,
//! list items by index, values as in YAML: `MOORLINE_ROUTES__0__ORIGINS='[https://example.com]'`.
//!
//! A variable can only change the tree; whether its key exists and its value fits is found by the
//! same reader as for the file, which then names the variable.

use std::{ffi::OsString, sync::Arc};

use super::{
    error::{ConfigError, Problem},
    source::{Key, Node, Place, Value, read_yaml},
};

/// This process's environment, as `Config::load` takes it. What is not Unicode is kept with
/// replacement characters, so that a variable of ours is refused and not passed over.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    let text = |text: OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (text(name), text(value)))
}

/// Puts the variables over the tree, outer keys before inner ones and items in order.
pub(super) fn apply(
    root: &mut Node,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<(), ConfigError> {
    let mut variables = Vec::new();
    for (name, value) in environment {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        if rest.contains("__") {
            let steps = steps(&name, rest)?;
            variables.push((steps, name, value));
        } else if SECTIONS.contains(&rest.to_lowercase().as_str()) {
            let key = rest.to_lowercase();
            let message = format!(
                "sets a whole section; set one key of it, as {PREFIX}{rest}__<KEY>, two underscores \
                 between levels"
            );
            return Err(refusal(&name, &key, &message));
        }
    }
    variables.sort();
    for (steps, name, value) in variables {
        set(root, &steps, &name, &value)?;
    }
    Ok(())
}

/// One level of a key's path. Indexes come in the order of their numbers.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Item(usize),
    Key(String),
}

fn steps(name: &str, rest: &str) -> Result<Vec<Step>, ConfigError> {
    let steps: Vec<_> = rest.split("__").map(str::to_lowercase).collect();
    if steps.iter().any(|step| step.is_empty() || step.starts_with('_')) {
        let message =
            "expected MOORLINE_<SECTION>__<KEY>, with exactly two underscores between levels";
        return Err(refusal(name, "", message));
    }
    Ok(steps
        .into_iter()
        .map(|step| match step.parse() {
            Ok(index) => Step::Item(index),
            Err(_) => Step::Key(step),
        })
        .collect())
}

fn set(root: &mut Node, steps: &[Step], name: &str, value: &str) -> Result<(), ConfigError> {
    let place = Place::Variable(Arc::from(name));
    let mut node = root;
    let mut path = String::new();
    for step in steps {
        node = match step {
            Step::Item(index) => {
                let item = item(node, *index, &place);
                item.map_err(|message| refusal(name, &path, &message))?
            }
            Step::Key(key) => {
                key_of(node, key, &place).map_err(|message| refusal(name, &path, message))?
            }
        };
        match step {
            Step::Item(index) => path.push_str(&format!("[{index}]")),
            Step::Key(key) if path.is_empty() => path.push_str(key),
            Step::Key(key) => path.push_str(&format!(".{key}")),
        }
    }
    *node = written(value, &place);
    Ok(())
}

fn key_of<'a>(node: &'a mut Node, name: &str, place: &Place) -> Result<&'a mut Node, &'static str> {
    if node.value == Value::Nothing {
        *node = Node { place: place.clone(), value: Value::Section(Vec::new()) };
    }
    let entries = match &mut node.value {
        Value::Section(entries) => entries,
        Value::List(_) => return Err("is a list here; name an item by its index, from 0"),
        _ => return Err("has a plain value here, and no keys below it"),
    };
    let index = entries.iter().position(|(key, _)| key.name == name).unwrap_or(entries.len());
    if index == entries.len() {
        let key = Key { name: name.to_owned(), place: place.clone() };
        entries.push((key, Node { place: place.clone(), value: Value::Nothing }));
    }
    entries.get_mut(index).map(|(_, node)| node).ok_or("has no such key")
}

fn item<'a>(node: &'a mut Node, index: usize, place: &Place) -> Result<&'a mut Node, String> {
    if node.value == Value::Nothing {
        *node = Node { place: place.clone(), value: Value::List(Vec::new()) };
    }
    let Value::List(items) = &mut node.value else {
        return Err(format!("is no list, so it has no item {index}"));
    };
    let count = items.len();
    if index == count {
        items.push(Node { place: place.clone(), value: Value::Nothing });
    }
    items.get_mut(index).ok_or_else(|| {
        format!("item {index} would leave a gap: the list has {count}, counted from 0")
    })
}

/// The value as YAML. What is no YAML, or is a section only because a list would be its key, is the
/// text itself: nobody quotes `[::]:8443` in a variable.
fn written(value: &str, place: &Place) -> Node {
    let mut node = read_yaml(value)
        .unwrap_or_else(|_| Node { place: Place::START, value: Value::Text(value.to_owned()) });
    if value.starts_with('[') && matches!(node.value, Value::Section(_)) {
        node.value = Value::Text(value.to_owned());
    }
    place_all(&mut node, place);
    node
}

fn place_all(node: &mut Node, place: &Place) {
    node.place = place.clone();
    match &mut node.value {
        Value::Nothing | Value::Text(_) => {}
        Value::List(items) => items.iter_mut().for_each(|item| place_all(item, place)),
        Value::Section(entries) => {
            for (key, node) in entries {
                key.place = place.clone();
                place_all(node, place);
            }
        }
    }
}

fn refusal(name: &str, path: &str, message: &str) -> ConfigError {
    ConfigError::Variable { name: name.into(), problem: Problem::new(path, message) }
}

const PREFIX: &str = "MOORLINE_";

/// The sections whose names alone are a mistake. `log` is not among them: `MOORLINE_LOG` is the
/// level for one run, as `RUST_LOG` is elsewhere.
const SECTIONS: [&str; 9] =
    ["listeners", "nats", "jwt", "upstream", "routes", "bridge", "heartbeat", "limits", "shutdown"];
