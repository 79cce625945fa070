//! The operators' door: whether the node lives, whether it wants clients, what it counts, and the wish
//! that it drains.
//!
//! Liveness depends on nothing but this process. Readiness waits until NATS was reached once, and
//! ends when the node drains; a later outage of NATS does not end it, because all nodes would leave
//! the load balancer at once.

mod drain;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::limits::Permits;
use crate::metrics::Metrics;
use crate::nats::Nats;
use crate::task::Tasks;

pub use drain::{Drain, Progress, Stage};

/// What operators can ask.
#[derive(Debug)]
pub struct Admin {
    /// The counters.
    pub metrics: Metrics,
    /// The connection to NATS, if there is one.
    pub nats: Option<Nats>,
    /// The node's drain: it is not ready once that began.
    pub drain: Drain,
    /// Places for requests at the same time.
    pub places: Permits,
    /// Where the tasks of this door run.
    pub tasks: Tasks,
}

/// An operator's request takes no longer than this, whatever its client does; one that waits for the
/// end of the drain, no longer than this after it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Admin {
    /// Serves operators until the node's last task stops.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.tasks.stopping() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    // Over the bound the stream is ended; whoever probes tries again.
                    let Some(place) = self.places.take() else { continue };
                    let admin = Arc::clone(&self);
                    self.tasks.spawn("operator", async move {
                        admin.http(stream).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed on the admin listener; waiting");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// One request for each connection, so that a client that never ends cannot stay.
    async fn http(&self, stream: TcpStream) {
        let waits = AtomicBool::new(false);
        let service = service_fn(|request: Request<hyper::body::Incoming>| {
            let waits = &waits;
            async move {
                Ok::<_, Infallible>(match request.uri().path() {
                    DRAIN => match drain::Wish::of(&request) {
                        Ok(wish) => {
                            waits.store(wish == drain::Wish::Wait, Ordering::Relaxed);
                            self.drain.answer(wish).await
                        }
                        Err(no_wish) => no_wish.to_response(),
                    },
                    _ => self.answer(&request),
                })
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        let deadline = async {
            sleep(REQUEST_TIMEOUT).await;
            if waits.load(Ordering::Relaxed) {
                self.drain.over().await;
                sleep(REQUEST_TIMEOUT).await;
            }
        };
        tokio::select! {
            served = connection => if let Err(error) = served {
                tracing::debug!(%error, "admin request failed");
            },
            () = deadline => tracing::debug!("admin request timed out"),
        }
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match self.not_ready() {
                None => text(StatusCode::OK, "ok\n"),
                Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
            },
            "/metrics" => {
                let mut response = text(StatusCode::OK, "");
                let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, format);
                *response.body_mut() = Full::new(Bytes::from(self.metrics.to_text()));
                response
            }
            _ => {
                text(StatusCode::NOT_FOUND, "there are /livez, /readyz, /metrics and POST /drain\n")
            }
        }
    }

    fn not_ready(&self) -> Option<&'static str> {
        if self.drain.has_begun() {
            return Some("draining\n");
        }
        let reached = self.nats.as_ref().is_none_or(Nats::was_connected);
        (!reached).then_some("NATS was not reached yet\n")
    }
}

/// The path of the wish to drain; the only one that changes anything.
const DRAIN: &str = "/drain";

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}
