//! An event as the headers of a NATS message: the CloudEvents 1.0 NATS binding in binary mode.
//!
//! Values are percent-encoded as the binding asks: a space, a quotation mark, a percent sign and
//! everything outside U+0021 to U+007E. So nothing that a client chose (path, user, subprotocol)
//! can end a header or begin another. Client headers are not copied at all.

use std::borrow::Cow;
use std::fmt::{self, Write};

use async_nats::header::ParseHeaderValueError;
use async_nats::{HeaderMap, HeaderName};

use crate::event::Event;

/// The headers of one message, being written.
struct Writer {
    headers: HeaderMap,
    /// Values that are put together, one after the other.
    scratch: String,
}

/// The event's headers.
///
/// # Errors
/// Never, for encoded values have no line ends; but the library's other ways to a value
/// panic, and a mistake made here later shall cost an event and not the process.
pub(super) fn headers(event: &Event) -> Result<HeaderMap, ParseHeaderValueError> {
    let peer = &event.peer;
    let (hub, connection) = (peer.route.hub.as_str(), peer.id.to_string());
    let mut writer = Writer { headers: HeaderMap::new(), scratch: String::with_capacity(96) };
    writer.put("ce-specversion", "1.0")?;
    writer.print("ce-id", format_args!("{}", event.id_with(&connection)))?;
    writer.print("ce-source", format_args!("/hubs/{hub}/connections/{connection}"))?;
    writer.put("ce-type", event.kind().ce_type())?;
    writer.put("ce-subject", &encoded(&peer.path))?;
    writer.print("ce-time", format_args!("{}", humantime::format_rfc3339_millis(event.time)))?;
    // Sent as it is, although one of its values has a space: workers compare it, and as it has no
    // percent sign, a decoder reads the same out of it.
    writer.put("ce-datacontenttype", event.body.content_type())?;
    writer.put("ce-hub", hub)?;
    writer.put("ce-connectionid", &connection)?;
    writer.print("ce-sequence", format_args!("{}", event.sequence))?;
    writer.print("traceparent", format_args!("{}", event.trace))?;
    if let Some(user) = &peer.user {
        writer.put("ce-userid", &encoded(user.as_str()))?;
    }
    if let Some(subprotocol) = &peer.subprotocol {
        writer.put("ce-subprotocol", &encoded(subprotocol))?;
    }
    if let Some(state) = &event.state {
        writer.put("ce-state", &encoded(state.as_str()))?;
    }
    Ok(writer.headers)
}

impl Writer {
    fn put(&mut self, name: &'static str, value: &str) -> Result<(), ParseHeaderValueError> {
        let value: async_nats::HeaderValue = value.parse()?;
        self.headers.insert(HeaderName::from_static(name), value);
        Ok(())
    }

    fn print(
        &mut self,
        name: &'static str,
        value: fmt::Arguments<'_>,
    ) -> Result<(), ParseHeaderValueError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        // Writing to a string does not fail.
        let _ = scratch.write_fmt(value);
        let put = self.put(name, &scratch);
        self.scratch = scratch;
        put
    }
}

