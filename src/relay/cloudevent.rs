//! An event as headers: CloudEvents 1.0 in binary mode, by the NATS binding and by the HTTP binding.
//!
//! Values are percent-encoded as both bindings ask: a space, a quotation mark, a percent sign and
//! everything outside U+0021 to U+007E. So nothing that a client chose (path, user, subprotocol)
//! can end a header or begin another.

use std::borrow::Cow;
use std::fmt::{self, Write};

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::value::{Error, StringDeserializer};

use crate::event::Event;

/// Headers that are being written. Names are in lower case; values are encoded or our own.
pub(super) trait Headers {
    fn put(&mut self, name: &'static str, value: &str);
    fn print(&mut self, name: &'static str, value: fmt::Arguments<'_>);
}

/// Writes what an event has over any transport: all but the content type of its data.
pub(super) fn write(event: &Event, headers: &mut impl Headers) {
    let peer = &event.peer;
    let (hub, connection) = (peer.route.hub.as_str(), peer.id.to_string());
    headers.put("ce-specversion", "1.0");
    headers.put("ce-id", &event.id_of(&connection));
    headers.print("ce-source", format_args!("/hubs/{hub}/connections/{connection}"));
    headers.put("ce-type", event.kind().ce_type());
    headers.put("ce-subject", &encoded(&peer.path));
    headers.print("ce-time", format_args!("{}", humantime::format_rfc3339_millis(event.time)));
    headers.put("ce-hub", hub);
    headers.put("ce-connectionid", &connection);
    if event.sequence > 0 {
        headers.print("ce-sequence", format_args!("{}", event.sequence));
    }
    headers.print("traceparent", format_args!("{}", event.trace));
    if let Some(user) = &peer.user {
        headers.put("ce-userid", &encoded(user.as_str()));
    }
    if let Some(subprotocol) = &peer.subprotocol {
        headers.put("ce-subprotocol", &encoded(subprotocol));
    }
    if let Some(state) = &event.state {
        headers.put("ce-state", &encoded(state.as_str()));
    }
}

/// The event's headers, ready for the NATS library. Client headers are not copied at all.
///
/// The library keeps a hash, a vector and a string for each header, which is a sixth of all CPU that
/// a message costs. So all headers go in as the value of the first one, lines and all; on the wire
/// there is no difference. Its checked ways to a value refuse line ends, as they should for values
/// from elsewhere; here every value is encoded or our own.
///
/// # Errors
/// When the library no longer takes such a value.
pub(super) fn headers(event: &Event) -> Result<HeaderMap, Error> {
    let mut lines = Lines(String::with_capacity(USUAL));
    // Sent as it is, although one of its values has a space: workers compare it, and as it has no
    // percent sign, a decoder reads the same out of it.
    lines.0.push_str(event.body.content_type());
    write(event, &mut lines);
    let value = HeaderValue::deserialize(StringDeserializer::<Error>::new(lines.0))?;
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static(FIRST), value);
    Ok(headers)
}

/// The header whose value stands first.
const FIRST: &str = "ce-datacontenttype";
/// What the headers of a usual message take.
const USUAL: usize = 640;

/// The value of [`FIRST`], and every other header on a line of its own.
struct Lines(String);

impl Headers for Lines {
    fn put(&mut self, name: &'static str, value: &str) {
        for part in ["\r\n", name, ": ", value] {
            self.0.push_str(part);
        }
    }

    fn print(&mut self, name: &'static str, value: fmt::Arguments<'_>) {
        self.put(name, "");
        // Writing to a string does not fail.
        let _ = self.0.write_fmt(value);
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

    /// The headers as a NATS client reads them, each line by itself.
    fn read(event: &Event) -> Vec<(String, String)> {
        let headers = headers(event).unwrap();
        let all = format!("{FIRST}: {}", headers.get(FIRST).unwrap().as_str());
        assert_eq!(headers.len(), 1);
        let pair = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_owned(), value.to_owned())
        };
        all.split("\r\n").map(pair).collect()
    }

    fn value(headers: &[(String, String)], name: &str) -> Option<String> {
        headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
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
        let headers = read(&event);
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
        let headers = read(&event(&Arc::new(peer), EventBody::Connected));
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
            let headers = read(&event(&Arc::new(peer), EventBody::Connected));
            let known = 12 + usize::from(UserId::new(&user).is_ok());
            proptest::prop_assert_eq!(headers.len(), known);
            for (name, value) in &headers {
                let is_visible = |b: u8| (0x21..=0x7e).contains(&b);
                proptest::prop_assert!(value.bytes().all(is_visible), "{}", name);
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
