//! Why a request is refused, and the one place that chooses its status and code. Bodies have the shape
//! of the Azure data plane, `{"error":{"code","message"}}`, so that its SDKs show them.

use bytes::Bytes;
use http::header::{ALLOW, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::json;

use super::answer::Answer;
use crate::auth::TokenError;
use crate::handshake::retry_after;
use crate::hub::FleetError;
use crate::id::{HubName, NameError};

/// Why a request is refused. Up to `Not` the backend must change something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// It comes from a page.
    #[error("requests of pages in a browser are not taken (they have Origin or Sec-Fetch-Site)")]
    Browser,
    /// It shows nothing.
    #[error("a key as bearer token, or a client certificate, is needed")]
    NoCredentials,
    /// What it shows is no good, and the closed word for why.
    #[error("the bearer token is neither a key nor signed with one for this URL: {0}")]
    Denied(&'static str),
    /// What it shows is malformed.
    #[error("{0}")]
    Credentials(TokenError),
    /// Its path.
    #[error("there is nothing at this path; /openapi.json says what there is")]
    NoPath,
    /// Its hub.
    #[error("no route of this node has the hub {0}")]
    NoHub(HubName),
    /// Its channels.
    #[error("no route of this node has a backend with `dialect: websocket-over-http`")]
    NoChannels,
    /// An item that is published, told as GRIP libraries expect it.
    #[error("{0}")]
    Item(String),
    /// The types of an answer that it takes.
    #[error("answers are text/plain or application/json")]
    NotAcceptable,
    /// Its connection.
    #[error("there is no such connection")]
    NoConnection,
    /// Its method; those that do something there.
    #[error("this path takes {0}")]
    Method(String),
    /// What a name in its path or query is for, and why it is none.
    #[error("{0}: {1}")]
    Name(&'static str, NameError),
    /// A parameter of its query, or a member of its body.
    #[error("{0}: {1}")]
    Parameter(&'static str, &'static str),
    /// Something else about it.
    #[error("{0}")]
    Request(&'static str),
    /// Something else about it, told by who found it.
    #[error("{0}")]
    Wrong(String),
    /// Its body is over the bound.
    #[error("the body has more than {0} bytes (listeners.management.max_body)")]
    TooLarge(usize),
    /// It is over a bound of what is behind this door.
    #[error("{0}")]
    Oversized(String),
    /// Its body did not come.
    #[error("the body did not come in time")]
    Late,
    /// Its content type, and what would do.
    #[error("expected the content type {0}")]
    MediaType(&'static str),
    /// Some of the connections cannot do what they should.
    #[error("done for {changed} of {connections} connections: {reason}")]
    Conflict {
        /// How many were meant.
        connections: usize,
        /// How many have done it.
        changed: usize,
        /// The first reason.
        reason: String,
    },
    /// What this node does not do.
    #[error("{0}")]
    Not(&'static str),
    /// Too many at the same time.
    #[error("too many requests at the same time")]
    Crowded,
    /// What is needed for it is not there now.
    #[error("{0}")]
    Unavailable(&'static str),
    /// Some nodes have not answered, and it does no harm to ask again.
    #[error("not every node has answered in time; ask again")]
    Partial,
    /// A bug in moorline.
    #[error("a bug in moorline: {0}")]
    Bug(String),
}

impl Refusal {
    /// The status, and the closed word for programs.
    const fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Browser => (StatusCode::FORBIDDEN, "Forbidden"),
            Self::NoCredentials | Self::Denied(_) => (StatusCode::UNAUTHORIZED, "Unauthorized"),
            Self::NoPath | Self::NoChannels => (StatusCode::NOT_FOUND, "NotFound"),
            Self::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, "NotAcceptable"),
            Self::NoHub(_) => (StatusCode::NOT_FOUND, "HubNotFound"),
            Self::NoConnection => (StatusCode::NOT_FOUND, "ConnectionNotFound"),
            Self::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
            Self::Name(..) => (StatusCode::BAD_REQUEST, "InvalidName"),
            Self::Credentials(_)
            | Self::Parameter(..)
            | Self::Request(_)
            | Self::Wrong(_)
            | Self::Item(_) => (StatusCode::BAD_REQUEST, "BadRequest"),
            Self::TooLarge(_) | Self::Oversized(_) => (StatusCode::PAYLOAD_TOO_LARGE, "TooLarge"),
            Self::Late => (StatusCode::REQUEST_TIMEOUT, "Timeout"),
            Self::MediaType(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType"),
            Self::Conflict { .. } => (StatusCode::CONFLICT, "Conflict"),
            Self::Not(_) => (StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
            Self::Crowded | Self::Unavailable(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "Unavailable")
            }
            Self::Partial => (StatusCode::GATEWAY_TIMEOUT, "Partial"),
            Self::Bug(_) => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        }
    }

    /// The closed word for programs and logs.
    pub(super) const fn code(&self) -> &'static str {
        self.kind().1
    }

    /// The word in metrics.
    pub(super) fn result(&self) -> &'static str {
        match self.kind().0 {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "denied",
            status if status.is_client_error() => "refused",
            _ => "failed",
        }
    }

    pub(super) fn to_response(&self) -> Response<Full<Bytes>> {
        let (status, code) = self.kind();
        let answer = match self {
            Self::Item(problem) => Answer::text(status, format!("{problem}\n")),
            _ => {
                let body = json!({"error": {"code": code, "message": self.to_string()}});
                Answer::json(status, body.to_string())
            }
        };
        let mut response = answer.to_response();
        self.add_headers(status, response.headers_mut());
        response
    }

    /// The headers that go with the status by its own rules.
    fn add_headers(&self, status: StatusCode, headers: &mut HeaderMap) {
        // RFC 6750 section 3.
        let challenge = match self {
            Self::NoCredentials => Some("Bearer"),
            Self::Denied(_) => Some("Bearer error=\"invalid_token\""),
            Self::Credentials(_) => Some("Bearer error=\"invalid_request\""),
            _ => None,
        };
        if let Some(challenge) = challenge {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Self::Method(allowed) = self
            && let Ok(allowed) = HeaderValue::from_str(allowed)
        {
            headers.insert(ALLOW, allowed);
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from(retry_after()));
        }
    }
}

impl From<FleetError> for Refusal {
    fn from(error: FleetError) -> Self {
        match error {
            FleetError::Unreachable => Self::Unavailable("NATS cannot be reached"),
            FleetError::TooLarge { .. } => Self::Oversized(error.to_string()),
            FleetError::Gone => Self::NoConnection,
            FleetError::Command(error) => Self::Wrong(error.to_string()),
        }
    }
}
