//! TOML 1.1 to the tree.

use toml::de::{DeTable, DeValue};

use super::{Key, Node, Place, SyntaxError, Value};

/// Reads a document.
pub(in crate::config) fn read(text: &str) -> Result<Node, SyntaxError> {
    match DeTable::parse(text) {
        Ok(table) => Ok(Node { place: Place::START, value: section(table.get_ref(), text) }),
        Err(error) => {
            let (line, column) = line_column(text, error.span().map_or(0, |span| span.start));
            let problem = error.message().lines().collect::<Vec<_>>().join("; ");
            Err(SyntaxError { line, column, problem })
        }
    }
}

fn section(table: &DeTable<'_>, source: &str) -> Value {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    Value::Section(
        entries
            .into_iter()
            .map(|(key, value)| {
                let place = place(source, key.span().start);
                let key = Key { name: key.get_ref().to_string(), place };
                (key, node(value.get_ref(), value.span().start, source))
            })
            .collect(),
    )
}

fn node(value: &DeValue<'_>, start: usize, source: &str) -> Node {
    let value = match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => Value::Text(
            i128::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| number.as_str().to_owned(), |number| number.to_string()),
        ),
        DeValue::Float(number) => Value::Text(number.as_str().to_owned()),
        DeValue::Boolean(value) => Value::Text(value.to_string()),
        DeValue::Datetime(time) => Value::Text(time.to_string()),
        DeValue::Array(items) => Value::List(
            items.iter().map(|item| node(item.get_ref(), item.span().start, source)).collect(),
        ),
        DeValue::Table(table) => section(table, source),
    };
    Node { place: place(source, start), value }
}

fn place(source: &str, offset: usize) -> Place {
    let (line, column) = line_column(source, offset);
    Place::At { line, column }
}

fn line_column(source: &str, offset: usize) -> (u32, u32) {
    let before = source.get(..offset).unwrap_or(source);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    (count(line), count(column))
}
