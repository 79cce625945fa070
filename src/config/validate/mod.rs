//! The rules that types cannot hold: ranges, what excludes or needs what, and how texts are formed.
//!
//! Pure: no file is opened and no name resolved. Each problem names the key by its path and says
//! what to write instead.

mod listeners;
mod jwt;
mod nats;
mod origin;
mod path;
mod plan;
mod backend;
mod route;
mod bridge;
mod node;
mod upstream;

use std::{fmt::Display, time::Duration};

use super::{Config, Period, Problem};
pub(crate) use backend::is_of_body;
pub(crate) use route::is_repeatable;

impl Config {
    /// Whether there is nothing here for a node, only for a bridge.
    #[must_use]
    pub fn is_bridge_only(&self) -> bool {
        self.bridge.is_some() && self.routes.is_empty()
    }

    /// Checks every rule. Empty when the config can be served; problems come in the order of the
    /// sections.
    #[must_use]
    pub fn validate(&self) -> Vec<Problem> {
        let mut findings = Findings::default();
        listeners::check(self, &mut findings);
        if let Some(nats) = &self.nats {
            nats::check(nats, &mut findings);
        }
        if let Some(jwt) = &self.jwt {
            jwt::check(jwt, &mut findings);
        }
        if let Some(upstream) = &self.upstream {
            upstream::check(upstream, &mut findings);
        }
        plan::check(&self.plans, &mut findings);
        route::check(self, &mut findings);
        if let Some(bridge) = &self.bridge {
            bridge::check(self, bridge, &mut findings);
        }
        node::heartbeat(&self.heartbeat, "heartbeat", &mut findings);
        node::limits(&self.limits, &mut findings);
        node::shutdown(&self.shutdown, &mut findings);
        node::log(&self.log, &mut findings);
        findings.0
    }
}

/// The problems found so far.
#[derive(Debug, Default)]
struct Findings(Vec<Problem>);

impl Findings {
    fn refuse(&mut self, path: &str, message: impl AsRef<str>) {
        self.0.push(Problem::new(path, message.as_ref()));
    }

    /// Refuses with a message unless `holds`.
    fn need(&mut self, holds: bool, path: &str, message: &str) {
        if !holds {
            self.refuse(path, message);
        }
    }

    fn range<T: PartialOrd + Display + Copy>(&mut self, path: &str, value: T, least: T, most: T) {
        if value < least || value > most {
            self.refuse(path, format!("expected {least} to {most}, found {value}"));
        }
    }

    fn period(&mut self, path: &str, value: Period, least: Period, most: Duration) {
        if value < least || value.get() > most {
            let most = humantime::format_duration(most);
            self.refuse(path, format!("expected {least} to {most}, found {value}"));
        }
    }
}

/// Whether `text` is a token (RFC 9110 section 5.6.2): a subprotocol, a cookie's name.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Whether `text` is a visible line: not empty, no control characters, at most 256 bytes.
fn is_line(text: &str) -> bool {
    (1..=256).contains(&text.len()) && !text.chars().any(char::is_control)
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
