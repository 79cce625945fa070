//! `moorline publish`: a message to clients, by a node's management API.

use std::io::Read;
use std::process::ExitCode;

use anyhow::Context;
use clap::{ArgGroup, Args};
use http::Method;
use serde::Deserialize;

use crate::config::Period;
use crate::message::OCTET_STREAM;

use super::management::{Access, Ask, Whom};
use super::print;

/// Send a message to clients, and print how many connections took it.
///
/// Any node will do: the message reaches connections to all of them.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("whom").required(true).args(["connection", "user", "group", "all"]),
    after_help = "Examples:\n  moorline publish --user alice 'hello'\n  \
    date | moorline publish --hub app --group room-7 --ttl 10s --key-file management.key"
)]
pub(super) struct Publish {
    #[command(flatten)]
    whom: Whom,
    /// The message; without it, standard input is
    message: Option<String>,
    /// Send a binary message
    #[arg(long)]
    binary: bool,
    /// Drop it where it cannot be delivered in this time, 1s to 5m
    #[arg(long, value_name = "TIME")]
    ttl: Option<Period>,
    /// A connection that does not get it; may be repeated
    #[arg(long, value_name = "ID")]
    exclude: Vec<String>,
    #[command(flatten)]
    access: Access,
}

/// The answer.
#[derive(Debug, Deserialize)]
struct Sent {
    deliveries: u64,
    partial: bool,
}

impl Publish {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let mut parameters: Vec<_> = self.exclude.into_iter().map(|id| ("excluded", id)).collect();
        if let Some(ttl) = self.ttl {
            let seconds = ttl.get().as_secs_f64().ceil();
            parameters.push(("messageTtlSeconds", seconds.to_string()));
        }
        let message = match self.message {
            Some(message) => message.into_bytes(),
            None => {
                let mut message = Vec::new();
                let read = std::io::stdin().lock().take(MOST).read_to_end(&mut message);
                read.context("standard input cannot be read")?;
                message
            }
        };
        let content_type = if self.binary { OCTET_STREAM } else { "text/plain" };
        let ask = Ask {
            method: Method::POST,
            path: format!("{}/:send", self.whom.path()),
            parameters,
            body: Some((content_type, message)),
        };
        let answer = self.access.ask(ask).await?;
        let sent: Sent = serde_json::from_slice(answer.body())?;
        let rest = if sent.partial { ", as far as nodes have answered" } else { "" };
        print(&format!("deliveries: {}{rest}\n", sent.deliveries))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// No node takes as much.
const MOST: u64 = (64 << 20) + 1;
