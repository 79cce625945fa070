//! Where a secret comes from: a file, or the environment. A secret itself never stands in the config,
//! so a printed config gives nothing away.

use std::{fs, io, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A path to a file that holds the secret, or `env:NAME` for an environment variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "String", into = "String")]
#[schemars(with = "String")]
pub enum SecretSource {
    /// A file; white space at the end of its text is not part of the secret.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
}

impl SecretSource {
    /// Reads the secret's bytes.
    ///
    /// # Errors
    /// When the file cannot be read, or the variable is not set; the error names which.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let bytes = match self {
            Self::File(path) => fs::read(path)
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?,
            Self::Environment(name) => std::env::var(name)
                .map_err(|e| io::Error::new(io::ErrorKind::NotFound, format!("env:{name}: {e}")))?
                .into_bytes(),
        };
        Ok(bytes.trim_ascii_end().to_vec())
    }
}

impl From<String> for SecretSource {
    fn from(text: String) -> Self {
        match text.strip_prefix("env:") {
            Some(name) => Self::Environment(name.to_owned()),
            None => Self::File(text.into()),
        }
    }
}

impl From<SecretSource> for String {
    fn from(source: SecretSource) -> Self {
        match source {
            SecretSource::File(path) => path.to_string_lossy().into_owned(),
            SecretSource::Environment(name) => format!("env:{name}"),
        }
    }
}
