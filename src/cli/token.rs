//! `moorline token`: a JSON Web Token for trying things out.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Map, Value};

use crate::auth::Minter;
use crate::config::{Config, Period, process_environment};

use super::{dev, print};

/// Make a token that a node accepts, signed with its HMAC secret.
///
/// Without `-c` it is for `moorline dev`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  moorline token --user alice\n  moorline token -c moorline.yaml \
    --user alice --ttl 10m --claim role=admin"
)]
pub(super) struct Mint {
    /// The config whose `jwt` section the token is for
    #[arg(short, long, value_name = "FILE", env = "MOORLINE_CONFIG")]
    config: Option<PathBuf>,
    /// The user
    #[arg(short, long, default_value = "dev")]
    user: String,
    /// How long it is good
    #[arg(long, default_value = "1h", value_name = "TIME")]
    ttl: Period,
    /// Another claim, as `name=value`; a value that is JSON is taken as such
    #[arg(long = "claim", value_name = "NAME=VALUE")]
    claims: Vec<String>,
}

impl Mint {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let config = match &self.config {
            Some(path) => Config::load(path, process_environment())?,
            None => dev::config(None, None)?,
        };
        let mut claims = Map::new();
        for claim in &self.claims {
            let (name, value) = claim.split_once('=').context("a claim is NAME=VALUE")?;
            let value =
                serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
            claims.insert(name.to_owned(), value);
        }
        print(&format!("{}\n", mint(&config, &self.user, self.ttl, claims)?))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A token for `user` that `config` accepts.
pub(super) fn mint(
    config: &Config,
    user: &str,
    ttl: Period,
    claims: Map<String, Value>,
) -> anyhow::Result<String> {
    let Some(jwt) = &config.jwt else { bail!("the config has no jwt section") };
    let Some(minter) = Minter::new(jwt)? else {
        bail!("jwt.keys has no HMAC secret to sign with: tokens must come from your issuer")
    };
    Ok(minter.mint(user, ttl.get(), claims)?)
}
