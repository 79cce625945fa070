//! The PROXY protocol: a proxy in front says whom it connects for, in a header before TLS.
//!
//! A listener either needs the header or never looks for one, and only connections from trusted
//! networks get as far as having theirs read: whoever may choose between the two may choose an address.

mod header;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::{Period, ProxyProtocol};

pub use header::{LONGEST, Malformed, Parsed, parse};

/// Bytes looked at together. A usual header is half of it; a longer one takes a few turns.
const AT_ONCE: usize = 256;

/// Why a connection has no PROXY header that counts.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    #[error("the connection does not come from a trusted network")]
    Untrusted,
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("no whole PROXY header within {0}")]
    Timeout(Period),
    #[error("the stream ended before a whole PROXY header")]
    Closed(#[source] Option<io::Error>),
}

impl ProxyError {
    /// A word for metrics.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::Malformed(_) => "malformed",
            Self::Timeout(_) => "timeout",
            Self::Closed(_) => "closed",
        }
    }
}

/// Reads the header that the connection from `remote` must begin with, and nothing after it. None when
/// it names no address, as that of a health check by the proxy itself.
///
/// Not cancel safe: what was read of the header is lost.
///
/// # Errors
/// When `remote` is not trusted, or the header is malformed or not there in time.
pub(super) async fn read(
    tcp: &mut TcpStream,
    remote: SocketAddr,
    protocol: &ProxyProtocol,
) -> Result<Option<SocketAddr>, ProxyError> {
    if !protocol.trusted.iter().any(|network| network.contains(remote.ip())) {
        return Err(ProxyError::Untrusted);
    }
    let header = timeout(protocol.timeout.get(), header(tcp)).await;
    header.unwrap_or(Err(ProxyError::Timeout(protocol.timeout)))
}

/// Where a header ends is known once it is there, so what arrives is looked at first, and then only
/// what belongs to the header is taken.
async fn header(tcp: &mut TcpStream) -> Result<Option<SocketAddr>, ProxyError> {
    let closed = |error| ProxyError::Closed(Some(error));
    let mut header = Vec::new();
    let mut arrived = [0; AT_ONCE];
    loop {
        let taken = header.len();
        let count = tcp.peek(&mut arrived).await.map_err(closed)?;
        if count == 0 {
            return Err(ProxyError::Closed(None));
        }
        header.extend(arrived.iter().take(count));
        let parsed = parse(&header)?;
        // All of a header that is not whole belongs to it.
        let length = match parsed {
            Parsed::Partial => header.len(),
            Parsed::Whole { length, .. } => length,
        };
        header.truncate(length);
        let new = header.get_mut(taken..).unwrap_or_default();
        tcp.read_exact(new).await.map_err(closed)?;
        if let Parsed::Whole { peer, .. } = parsed {
            return Ok(peer);
        }
    }
}
