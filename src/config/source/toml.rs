//! TOML 1.1 to the tree.

use toml::de::{DeTable, DeValue};

use super::{Key, Node, Place, SyntaxError, Value};

/// Reads a document.
pub(in crate::config) fn read(text: &str) -> Result<Node, SyntaxError> {
    let places = Places::of(text);
    match DeTable::parse(text) {
        Ok(table) => Ok(Node { place: Place::START, value: section(table.get_ref(), &places) }),
        Err(error) => {
            let (line, column) = places.line_column(error.span().map_or(0, |span| span.start));
            let problem = error.message().lines().collect::<Vec<_>>().join("; ");
            Err(SyntaxError { line, column, problem })
        }
    }
}

fn section(table: &DeTable<'_>, places: &Places) -> Value {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    Value::Section(
        entries
            .into_iter()
            .map(|(key, value)| {
                let place = places.at(key.span().start);
                let key = Key { name: key.get_ref().to_string(), place };
                (key, node(value.get_ref(), value.span().start, places))
            })
            .collect(),
    )
}

fn node(value: &DeValue<'_>, start: usize, places: &Places) -> Node {
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
            items.iter().map(|item| node(item.get_ref(), item.span().start, places)).collect(),
        ),
        DeValue::Table(table) => section(table, places),
    };
    Node { place: places.at(start), value }
}

/// Byte offsets to lines and columns. Counted once: counting anew for each node would take time in
/// the square of a long file.
struct Places {
    /// Where each line starts.
    lines: Vec<usize>,
    /// The characters before each byte.
    characters: Vec<usize>,
}

impl Places {
    fn of(text: &str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1));
        let mut count = 0;
        let characters = (0..=text.len()).map(|at| {
            let before = count;
            count += usize::from(text.is_char_boundary(at));
            before
        });
        Self { lines: lines.collect(), characters: characters.collect() }
    }

    fn at(&self, offset: usize) -> Place {
        let (line, column) = self.line_column(offset);
        Place::At { line, column }
    }

    fn line_column(&self, offset: usize) -> (u32, u32) {
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let before = |at: usize| self.characters.get(at).copied().unwrap_or_default();
        let column = before(offset).saturating_sub(before(start)) + 1;
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        (count(line), count(column))
    }
}
