//! The bare relay: rustls, tungstenite with small buffers, and one NATS request for each message.
//! What moorline costs beyond it is what its features cost.

use std::path::Path;
use std::sync::Arc;

use async_nats::Client;
use futures_util::{SinkExt, StreamExt};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::tungstenite::{self, Message, protocol::WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config};

use crate::ANY_PORT;
use crate::process::announce;

/// Where its messages go.
pub(crate) const SUBJECT: &str = "bare.message";

type WebSocket = WebSocketStream<TlsStream<TcpStream>>;

/// Relays until it is killed.
pub(crate) async fn run(nats: &str, certificate: &Path, key: &Path) -> anyhow::Result<()> {
    let chain = vec![CertificateDer::from_pem_file(certificate)?];
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let nats = Box::pin(async_nats::connect(nats)).await?;
    let listener = TcpListener::bind(ANY_PORT).await?;
    announce("wss", &listener.local_addr()?.to_string());
    loop {
        let (tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        spawn(accept(tcp, acceptor.clone(), nats.clone()));
    }
}

/// The connection gets a task of its own, without the handshake's memory.
async fn accept(tcp: TcpStream, acceptor: TlsAcceptor, nats: Client) {
    let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(0);
    if let Ok(tls) = acceptor.accept(tcp).await
        && let Ok(socket) = Box::pin(accept_async_with_config(tls, Some(config))).await
    {
        spawn(relay(Box::new(socket), nats));
    }
}

/// Boxed, for a future holds what it is given twice.
async fn relay(mut socket: Box<WebSocket>, nats: Client) {
    while let Some(Ok(message)) = socket.next().await {
        let is_text = message.is_text();
        if !is_text && !message.is_binary() {
            continue;
        }
        let Ok(reply) = nats.request(SUBJECT, message.into_data()).await else { break };
        let Ok(reply) = of_kind(is_text, reply.payload) else { break };
        if socket.send(reply).await.is_err() {
            break;
        }
    }
}

fn of_kind(is_text: bool, payload: bytes::Bytes) -> Result<Message, tungstenite::Error> {
    Ok(if is_text { Message::Text(payload.try_into()?) } else { Message::Binary(payload) })
}

#[expect(clippy::disallowed_methods, reason = "bare: nothing is tracked")]
fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(future);
}
