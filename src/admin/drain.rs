//! `POST /drain`: the same stop as the first SIGTERM, for a preStop hook, and how far it is.
//!
//! To ask again changes nothing, and asking is no signal: the SIGTERM that Kubernetes sends after the
//! hook finds the node draining and lets it go on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, ORIGIN};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::text;

/// The line between operators, who may ask for the drain, and the node, which does it and says how far
/// it is. Clones share it.
#[derive(Debug, Clone)]
pub struct Drain(Arc<Line>);

#[derive(Debug)]
struct Line {
    asked: CancellationToken,
    progress: watch::Sender<Progress>,
}

/// What an operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// The drain, with an answer at once.
    Begin,
    /// The drain, with an answer when it is over: `?wait=true`, or `?wait`.
    Wait,
}

/// Why a request is no wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoWish {
    /// It is no POST.
    Method,
    /// A page in a browser sent it.
    Page,
}

/// How far a drain is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Where it stands.
    pub stage: Stage,
    /// Connections that have not left, those included whose last events are being delivered.
    pub connections: usize,
    /// About how long until all have left.
    pub eta: Duration,
}

/// Where a drain stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nobody wants it.
    #[default]
    Running,
    /// Clients are leaving.
    Draining,
    /// The node waits for no client any more.
    Over,
}

impl Drain {
    /// Of a node that does not drain yet.
    #[must_use]
    pub fn new() -> Self {
        let (asked, progress) = (CancellationToken::new(), watch::Sender::new(Progress::default()));
        Self(Arc::new(Line { asked, progress }))
    }

    /// Ends when an operator has asked for the drain. Cancel safe.
    pub async fn asked(&self) {
        self.0.asked.cancelled().await;
    }

    /// Says how far the drain is.
    pub fn tell(&self, progress: Progress) {
        self.0.progress.send_replace(progress);
    }

    /// Whether the drain has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.progress.borrow().stage >= Stage::Draining
    }

    /// Ends when the node waits for no connection any more. Cancel safe.
    pub(super) async fn over(&self) {
        self.reaches(Stage::Over).await;
    }

    /// Begins the drain, unless it began before, and says how far it is.
    pub(super) async fn answer(&self, wish: Wish) -> Response<Full<Bytes>> {
        self.0.asked.cancel();
        let stage = match wish {
            Wish::Begin => Stage::Draining,
            Wish::Wait => Stage::Over,
        };
        self.reaches(stage).await.to_response()
    }

    /// How far the drain is once it is at `stage`.
    async fn reaches(&self, stage: Stage) -> Progress {
        let mut progress = self.0.progress.subscribe();
        // It cannot fail: the sender is in this line.
        let _ = progress.wait_for(|progress| progress.stage >= stage).await;
        *self.0.progress.borrow()
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// The time that is left in whole seconds, the last one begun included.
    #[must_use]
    pub fn eta_seconds(&self) -> u64 {
        self.eta.as_secs() + u64::from(self.eta.subsec_nanos() > 0)
    }

    fn to_response(self) -> Response<Full<Bytes>> {
        let (connections, eta_seconds) = (self.connections, self.eta_seconds());
        let body = format!("{{\"connections\":{connections},\"eta_seconds\":{eta_seconds}}}\n");
        let has_left = self.stage == Stage::Over && connections == 0;
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = if has_left { StatusCode::OK } else { StatusCode::ACCEPTED };
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

impl Wish {
    /// What `request` asks for.
    ///
    /// # Errors
    /// When the request is none.
    pub(super) fn of<B>(request: &Request<B>) -> Result<Self, NoWish> {
        if request.method() != Method::POST {
            return Err(NoWish::Method);
        }
        // Browsers say which page a POST comes from, hooks and tools have none. A page that happens to
        // be open in an operator's browser must not stop a node.
        if request.headers().contains_key(ORIGIN) {
            return Err(NoWish::Page);
        }
        let mut parameters = request.uri().query().unwrap_or_default().split('&');
        let waits = parameters.any(|parameter| matches!(parameter, "wait" | "wait=true"));
        Ok(if waits { Self::Wait } else { Self::Begin })
    }
}

impl NoWish {
    pub(super) fn to_response(self) -> Response<Full<Bytes>> {
        match self {
            Self::Method => {
                let status = StatusCode::METHOD_NOT_ALLOWED;
                let mut response = text(status, "only POST is answered here\n");
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
                response
            }
            Self::Page => text(StatusCode::FORBIDDEN, "not from a page in a browser\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn wish(method: Method, uri: &str, origin: Option<&str>) -> Result<Wish, u16> {
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(origin) = origin {
            request = request.header(ORIGIN, origin);
        }
        let wish = Wish::of(&request.body(()).unwrap());
        wish.map_err(|no_wish| no_wish.to_response().status().as_u16())
    }

    #[test]
    fn only_a_post_that_no_page_sent_is_a_wish() {
        assert_eq!(wish(Method::POST, "/drain", None), Ok(Wish::Begin));
        assert_eq!(wish(Method::POST, "/drain?wait=false", None), Ok(Wish::Begin));
        assert_eq!(wish(Method::POST, "/drain?wait=true", None), Ok(Wish::Wait));
        assert_eq!(wish(Method::POST, "/drain?x&wait", None), Ok(Wish::Wait));
        assert_eq!(wish(Method::GET, "/drain?wait=true", None), Err(405));
        assert_eq!(wish(Method::POST, "/drain", Some("null")), Err(403));
    }

    #[tokio::test]
    async fn the_answer_comes_at_the_stage_that_was_asked_for() {
        let drain = Drain::new();
        let answer = async |wish| {
            let response = drain.answer(wish).now_or_never()?;
            Some(response.status().as_u16())
        };
        assert!(drain.asked().now_or_never().is_none());
        assert_eq!(answer(Wish::Begin).await, None, "the node has not begun");
        assert!(drain.asked().now_or_never().is_some() && !drain.has_begun());
        let eta = Duration::from_millis(1500);
        drain.tell(Progress { stage: Stage::Draining, connections: 2, eta });
        assert_eq!((answer(Wish::Begin).await, answer(Wish::Wait).await), (Some(202), None));
        drain.tell(Progress { stage: Stage::Over, connections: 2, eta });
        assert_eq!(answer(Wish::Wait).await, Some(202), "some have not left");
        drain.tell(Progress { stage: Stage::Over, connections: 0, eta });
        assert_eq!(answer(Wish::Wait).await, Some(200));
        assert_eq!(Progress { eta, ..Progress::default() }.eta_seconds(), 2);
    }
}
