//! From a file and the environment to a checked config.
//!
//! The order is fixed: the file is read into a tree, variables change the tree, the tree becomes the
//! typed config, and the config's rules are checked. The first mistake ends it.

use std::{fs::File, io::Read, path::Path};

use serde::Deserialize;

use super::{
    Config, environment,
    error::{ConfigError, Position, Problem, excerpt},
    reader::Reader,
    source::{Node, Place, SyntaxError, read_toml, read_yaml},
};

/// The language of a config's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// YAML 1.2: `.yaml`, `.yml`.
    Yaml,
    /// TOML 1.1: `.toml`.
    Toml,
}

impl Format {
    /// The language by the file's extension.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "yaml" | "yml" => Some(Self::Yaml),
            "toml" => Some(Self::Toml),
            _ => None,
        }
    }
}

impl Config {
    /// Reads the file at `path`, puts the `environment` over it, and checks the whole.
    ///
    /// # Errors
    /// The first mistake, with the file and line or the variable it is in.
    pub fn load(
        path: &Path,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let refuse = |problem: String| ConfigError::File {
            file: name.as_str().into(),
            problem: problem.into(),
        };
        let format = Format::of(path).ok_or_else(|| {
            refuse("expected a file that ends in .yaml, .yml or .toml".to_owned())
        })?;
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes))
            .map_err(|error| refuse(format!("cannot be read: {error}")))?;
        if bytes.len() as u64 > FILE_MAX {
            return Err(refuse("larger than 1MiB, which no config is".to_owned()));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            refuse(format!("not UTF-8 text: byte {}", error.utf8_error().valid_up_to() + 1))
        })?;
        Self::parse(&text, format, &name, environment)
    }

    /// Reads `text`, puts the `environment` over it, and checks the whole. `origin` is the name that
    /// errors give the text.
    ///
    /// # Errors
    /// The first mistake, with the line or the variable it is in.
    pub fn parse(
        text: &str,
        format: Format,
        origin: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let source = Source { text, origin };
        let mut tree = match format {
            Format::Yaml => read_yaml(text),
            Format::Toml => read_toml(text),
        }
        .map_err(|error| source.syntax(error))?;
        environment::apply(&mut tree, environment)?;
        let config = Self::deserialize(Reader::new(&tree)).map_err(|fault| {
            let (problem, place) = fault.into_problem();
            source.value(problem, &place)
        })?;
        match config.validate().into_iter().next() {
            None => Ok(config),
            Some(problem) => Err(source.refusal(problem, &tree)),
        }
    }

    /// The config as YAML, for `--print-config`. Reading it gives the same config again.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        // Only a path that is not UTF-8 fails, and no path from a config or a command line is.
        serde_saphyr::to_string(self).unwrap_or_else(|error| format!("# {error}\n"))
    }
}

/// The text and its name, to tell where a mistake is.
struct Source<'a> {
    text: &'a str,
    origin: &'a str,
}

impl Source<'_> {
    fn syntax(&self, error: SyntaxError) -> ConfigError {
        ConfigError::Syntax {
            at: self.position(error.line, error.column),
            problem: error.problem.into(),
            excerpt: excerpt(self.text, error.line, error.column),
        }
    }

    fn refusal(&self, problem: Problem, tree: &Node) -> ConfigError {
        let place = tree.locate(&problem.path);
        self.value(problem, place)
    }

    fn value(&self, problem: Problem, place: &Place) -> ConfigError {
        match place {
            Place::Variable(name) => ConfigError::Variable { name: name.as_ref().into(), problem },
            Place::At { line, column } => ConfigError::Value {
                at: self.position(*line, *column),
                problem,
                excerpt: excerpt(self.text, *line, *column),
            },
        }
    }

    fn position(&self, line: u32, column: u32) -> Position {
        Position { file: self.origin.into(), line, column }
    }
}

/// A config of ten thousand routes is below this; what is larger was named by mistake.
const FILE_MAX: u64 = 1 << 20;
