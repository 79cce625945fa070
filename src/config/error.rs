//! Why a config was refused: one line that names the place, the key, what was expected and what was
//! found. Everything here is for the operator to act on.
//!
//! A line of the file that may hold credentials in a URL is never quoted.

use std::fmt;

/// Why a config was refused. `Display` is the one line to print; `excerpt` may follow it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read, or is no config by its name or size.
    #[error("{file}: {problem}")]
    File {
        /// The file as it was named.
        file: Box<str>,
        /// What is wrong with it.
        problem: Box<str>,
    },
    /// The text is not YAML or TOML.
    #[error("{at}: {problem}")]
    Syntax {
        /// Where reading stopped.
        at: Position,
        /// What is wrong there.
        problem: Box<str>,
        /// The line with a caret below.
        excerpt: Option<Box<str>>,
    },
    /// A key or a value in the file is wrong.
    #[error("{at}: {problem}")]
    Value {
        /// Where the key or the value stands.
        at: Position,
        /// The key's path and what is wrong with it.
        problem: Problem,
        /// The line with a caret below.
        excerpt: Option<Box<str>>,
    },
    /// An environment variable sets something wrong.
    #[error("{name}: {problem}")]
    Variable {
        /// The variable's name.
        name: Box<str>,
        /// The path of the key it sets and what is wrong with it.
        problem: Problem,
    },
}

/// What is wrong with one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key's path, as `routes[0].in_flight`; empty for the config as a whole.
    pub path: Box<str>,
    /// What was expected, and what was found.
    pub message: Box<str>,
}

/// A place in the text of a config, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The file as it was named.
    pub file: Box<str>,
    /// The line.
    pub line: u32,
    /// The column in characters.
    pub column: u32,
}

impl ConfigError {
    /// The line of the file with a caret below the place, where there is one to show.
    #[must_use]
    pub fn excerpt(&self) -> Option<&str> {
        match self {
            Self::Syntax { excerpt, .. } | Self::Value { excerpt, .. } => excerpt.as_deref(),
            Self::File { .. } | Self::Variable { .. } => None,
        }
    }
}

impl Problem {
    /// `message` about the key at `path`. Both end up on one line of a terminal, whatever is in them.
    pub(super) fn new(path: &str, message: &str) -> Self {
        let line = |text: &str| text.chars().map(visible).collect::<String>().into();
        Self { path: line(path), message: line(message) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// The line of `text` with a caret below the column, both cut to fit a terminal.
pub(super) fn excerpt(text: &str, line: u32, column: u32) -> Option<Box<str>> {
    let source = text.lines().nth(usize::try_from(line).ok()?.checked_sub(1)?)?;
    let column = usize::try_from(column).ok()?.saturating_sub(1);
    if source.trim().is_empty() || may_hold_credentials(source) || column > EXCERPT_MAX {
        return None;
    }
    let shown: String = source.chars().take(EXCERPT_MAX).map(visible).collect();
    let gutter = " ".repeat(line.to_string().len());
    let blank = " ".repeat(column);
    Some(format!("{line} | {shown}\n{gutter} | {blank}^").into())
}

/// `text` as it is quoted in a message: on one line, cut when long, without URL credentials.
pub(super) fn quoted(text: &str) -> String {
    if may_hold_credentials(text) {
        return "a URL with credentials".to_owned();
    }
    format!("`{}`", shortened(text))
}

/// `text` on one line, cut when long.
pub(super) fn shortened(text: &str) -> String {
    let mut shown: String = text.chars().take(QUOTE_MAX).map(visible).collect();
    if text.chars().nth(QUOTE_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// `` `a` ``, `` `a` or `b` ``, `` `a`, `b` or `c` ``.
pub(super) fn one_of(words: &[&str]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [only] => format!("`{only}`"),
        [first @ .., last] => {
            let first: Vec<_> = first.iter().map(|word| format!("`{word}`")).collect();
            format!("{} or `{last}`", first.join(", "))
        }
    }
}

/// The word of `words` that `word` was most likely meant to be.
pub(super) fn nearest<'a>(word: &str, words: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    if !word.starts_with(char::is_alphabetic) {
        return None;
    }
    words
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&word, known), *known))
        .filter(|(distance, known)| *distance <= (known.len() / 3).max(1))
        .min()
        .map(|(_, known)| known)
}

fn may_hold_credentials(text: &str) -> bool {
    text.split_once("://").is_some_and(|(_, rest)| rest.contains('@'))
}

fn visible(c: char) -> char {
    if c == '\t' {
        ' '
    } else if c.is_control() {
        char::REPLACEMENT_CHARACTER
    } else {
        c
    }
}

const EXCERPT_MAX: usize = 120;
const QUOTE_MAX: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_points_at_the_column() {
        let text = "a: 1\n\tb: [\u{1b}x]\n";
        assert_eq!(excerpt(text, 1, 4).as_deref(), Some("1 | a: 1\n  |    ^"));
        assert_eq!(excerpt(text, 2, 2).as_deref(), Some("2 |  b: [\u{fffd}x]\n  |  ^"));
        assert_eq!(excerpt(text, 3, 1), None);
        assert_eq!(excerpt(text, 0, 0), None);
    }

    #[test]
    fn credentials_in_a_url_are_not_quoted() {
        assert_eq!(excerpt("servers: [nats://me:secret@host]", 1, 11), None);
        assert!(!quoted("nats://me:secret@host").contains("secret"));
    }

    #[test]
    fn a_long_or_odd_value_is_quoted_on_one_line() {
        assert_eq!(quoted("a\nb\0"), "`a\u{fffd}b\u{fffd}`");
        assert_eq!(quoted(&"x".repeat(61)).chars().count(), 63);
    }

    #[test]
    fn a_slip_finds_the_word_that_was_meant() {
        let words = ["auth", "routes", "max_message", "path"];
        assert_eq!(nearest("auht", &words), Some("auth"));
        assert_eq!(nearest("Route", &words), Some("routes"));
        assert_eq!(nearest("max-mesage", &words), Some("max_message"));
        assert_eq!(nearest("colour", &words), None);
    }
}
