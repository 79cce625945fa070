//! Why a request has no answer of the upstream, and the one place that chooses its HTTP status.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body_util::Full;

use super::CONNECTION_ID;
use crate::id::ConnectionId;

/// Why a request is not passed through, or came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// What is wrong with the request.
    BadRequest(&'static str),
    /// A path for events of moorline's own.
    NotFound,
    /// The content type of moorline's own events.
    MediaType,
    /// An expectation other than `100-continue`.
    Expectation,
    /// Too many requests of the client's address.
    AddressRate,
    /// The client's body did not come in time.
    SlowBody,
    /// The client's body broke off.
    BrokenBody,
    /// Too many requests at the upstream.
    Full,
    /// No connection to the upstream.
    Unreachable,
    /// None in time.
    ConnectTimeout,
    /// No answer in time.
    Late,
    /// The connection broke before the answer, or what came is no answer.
    Failed,
}

impl Refusal {
    /// The words of [`result`](Self::result).
    pub(super) const RESULTS: [&'static str; 12] = [
        "bad-request",
        "not-found",
        "media-type",
        "expectation",
        "address-rate",
        "slow-body",
        "broken-body",
        "full",
        "unreachable",
        "connect-timeout",
        "timeout",
        "failed",
    ];

    /// The closed word for metrics and logs.
    pub(super) fn result(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad-request",
            Self::NotFound => "not-found",
            Self::MediaType => "media-type",
            Self::Expectation => "expectation",
            Self::AddressRate => "address-rate",
            Self::SlowBody => "slow-body",
            Self::BrokenBody => "broken-body",
            Self::Full => "full",
            Self::Unreachable => "unreachable",
            Self::ConnectTimeout => "connect-timeout",
            Self::Late => "timeout",
            Self::Failed => "failed",
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::BrokenBody => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::AddressRate => StatusCode::TOO_MANY_REQUESTS,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::Full => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unreachable | Self::Failed => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout | Self::Late => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// What is wrong, for people. Never holds anything that the client or the upstream sent.
    fn detail(&self) -> &'static str {
        match self {
            Self::BadRequest(what) => what,
            Self::NotFound => "nothing is here",
            Self::MediaType => "this media type is not taken from clients",
            Self::Expectation => "only the expectation 100-continue is met",
            Self::AddressRate => "too many requests from this address",
            Self::SlowBody => "the body did not come in time",
            Self::BrokenBody => "the body broke off",
            Self::Full => "too many requests are under way",
            Self::Unreachable => "the application cannot be reached",
            Self::ConnectTimeout => "the application cannot be reached in time",
            Self::Late => "the application did not answer in time",
            Self::Failed => "the application gave no usable answer",
        }
    }

    /// The answer. The stream is closed after it, so nothing that follows can be taken for another
    /// request.
    pub(super) fn to_response(self, id: ConnectionId) -> Response<Full<Bytes>> {
        let status = self.status();
        let body = format!("{status}: {}\nconnection: {id}\n", self.detail());
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
            headers.insert(CONNECTION_ID, id);
        }
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            // Jittered, so that refused clients do not come back in step.
            let seconds: u32 = rand::random_range(1..=5);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
