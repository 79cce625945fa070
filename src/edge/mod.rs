//! The public door: TCP, whose connection it is, TLS and HTTP, up to the request that the handshake
//! answers, or the upstream.
//!
//! Every stage has a deadline, and a client that is not let in holds nothing but its own task and a
//! place in the room for newcomers.

mod listener;
pub mod proxy;
mod head;
mod framing;
mod watched;
mod session;
mod signals;
pub mod forwarded;
mod rules;

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::StreamExt;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;

use crate::config::ProxyProtocol;
use crate::connection::{Counted, Stream};
use crate::handshake::{BadHead, Caller, Doorkeeper};
use crate::limits::{Newcomer, Pending};
use crate::metrics::Metrics;
use crate::task::Tasks;

use head::Head;
use session::Session;
use signals::{Signal, signals};
use watched::Watched;

pub use listener::listen;
pub use rules::{Proxies, Rules};

/// What every client of the public door meets. One for the node.
#[derive(Debug)]
pub struct Edge {
    /// Who answers opening handshakes.
    pub doorkeeper: Doorkeeper,
    /// What newcomers meet, swapped whole when the config changes.
    pub rules: ArcSwap<Rules>,
    /// Room for clients whose TLS handshake or request head is not here yet.
    pub pending: Pending,
    /// Whether the console page is served.
    pub console: bool,
    /// Where results are counted.
    pub metrics: Metrics,
    /// Where the tasks of clients run that are not let in yet.
    pub tasks: Tasks,
}

/// What the operator's listener section asks for.
#[derive(Debug, Clone, Copy)]
pub enum Transport {
    /// `wss`.
    Tls,
    /// `ws`.
    Plain,
}

/// A client that was taken in, and what it meets.
struct Arrived {
    tcp: TcpStream,
    remote: SocketAddr,
    rules: Arc<Rules>,
    newcomer: Newcomer,
}

/// Above TLS, which has a read buffer of its own.
const READ_BUFFER_TLS: usize = 1024;
const READ_BUFFER_PLAIN: usize = 2048;
/// hyper's own least; the head's limit is set apart.
const HTTP_BUFFER: usize = 8192;

impl Edge {
    /// Puts other rules in force, for whoever comes from now on. Nobody is kept by the old ones for a
    /// further request.
    pub fn set_rules(&self, rules: Arc<Rules>) {
        self.rules.swap(rules).replaced.cancel();
    }

