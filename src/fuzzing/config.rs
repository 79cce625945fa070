//! Any text as a config.

use std::iter;

use crate::config::{Config, Format};

/// Any text is read or refused: a refusal is one line that begins with the place, and what was read
/// is the same after it was written. The first byte says which language it is.
pub fn config(input: &[u8]) {
    let Some((first, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let format = if first % 2 == 0 { Format::Yaml } else { Format::Toml };
    match Config::parse(text, format, "fuzz", iter::empty()) {
        Ok(config) => {
            assert_eq!(config.validate(), []);
            let written = config.to_yaml();
            let again = Config::parse(&written, Format::Yaml, "fuzz", iter::empty());
            assert_eq!(again.as_ref(), Ok(&config), "{written}");
        }
        Err(error) => {
            let line = error.to_string();
            assert!(line.starts_with("fuzz:"), "{line}");
            assert!(!line.chars().any(char::is_control), "{line:?}");
            assert!(error.excerpt().is_none_or(|excerpt| excerpt.lines().count() == 2));
        }
    }
}
