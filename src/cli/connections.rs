//! `moorline connections`: who is connected, by a node's management API, and the end of it.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use http::Method;
use serde_json::{Value, json};

use super::management::{Access, Ask, Whom, member};
use super::print;

/// List, count or close connections to all nodes.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("whom").args(["connection", "user", "group", "all"]),
    after_help = "Examples:\n  moorline connections --user alice\n  \
    moorline connections --hub app --group room-7 --count\n  \
    moorline connections --user mallory --close --code 4000 --reason 'go away'"
)]
pub(super) struct Connections {
    #[command(flatten)]
    whom: Whom,
    /// Print only how many there are
    #[arg(long, conflicts_with_all = ["json", "close"])]
    count: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "close")]
    json: bool,
    /// The most that are listed, up to 1000
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: u64,
    /// Close them
    #[arg(long, requires = "whom")]
    close: bool,
    /// The code that they are closed with
    #[arg(long, default_value_t = 1000, requires = "close")]
    code: u16,
    /// The reason that they are told
    #[arg(long, value_name = "TEXT", requires = "close")]
    reason: Option<String>,
    #[command(flatten)]
    access: Access,
}

const COLUMNS: [&str; 7] = ["CONNECTION", "USER", "ROUTE", "REMOTE", "SINCE", "OUTBOX", "GROUPS"];

impl Connections {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let text = if self.close {
            self.closed().await?
        } else if self.count {
            self.counted().await?
        } else {
            self.listed().await?
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }

    async fn closed(&self) -> anyhow::Result<String> {
        let (method, verb) = match self.whom.connection {
            Some(_) => (Method::DELETE, ""),
            None => (Method::POST, "/:closeConnections"),
        };
        let code = ("code", self.code.to_string());
        let reason = self.reason.iter().map(|reason| ("reason", reason.clone()));
        let parameters = reason.chain([code]).collect();
        let path = format!("{}{verb}", self.whom.path());
        let answer = self.access.ask(Ask { method, path, parameters, body: None }).await?;
        let changed = answer.headers().get("moorline-changed").and_then(|n| n.to_str().ok());
        Ok(format!("{} connections closed\n", changed.unwrap_or("all")))
    }

    async fn counted(&self) -> anyhow::Result<String> {
        let answer = match self.whom.connection {
            Some(_) => self.list().await?,
            None => self.get(format!("{}/:count", self.whom.path()), Vec::new()).await?,
        };
        warn_if_partial(&answer)?;
        Ok(format!("{}\n", member(&answer, "connections")?))
    }

    async fn listed(&self) -> anyhow::Result<String> {
        let answer = self.list().await?;
        if self.json {
            return Ok(format!("{answer}\n"));
        }
        warn_if_partial(&answer)?;
        let listed = answer["value"].as_array().map(Vec::as_slice).unwrap_or_default();
        let all = member(&answer, "connections")?;
        if all > listed.len() as u64 {
            writeln!(io::stderr(), "moorline: {} of {all} connections are listed", listed.len())?;
        }
        Ok(table(listed))
    }

    /// Those who are meant, as a list of the API.
    async fn list(&self) -> anyhow::Result<Value> {
        if self.whom.connection.is_some() {
            let one = self.get(self.whom.path(), Vec::new()).await?;
            return Ok(json!({"value": [one], "connections": 1, "partial": false}));
        }
        let limit = vec![("limit", self.limit.to_string())];
        self.get(format!("{}/connections", self.whom.path()), limit).await
    }

    async fn get(
        &self,
        path: String,
        parameters: Vec<(&'static str, String)>,
    ) -> anyhow::Result<Value> {
        let ask = Ask { method: Method::GET, path, parameters, body: None };
        Ok(serde_json::from_slice(self.access.ask(ask).await?.body())?)
    }
}

fn warn_if_partial(answer: &Value) -> io::Result<()> {
    match answer["partial"] == true {
        true => writeln!(io::stderr(), "moorline: not every node has answered in time"),
        false => Ok(()),
    }
}

/// The connections below the columns' names, each column as wide as it needs.
fn table(connections: &[Value]) -> String {
    let row = |connection: &Value| {
        let text = |name: &str| match &connection[name] {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        let groups = connection["groups"].as_array().map(Vec::as_slice).unwrap_or_default();
        let groups: Vec<_> = groups.iter().filter_map(Value::as_str).collect();
        [
            text("connectionId"),
            text("userId"),
            text("route"),
            text("remoteAddress"),
            text("since"),
            text("outboxBytes"),
            groups.join(","),
        ]
    };
    let rows: Vec<_> =
        [COLUMNS.map(str::to_owned)].into_iter().chain(connections.iter().map(row)).collect();
    let mut widths = [0; COLUMNS.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; COLUMNS.len()]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let one = json!({
            "connectionId": "abc.def", "userId": "jürgen", "route": "/ws", "outboxBytes": 0,
            "remoteAddress": "127.0.0.1:5", "since": "2026-03-01T09:30:00.123Z", "groups": ["a", "b"],
        });
        let two = json!({"connectionId": "x", "userId": null, "groups": []});
        assert_eq!(
            table(&[one, two]),
            "CONNECTION  USER    ROUTE  REMOTE       SINCE                     OUTBOX  GROUPS\n\
             abc.def     jürgen  /ws    127.0.0.1:5  2026-03-01T09:30:00.123Z  0       a,b\n\
             x           -       -      -            -                         -\n"
        );
    }
}
