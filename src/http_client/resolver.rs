//! Where a [`Client`](super::Client) finds hosts: `localhost` is this machine, whatever a name service
//! says of it (RFC 6761 section 6.3), so that nothing that is meant for here is ever sent elsewhere.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::vec::IntoIter;

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tower_service::Service;

/// The name of this machine.
pub(super) const LOCALHOST: &str = "localhost";

/// The system's name service, but for `localhost`.
#[derive(Debug, Clone)]
pub(super) struct Resolver(GaiResolver);

impl Resolver {
    pub(super) fn new() -> Self {
        Self(GaiResolver::new())
    }
}

impl Service<Name> for Resolver {
    type Response = IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        if name.as_str().eq_ignore_ascii_case(LOCALHOST) {
            // The connector sets the port.
            let here = [(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()];
            return Box::pin(async move { Ok(Vec::from(here).into_iter()) });
        }
        let found = self.0.call(name);
        Box::pin(async move { Ok(found.await?.collect::<Vec<_>>().into_iter()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn localhost_is_here_without_asking_anybody() {
        for name in ["localhost", "LocalHost"] {
            let found = Resolver::new().call(name.parse().unwrap()).await.unwrap();
            assert!(found.clone().len() == 2 && found.into_iter().all(|at| at.ip().is_loopback()));
        }
        let found = Resolver::new().call("192.0.2.7".parse().unwrap()).await.unwrap();
        assert_eq!(found.map(|at| at.ip().to_string()).collect::<Vec<_>>(), ["192.0.2.7"]);
    }
}
