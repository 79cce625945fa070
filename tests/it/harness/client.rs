//! Clients: a WebSocket client by tungstenite, and bytes by hand.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message, http};

use super::DEADLINE;

const READ_BUFFER: usize = 4096;

/// Any stream under a client.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A handshake to be sent.
pub(crate) struct Request {
    url: String,
    headers: Vec<(String, String)>,
}

/// An open WebSocket.
pub(crate) struct Client {
    socket: WebSocketStream<Box<dyn Io>>,
    /// The 101's headers.
    pub(crate) headers: http::HeaderMap,
}

/// How a WebSocket ended: the close frame's code and reason; none without one.
pub(crate) type Closed = Option<(u16, String)>;

impl Request {
    pub(crate) fn new(path: &str) -> Self {
        Self { url: format!("ws://localhost{path}"), headers: Vec::new() }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// Connects without TLS.
    ///
    /// # Errors
    /// The status and body of a refusal.
    pub(crate) async fn connect(self, to: SocketAddr) -> Result<Client, (u16, String)> {
        self.over(Box::new(TcpStream::connect(to).await.unwrap())).await
    }

    /// Connects over a stream that is there.
    pub(crate) async fn over(self, io: Box<dyn Io>) -> Result<Client, (u16, String)> {
        let mut request = self.url.into_client_request().unwrap();
        for (name, value) in &self.headers {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        // Tests hold thousands of clients.
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER);
        let handshake = tokio_tungstenite::client_async_with_config(request, io, Some(config));
        match timeout(DEADLINE, handshake).await.expect("an answer to the handshake") {
            Ok((socket, response)) => Ok(Client { socket, headers: response.headers().clone() }),
            Err(Error::Http(response)) => {
                let body = response.body().clone().unwrap_or_default();
                Err((response.status().as_u16(), String::from_utf8_lossy(&body).into_owned()))
            }
            Err(error) => panic!("the handshake failed: {error}"),
        }
    }
}

impl Client {
    /// Connects to `/ws` without TLS.
    pub(crate) async fn connect(to: SocketAddr) -> Self {
        Request::new("/ws").connect(to).await.expect("an accepted handshake")
    }

    pub(crate) async fn send(&mut self, message: impl Into<Message>) {
        self.socket.send(message.into()).await.expect("an open connection");
    }

    /// Sends several texts in one write.
    pub(crate) async fn send_together(&mut self, texts: &[&str]) {
        for text in texts {
            self.socket.feed(Message::text(*text)).await.expect("an open connection");
        }
        self.socket.flush().await.expect("an open connection");
    }

    /// Sends a close frame and keeps the TCP connection open.
    pub(crate) async fn start_close(&mut self) {
        self.socket.close(None).await.expect("an open connection");
    }

    /// Whether the message could be sent.
    pub(crate) async fn try_send(&mut self, message: impl Into<Message>) -> bool {
        self.socket.send(message.into()).await.is_ok()
    }

    /// The next text or binary message. Pings on the way are answered, and do not extend the deadline.
    pub(crate) async fn next(&mut self) -> Result<Message, Closed> {
        timeout(DEADLINE, self.receive()).await.expect("a message in time")
    }

    async fn receive(&mut self) -> Result<Message, Closed> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Close(frame))) => {
                    let closed = frame.map(|f| (f.code.into(), f.reason.to_string()));
                    while let Some(Ok(_)) = self.socket.next().await {}
                    return Err(closed);
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(message)) => return Ok(message),
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    pub(crate) async fn next_text(&mut self) -> String {
        match self.next().await {
            Ok(Message::Text(text)) => text.to_string(),
            other => panic!("expected a text message, not {other:?}"),
        }
    }

    /// Sends a text and returns the text that comes back.
    pub(crate) async fn ask(&mut self, text: &str) -> String {
        self.send(text).await;
        self.next_text().await
    }

    /// Waits for the end; messages on the way are passed over.
    pub(crate) async fn closed(&mut self) -> Closed {
        loop {
            if let Err(closed) = self.next().await {
                return closed;
            }
        }
    }

    /// The socket alone, for tests that read and write at the same time.
    pub(crate) fn into_socket(self) -> WebSocketStream<Box<dyn Io>> {
        self.socket
    }

    pub(crate) async fn close(mut self) {
        let _ = self.socket.close(None).await;
        self.closed().await;
    }

    /// Drops the TCP connection without a word.
    pub(crate) fn vanish(self) {
        drop(self);
    }
}

/// A TLS connection to `to`, asking for `name`.
pub(crate) async fn connect_tls(
    to: SocketAddr,
    name: &str,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(to).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(config).connect(name, tcp).await
}

/// Sends bytes and reads until the server ends the stream: status and body; status 0 when no HTTP
/// came back.
pub(crate) async fn exchange(to: SocketAddr, bytes: &[u8]) -> (u16, String) {
    let answer = exchange_raw(to, bytes).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, body.to_owned())
}

/// Sends bytes and reads until the server ends the stream.
pub(crate) async fn exchange_raw(to: SocketAddr, bytes: &[u8]) -> String {
    let mut tcp = TcpStream::connect(to).await.unwrap();
    let _ = tcp.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = timeout(DEADLINE, tcp.read_to_end(&mut answer)).await.expect("an end in time");
    String::from_utf8_lossy(&answer).into_owned()
}
