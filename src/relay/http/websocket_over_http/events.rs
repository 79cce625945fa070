//! The bodies of requests and answers: a row of events, each a type, a length and its content. Strict: of
//! a body in which anything is wrong, nothing counts.

use bytes::Bytes;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WsEvent {
    /// The opening handshake.
    Open,
    /// A text message, which is UTF-8.
    Text(Bytes),
    /// A binary message.
    Binary(Bytes),
    Ping(Bytes),
    Pong(Bytes),
    /// A close frame: its code and reason, or nothing.
    Close(Bytes),
    /// The end without a close frame.
    Disconnect,
}

/// How a body is no row of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("a line without an end, at byte {0}")]
    Line(usize),
    #[error("an event of an unknown type, at byte {0}")]
    Type(usize),
    #[error("a length that is none, at byte {0}")]
    Length(usize),
    #[error("content that is shorter than its length, at byte {0}")]
    Cut(usize),
    #[error("content that is longer than its length, at byte {0}")]
    Long(usize),
    #[error("text that is not UTF-8, at byte {0}")]
    Text(usize),
    #[error("a ping, a pong or a close of more than 125 bytes, or a close of one, at byte {0}")]
    Control(usize),
}

/// The longest first line of an event: a type, a space and a length.
const LINE_MAX: usize = 32;
/// Bytes in a control frame (RFC 6455 section 5.5).
pub(super) const CONTROL_MAX: usize = 125;

/// Writes one event.
pub(crate) fn encode(event: &WsEvent, to: &mut Vec<u8>) {
    let (name, content, has_length) = match event {
        WsEvent::Open => ("OPEN", None, false),
        WsEvent::Text(content) => ("TEXT", Some(content), true),
        WsEvent::Binary(content) => ("BINARY", Some(content), true),
        WsEvent::Ping(content) => ("PING", Some(content), false),
        WsEvent::Pong(content) => ("PONG", Some(content), false),
        WsEvent::Close(content) => ("CLOSE", Some(content), false),
        WsEvent::Disconnect => ("DISCONNECT", None, false),
    };
    to.extend_from_slice(name.as_bytes());
    if let Some(content) = content.filter(|content| has_length || !content.is_empty()) {
        to.extend_from_slice(format!(" {:x}\r\n", content.len()).as_bytes());
        to.extend_from_slice(content);
    }
    to.extend_from_slice(b"\r\n");
}

/// Reads a body. What events hold are slices of it.
///
/// # Errors
/// When it is no row of events, to its last byte.
pub(crate) fn decode(body: &Bytes) -> Result<Vec<WsEvent>, Malformed> {
    let mut events = Vec::new();
    let mut at = 0;
    while at < body.len() {
        let (event, next) = one(body, at)?;
        events.push(event);
        at = next;
    }
    Ok(events)
}

/// The event at this place, and where the next one begins.
fn one(body: &Bytes, at: usize) -> Result<(WsEvent, usize), Malformed> {
    let rest = body.get(at..).unwrap_or_default();
    let end = rest.windows(2).take(LINE_MAX).position(|pair| pair == b"\r\n");
    let end = end.ok_or(Malformed::Line(at))?;
    let line = rest.get(..end).unwrap_or_default();
    let (name, length) = match line.iter().position(|byte| *byte == b' ') {
        Some(space) => (line.get(..space), line.get(space + 1..)),
        None => (Some(line), None),
    };
    let start = at + end + 2;
    let (content, next) = match length {
        None => (Bytes::new(), start),
        Some(digits) => {
            let stop = length_of(digits).and_then(|length| start.checked_add(length));
            let stop = stop.ok_or(Malformed::Length(at))?;
            match body.get(stop..stop.saturating_add(2)) {
                Some(b"\r\n") => {}
                Some(_) => return Err(Malformed::Long(at)),
                None => return Err(Malformed::Cut(at)),
            }
            (body.slice(start..stop), stop + 2)
        }
    };
    let event = match name.unwrap_or_default() {
        b"OPEN" => WsEvent::Open,
        b"TEXT" if std::str::from_utf8(&content).is_err() => return Err(Malformed::Text(at)),
        b"TEXT" => WsEvent::Text(content),
        b"BINARY" => WsEvent::Binary(content),
        b"DISCONNECT" => WsEvent::Disconnect,
        name @ (b"PING" | b"PONG" | b"CLOSE")
            if content.len() > CONTROL_MAX || is_half(name, &content) =>
        {
            return Err(Malformed::Control(at));
        }
        b"PING" => WsEvent::Ping(content),
        b"PONG" => WsEvent::Pong(content),
        b"CLOSE" => WsEvent::Close(content),
        _ => return Err(Malformed::Type(at)),
    };
    Ok((event, next))
}

/// A close code has two bytes.
fn is_half(name: &[u8], content: &Bytes) -> bool {
    name == b"CLOSE" && content.len() == 1
}

