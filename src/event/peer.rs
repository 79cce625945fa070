//! The client at the other end, as far as moorline and the backends know it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::config::Route;
use crate::id::{ConnectionId, TokenId, UserId};

/// One connected client. Lives as long as the connection and is shared with its events, so it holds
/// only what every event needs.
#[derive(Debug)]
pub struct Peer {
    /// The connection.
    pub id: ConnectionId,
    /// The route that accepted it; a reload does not change it.
    pub route: Arc<Route>,
    /// Who it is, when anybody said so.
    pub user: Option<UserId>,
    /// The token that let it in. A fresh one that takes its place later does not change this.
    pub token: Option<Box<TokenFacts>>,
    /// The request path, without the query.
    pub path: Box<str>,
    /// The query, where every event repeats it; empty where none does.
    pub query: Box<str>,
    /// What the path pattern's names stand for.
    pub params: Params,
    /// The client's address.
    pub remote: SocketAddr,
    /// The selected subprotocol.
    pub subprotocol: Option<Box<str>>,
    /// The handshake's headers that every event repeats, for an HTTP service's own login.
    pub forwarded: Forwarded,
    /// When the handshake came.
    pub since: SystemTime,
    /// Whether another node has told its backend of its end.
    pub is_disowned: AtomicBool,
}

/// What a revocation may name a token by. In a box, because most connections of some routes have none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFacts {
    /// Whose it is; the backend may have called the client another name since.
    pub user: UserId,
    /// Its own id.
    pub id: Option<TokenId>,
    /// When it was made, in seconds since 1970.
    pub issued_at: Option<u64>,
}

/// Names in the route's path pattern and what they stand for, percent-decoded.
pub type Params = Box<[(Box<str>, Box<str>)]>;

/// Headers as they came.
pub type Forwarded = Box<[(HeaderName, HeaderValue)]>;

/// What a client shows when it asks to come in; the data of a connect event.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Offer {
    /// The raw query string, without a token that came in it.
    pub query: String,
    /// Path parameters.
    pub params: BTreeMap<String, String>,
    /// The request headers that the route forwards, names in lower case.
    pub headers: BTreeMap<String, Vec<String>>,
    /// The token's claims, when the route checks a token.
    pub claims: serde_json::Map<String, serde_json::Value>,
    /// Offered subprotocols, without one that carried a token.
    pub subprotocols: Vec<String>,
    /// The client's TLS certificate.
    pub certificate: Option<Certificate>,
    /// The client's address.
    pub remote_address: String,
}

/// A client certificate, already checked against the listener's authorities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The subject's distinguished name (RFC 4514).
    pub subject: String,
    /// The subject's common name.
    pub common_name: Option<String>,
    /// DNS names, e-mail addresses and URIs in the subject alternative name.
    pub names: Vec<String>,
    /// SHA-256 of the certificate in DER, lower-case hex.
    pub fingerprint: String,
}

#[cfg(test)]
impl Peer {
    /// Somebody on a route, for tests.
    pub(crate) fn on(route: Route, user: Option<&str>) -> Arc<Self> {
        Arc::new(Self {
            id: ConnectionId::random(crate::id::NodeId::random()),
            path: route.path.as_str().into(),
            query: Box::default(),
            route: Arc::new(route),
            user: user.map(|user| UserId::new(user).unwrap()),
            token: None,
            params: Params::default(),
            remote: SocketAddr::from(([127, 0, 0, 1], 1)),
            subprotocol: None,
            forwarded: Forwarded::default(),
            since: SystemTime::now(),
            is_disowned: AtomicBool::new(false),
        })
    }
}

impl Peer {
    /// Another node tells of its end: from now on nothing that it said goes to a backend.
    pub fn disown(&self) {
        self.is_disowned.store(true, Ordering::Release);
    }

    /// Whether another node has told its backend of its end.
    #[must_use]
    pub fn is_disowned(&self) -> bool {
        self.is_disowned.load(Ordering::Acquire)
    }

    /// The same client, as its backend lets it in: under another name, if it gave one.
    #[must_use]
    pub fn granted(&self, user: Option<UserId>, subprotocol: Option<Box<str>>) -> Self {
        Self {
            id: self.id,
            route: Arc::clone(&self.route),
            user: user.or_else(|| self.user.clone()),
            token: self.token.clone(),
            path: self.path.clone(),
            query: self.query.clone(),
            params: self.params.clone(),
            remote: self.remote,
            subprotocol,
            forwarded: self.forwarded.clone(),
            since: self.since,
            is_disowned: AtomicBool::new(self.is_disowned()),
        }
    }
}

impl Offer {
    /// The offer of a connect event's data, if they are one. What is missing is empty.
    #[must_use]
    pub fn parse(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// The offer as the data of a connect event.
    pub(super) fn to_json(&self) -> Bytes {
        Bytes::from(serde_json::to_vec(self).unwrap_or_default())
    }
}
