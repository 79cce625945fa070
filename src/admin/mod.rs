//! The operators' door: whether the node lives, whether it wants clients, what it counts, and the wish
//! that it drains.
//!
//! Liveness depends on nothing but this process. Readiness waits for what the process says that it waits
//! for, and ends when it drains.

mod drain;

use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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

use crate::limits::{Permit, Permits};
use crate::metrics::Metrics;
use crate::task::Tasks;

pub use drain::{Drain, Progress, Stage};

/// What operators can ask.
#[derive(Debug)]
pub struct Admin {
    /// The counters.
    pub metrics: Metrics,
    /// Whether it waits for anything before it is ready.
    pub readiness: Readiness,
    /// Its drain: it is not ready once that began.
    pub drain: Drain,
    /// Places for requests at the same time.
    pub places: Permits,
    /// Places for requests that wait for the end of the drain. They are others, so that those who wait
    /// for long take none from probes.
    pub waiting: Permits,
    /// Where the tasks of this door run.
    pub tasks: Tasks,
}

/// What a process waits for before it is ready; none when it is.
pub struct Readiness(Box<dyn Fn() -> Option<&'static str> + Send + Sync>);

impl Readiness {
    /// Asked each time an operator asks. The answer is one line.
    pub fn new(waits_for: impl Fn() -> Option<&'static str> + Send + Sync + 'static) -> Self {
        Self(Box::new(waits_for))
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Readiness").field(&(self.0)()).finish()
    }
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
                    self.tasks.spawn("operator", async move { admin.http(stream, place).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed on the admin listener; waiting");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// One request for each connection, so that a client that never ends cannot stay.
    async fn http(&self, stream: TcpStream, place: Permit) {
        let (waits, place) = (AtomicBool::new(false), Mutex::new(place));
        let service = service_fn(|request: Request<hyper::body::Incoming>| {
            let (waits, place) = (&waits, &place);
            async move {
                Ok::<_, Infallible>(match request.uri().path() {
                    DRAIN => match drain::Wish::of(&request) {
                        Ok(drain::Wish::Wait) => {
                            let Some(other) = self.waiting.take() else { return Ok(crowded()) };
                            *place.lock().unwrap_or_else(PoisonError::into_inner) = other;
                            waits.store(true, Ordering::Relaxed);
                            self.drain.answer(drain::Wish::Wait).await
                        }
                        Ok(wish) => self.drain.answer(wish).await,
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
        (self.readiness.0)()
    }
}

/// The path of the wish to drain; the only one that changes anything.
const DRAIN: &str = "/drain";

/// Too many wait for the end of the drain, which those before have begun.
fn crowded() -> Response<Full<Bytes>> {
    text(StatusCode::SERVICE_UNAVAILABLE, "too many wait for the end of the drain already\n")
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn asks(admin: &Arc<Admin>, listener: &TcpListener, line: &str) -> TcpStream {
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let request = format!("{line} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (admin, place) = (Arc::clone(admin), admin.places.take().expect("a place"));
        admin.tasks.clone().spawn("operator", async move { admin.http(stream, place).await });
        client
    }

    async fn status(mut client: TcpStream) -> String {
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn who_waits_for_the_end_of_the_drain_takes_no_place_from_probes() {
        let (places, waiting) = (Permits::new(1), Permits::new(2));
        let (drain, tasks) = (Drain::new(), Tasks::new());
        let admin = Admin {
            metrics: Metrics::new(),
            readiness: Readiness::new(|| None),
            drain: drain.clone(),
            places,
            waiting,
            tasks,
        };
        let (admin, listener) = (Arc::new(admin), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let mut hooks = Vec::new();
        for taken in 1..=2 {
            hooks.push(asks(&admin, &listener, "POST /drain?wait").await);
            while admin.waiting.taken() < taken || admin.places.taken() > 0 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(status(asks(&admin, &listener, "POST /drain?wait").await).await, "503");
        while admin.places.taken() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(status(asks(&admin, &listener, "GET /livez").await).await, "200");
        drain.tell(Progress { stage: Stage::Over, ..Progress::default() });
        for hook in hooks {
            assert_eq!(status(hook).await, "200");
        }
    }
}
