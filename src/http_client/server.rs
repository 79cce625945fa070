//! One HTTP server and the connections to it, for requests of which it must be known whether any byte
//! of them was written.
//!
//! A connection belongs to the one who asks, and works only while that one waits: dropping the request
//! closes it, and nothing runs on. After a whole answer it is kept for a moment, and looked at before it
//! is used again. A longer life would meet servers that close idle connections just when a request is
//! on its way.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use futures_util::FutureExt;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Uri, Version, header};
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_rustls::TlsConnector;

use super::watched::{Stream, Watched, Written};
use super::{FetchError, MAX_HEAD, MAX_HEADERS, bare, collect};
use crate::task::Tasks;

/// One server. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Server(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Host and port, for people.
    name: String,
    /// The same as a header.
    authority: HeaderValue,
    target: PathAndQuery,
    /// As the resolver wants it: without brackets.
    host: String,
    port: u16,
    tls: Option<Tls>,
    connect_timeout: Duration,
    tasks: Tasks,
    /// Held for a few instructions, never across an await.
    idle: Mutex<Idle>,
}

struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

/// Connections that nobody uses, the oldest first.
#[derive(Debug, Default)]
struct Idle {
    open: VecDeque<(Instant, Wire)>,
    /// Whether somebody looks after them.
    is_kept: bool,
}

/// A connection to a server, for one request. Closed on drop.
#[derive(Debug)]
pub struct Connection {
    server: Server,
    wire: Wire,
    is_used: bool,
}

/// The two halves of a connection.
#[derive(Debug)]
struct Wire {
    sender: SendRequest<Full<Bytes>>,
    /// Does the work while it is polled; none once it has ended.
    connection: Option<Pin<Box<Http>>>,
    written: Written,
}

type Http = http1::Connection<TokioIo<Watched>, Full<Bytes>>;

