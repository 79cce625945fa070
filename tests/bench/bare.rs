//! The bare relay: rustls, tungstenite with small buffers, and one NATS request for each message, or a
//! bounded channel to each member of a group. What moorline costs beyond it is what its features cost.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::{Client, Subscriber};
use futures_util::{SinkExt, StreamExt};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::{self, Message, protocol::WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

use crate::ANY_PORT;
use crate::process::announce;

/// Where its messages go.
pub(crate) const SUBJECT: &str = "bare.message";

/// Where its pushes to groups come from.
pub(crate) const GROUPS: &str = "bare.group.";

/// Messages that wait for one client.
const WAITING: usize = 1024;

type WebSocket = WebSocketStream<TlsStream<TcpStream>>;
/// The members of each group.
type Groups = Arc<Mutex<HashMap<String, Vec<mpsc::Sender<Message>>>>>;

/// Relays until it is killed.
pub(crate) async fn run(nats: &str, certificate: &Path, key: &Path) -> anyhow::Result<()> {
    let chain = vec![CertificateDer::from_pem_file(certificate)?];
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let nats = Box::pin(async_nats::connect(nats)).await?;
    let groups = Groups::default();
    let pushes = nats.subscribe(format!("{GROUPS}*")).await?;
    spawn(fan_out(pushes, Arc::clone(&groups)));
    let listener = TcpListener::bind(ANY_PORT).await?;
    announce("wss", &listener.local_addr()?.to_string());
    loop {
        let (tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        spawn(accept(tcp, acceptor.clone(), nats.clone(), Arc::clone(&groups)));
    }
}

/// The connection gets a task of its own, without the handshake's memory.
async fn accept(tcp: TcpStream, acceptor: TlsAcceptor, nats: Client, groups: Groups) {
    let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(0);
    let Ok(tls) = acceptor.accept(tcp).await else { return };
    let mut group = None;
    #[expect(clippy::result_large_err, reason = "the library's types")]
    let note = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        group = request.uri().path().strip_prefix("/rooms/").map(str::to_owned);
        Ok(response)
    };
    let accepting = Box::pin(accept_hdr_async_with_config(tls, note, Some(config)));
    let Ok(socket) = accepting.await else { return };
    let Some(group) = group else { return spawn(relay(Box::new(socket), nats)) };
    let (member, inbox) = mpsc::channel(WAITING);
    groups.lock().unwrap_or_else(PoisonError::into_inner).entry(group).or_default().push(member);
    spawn(listen(Box::new(socket), inbox));
}

/// Gives each message to all members of its group that are still there.
async fn fan_out(mut pushes: Subscriber, groups: Groups) {
    while let Some(push) = pushes.next().await {
        let group = push.subject.strip_prefix(GROUPS).unwrap_or_default();
        let Ok(message) = of_kind(true, push.payload) else { continue };
        let mut groups = groups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(members) = groups.get_mut(group) {
            members.retain(|member| member.try_send(message.clone()).is_ok());
        }
    }
}

/// What the group gets, and nothing of what the client says.
async fn listen(mut socket: Box<WebSocket>, mut inbox: mpsc::Receiver<Message>) {
    loop {
        let is_open = tokio::select! {
            Some(message) = inbox.recv() => socket.send(message).await.is_ok(),
            received = socket.next() => matches!(received, Some(Ok(_))),
        };
        if !is_open {
            return;
        }
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
pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(future);
}
