//! What a newcomer meets by the config, from its first byte to the answer to its handshake.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Transport;
use crate::config::{Forwarded, Limits, Plain, ProxyProtocol, Public};
use crate::handshake::{Door, Routes};
use crate::passthrough::Passthrough;
use crate::tls::Acceptor;

/// All of one config that newcomers meet. A client keeps to those that were in force when it came, so
/// that no handshake ever sees half of two configs; none is changed once it is made. A stream that is
/// kept for more requests ends with its rules.
#[derive(Debug)]
pub struct Rules {
    /// The doors by path.
    pub doors: Routes<Door>,
    /// Bounds of the time and size of what comes before the handshake.
    pub limits: Limits,
    /// The certificates; none without a `wss` listener.
    pub acceptor: Option<Acceptor>,
    /// Where requests go that ask for no WebSocket; without it they are refused.
    pub passthrough: Option<Arc<Passthrough>>,
    /// Time for such requests when the node stops.
    pub drain: Duration,
    /// What stands in front of the `wss` listener.
    pub public: Proxies,
    /// What stands in front of the `ws` listener.
    pub plain: Proxies,
    /// Cancelled once others are in force.
    pub replaced: CancellationToken,
}

/// What stands in front of one listener and is believed when it says who the client is.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// Says it before TLS. None: a PROXY header is a bad request.
    pub protocol: Option<ProxyProtocol>,
    /// Says it in a header of the request.
    pub forwarded: Option<Forwarded>,
}

impl Proxies {
    /// The address that a stream from `remote` counts for, before its request says more. None for a
    /// trusted proxy's, which stands for many clients.
    pub(super) fn source(&self, remote: SocketAddr) -> Option<IpAddr> {
        let trusted = self.forwarded.iter().flat_map(|forwarded| &forwarded.trusted);
        let is_proxy = trusted.into_iter().any(|network| network.contains(remote.ip()));
        (!is_proxy).then_some(remote.ip())
    }
}

impl Rules {
    /// What stands in front of the listener of this transport.
    pub(super) fn proxies(&self, transport: Transport) -> &Proxies {
        match transport {
            Transport::Tls => &self.public,
            Transport::Plain => &self.plain,
        }
    }
}

impl From<&Public> for Proxies {
    fn from(public: &Public) -> Self {
        Self { protocol: public.proxy_protocol.clone(), forwarded: public.forwarded.clone() }
    }
}

impl From<&Plain> for Proxies {
    fn from(plain: &Plain) -> Self {
        Self { protocol: plain.proxy_protocol.clone(), forwarded: plain.forwarded.clone() }
    }
}
