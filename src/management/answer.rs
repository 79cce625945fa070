//! Answers, in the shape of the Azure data plane and with what it leaves out.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::json;

use crate::hub::Done;

/// What a request was answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    status: StatusCode,
    /// The content type and the body, if any.
    body: Option<(&'static str, Bytes)>,
    /// How many connections were changed, where that was the wish.
    changed: Option<usize>,
    /// Whether a node has not answered in time.
    is_partial: bool,
}

/// How many connections were changed, also on answers without a body.
const CHANGED: HeaderName = HeaderName::from_static("moorline-changed");

impl Answer {
    /// Every word that a request's result is in metrics.
    pub(super) const RESULTS: [&'static str; 5] = ["ok", "partial", "denied", "refused", "failed"];

    /// A status that says it all.
    pub(super) const fn empty(status: StatusCode) -> Self {
        Self { status, body: None, changed: None, is_partial: false }
    }

    /// A text in JSON.
    pub(super) fn json(status: StatusCode, text: impl Into<Bytes>) -> Self {
        Self { body: Some(("application/json", text.into())), ..Self::empty(status) }
    }

    /// A text for people.
    pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Self {
        Self { body: Some(("text/plain; charset=utf-8", text.into())), ..Self::empty(status) }
    }

    /// What the nodes have said, and whether all of them have.
    pub(super) fn of_nodes(status: StatusCode, body: &serde_json::Value, is_partial: bool) -> Self {
        Self { is_partial, ..Self::json(status, body.to_string()) }
    }

    /// Connections were changed, which a body says.
    pub(super) fn changed(done: &Done) -> Self {
        let body = json!({"connections": done.connections, "changed": done.changed});
        Self { changed: Some(done.changed), ..Self::json(StatusCode::OK, body.to_string()) }
    }

    /// Connections were changed, which nothing but a header says.
    pub(super) fn changed_silently(done: &Done) -> Self {
        Self { changed: Some(done.changed), ..Self::empty(StatusCode::NO_CONTENT) }
    }

    /// The word in metrics.
    pub(super) const fn result(&self) -> &'static str {
        if self.is_partial { "partial" } else { "ok" }
    }

    pub(super) fn to_response(&self) -> Response<Full<Bytes>> {
        let (content_type, body) = self.body.clone().unzip();
        let mut response = Response::new(Full::new(body.unwrap_or_default()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if let Some(content_type) = content_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        if let Some(changed) = self.changed {
            headers.insert(CHANGED, HeaderValue::from(changed));
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}
