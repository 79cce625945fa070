//! The management API through the real binary: every call, who may make it, and clients that look on.

mod calls;
mod access;
mod hostile;
mod commands;
mod revocations;
mod azure;

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use moorline::config::JwtAlgorithm;
use serde_json::{Value, json};

use crate::harness::{Client, Node, Request, exchange_raw};

const KEY: &str = "a-key-of-backends-that-is-long-enough";
const SECRET: &[u8] = b"a secret of thirty-two bytes....";

/// A node of its own with a management listener, whose clients come with tokens.
struct Stage {
    node: Node,
    _files: tempfile::TempDir,
}

/// What came back.
struct Response {
    status: u16,
    head: String,
    body: Value,
}

impl Stage {
    fn new() -> Self {
        Self::with("")
    }

    /// With more of the management section.
    fn with(keys: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        std::fs::write(files.path().join("key"), format!("{KEY}\n")).unwrap();
        std::fs::write(files.path().join("secret"), SECRET).unwrap();
        let path = |name: &str| files.path().join(name).display().to_string();
        let listeners = format!(
            "plain: {{address: '127.0.0.1:0'}}\n\
             management: {{address: '127.0.0.1:0', key_files: [{}]{keys}}}",
            path("key")
        );
        let config = format!(
            "jwt: {{keys: [{{algorithms: [HS256], secret: {}}}]}}\n\
             routes:\n- {{path: /ws, auth: jwt, anonymous: true, backend: {{echo: true}}}}\n\
             - {{path: /other, auth: none, hub: other, backend: {{echo: true}}}}\n",
            path("secret")
        );
        Self { node: Node::with_listeners(&listeners, &config), _files: files }
    }

    /// A client of this user, and its connection.
    async fn client(&self, user: &str) -> (Client, String) {
        let token = token(&json!({"sub": user}), 300);
        let client = Request::new("/ws").bearer(&token).connect(self.node.ws()).await.unwrap();
        let id = id(&client);
        (client, id)
    }

    /// Asks for something below the hub `default`, with the key.
    async fn ask(&self, method: &str, path: &str, body: &str) -> Response {
        let path = format!("/api/hubs/default{path}");
        self.ask_with(method, &path, &[&authorization(KEY), "content-type: text/plain"], body).await
    }

    async fn ask_with(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Response {
        ask(self.node.management(), method, path, headers, body.as_bytes()).await
    }

    /// How many connections took a text.
    async fn send(&self, to: &str, text: &str) -> u64 {
        let response = self.ask("POST", &format!("{to}/:send"), text).await;
        assert_eq!(response.status, 202, "{}", response.body);
        response.body["deliveries"].as_u64().unwrap()
    }
}

impl Response {
    /// The code of a refusal.
    fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let line = |line: &'_ str| line.split_once(": ").is_some_and(|(found, _)| found == name);
        Some(self.head.lines().find(|found| line(found))?.split_once(": ")?.1)
    }
}

async fn ask(to: SocketAddr, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Response {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\
         content-length: {length}\r\n\r\n"
    );
    parse(&exchange_raw(to, &[head.as_bytes(), body].concat()).await)
}

fn parse(answer: &str) -> Response {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let body = serde_json::from_str(body).unwrap_or_default();
    Response { status, head: head.to_owned(), body }
}

fn authorization(key: &str) -> String {
    format!("authorization: Bearer {key}")
}

fn id(client: &Client) -> String {
    client.headers["moorline-connection-id"].to_str().unwrap().to_owned()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token of the issuer that the node trusts.
fn token(claims: &Value, seconds: u64) -> String {
    let mut claims = claims.as_object().unwrap().clone();
    claims.insert("exp".to_owned(), (now() + seconds).into());
    moorline::auth::mint(JwtAlgorithm::HS256, SECRET, None, &claims).unwrap()
}