/// Why there is no connection; nothing was asked.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address.
    #[error("the name cannot be resolved")]
    Resolve(#[source] io::Error),
    /// No address takes connections.
    #[error("no connection")]
    Connect(#[source] io::Error),
    /// The server's certificate is not accepted, or it speaks no TLS.
    #[error("no TLS connection")]
    Tls(#[source] io::Error),
    /// A connection that does not speak HTTP.
    #[error("no HTTP connection")]
    Http(#[source] hyper::Error),
    /// Not in time.
    #[error("no connection in time")]
    Timeout,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The connection was closed before a byte of the request was written.
    #[error("nothing of the request was written")]
    NotWritten,
    /// The connection was lost before the answer was whole.
    #[error("the connection was lost before the answer was whole")]
    Lost(#[source] hyper::Error),
    /// What came is no HTTP.
    #[error("the answer is no HTTP")]
    NotHttp(#[source] hyper::Error),
    /// The answer's head is over the bounds.
    #[error("the answer's head has more than {MAX_HEAD} bytes or {MAX_HEADERS} headers")]
    HeadTooLarge,
    /// The answer's body is over the bound, in bytes.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
}

/// The longest that a connection is kept that nobody uses.
const IDLE: Duration = Duration::from_secs(1);

impl Server {
    /// The server of `url`, whose path and query each request goes to. `tls` is for `https`.
    ///
    /// # Errors
    /// When that is no URL of an HTTP server, or an `https` one without `tls`.
    pub fn new(
        url: &Uri,
        tls: Option<&Arc<rustls::ClientConfig>>,
        connect_timeout: Duration,
        tasks: &Tasks,
    ) -> Result<Self, FetchError> {
        let authority = url.authority().ok_or(FetchError::Url)?;
        let host = bare(authority.host());
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(FetchError::Url);
        }
        let tls = match (url.scheme_str(), tls) {
            (Some("http"), _) => None,
            (Some("https"), Some(config)) => Some(Tls {
                connector: TlsConnector::from(Arc::clone(config)),
                name: ServerName::try_from(host.to_owned()).map_err(|_| FetchError::Url)?,
            }),
            _ => return Err(FetchError::Url),
        };
        let port = authority.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        let root = PathAndQuery::from_static("/");
        let target = url.path_and_query().cloned().unwrap_or(root);
        Ok(Self(Arc::new(Inner {
            name: format!("{}:{port}", authority.host()),
            authority: HeaderValue::from_str(authority.as_str()).map_err(|_| FetchError::Url)?,
            target,
            host: host.to_owned(),
            port,
            tls,
            connect_timeout,
            tasks: tasks.clone(),
            idle: Mutex::default(),
        })))
    }

    /// Its host and port.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The path and query of its URL.
    #[must_use]
    pub fn target(&self) -> &PathAndQuery {
        &self.0.target
    }

    /// A connection: one that is open already, or a new one. Cancel safe: a new one is given up.
    ///
    /// # Errors
    /// When there is none within `connect_timeout`.
    pub async fn connection(&self) -> Result<Connection, ConnectError> {
        let (wire, is_used) = match self.idle() {
            Some(wire) => (wire, true),
            // Boxed, because a TLS handshake takes room that an open connection does not need.
            None => (Box::pin(self.connect()).await?, false),
        };
        Ok(Connection { server: self.clone(), wire, is_used })
    }

    async fn connect(&self) -> Result<Wire, ConnectError> {
        let until = Instant::now() + self.0.connect_timeout;
        timeout_at(until, self.open(until)).await.unwrap_or(Err(ConnectError::Timeout))
    }

    async fn open(&self, until: Instant) -> Result<Wire, ConnectError> {
        let server = &*self.0;
        let tcp = dial(&server.host, server.port, until).await?;
        // Requests are written whole.
        let _ = tcp.set_nodelay(true);
        let stream = match &server.tls {
            None => Stream::Plain(tcp),
            Some(tls) => {
                let connected = tls.connector.connect(tls.name.clone(), tcp).await;
                Stream::Tls(Box::new(connected.map_err(ConnectError::Tls)?))
            }
        };
        let written = Written::default();
        let io = TokioIo::new(Watched::new(stream, written.clone()));
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
        let (sender, connection) = builder.handshake(io).await.map_err(ConnectError::Http)?;
        Ok(Wire { sender, connection: Some(Box::pin(connection)), written })
    }

    /// The connection that was used last, of those that are still good.
    fn idle(&self) -> Option<Wire> {
        let now = Instant::now();
        loop {
            let (since, mut wire) = self.lock().open.pop_back()?;
            if now < since + IDLE && wire.is_free() {
                return Some(wire);
            }
        }
    }

    /// Keeps a connection for a moment.
    fn keep(&self, wire: Wire) {
        if self.0.tasks.is_stopping() {
            return;
        }
        let mut idle = self.lock();
        idle.open.push_back((Instant::now(), wire));
        if !idle.is_kept {
            idle.is_kept = true;
            drop(idle);
            self.0.tasks.spawn("idle connections", self.clone().close_idle());
        }
    }

    /// Closes connections that nobody has used for too long, until there are none.
    async fn close_idle(self) {
        loop {
            let next = {
                let mut idle = self.lock();
                match idle.open.front() {
                    None => {
                        idle.is_kept = false;
                        return;
                    }
                    Some((since, _)) => *since + IDLE,
                }
            };
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.0.tasks.stopping() => {
                    self.lock().open.clear();
                    continue;
                }
            }
            let now = Instant::now();
            let mut idle = self.lock();
            let old = idle.open.iter().take_while(|(since, _)| *since + IDLE <= now).count();
            let closed: Vec<_> = idle.open.drain(..old).collect();
            drop(idle);
            drop(closed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// The whole answer to `request`, whose URI is a path and query, and which gets the fields that every
    /// request to the server has, unless it has its own. Waits without end; dropping it closes the connection.
    ///
    /// # Errors
    /// When there is no answer, or one with a body of more than `max_size` bytes.
    pub async fn exchange(
        mut self,
        mut request: Request<Bytes>,
        max_size: usize,
    ) -> Result<Response<Bytes>, ExchangeError> {
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        let user_agent = HeaderValue::from_static(super::USER_AGENT);
        headers.entry(header::HOST).or_insert_with(|| self.server.0.authority.clone());
        headers.entry(header::USER_AGENT).or_insert(user_agent);
        let again = self.is_used.then(|| request.clone());
        let mut answer = self.wire.exchange(request, max_size).await;
        if let (Err(ExchangeError::NotWritten), Some(request)) = (&answer, again) {
            // Closed while it was idle, and nobody had noticed. A new one is not idle.
            let connected = Box::pin(self.server.connect()).await;
            self.wire = connected.map_err(|_| ExchangeError::NotWritten)?;
            answer = self.wire.exchange(request, max_size).await;
        }
        if answer.is_ok() && self.wire.is_free() {
            self.server.keep(self.wire);
        }
        answer
    }
}

impl Wire {
    async fn exchange(
        &mut self,
        request: Request<Bytes>,
        max_size: usize,
    ) -> Result<Response<Bytes>, ExchangeError> {
        self.written.forget();
        let sent = self.sender.try_send_request(request.map(Full::new));
        let work = async {
            let response = sent.await.map_err(|mut error| {
                error.take_message().map_or_else(
                    || ExchangeError::Lost(error.into_error()),
                    |_| ExchangeError::NotWritten,
                )
            })?;
            let (head, body) = response.into_parts();
            let body = collect(body, max_size).await.map_err(|error| match error {
                FetchError::Body(error) => ExchangeError::Lost(error),
                _ => ExchangeError::TooLarge(max_size),
            })?;
            Ok(Response::from_parts(head, body))
        };
        let answer = driven(&mut self.connection, work).await;
        answer.map_err(|error| match error {
            _ if !self.written.is_any() => ExchangeError::NotWritten,
            ExchangeError::Lost(error) if error.is_parse_too_large() => ExchangeError::HeadTooLarge,
            ExchangeError::Lost(error) if error.is_parse() => ExchangeError::NotHttp(error),
            error => error,
        })
    }

    /// Whether nothing is on it, not even its end, and the next request may go.
    fn is_free(&mut self) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        if connection.now_or_never().is_some() {
            self.connection = None;
        }
        self.connection.is_some() && self.sender.is_ready()
    }
}

/// What comes of `work`, with the connection at work for it.
async fn driven<T>(connection: &mut Option<Pin<Box<Http>>>, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            let Some(open) = connection else { return Poll::Pending };
            if open.as_mut().poll(cx).is_pending() {
                return work.as_mut().poll(cx);
            }
            *connection = None;
        }
    })
    .await
}

/// A connection to the first address of `host` that takes one. The time that is left is shared among
/// the addresses, for the first may be one where nobody ever answers.
///
/// # Errors
/// When none does, or the name has none.
pub async fn dial(host: &str, port: u16, until: Instant) -> Result<TcpStream, ConnectError> {
    let addresses = lookup_host((host, port)).await.map_err(ConnectError::Resolve)?;
    dial_any(&addresses.collect::<Vec<_>>(), until).await
}

async fn dial_any(addresses: &[SocketAddr], until: Instant) -> Result<TcpStream, ConnectError> {
    let mut failed = None;
    for (tried, address) in addresses.iter().enumerate() {
        let now = Instant::now();
        let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = until.saturating_duration_since(now) / left;
        match timeout_at(now + share, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => failed = Some(ConnectError::Connect(error)),
            Err(_) => failed = failed.or(Some(ConnectError::Timeout)),
        }
    }
    let none = || ConnectError::Resolve(io::Error::other("the name has no address"));
    Err(failed.unwrap_or_else(none))
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpSocket};

    #[tokio::test]
    async fn an_address_where_nobody_answers_leaves_time_for_the_next() {
        // A queue of one place, which is taken: the kernel answers no further.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = socket.listen(0).unwrap();
        let _taken = TcpStream::connect(full.local_addr().unwrap()).await.unwrap();
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [full.local_addr().unwrap(), good.local_addr().unwrap()];
        let until = Instant::now() + Duration::from_secs(4);
        let tcp = dial_any(&addresses, until).await.unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), addresses[1]);
    }
}
