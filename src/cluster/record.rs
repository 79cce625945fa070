//! What the registry keeps of a connection: enough for another node to tell the backend of its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::close::{Cause, Close};
use crate::config::Route;
use crate::event::{Ended, Params, Peer};
use crate::id::{ConnectionId, UserId};

/// One connection. Nothing in it changes with each message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) hub: String,
    /// The route's name.
    pub(super) route: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    path: String,
    remote: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    subprotocol: Option<String>,
    /// Milliseconds since 1970.
    since: u64,
    /// Once it has ended and its backend may not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ended: Option<EndRecord>,
}

/// How it ended, by the word of its own node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EndRecord {
    code: u16,
    cause: String,
    reason: String,
    duration_ms: u64,
    /// When, in milliseconds since 1970.
    pub(super) at: u64,
}

impl Record {
    pub(super) fn of(peer: &Peer, ended: Option<EndRecord>) -> Self {
        Self {
            hub: peer.route.hub.as_str().to_owned(),
            route: peer.route.name().to_owned(),
            user: peer.user.as_ref().map(|user| user.as_str().to_owned()),
            path: peer.path.to_string(),
            remote: peer.remote,
            subprotocol: peer.subprotocol.as_deref().map(str::to_owned),
            since: millis(peer.since),
            ended,
        }
    }

    pub(super) fn to_json(&self) -> Bytes {
        // A struct of plain fields has a JSON form.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// Whose connection it was.
    pub(super) fn peer(&self, id: ConnectionId, route: Arc<Route>) -> Peer {
        Peer {
            id,
            route,
            user: self.user.as_deref().and_then(|user| UserId::new(user).ok()),
            token: None,
            path: self.path.as_str().into(),
            query: Box::default(),
            params: Params::default(),
            remote: self.remote,
            subprotocol: self.subprotocol.as_deref().map(Into::into),
            // Credentials, which are not kept.
            forwarded: Box::default(),
            since: SystemTime::UNIX_EPOCH + Duration::from_millis(self.since),
            is_disowned: Default::default(),
        }
    }

    /// How it ended: by its own node's word, or because that was lost by `now`.
    pub(super) fn ended(&self, now: SystemTime) -> Ended {
        let Some(ended) = &self.ended else {
            let since = SystemTime::UNIX_EPOCH + Duration::from_millis(self.since);
            let duration = now.duration_since(since).unwrap_or_default();
            return Ended { close: Close::of(Cause::NodeLost), duration };
        };
        let cause = Cause::ALL.iter().find(|cause| cause.as_str() == ended.cause);
        let cause = cause.copied().unwrap_or(Cause::NodeLost);
        let close = Close::said(cause, ended.code, &ended.reason);
        Ended { close, duration: Duration::from_millis(ended.duration_ms) }
    }
}

impl EndRecord {
    /// An end just `now`.
    pub(super) fn of(ended: &Ended, now: SystemTime) -> Self {
        Self {
            code: ended.close.code,
            cause: ended.close.cause.as_str().to_owned(),
            reason: ended.close.reason.to_string(),
            duration_ms: u64::try_from(ended.duration.as_millis()).unwrap_or(u64::MAX),
            at: millis(now),
        }
    }
}

pub(super) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AuthMode;

    #[test]
    fn another_node_reads_what_the_first_one_knew() {
        let peer = Peer::on(Route::new("/ws", AuthMode::None), Some("alice@example.com"));
        let record = Record::of(&peer, None);
        let again = Record::parse(&record.to_json()).unwrap();
        assert_eq!(again, record);
        let other = again.peer(peer.id, Arc::clone(&peer.route));
        assert_eq!((&other.user, &other.path, other.remote), (&peer.user, &peer.path, peer.remote));
        let lost = again.ended(peer.since + Duration::from_secs(90));
        assert_eq!(lost.close, Close::of(Cause::NodeLost));
        assert_eq!(lost.duration.as_secs(), 90);
        let ended = Ended {
            close: Close::said(Cause::Client, 4000, "bye"),
            duration: Duration::from_millis(1500),
        };
        let record = Record::of(&peer, Some(EndRecord::of(&ended, SystemTime::now())));
        assert_eq!(Record::parse(&record.to_json()).unwrap().ended(SystemTime::now()), ended);
    }
}
