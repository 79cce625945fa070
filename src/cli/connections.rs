//! `moorline connections`: who is connected, by a node's management API, and the end of it.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use http::Method;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::management::{Access, Ask, Whom};
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

/// Those who are there, as the API lists them.
#[derive(Debug, Deserialize, Serialize)]
struct List {
    value: Vec<Connection>,
    #[serde(flatten)]
    count: Count,
}

#[derive(Debug, Deserialize, Serialize)]
struct Count {
    connections: usize,
    partial: bool,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Connection {
    connection_id: String,
    user_id: Option<String>,
    groups: Vec<String>,
    route: String,
    remote_address: String,
    subprotocol: Option<String>,
    since: String,
    outbox_bytes: u64,
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
        Ok(format!("closed: {}\n", changed.unwrap_or("all")))
    }

    async fn counted(&self) -> anyhow::Result<String> {
        let count = match self.whom.connection {
            Some(_) => self.list().await?.count,
            None => self.get(format!("{}/:count", self.whom.path()), Vec::new()).await?,
        };
        count.complain()?;
        Ok(format!("{}\n", count.connections))
    }

    async fn listed(&self) -> anyhow::Result<String> {
        let list = self.list().await?;
        if self.json {
            return Ok(format!("{}\n", serde_json::to_string(&list)?));
        }
        list.count.complain()?;
        let (listed, all) = (list.value.len(), list.count.connections);
        if all > listed {
            writeln!(io::stderr(), "moorline: {listed} of {all} connections are listed")?;
        }
        Ok(table(&list.value))
    }

    /// Those who are meant.
    async fn list(&self) -> anyhow::Result<List> {
        if self.whom.connection.is_some() {
            let value = vec![self.get(self.whom.path(), Vec::new()).await?];
            return Ok(List { value, count: Count { connections: 1, partial: false } });
        }
        let limit = vec![("limit", self.limit.to_string())];
        self.get(format!("{}/connections", self.whom.path()), limit).await
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: String,
        parameters: Vec<(&'static str, String)>,
    ) -> anyhow::Result<T> {
        let ask = Ask { method: Method::GET, path, parameters, body: None };
        Ok(serde_json::from_slice(self.access.ask(ask).await?.body())?)
    }
}

impl Count {
    /// Says on standard error that there may be more.
    fn complain(&self) -> io::Result<()> {
        match self.partial {
            true => writeln!(io::stderr(), "moorline: not every node has answered in time"),
            false => Ok(()),
        }
    }
}

/// The connections below the columns' names, each column as wide as it needs.
fn table(connections: &[Connection]) -> String {
    let row = |connection: &Connection| {
        let Connection { connection_id, user_id, route, remote_address, since, .. } = connection;
        [
            connection_id.clone(),
            user_id.as_deref().unwrap_or("-").to_owned(),
            route.clone(),
            remote_address.clone(),
            since.clone(),
            connection.outbox_bytes.to_string(),
            connection.groups.join(","),
        ]
    };
    let names = [COLUMNS.map(str::to_owned)].into_iter();
    let rows: Vec<_> = names.chain(connections.iter().map(row)).collect();
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
        let list: List = serde_json::from_str(
            r#"{"value":[
                {"connectionId":"abc.def","userId":"jürgen","groups":["a","b"],"route":"/ws",
                 "remoteAddress":"127.0.0.1:5","subprotocol":null,"since":"2026","outboxBytes":0},
                {"connectionId":"x","userId":null,"groups":[],"route":"/","remoteAddress":"[::1]:1",
                 "subprotocol":"chat","since":"2027","outboxBytes":1234567}
            ],"connections":2,"partial":false}"#,
        )
        .unwrap();
        assert_eq!(
            table(&list.value),
            "CONNECTION  USER    ROUTE  REMOTE       SINCE  OUTBOX   GROUPS\n\
             abc.def     jürgen  /ws    127.0.0.1:5  2026   0        a,b\n\
             x           -       /      [::1]:1      2027   1234567\n"
        );
    }
}
