//! The NATS servers: where they are, who we are, and how soon we notice that one is gone.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Period, SecretSource};

/// The connection to NATS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Nats {
    /// Server URLs, tried in random order: `nats://host:4222`, `tls://host:4222`. Default:
    /// `nats://127.0.0.1:4222`.
    pub servers: Vec<String>,
    /// The first token or tokens of every subject. Default: `moorline`.
    pub prefix: String,
    /// Whether the servers must have JetStream (nats-server 2.11 or newer), which keeps what outlives a
    /// node: who is connected, so that backends hear of the end of a dead node's clients; how many
    /// connections a user has; which tokens are revoked. `required`: the node stops without it.
    /// `optional`: it goes on without, and each node knows its own only. `off`: it is not asked for.
    /// Default: `required`.
    pub jetstream: JetStream,
    /// Servers that keep each of the above, 1 to 5; for buckets that are made now, for those that are
    /// there are never altered. Default: 1. In a NATS cluster, 3 outlive the loss of a server.
    pub replicas: u8,
    /// TCP connections; a client's messages always take the same one. Default: 1, enough for 100,000
    /// requests a second.
    pub connections: usize,
    /// User name, with `password`. Default: none.
    pub user: Option<String>,
    /// Password: a file or `env:NAME`.
    pub password: Option<SecretSource>,
    /// Token: a file or `env:NAME`. Default: none.
    pub token: Option<SecretSource>,
    /// Credentials file with a JWT and an nkey seed, as made by `nsc`. Default: none.
    pub credentials: Option<PathBuf>,
    /// nkey seed: a file or `env:NAME`. Default: none.
    pub nkey: Option<SecretSource>,
    /// TLS to the servers. Default: as the URL and the server say, checked against the system's
    /// authorities.
    pub tls: Option<NatsTls>,
    /// Time for a connection to come up. Default: `5s`.
    pub connect_timeout: Period,
    /// How often the server is pinged; a server that leaves two pings unanswered counts as gone.
    /// Default: `1s`, which notices a dead server within 3 s.
    pub ping_interval: Period,
    /// Which pushes a node asks for.
    pub interest: Interest,
}

/// Which pushes to groups and users a node asks NATS for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Interest {
    /// Pushes to groups. Default: `name`.
    pub groups: By,
    /// Pushes to users. Default: `wildcard`, because a node has about as many users as connections.
    pub users: By,
}

/// How a node asks NATS for what is pushed to many names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Only for names that have connections here. Each costs some 5 KiB in the node and a line in the
    /// tables of every NATS server.
    Name,
    /// For all names by one subscription. Every push comes to every node, and most of it for nothing.
    Wildcard,
}

/// What the node needs of JetStream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum JetStream {
    /// It stops without it.
    #[default]
    Required,
    /// It goes on without it, with what a node can do by itself.
    Optional,
    /// It does not ask for it.
    Off,
}

/// TLS to the NATS servers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NatsTls {
    /// PEM file with the authorities the servers are checked against. Default: the system's.
    pub ca: Option<PathBuf>,
    /// PEM file with our certificate, for servers that ask for one. Default: none.
    pub certificate: Option<PathBuf>,
    /// PEM file with its private key.
    pub key: Option<PathBuf>,
    /// Start TLS before the server's greeting, for servers with `handshake_first`. Default: `false`.
    pub first: bool,
}

impl Default for Nats {
    fn default() -> Self {
        Self {
            servers: vec!["nats://127.0.0.1:4222".to_owned()],
            prefix: "moorline".to_owned(),
            jetstream: JetStream::Required,
            replicas: 1,
            connections: 1,
            user: None,
            password: None,
            token: None,
            credentials: None,
            nkey: None,
            tls: None,
            connect_timeout: Period::secs(5),
            ping_interval: Period::secs(1),
            interest: Interest::default(),
        }
    }
}

impl Default for Interest {
    fn default() -> Self {
        Self { groups: By::Name, users: By::Wildcard }
    }
}
