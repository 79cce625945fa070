//! A TCP listener that survives running out of file descriptors.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use prometheus::IntCounter;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::task::Backoff;

/// Newcomers that the kernel keeps for us while we are busy; it cuts this to `somaxconn`.
const BACKLOG: i32 = 4096;

/// Listens on `address`.
///
/// # Errors
/// When the address is taken or not ours; the error names it.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    bind().map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}")))
}

/// The next client. Cancel safe.
///
/// When file descriptors or memory run out, accepting again at once would fail again at once, so it
/// waits, longer each time; whoever is connected does not notice.
pub(super) async fn accept(listener: &TcpListener, errors: &IntCounter) -> (TcpStream, SocketAddr) {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                // Small messages go out at once. A client that is gone already fails later anyway.
                let _ = stream.set_nodelay(true);
                return (stream, remote);
            }
            Err(error) if is_about_one_client(&error) => {}
            Err(error) => {
                errors.inc();
                tracing::warn!(%error, "accept failed; waiting");
                sleep(backoff.delay()).await;
            }
        }
    }
}

/// The client left while it waited; the next accept is about another one.
fn is_about_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