/// One to eight hexadecimal digits.
fn length_of(digits: &[u8]) -> Option<usize> {
    let fits = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let digits = std::str::from_utf8(digits).ok().filter(|_| fits)?;
    usize::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn encoded(events: &[WsEvent]) -> Bytes {
        let mut bytes = Vec::new();
        events.iter().for_each(|event| encode(event, &mut bytes));
        bytes.into()
    }

    fn bytes(text: &[u8]) -> Bytes {
        Bytes::copy_from_slice(text)
    }

    #[test]
    fn the_bytes_are_those_of_the_protocol() {
        use WsEvent::*;
        for (events, golden) in [
            (vec![], &b""[..]),
            (vec![Open], b"OPEN\r\n"),
            (vec![Disconnect], b"DISCONNECT\r\n"),
            (vec![Text(bytes(b""))], b"TEXT 0\r\n\r\n"),
            (vec![Binary(bytes(b""))], b"BINARY 0\r\n\r\n"),
            (
                vec![Ping(bytes(b"")), Pong(bytes(b"")), Close(bytes(b""))],
                b"PING\r\nPONG\r\nCLOSE\r\n",
            ),
            (vec![Ping(bytes(b"hi"))], b"PING 2\r\nhi\r\n"),
            (
                vec![Text(bytes(b"hello")), Close(bytes(b"\x03\xe8"))],
                b"TEXT 5\r\nhello\r\nCLOSE 2\r\n\x03\xe8\r\n",
            ),
            (
                vec![Open, Text(bytes(b"\r\n")), Binary(bytes(b"OPEN\r\n"))],
                b"OPEN\r\nTEXT 2\r\n\r\n\r\nBINARY 6\r\nOPEN\r\n\r\n",
            ),
        ] {
            assert_eq!(encoded(&events), golden);
            assert_eq!(decode(&bytes(golden)), Ok(events));
        }
        let long = vec![b'x'; 0x1af];
        let body = [b"TEXT 1af\r\n", &long[..], b"\r\n"].concat();
        assert_eq!(encoded(&[Text(bytes(&long))]), body);
        // Others write it so.
        for body in [&b"TEXT 1AF\r\n"[..], b"TEXT 000001af\r\n"] {
            let body = [body, &long[..], b"\r\n"].concat();
            assert_eq!(decode(&body.into()), Ok(vec![Text(bytes(&long))]));
        }
        assert_eq!(decode(&bytes(b"TEXT\r\n")), Ok(vec![Text(bytes(b""))]));
        assert_eq!(decode(&bytes(b"OPEN 2\r\nab\r\n")), Ok(vec![Open]));
    }

    #[test]
    fn anything_wrong_is_named_with_its_place() {
        use Malformed::*;
        for (body, expected) in [
            (&b"OPEN"[..], Line(0)),
            (b"OPEN\r", Line(0)),
            (b"OPEN\n", Line(0)),
            (b"\r\n", Type(0)),
            (b"OPEN\r\n\r\n", Type(6)),
            (b"open\r\n", Type(0)),
            (b" OPEN\r\n", Length(0)),
            (b"HELLO\r\n", Type(0)),
            (b"TEXT \r\n", Length(0)),
            (b"TEXT  5\r\nhello\r\n", Length(0)),
            (b"TEXT +5\r\nhello\r\n", Length(0)),
            (b"TEXT -1\r\n", Length(0)),
            (b"TEXT 0x5\r\nhello\r\n", Length(0)),
            (b"TEXT 5 \r\nhello\r\n", Length(0)),
            (b"TEXT g\r\n", Length(0)),
            (b"TEXT 000000005\r\nhello\r\n", Length(0)),
            (b"TEXT ffffffff\r\nhello\r\n", Cut(0)),
            (b"TEXT 5\r\nhell\r\n", Cut(0)),
            (b"TEXT 5\r\nhello", Cut(0)),
            (b"TEXT 5\r\nhello\r", Cut(0)),
            (b"TEXT 4\r\nhello\r\n", Long(0)),
            (b"TEXT 5\r\nhello\n\n", Long(0)),
            (b"OPEN\r\nTEXT 2\r\n\xff\xfe\r\n", Text(6)),
            (b"OPEN\r\nCLOSE 1\r\n\x03\r\n", Control(6)),
            (&[b"PING 7e\r\n", &[b'x'; 126][..], b"\r\n"].concat(), Control(0)),
            (&[b'x'; 100], Line(0)),
        ] {
            let text = String::from_utf8_lossy(body);
            assert_eq!(decode(&bytes(body)), Err(expected), "{text}");
        }
    }

    fn event() -> impl Strategy<Value = WsEvent> {
        let content = || vec(any::<u8>(), 0..300).prop_map(Bytes::from);
        let short = || vec(any::<u8>(), 2..CONTROL_MAX).prop_map(Bytes::from);
        prop_oneof![
            Just(WsEvent::Open),
            Just(WsEvent::Disconnect),
            ".{0,80}".prop_map(|text| WsEvent::Text(text.into())),
            content().prop_map(WsEvent::Binary),
            short().prop_map(WsEvent::Ping),
            short().prop_map(WsEvent::Pong),
            short().prop_map(WsEvent::Close),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(events in vec(event(), 0..20)) {
            let body = encoded(&events);
            prop_assert_eq!(decode(&body), Ok(events));
        }

        #[test]
        fn a_body_that_is_cut_is_never_more_than_its_whole_events(
            events in vec(event(), 1..6),
            cut in 1usize..400,
        ) {
            let body = encoded(&events);
            let cut = body.slice(..body.len().saturating_sub(cut));
            if let Ok(fewer) = decode(&cut) {
                prop_assert!(events.starts_with(&fewer) && fewer.len() < events.len());
            }
        }

        #[test]
        fn any_bytes_are_safe(body in vec(any::<u8>(), 0..300)) {
            let _ = decode(&body.into());
        }

        #[test]
        fn near_misses_are_safe(text in "(OPEN|TEXT|PING|CLOSE|[A-Z]{0,3})( [0-9a-f]{0,9})?(\r\n|\n)?.{0,9}(\r\n)?") {
            let _ = decode(&text.into());
        }
    }
}
