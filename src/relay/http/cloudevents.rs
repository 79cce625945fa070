//! The native contract over HTTP: the CloudEvents 1.0 HTTP binding in binary mode, and answers as over
//! NATS. Pure.

use std::fmt;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, InvalidHeaderValue};
use http::{HeaderMap, HeaderName, HeaderValue, Response};

use super::Broken;
use crate::event::{Event, Outcome};
use crate::relay::{cloudevent, reply};

/// Writes the headers of a request with this event.
///
/// # Errors
/// When a value cannot be a header, which all are by construction.
pub(super) fn write(event: &Event, headers: &mut HeaderMap) -> Result<(), InvalidHeaderValue> {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(event.body.content_type()));
    let mut fields = Fields { headers, wrong: None };
    cloudevent::write(event, &mut fields);
    fields.wrong.map_or(Ok(()), Err)
}

/// What the answer comes to.
pub(super) fn outcome(event: &Event, answer: &Response<Bytes>) -> Result<Outcome, Broken> {
    let status = answer.status();
    // Not asked for: the event goes where the operator says.
    if status.is_redirection() || status.is_informational() {
        return Err(Broken::Status(status));
    }
    let headers = answer.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    Ok(reply::outcome_of(&event.body, Some(status.as_u16()), headers, answer.body())?)
}

/// Headers on their way into a request.
struct Fields<'a> {
    headers: &'a mut HeaderMap,
    /// What went wrong with the last value that could not be one.
    wrong: Option<InvalidHeaderValue>,
}

impl Fields<'_> {
    fn insert(&mut self, name: &'static str, value: Result<HeaderValue, InvalidHeaderValue>) {
        match value {
            Ok(value) => {
                self.headers.insert(HeaderName::from_static(name), value);
            }
            Err(error) => self.wrong = Some(error),
        }
    }
}

impl cloudevent::Headers for Fields<'_> {
    fn put(&mut self, name: &'static str, value: &str) {
        self.insert(name, HeaderValue::from_str(value));
    }

    fn print(&mut self, name: &'static str, value: fmt::Arguments<'_>) {
        self.insert(name, HeaderValue::from_maybe_shared(Bytes::from(value.to_string())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventBody, State};
    use crate::id::UserId;
    use crate::relay::testing::{event, peer};
    use std::sync::Arc;

    proptest::proptest! {
        #[test]
        fn no_client_text_can_break_a_header(
            path in "\\PC{0,40}|[\\x00-\\x20]{1,8}",
            user in "\\PC{1,40}",
            subprotocol in ".{0,20}",
            state in "\\PC{1,40}",
        ) {
            let mut peer = peer("app", None);
            peer.path = path.into();
            peer.user = UserId::new(&user).ok();
            peer.subprotocol = Some(subprotocol.into());
            let mut event = event(&Arc::new(peer), EventBody::Connected);
            event.state = State::new(&state).ok().flatten();
            let mut headers = HeaderMap::new();
            proptest::prop_assert!(write(&event, &mut headers).is_ok());
            let known = 12 + usize::from(event.peer.user.is_some()) + usize::from(event.state.is_some());
            proptest::prop_assert_eq!(headers.len(), known);
            for (name, value) in &headers {
                let is_visible = |b: &u8| (0x21..=0x7e).contains(b);
                proptest::prop_assert!(value.as_bytes().iter().all(is_visible), "{}", name);
            }
            proptest::prop_assert_eq!(&headers["content-type"], "application/json");
        }
    }
}
