//! Clients for what the operator named. [`Client`] asks for a document, as a key set, or a node's
//! management API: one request, its whole time, the size of its answer and its target bounded.
//! [`Server`] asks a backend, again and again.
//!
//! Nothing in an answer leads to another request. Unencrypted HTTP is sent
//! only to this machine by a [`Client`].

mod resolver;
mod server;
mod watched;

use std::{net::IpAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use resolver::{LOCALHOST, Resolver};

pub use server::{ConnectError, Connection, ExchangeError, Server, dial};

/// A client with one set of trusted authorities. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    pool: Pool<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>,
}

/// The most that one request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// From the first look-up of the name to the last byte.
    pub timeout: Duration,
    /// Bytes of the body.
    pub max_size: usize,
}

/// Why there is no answer, or not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not a URL that is ever asked.
    #[error(
        "expected an https URL, or an http URL of a loopback address, without user or password"
    )]
    Url,
    /// The server was not reached, or its certificate not accepted.
    #[error("the server cannot be reached")]
    Connect(#[source] hyper_util::client::legacy::Error),
    /// A 3xx, which is not followed: its target is not what the operator wrote.
    #[error("the server answered with a redirect ({0}), which is not followed")]
    Redirect(StatusCode),
    /// Any other answer than 200.
    #[error("the server answered {0}, expected 200 OK")]
    Status(StatusCode),
    /// More than [`Bounds::max_size`].
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    /// The answer broke off.
    #[error("the answer broke off")]
    Body(#[source] hyper::Error),
    /// Not done within [`Bounds::timeout`].
    #[error("no complete answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
}

/// The largest answer head in bytes, and the most fields in it.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

impl Client {
    /// A client that checks servers as `tls` says.
    #[must_use]
    pub fn new(mut tls: rustls::ClientConfig) -> Self {
        // The connector offers the protocols that it speaks, and panics on an offer made before.
        tls.alpn_protocols.clear();
        let mut tcp = HttpConnector::new_with_resolver(Resolver::new());
        tcp.enforce_http(false);
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let pool = Pool::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            // Documents are fetched minutes apart: an idle connection would only be a stale one.
            .pool_max_idle_per_host(0)
            .retry_canceled_requests(false)
            .http1_max_buf_size(MAX_HEAD)
            .http1_max_headers(MAX_HEADERS)
            .build(connector);
        Self { pool }
    }

    /// A client that trusts nobody, for plain HTTP to this machine.
    #[must_use]
    pub fn plain() -> Self {
        let nobody = rustls::RootCertStore::empty();
        let tls = rustls::ClientConfig::builder().with_root_certificates(nobody);
        Self::new(tls.with_no_client_auth())
    }

    /// Whether `url` is asked at all.
    ///
    /// # Errors
    /// [`FetchError::Url`].
    pub fn check(url: &Uri) -> Result<(), FetchError> {
        let authority = url.authority().ok_or(FetchError::Url)?;
        let fits = match url.scheme_str() {
            Some("https") => !authority.host().is_empty(),
            Some("http") => is_loopback(authority.host()),
            _ => false,
        };
        // A password in a URL would end up in logs.
        if fits && !authority.as_str().contains('@') { Ok(()) } else { Err(FetchError::Url) }
    }

    /// The body of a 200 from `url`. Cancel safe: dropping it closes the connection.
    ///
    /// # Errors
    /// When anything else came, or not all of it within `bounds`.
    pub async fn get(
        &self,
        url: &Uri,
        accept: &'static str,
        bounds: Bounds,
    ) -> Result<Bytes, FetchError> {
        let mut request = Request::new(Bytes::new());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = url.clone();
        request.headers_mut().insert(header::ACCEPT, header::HeaderValue::from_static(accept));
        within(bounds, async {
            let response = self.ask(request).await?;
            match response.status() {
                StatusCode::OK => collect(response.into_body(), bounds.max_size).await,
                status => Err(FetchError::Status(status)),
            }
        })
        .await
    }

    /// The answer to `request`, whatever its status, but no redirect. Cancel safe: dropping it closes
    /// the connection.
    ///
    /// # Errors
    /// When there is none, or not all of it within `bounds`.
    pub async fn send(
        &self,
        request: Request<Bytes>,
        bounds: Bounds,
    ) -> Result<Response<Bytes>, FetchError> {
        within(bounds, async {
            let (head, body) = self.ask(request).await?.into_parts();
            Ok(Response::from_parts(head, collect(body, bounds.max_size).await?))
        })
        .await
    }

    async fn ask(&self, request: Request<Bytes>) -> Result<Response<Incoming>, FetchError> {
        Self::check(request.uri())?;
        let mut request = request.map(Full::new);
        let agent = header::HeaderValue::from_static(USER_AGENT);
        request.headers_mut().insert(header::USER_AGENT, agent);
        let response = self.pool.request(request).await.map_err(FetchError::Connect)?;
        match response.status() {
            status if status.is_redirection() => Err(FetchError::Redirect(status)),
            _ => Ok(response),
        }
    }
}

const USER_AGENT: &str = concat!("moorline/", env!("CARGO_PKG_VERSION"));

/// What comes of `work`, unless that takes too long.
async fn within<T>(
    bounds: Bounds,
    work: impl Future<Output = Result<T, FetchError>>,
) -> Result<T, FetchError> {
    // Boxed, because the connector's future is larger than all of the caller's.
    let done = tokio::time::timeout(bounds.timeout, Box::pin(work)).await;
    done.unwrap_or(Err(FetchError::Timeout(bounds.timeout)))
}

async fn collect(mut body: Incoming, max: usize) -> Result<Bytes, FetchError> {
    // An honest length saves reading what will be refused; a false one is noticed below.
    if body.size_hint().lower() > max as u64 {
        return Err(FetchError::TooLarge(max));
    }
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(FetchError::Body)?.into_data() {
            if data.len() > max - all.len() {
                return Err(FetchError::TooLarge(max));
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(all.freeze())
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case(LOCALHOST)
        || bare(host).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The host of a URL without the brackets of an IPv6 address, as a look-up and a certificate have it.
#[must_use]
pub fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