    /// Serves the clients of one listener until the node stops.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, transport: Transport) {
        loop {
            let accepted = tokio::select! {
                () = self.tasks.stopping() => return,
                accepted = self.accept(&listener, transport) => accepted,
            };
            let edge = Arc::clone(&self);
            self.tasks.spawn("client", async move {
                Box::pin(edge.client(accepted, transport)).await;
            });
        }
    }

    /// The next client that may come and for whom there is room. Cancel safe, but for the one that
    /// waits for room.
    async fn accept(&self, listener: &TcpListener, transport: Transport) -> Arrived {
        loop {
            let (tcp, remote) = listener::accept(listener, self.metrics.accept_errors()).await;
            let (remote, rules) = (canonical(remote), self.rules.load_full());
            let proxies = rules.proxies(transport);
            // Whom a stream with a PROXY header is for is not known yet.
            let source = proxies.source(remote).filter(|_| proxies.protocol.is_none());
            if source.is_none_or(|ip| self.doorkeeper.may_begin(ip)) {
                let newcomer = self.pending.enter(source).await;
                return Arrived { tcp, remote, rules, newcomer };
            }
        }
    }

    async fn client(&self, arrived: Arrived, transport: Transport) {
        let Arrived { mut tcp, mut remote, rules, newcomer } = arrived;
        let proxies = rules.proxies(transport);
        if let Some(protocol) = &proxies.protocol {
            let proxied = Box::pin(self.proxied(&mut tcp, remote, protocol, &newcomer)).await;
            let Some(proxied) = proxied else { return };
            remote = proxied;
            if let Some(ip) = proxies.source(remote) {
                if !self.doorkeeper.may_begin(ip) {
                    return;
                }
                newcomer.comes_from(ip);
            }
        }
        let tcp = Counted::new(tcp);
        match (transport, &rules.acceptor) {
            (Transport::Plain, _) => {
                let read_buffer = READ_BUFFER_PLAIN;
                let (certificate, scheme, unwrap) = (None, "http", bare::<Counted<TcpStream>> as _);
                let caller = Caller { remote, scheme, certificate, read_buffer, unwrap };
                Box::pin(self.http(tcp, caller, &rules, transport, newcomer)).await;
            }
            // The listener came with its certificates, and a reload takes neither away.
            (Transport::Tls, None) => {}
            (Transport::Tls, Some(acceptor)) => {
                let accepting = Box::pin(acceptor.accept(tcp, rules.limits.tls_timeout.get()));
                // Who has not asked for anything yet must not hold up the stop.
                let accepted = tokio::select! {
                    accepted = accepting => accepted,
                    () = self.tasks.stopping() => return,
                    () = newcomer.evicted() => {
                        self.metrics.tls_handshake("evicted");
                        tracing::debug!(%remote, "TLS handshake made room for another");
                        return;
                    }
                };
                match accepted {
                    Ok(tls) => {
                        self.metrics.tls_handshake("ok");
                        let certificate = crate::tls::peer_certificate(&tls);
                        let (read_buffer, scheme) = (READ_BUFFER_TLS, "https");
                        let unwrap = bare::<TlsStream<Counted<TcpStream>>>;
                        let caller = Caller { remote, scheme, certificate, read_buffer, unwrap };
                        Box::pin(self.http(tls, caller, &rules, transport, newcomer)).await;
                    }
                    Err(error) => {
                        self.metrics.tls_handshake(error.reason());
                        tracing::debug!(%remote, %error, "TLS handshake failed");
                    }
                }
            }
        }
    }

    /// Whom the connection from `remote` is for, by the PROXY header it begins with. None when it is
    /// to be closed.
    async fn proxied(
        &self,
        tcp: &mut TcpStream,
        remote: SocketAddr,
        protocol: &ProxyProtocol,
        newcomer: &Newcomer,
    ) -> Option<SocketAddr> {
        let read = tokio::select! {
            read = proxy::read(tcp, remote, protocol) => read,
            () = self.tasks.stopping() => return None,
            () = newcomer.evicted() => {
                self.metrics.proxy_protocol("evicted");
                tracing::debug!(%remote, "PROXY header made room for another");
                return None;
            }
        };
        match read {
            Ok(peer) => {
                self.metrics.proxy_protocol(if peer.is_some() { "ok" } else { "local" });
                Some(peer.map_or(remote, canonical))
            }
            Err(error) => {
                self.metrics.proxy_protocol(error.reason());
                tracing::debug!(%remote, %error, "PROXY header refused");
                None
            }
        }
    }

    /// HTTP/1.1 until an upgrade, an error, or the stop of the node. TLS agreed on nothing else.
    pub(crate) async fn http<S>(
        &self,
        io: S,
        caller: Caller,
        rules: &Rules,
        transport: Transport,
        newcomer: Newcomer,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let head_timeout = rules.limits.head_timeout.get();
        let newcomer = Arc::new(newcomer);
        let remote = caller.remote;
        let session = Session::new(self, rules, transport, caller, &newcomer);
        let pass = rules.passthrough.as_ref();
        let idle_timeout = pass.map_or(head_timeout, |pass| pass.idle_timeout());
        let io = Watched::new(io, session.heads.as_ref(), idle_timeout);
        let io = Head::new(io, head_timeout, Arc::clone(&newcomer));
        let service = service_fn(async |request: Request<Incoming>| {
            Ok::<_, Infallible>(session.answer(request).await)
        });
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(head_timeout)
                .max_header_size(rules.limits.max_head.bytes())
                .max_headers(rules.limits.max_headers)
                .max_buf_size(rules.limits.max_head.bytes().max(HTTP_BUFFER))
                .serve_connection(TokioIo::new(io), service)
                .with_upgrades()
        );
        let mut signals = signals(&session, rules, &self.tasks);
        let served = loop {
            let signal = tokio::select! {
                served = connection.as_mut() => break served,
                Some(signal) = signals.next() => signal,
            };
            match signal {
                Signal::Overdue => {
                    tracing::debug!(%remote, "the answer was not taken in time");
                    return;
                }
                // Nobody asked for anything on this stream yet.
                Signal::Stopping if !newcomer.has_asked() => return,
                // The stream of a handshake ends with its answer. Shutting it down would make hyper
                // write `Connection: close` over that of a 101.
                Signal::Stopping if session.no_handshake_yet() => {
                    connection.as_mut().graceful_shutdown();
                }
                // What is under way is still answered. The first request, as long as it is waited for,
                // keeps to the rules that the client met, and its answer ends the stream.
                Signal::Replaced if newcomer.has_asked() && session.no_handshake_yet() => {
                    connection.as_mut().graceful_shutdown();
                }
                // A handshake may still become a connection, which the drain waits for.
                Signal::Drained if session.no_handshake_yet() => {
                    tracing::debug!(%remote, "the request did not end before the node");
                    return;
                }
                Signal::Stopping | Signal::Replaced | Signal::Drained => {}
            }
        };
        let fault = match &served {
            _ if newcomer.is_evicted() => Some(BadHead::Evicted),
            Err(error) => bad_head(error).filter(|fault| {
                // A stream that stays open for another request ends like this when none comes.
                let is_idle = *fault == BadHead::Late && session.has_passed();
                session.no_handshake_yet() && !is_idle
            }),
            Ok(()) => None,
        };
        if let Some(fault) = fault {
            self.doorkeeper.unread(remote, rules.proxies(transport).source(remote), fault);
        }
        if let Err(error) = served {
            tracing::debug!(%remote, %error, "HTTP connection failed");
        }
    }
}

/// A client's stream without what was around it for HTTP alone, and what came behind its request.
fn bare<S>(upgraded: Upgraded) -> (Stream, Bytes)
where
    S: AsyncRead + AsyncWrite + Unpin + Into<Stream> + 'static,
{
    Stream::of(upgraded, |io: TokioIo<Head<Watched<S>>>| {
        io.into_inner().into_inner().into_inner().into()
    })
}

/// IPv4 is IPv4 however it came, so that limits and networks see one client as one.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What was wrong with the head; none when the client left.
fn bad_head(error: &hyper::Error) -> Option<BadHead> {
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let is_late = io.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut);
    if is_late || error.is_timeout() {
        Some(BadHead::Late)
    } else if error.is_parse_too_large() {
        Some(BadHead::TooLarge)
    } else {
        error.is_parse().then_some(BadHead::Malformed)
    }
}
