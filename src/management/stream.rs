//! From a TCP connection of a backend to its requests, one after the other.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Request;
use http::header::{CONNECTION, HeaderValue};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Management, Rules};
use crate::tls::peer_certificate;

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// From a request to the end of its answer, and from there to the end of the next one's head. Longer
/// than all that a request may wait for, and than most clients keep an idle stream.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(75);
/// After this a stream ends with its next answer, so that no certificate is good for ever, and streams
/// spread again over nodes behind a balancer.
const MAX_AGE: Duration = Duration::from_secs(600);
/// hyper's own least; the head's limit is set apart.
const HTTP_BUFFER: usize = 8192;

impl Management {
    /// Serves backends until their crew stops.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.tasks.stopping() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, remote)) => {
                    // Over the bound the stream is ended; SDKs try again.
                    let Some(place) = self.streams.take() else {
                        tracing::debug!(%remote, "too many streams of backends");
                        continue;
                    };
                    let door = Arc::clone(&self);
                    self.tasks.spawn("backend", async move {
                        Box::pin(door.stream(tcp, remote)).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed on the management listener; waiting");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn stream(&self, tcp: TcpStream, remote: SocketAddr) {
        // Answers are small. A client that is gone already fails later anyway.
        let _ = tcp.set_nodelay(true);
        let rules = self.rules.load_full();
        let Some(acceptor) = &rules.acceptor else {
            return Box::pin(self.http(tcp, remote, &rules, false)).await;
        };
        let accepted = tokio::select! {
            accepted = acceptor.accept(tcp, rules.limits.tls_timeout.get()) => accepted,
            () = self.tasks.stopping() => return,
        };
        match accepted {
            Ok(stream) => {
                let is_certified = peer_certificate(&stream).is_some();
                Box::pin(self.http(stream, remote, &rules, is_certified)).await;
            }
            // A probe that only connects, too, ends here.
            Err(error) => {
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::debug!(%remote, error, "a backend's TLS handshake failed");
            }
        }
    }

    /// HTTP/1.1 until the client leaves, is late, or the crew stops.
    pub(crate) async fn http<S>(&self, io: S, remote: SocketAddr, rules: &Rules, is_certified: bool)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let begun = Instant::now();
        let is_over = || is_certified && rules.replaced.is_cancelled();
        let late = Late::new(begun + rules.limits.head_timeout.get());
        let has_asked = AtomicBool::new(false);
        let service = service_fn(|request: Request<Incoming>| {
            has_asked.store(true, Ordering::Relaxed);
            late.not_before(Instant::now() + REQUEST_TIMEOUT);
            let (late, is_over) = (&late, &is_over);
            async move {
                let mut response = Box::pin(self.answer(request, is_certified)).await;
                late.not_before(Instant::now() + REQUEST_TIMEOUT);
                if begun.elapsed() > MAX_AGE || is_over() {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        });
        let max_head = rules.limits.max_head.bytes();
        let mut connection = pin!(
            http1::Builder::new()
                .max_header_size(max_head)
                .max_headers(rules.limits.max_headers)
                .max_buf_size(max_head.max(HTTP_BUFFER))
                .serve_connection(TokioIo::new(io), service)
        );
        let mut replaced = pin!(rules.replaced.cancelled());
        let (mut is_stopping, mut is_replaced) = (false, false);
        let served = loop {
            tokio::select! {
                served = connection.as_mut() => break served,
                () = late.comes() => {
                    tracing::debug!(%remote, "a backend was late, or had nothing more to ask");
                    return;
                }
                () = self.tasks.stopping(), if !is_stopping => {
                    is_stopping = true;
                    if !has_asked.load(Ordering::Relaxed) {
                        return;
                    }
                    connection.as_mut().graceful_shutdown();
                }
                // The first request, as long as it is waited for, is still answered.
                () = replaced.as_mut(), if is_certified && !is_replaced => {
                    is_replaced = true;
                    if has_asked.load(Ordering::Relaxed) {
                        connection.as_mut().graceful_shutdown();
                    }
                }
            }
        };
        if let Err(error) = served {
            tracing::debug!(%remote, %error, "management stream failed");
        }
    }
}

/// The moment at which a stream ends unless something happens on it. It only ever moves on.
#[derive(Debug)]
struct Late(Mutex<Instant>);

impl Late {
    fn new(at: Instant) -> Self {
        Self(Mutex::new(at))
    }

    fn not_before(&self, at: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// Ends when that moment comes. Cancel safe.
    async fn comes(&self) {
        loop {
            let at = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if at <= Instant::now() {
                return;
            }
            sleep_until(at).await;
        }
    }
}