/// The value percent-encoded: its UTF-8 bytes, with upper-case hex digits.
fn encoded(value: &str) -> Cow<'_, str> {
    let is_plain = |b: u8| matches!(b, b'!'..=b'~') && b != b'"' && b != b'%';
    if value.bytes().all(is_plain) {
        return Cow::Borrowed(value);
    }
    let mut text = String::with_capacity(value.len() + 16);
    for b in value.bytes() {
        if is_plain(b) {
            text.push(char::from(b));
        } else {
            let _ = write!(text, "%{b:02X}");
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventBody, State, Trace};
    use crate::id::UserId;
    use crate::message::Message;
    use crate::relay::testing::{event, peer};
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    fn value(headers: &HeaderMap, name: &str) -> Option<String> {
        let name = HeaderName::try_from(name).unwrap();
        headers.get(name).map(|value| value.as_str().to_owned())
    }

    #[test]
    fn a_message_is_a_cloudevent() {
        let peer = Arc::new(peer("app", Some("alice@example.com")));
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let event = Event {
            sequence: 7,
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_234),
            state: State::new("{\"a\": 1}").unwrap(),
            trace: Trace::parse(trace).unwrap(),
            ..event(&peer, EventBody::Message(Message::text("hi")))
        };
        let headers = headers(&event).unwrap();
        let id = peer.id;
        for (name, expected) in [
            ("ce-specversion", "1.0"),
            ("ce-id", &format!("{id}-7")),
            ("ce-source", &format!("/hubs/app/connections/{id}")),
            ("ce-type", "moorline.message"),
            ("ce-subject", "/ws/a%20b"),
            ("ce-time", "1970-01-01T00:00:01.234Z"),
            ("ce-datacontenttype", "text/plain; charset=utf-8"),
            ("ce-hub", "app"),
            ("ce-connectionid", &id.to_string()),
            ("ce-userid", "alice@example.com"),
            ("ce-sequence", "7"),
            ("ce-subprotocol", "chat"),
            ("ce-state", "{%22a%22:%201}"),
        ] {
            assert_eq!(value(&headers, name).as_deref(), Some(expected), "{name}");
        }
        let trace = value(&headers, "traceparent").unwrap();
        assert!(trace.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{trace}");
        assert_eq!(headers.len(), 14);
    }

    #[test]
    fn what_is_unknown_has_no_header() {
        let mut peer = peer("app", None);
        peer.subprotocol = None;
        let headers = headers(&event(&Arc::new(peer), EventBody::Connected)).unwrap();
        for name in ["ce-userid", "ce-subprotocol", "ce-state"] {
            assert_eq!(value(&headers, name), None);
        }
        assert_eq!(value(&headers, "ce-datacontenttype").as_deref(), Some("application/json"));
    }

    #[test]
    fn values_are_encoded_as_the_binding_says() {
        for (plain, expected) in [
            ("", ""),
            ("Euro \u{20ac} \u{1f600}", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
            ("a\r\nce-userid: root", "a%0D%0Ace-userid:%20root"),
            ("100%\"~!", "100%25%22~!"),
            ("\0\u{7f}\u{80}", "%00%7F%C2%80"),
        ] {
            assert_eq!(encoded(plain), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_client_text_can_break_a_header(
            path in "\\PC{0,40}|[\\x00-\\x20]{1,8}",
            user in "\\PC{1,40}",
            subprotocol in ".{0,20}",
        ) {
            let mut peer = peer("app", None);
            peer.path = path.clone().into();
            peer.user = UserId::new(&user).ok();
            peer.subprotocol = Some(subprotocol.into());
            let headers = headers(&event(&Arc::new(peer), EventBody::Connected)).unwrap();
            for (name, values) in headers.iter() {
                let name: &str = name.as_ref();
                proptest::prop_assert_eq!(values.len(), 1);
                for value in values {
                    let is_visible = |b: u8| (0x21..=0x7e).contains(&b);
                    proptest::prop_assert!(value.as_str().bytes().all(is_visible), "{}", name);
                }
            }
            let subject = value(&headers, "ce-subject").unwrap();
            proptest::prop_assert_eq!(decoded(&subject), path);
        }
    }

    fn decoded(text: &str) -> String {
        let mut bytes = Vec::new();
        let mut rest = text.as_bytes();
        while let Some((&first, tail)) = rest.split_first() {
            if first == b'%' {
                let hex = std::str::from_utf8(&tail[..2]).unwrap();
                bytes.push(u8::from_str_radix(hex, 16).unwrap());
                rest = &tail[2..];
            } else {
                bytes.push(first);
                rest = tail;
            }
        }
        String::from_utf8(bytes).unwrap()
    }
}
