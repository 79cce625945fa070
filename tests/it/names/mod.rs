//! Names that backends choose badly, on purpose, by the commands and by the management API: they stay
//! within their hub, what is a name works, and what is none is refused.

mod commands;
mod calls;

use futures_util::future::join_all;
use moorline::config::JwtAlgorithm;
use serde_json::{Value, json};

use crate::harness::{
    Client, NatsServer, Node, Request, Watcher, eventually, hostile_names, is_name,
};

const NAMES: usize = 10_000;
/// Clients, each of which is meant by a part of the names.
const LANES: usize = 16;
const KEY: &str = "a-key-of-backends-that-is-long-enough";
const SECRET: &[u8] = b"a secret of thirty-two bytes....";

/// A node with both doors, and somebody who sees all that NATS carries.
struct Stage {
    nats: NatsServer,
    node: Node,
    watcher: Watcher,
    publisher: async_nats::Client,
    names: Vec<String>,
    clients: Vec<Client>,
    _files: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Self {
        let (nats, files) = (NatsServer::start().await, tempfile::tempdir().unwrap());
        let file = |name: &str, bytes: &[u8]| {
            std::fs::write(files.path().join(name), bytes).unwrap();
            files.path().join(name).display().to_string()
        };
        let listeners = format!(
            "plain: {{address: '127.0.0.1:0'}}\n\
             management: {{address: '127.0.0.1:0', key_files: [{}]}}",
            file("key", KEY.as_bytes())
        );
        let config = format!(
            "nats: {{servers: ['{}']}}\n\
             jwt: {{keys: [{{algorithms: [HS256], secret: {}}}]}}\n\
             limits: {{max_groups_per_connection: 10000, max_head: 64KiB}}\n\
             heartbeat: {{ping_interval: 1h}}\n\
             routes:\n- {{path: /ws, auth: jwt, backend: {{echo: true}}}}\n\
             - {{path: /other, auth: none, hub: other, backend: {{echo: true}}}}\n",
            nats.url(),
            file("secret", SECRET),
        );
        let node = Node::with_all(&listeners, "info,moorline::auth=warn", &config);
        node.reaches_nats().await;
        let watcher = Watcher::start(&nats, &["moorline.default.", "moorline.other."]).await;
        let publisher = nats.client().await;
        let connect = async || let_in(&node, "ann").await.expect("accepted");
        let clients = join_all((0..LANES).map(|_| connect())).await;
        let names = hostile_names(NAMES);
        let good = names.iter().filter(|name| is_name(name)).count();
        assert!((NAMES / 3..NAMES * 2 / 3).contains(&good));
        let stage = Self { nats, node, watcher, publisher, names, clients, _files: files };
        eventually("commands are heard", async || {
            let done = stage.command("all", &json!({"command": "count"})).await;
            (done["connections"] == LANES).then_some(())
        })
        .await;
        stage
    }

    /// The names in as many parts as there are clients, each with a client's connection.
    fn parts(&self) -> impl Iterator<Item = (String, &[String])> {
        let ids = self.clients.iter().map(id);
        ids.zip(self.names.chunks(NAMES.div_ceil(LANES)))
    }

    /// What the node answers to a command.
    async fn command(&self, target: &str, command: &Value) -> Value {
        let subject = format!("moorline.default.ctl.{target}");
        match self.publisher.request(subject, command.to_string().into()).await {
            Ok(answer) => serde_json::from_slice(&answer.payload).unwrap(),
            Err(error) => panic!("{target} {command}: {error}"),
        }
    }

    /// Nothing of it went astray, and everything still works.
    async fn found_unharmed(mut self) {
        self.watcher.saw_nothing_else().await;
        for name in ["panics_total", "task_panics_total", "nats_reconnects_total", "groups"] {
            assert_eq!(self.node.metric(&format!("moorline_{name}"), &[]).await, 0.0, "{name}");
        }
        let connections = self.node.metric("moorline_connections", &[]).await;
        assert_eq!(connections, LANES as f64);
        self.publisher.publish("moorline.default.out.all", "fine".into()).await.unwrap();
        for client in &mut self.clients {
            assert_eq!(client.next_text().await, "fine");
        }
    }
}

fn id(client: &Client) -> String {
    client.headers["moorline-connection-id"].to_str().unwrap().to_owned()
}

/// A client with a token of this user; else the status.
async fn let_in(node: &Node, user: &str) -> Result<Client, u16> {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let claims = json!({"sub": user, "iat": now - 600, "exp": now + 600});
    let claims = claims.as_object().unwrap();
    let token = moorline::auth::mint(JwtAlgorithm::HS256, SECRET, None, claims).unwrap();
    let connected = Request::new("/ws").bearer(&token).connect(node.ws()).await;
    connected.map_err(|(status, _)| status)
}
