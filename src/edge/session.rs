//! One client's HTTP stream: what its requests share, and who answers each of them.
//!
//! Requests that are passed through may be many, one after the other. The answer of the doorkeeper, yes
//! or no, is the last on its stream.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use tokio::sync::Notify;

use super::framing::{Head, Heads};
use super::{Edge, Proxies, Rules, Transport, forwarded};
use crate::handshake::{Caller, is_plain};
use crate::limits::{Newcomer, Permit};
use crate::passthrough::{Body, Origin, Passthrough, Refusal};

/// What the requests of one stream share.
#[derive(Debug)]
pub(super) struct Session<'a> {
    edge: &'a Edge,
    rules: &'a Rules,
    transport: Transport,
    remote: SocketAddr,
    /// How the stream came to us.
    scheme: &'static str,
    /// There until the doorkeeper has it.
    caller: Mutex<Option<Caller>>,
    newcomer: &'a Newcomer,
    /// What was found of each head, where requests are passed through.
    pub(super) heads: Option<Arc<Heads>>,
    /// Told of the last answer, which the client has some time to take.
    pub(super) answered: Notify,
    /// Whether a request was passed through.
    has_passed: AtomicBool,
    /// The stream's place among those that stay open.
    kept: Mutex<Option<Permit>>,
}

const CONSOLE: &str = include_str!("console.html");
const CONSOLE_PATH: &str = "/_moorline/";
const CONSOLE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; \
    script-src 'unsafe-inline'; connect-src 'self' ws: wss:; base-uri 'none'; \
    frame-ancestors 'none'; form-action 'none'";

impl<'a> Session<'a> {
    pub(super) fn new(
        edge: &'a Edge,
        rules: &'a Rules,
        transport: Transport,
        caller: Caller,
        newcomer: &'a Newcomer,
    ) -> Self {
        Self {
            edge,
            rules,
            transport,
            remote: caller.remote,
            scheme: caller.scheme,
            caller: Mutex::new(Some(caller)),
            newcomer,
            heads: rules.passthrough.is_some().then(Arc::default),
            answered: Notify::new(),
            has_passed: AtomicBool::new(false),
            kept: Mutex::default(),
        }
    }

    /// Whether nothing on the stream was the doorkeeper's yet.
    pub(super) fn no_handshake_yet(&self) -> bool {
        locked(&self.caller).is_some()
    }

    /// Whether a request on the stream was passed through: the end of such a stream says nothing.
    pub(super) fn has_passed(&self) -> bool {
        self.has_passed.load(Ordering::Relaxed)
    }

    /// The answer to one request.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        self.newcomer.asked();
        if let (Some(passthrough), Some(heads)) = (&self.rules.passthrough, &self.heads) {
            let head = heads.next();
            let is_sound = !matches!(head, Head::Doubtful(_));
            if !(is_sound && (self.is_console(&request) || !is_plain(&request))) {
                return Box::pin(self.pass(passthrough, request, head)).await;
            }
        }
        let answer = if self.is_console(&request) {
            console_page()
        } else {
            let caller = locked(&self.caller).take();
            match caller {
                Some(mut caller) => {
                    caller.remote = self.client(request.headers());
                    caller.scheme = self.scheme(request.headers());
                    let doors = &self.rules.doors;
                    Box::pin(self.edge.doorkeeper.answer(doors, request, caller)).await
                }
                None => spent(),
            }
        };
        self.answered.notify_one();
        answer.map(Either::Left)
    }

    /// The upstream's answer, or why there is none.
    async fn pass(
        &self,
        passthrough: &Passthrough,
        request: Request<Incoming>,
        head: Head,
    ) -> Response<Body> {
        self.has_passed.store(true, Ordering::Relaxed);
        let origin = Origin {
            client: self.client(request.headers()),
            scheme: self.scheme(request.headers()),
        };
        let counted = self.edge.doorkeeper.admission.count_request(origin.client.ip());
        let checked = match head {
            Head::Doubtful(what) => Err(Refusal::BadRequest(what)),
            Head::Sound | Head::Last => counted.map_err(|_| Refusal::AddressRate),
        };
        let mut answer = Box::pin(passthrough.answer(request, origin, checked)).await;
        if answer.headers().contains_key(CONNECTION) {
            self.answered.notify_one();
        } else if head == Head::Last || !self.stays(passthrough) {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    /// Whether the stream may stay open for another request.
    fn stays(&self, passthrough: &Passthrough) -> bool {
        if self.rules.replaced.is_cancelled() {
            return false;
        }
        let mut kept = locked(&self.kept);
        if kept.is_none() {
            *kept = passthrough.keep();
        }
        kept.is_some()
    }

    /// Whose request it is.
    fn client(&self, headers: &HeaderMap) -> SocketAddr {
        let forwarded = self.proxies().forwarded.as_ref();
        forwarded.map_or(self.remote, |by| forwarded::client(self.remote, headers, by))
    }

    /// How it came to us, or to the trusted proxy before us.
    fn scheme(&self, headers: &HeaderMap) -> &'static str {
        let forwarded = self.proxies().forwarded.as_ref();
        let said = forwarded.and_then(|by| forwarded::scheme(self.remote, headers, by));
        said.unwrap_or(self.scheme)
    }

    fn proxies(&self) -> &Proxies {
        self.rules.proxies(self.transport)
    }

    fn is_console<B>(&self, request: &Request<B>) -> bool {
        let is_here = request.method() == Method::GET && request.uri().path() == CONSOLE_PATH;
        self.edge.console && is_here
    }
}

/// Each lock is held for a look or a change.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Another request behind a handshake, whose answer was to be the last.
fn spent() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The WebSocket console: one page, nothing to load beside it.
fn console_page() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(CONSOLE.as_bytes())));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONSOLE_POLICY));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // It passed no admission, so its stream must not stay.
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
