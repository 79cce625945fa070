//! A WebSocket message: its kind and its bytes. Text is valid UTF-8 by construction.

use bytes::Bytes;

/// One whole message, in either direction. Cloning shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    kind: Kind,
    data: Bytes,
}

/// Text or binary (RFC 6455 section 5.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// UTF-8 text.
    Text,
    /// Any bytes.
    Binary,
}

/// Half of what the NATS client reads at once: above that, a copy would cost more than it gives back.
pub const SHARED_FROM: usize = 32 * 1024;
/// `datacontenttype` of a text message.
pub const TEXT_PLAIN: &str = "text/plain; charset=utf-8";
/// `datacontenttype` of a binary message.
pub const OCTET_STREAM: &str = "application/octet-stream";

/// The same bytes, in memory of their own unless they are many. A payload is a slice of the buffer that it
/// was read into, and keeps all of that in memory.
#[must_use]
pub fn detached(data: Bytes) -> Bytes {
    match data.len() < SHARED_FROM {
        true => Bytes::copy_from_slice(&data),
        false => data,
    }
}

impl Message {
    /// A text message.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self { kind: Kind::Text, data: Bytes::from(text.into()) }
    }

    /// A binary message.
    #[must_use]
    pub fn binary(data: impl Into<Bytes>) -> Self {
        Self { kind: Kind::Binary, data: data.into() }
    }

    /// A message of the wished kind; bytes that are not UTF-8 are always binary.
    #[must_use]
    pub fn of_kind(kind: Kind, data: Bytes) -> Self {
        let is_text = kind == Kind::Text && std::str::from_utf8(&data).is_ok();
        Self { kind: if is_text { Kind::Text } else { Kind::Binary }, data }
    }

    /// What a backend's bytes become, by their content type: `application/octet-stream` is binary,
    /// none is `default`, any other is text.
    #[must_use]
    pub fn from_backend(content_type: Option<&str>, default: Kind, data: Bytes) -> Self {
        let kind = match content_type.map(media_type) {
            None | Some("") => default,
            Some(name) if name.eq_ignore_ascii_case(OCTET_STREAM) => Kind::Binary,
            Some(_) => Kind::Text,
        };
        Self::of_kind(kind, data)
    }

    /// Text or binary.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The payload.
    #[must_use]
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The same message with bytes of its own, as [`detached`] says.
    #[must_use]
    pub fn detached(self) -> Self {
        Self { data: detached(self.data), ..self }
    }

    /// The payload, given away.
    #[must_use]
    pub fn into_data(self) -> Bytes {
        self.data
    }
}

impl Kind {
    /// The word in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Binary => "binary",
        }
    }

    /// The CloudEvents `datacontenttype`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Kind::Text => TEXT_PLAIN,
            Kind::Binary => OCTET_STREAM,
        }
    }
}

/// The media type without its parameters (RFC 9110 section 8.3.1).
fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_decides_the_kind() {
        let kind = |content_type, default| {
            Message::from_backend(content_type, default, Bytes::from_static(b"x")).kind()
        };
        assert_eq!(kind(None, Kind::Text), Kind::Text);
        assert_eq!(kind(None, Kind::Binary), Kind::Binary);
        assert_eq!(kind(Some("application/octet-stream"), Kind::Text), Kind::Binary);
        assert_eq!(kind(Some("Application/Octet-Stream; a=b"), Kind::Text), Kind::Binary);
        assert_eq!(kind(Some("application/json"), Kind::Binary), Kind::Text);
        assert_eq!(kind(Some("  "), Kind::Binary), Kind::Binary);
    }

    #[test]
    fn bytes_that_are_not_utf8_are_binary() {
        let bad = Bytes::from_static(&[0xff, 0xfe]);
        let message = Message::from_backend(Some("text/plain"), Kind::Text, bad);
        assert_eq!(message.kind(), Kind::Binary);
    }
}
