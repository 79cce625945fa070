//! The config as its users meet it: mistakes and their messages, and the files in `config/`.

mod messages;
mod variables;
mod rules;
mod services;
mod shipped;
mod mutations;

use super::{Config, ConfigError, Format};

/// The smallest config that can be served.
const SMALL: &str = "listeners: {plain: {address: '127.0.0.1:0'}}\n\
                     routes: [{path: /ws, auth: none, backend: {echo: true}}]\n";

fn yaml(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Format::Yaml, "moorline.yaml", std::iter::empty())
}

fn with_variables(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::parse(text, Format::Yaml, "moorline.yaml", variables)
}
