//! Why a handshake is refused, and the one place that chooses its HTTP status.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER,
    SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};
use http_body_util::Full;

use crate::close::Cause;
use crate::cluster::UserFull;
use crate::event;
use crate::id::ConnectionId;
use crate::limits::Denied;

/// What is wrong with a request head that could not be read. Its client was answered by the HTTP
/// library, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadHead {
    /// It is not HTTP/1.1.
    Malformed,
    /// It is too long, or has too many fields.
    TooLarge,
    /// It was not whole in time.
    Late,
    /// It was not whole yet when another client needed the place.
    Evicted,
}

/// Why a handshake is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The head could not be read.
    Head(BadHead),
    /// The request is not a well-formed opening handshake; what is wrong with it.
    BadRequest(&'static str),
    /// No credentials (RFC 6750 section 3.1: no error word then).
    NoToken,
    /// A token that is no good, and the closed word for why.
    BadToken(&'static str),
    /// A token that was revoked.
    Revoked,
    /// Credentials in two places or malformed (RFC 6750 section 3.1).
    BadCredentials(&'static str),
    /// A route for certificates, and none was shown.
    NoCertificate,
    /// A web page that may not come in.
    Origin,
    /// No route has this path.
    NotFound,
    /// Not a GET.
    Method,
    /// An opening handshake has no body.
    Body,
    /// Not an upgrade to WebSocket.
    NotUpgrade,
    /// Not version 13 of the protocol.
    Version,
    /// Not HTTP/1.1.
    HttpVersion,
    /// The backend said no, in its own words.
    Backend(Box<event::Refusal>),
    /// No backend to ask.
    BackendUnavailable,
    /// The backend did not answer in time.
    BackendTimeout,
    /// The token cannot be checked now: no keys.
    NoKeys,
    /// The token cannot be checked yet: what was revoked is not loaded.
    NoRevocations,
    /// One of the bounds on newcomers is reached.
    Denied(Denied),
    /// The user has as many connections as there may be.
    UserFull,
    /// The node is shutting down.
    Draining,
}

impl Refusal {
    /// Every word that [`result`](Self::result) says.
    pub(super) const RESULTS: [&'static str; 29] = [
        "bad-head",
        "head-too-large",
        "head-timeout",
        "evicted",
        "bad-request",
        "no-token",
        "bad-token",
        "revoked",
        "bad-credentials",
        "no-certificate",
        "origin",
        "not-found",
        "method",
        "body",
        "not-upgrade",
        "version",
        "http-version",
        "backend-refused",
        "backend-unavailable",
        "backend-timeout",
        "no-keys",
        "no-revocations",
        "full",
        "memory",
        "handshake-rate",
        "address-rate",
        "address-full",
        "user-full",
        "draining",
    ];

    /// The closed word for metrics, logs and bodies.
    pub(super) fn result(&self) -> &'static str {
        match self {
            Self::Head(BadHead::Malformed) => "bad-head",
            Self::Head(BadHead::TooLarge) => "head-too-large",
            Self::Head(BadHead::Late) => "head-timeout",
            Self::Head(BadHead::Evicted) => "evicted",
            Self::BadRequest(_) => "bad-request",
            Self::NoToken => "no-token",
            Self::BadToken(_) => "bad-token",
            Self::Revoked => "revoked",
            Self::BadCredentials(_) => "bad-credentials",
            Self::NoCertificate => "no-certificate",
            Self::Origin => "origin",
            Self::NotFound => "not-found",
            Self::Method => "method",
            Self::Body => "body",
            Self::NotUpgrade => "not-upgrade",
            Self::Version => "version",
            Self::HttpVersion => "http-version",
            Self::Backend(_) => "backend-refused",
            Self::BackendUnavailable => "backend-unavailable",
            Self::BackendTimeout => "backend-timeout",
            Self::NoKeys => "no-keys",
            Self::NoRevocations => "no-revocations",
            Self::Denied(Denied::Full) => "full",
            Self::Denied(Denied::Memory) => "memory",
            Self::Denied(Denied::Rate) => "handshake-rate",
            Self::Denied(Denied::AddressRate) => "address-rate",
            Self::Denied(Denied::AddressFull) => "address-full",
            Self::UserFull => "user-full",
            Self::Draining => "draining",
        }
    }

    /// What is wrong, for people. Never holds anything the client sent.
    pub(super) fn detail(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::BadRequest(what) | Self::BadCredentials(what) => what,
            Self::BadToken(why) => return Cow::Owned(format!("the token was refused: {why}")),
            Self::Head(BadHead::Malformed) => "the request head is not HTTP/1.1",
            Self::Head(BadHead::TooLarge) => "the request head is too large",
            Self::Head(BadHead::Late) => "the request head did not come in time",
            Self::Head(BadHead::Evicted) => {
                "another client needed the place of the unfinished head"
            }
            Self::NoToken => "a token is needed",
            Self::Revoked => "the token was revoked",
            Self::NoCertificate => "a client certificate is needed",
            Self::Origin => "this origin may not connect",
            Self::NotFound => "no route has this path",
            Self::Method => "an opening handshake is a GET",
            Self::Body => "an opening handshake has no body",
            Self::NotUpgrade => "this path speaks WebSocket only: upgrade is needed",
            Self::Version => "only version 13 of the WebSocket protocol is spoken",
            Self::HttpVersion => "only HTTP/1.1 is spoken",
            Self::Backend(_) => "the backend refused",
            Self::BackendUnavailable => "no backend is there now",
            Self::BackendTimeout => "the backend did not answer in time",
            Self::NoKeys => "tokens cannot be checked now",
            Self::NoRevocations => "tokens cannot be checked yet",
            Self::Denied(Denied::Full) => "too many connections",
            Self::Denied(Denied::Memory) => "this node is short of memory",
            Self::Denied(Denied::Rate) => "too many handshakes",
            Self::Denied(Denied::AddressRate) => "too many handshakes from this address",
            Self::Denied(Denied::AddressFull) => "too many connections from this address",
            Self::UserFull => "the user has as many connections as there may be",
            Self::Draining => "this node is shutting down",
        })
    }

    /// The status.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Head(BadHead::Malformed) | Self::BadRequest(_) | Self::BadCredentials(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::Head(BadHead::TooLarge) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Head(BadHead::Late) => StatusCode::REQUEST_TIMEOUT,
            Self::NoToken | Self::BadToken(_) | Self::Revoked | Self::NoCertificate => {
                StatusCode::UNAUTHORIZED
            }
            Self::Origin => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Body => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotUpgrade | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::HttpVersion => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Backend(said) => {
                StatusCode::from_u16(said.status).unwrap_or(StatusCode::FORBIDDEN)
            }
            Self::BackendTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::UserFull | Self::Denied(Denied::AddressRate | Denied::AddressFull) => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::Head(BadHead::Evicted)
            | Self::BackendUnavailable
            | Self::NoKeys
            | Self::NoRevocations
            | Self::Denied(Denied::Full | Denied::Memory | Denied::Rate)
            | Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The close code for routes with `refuse: close`, for refusals that a well-formed handshake can
    /// meet: the status seen through a WebSocket. None where the node has no strength to spare for an
    /// upgrade, or no time.
    pub(super) fn close_code(&self) -> Option<u16> {
        match self.status() {
            _ if self.is_overload() => None,
            // As on an open connection: another try with this token is of no use.
            _ if *self == Self::Revoked => Some(Cause::Revoked.code()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => {
                Some(4000 + self.status().as_u16())
            }
            status if status.is_server_error() && *self != Self::HttpVersion => Some(1013),
            _ => match self {
                Self::Backend(said) => Some(4000 + said.status),
                _ => None,
            },
        }
    }

    /// Whether the node as a whole takes nobody in, whoever asks.
    fn is_overload(&self) -> bool {
        let node = [Denied::Memory, Denied::Full, Denied::Rate];
        match self {
            Self::Denied(denied) => node.contains(denied),
            other => *other == Self::Draining,
        }
    }

    /// The answer: problem details (RFC 9457), or the backend's own words. The stream is closed after
    /// it, so nothing that follows can be taken for another request.
    pub(super) fn to_response(&self, id: ConnectionId) -> Response<Full<Bytes>> {
        let status = self.status();
        let said = match self {
            Self::Backend(said) => said.message.as_ref(),
            _ => None,
        };
        let (content_type, body) = match said {
            Some(said) => ("text/plain; charset=utf-8", said.data().clone()),
            None => ("application/problem+json", self.problem(status, id)),
        };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
            headers.insert(super::CONNECTION_ID, id);
        }
        self.add_headers(headers);
        response
    }

    /// The headers that go with the status by its own rules.
    fn add_headers(&self, headers: &mut HeaderMap) {
        match self {
            Self::NotUpgrade | Self::Version => {
                // RFC 9110 section 15.5.22 and RFC 6455 section 4.2.2.
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(CONNECTION, HeaderValue::from_static("upgrade, close"));
                headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            Self::Method => {
                headers.insert(ALLOW, HeaderValue::from_static("GET"));
            }
            // RFC 6750 section 3.
            Self::NoToken => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::BadToken(_) | Self::Revoked => {
                let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
                headers.insert(WWW_AUTHENTICATE, challenge);
            }
            Self::BadCredentials(_) => {
                let challenge = HeaderValue::from_static("Bearer error=\"invalid_request\"");
                headers.insert(WWW_AUTHENTICATE, challenge);
            }
            Self::NoCertificate => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Certificate"));
            }
            Self::Backend(said) if said.status == 401 => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        if matches!(self.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
        {
            headers.insert(RETRY_AFTER, HeaderValue::from(retry_after()));
        }
        if let Self::Backend(said) = self {
            // Its own word goes before ours.
            said.headers.iter().for_each(|(name, _)| drop(headers.remove(name)));
            headers.extend(said.headers.iter().cloned());
        }
    }

    fn problem(&self, status: StatusCode, id: ConnectionId) -> Bytes {
        let problem = serde_json::json!({
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "detail": self.detail(),
            "error": self.result(),
            "connection": id.to_string(),
        });
        Bytes::from(problem.to_string())
    }
}

impl From<UserFull> for Refusal {
    fn from(UserFull: UserFull) -> Self {
        Self::UserFull
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

/// Seconds for `Retry-After` (RFC 9110 section 10.2.3), jittered, so that refused clients do not come
/// back in step.
#[must_use]
pub fn retry_after() -> u32 {
    rand::random_range(1..=5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_is_declared_once() {
        let all = [
            Refusal::Head(BadHead::Malformed),
            Refusal::Head(BadHead::TooLarge),
            Refusal::Head(BadHead::Late),
            Refusal::Head(BadHead::Evicted),
            Refusal::BadRequest(""),
            Refusal::NoToken,
            Refusal::BadToken(""),
            Refusal::Revoked,
            Refusal::BadCredentials(""),
            Refusal::NoCertificate,
            Refusal::Origin,
            Refusal::NotFound,
            Refusal::Method,
            Refusal::Body,
            Refusal::NotUpgrade,
            Refusal::Version,
            Refusal::HttpVersion,
            Refusal::Backend(Box::new(event::Refusal::new(403, None))),
            Refusal::BackendUnavailable,
            Refusal::BackendTimeout,
            Refusal::NoKeys,
            Refusal::NoRevocations,
            Refusal::Denied(Denied::Full),
            Refusal::Denied(Denied::Memory),
            Refusal::Denied(Denied::Rate),
            Refusal::Denied(Denied::AddressRate),
            Refusal::Denied(Denied::AddressFull),
            Refusal::UserFull,
            Refusal::Draining,
        ];
        assert_eq!(all.map(|refusal| refusal.result()), Refusal::RESULTS);
    }
}
