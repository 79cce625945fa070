//! The body of a request: bounded in bytes and time, and of a type that is expected.

use std::error::Error;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, EXPECT};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::refusal::Refusal;
use crate::message::{Kind, Message};

/// Any stream of a request's body.
pub(super) trait Payload: hyper::body::Body<Data = Bytes, Error: Error> + Unpin {}
impl<T: hyper::body::Body<Data = Bytes, Error: Error> + Unpin> Payload for T {}

/// The body of a request that is read at most once.
#[derive(Debug)]
pub(super) struct Body<B> {
    incoming: B,
    media: Media,
    max: usize,
    /// Whether the client waits for a word before it sends its body (RFC 9110 section 10.1.1).
    is_held_back: bool,
}

/// What the content type says the body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Media {
    /// `application/json`, which is UTF-8 (RFC 8259 section 8.1).
    Json,
    /// `text/plain` in UTF-8.
    Text,
    /// `application/octet-stream`.
    Binary,
    /// Anything else, or nothing.
    Other,
}

/// Time for a whole body.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for what is of no use.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);
const MESSAGES: &str = "text/plain, application/json or application/octet-stream, in UTF-8";

impl<B: Payload> Body<B> {
    /// A body of at most `max` bytes.
    pub(super) fn new(headers: &HeaderMap, incoming: B, max: usize) -> Self {
        let media = Media::of(headers);
        Self { incoming, media, max, is_held_back: headers.contains_key(EXPECT) }
    }

    /// The body as a message.
    ///
    /// # Errors
    /// When it is over the bound, late, of another type, or text that is none.
    pub(super) async fn message(&mut self) -> Result<Message, Refusal> {
        match self.media {
            Media::Other => Err(Refusal::MediaType(MESSAGES)),
            Media::Binary => Ok(Message::binary(self.read().await?)),
            Media::Json | Media::Text => {
                let message = Message::of_kind(Kind::Text, self.read().await?);
                let is_text = message.kind() == Kind::Text;
                let bad = Refusal::Request("the body is not UTF-8, which text and JSON are");
                if is_text { Ok(message) } else { Err(bad) }
            }
        }
    }

    /// The body as JSON of a known form.
    ///
    /// # Errors
    /// When it is over the bound, late, or of another type or form.
    pub(super) async fn json<T: DeserializeOwned>(&mut self) -> Result<T, Refusal> {
        if self.media != Media::Json {
            return Err(Refusal::MediaType("application/json"));
        }
        let bytes = self.read().await?;
        serde_json::from_slice(&bytes).map_err(|error| Refusal::Wrong(format!("the body: {error}")))
    }

    /// Reads what is left and is of no use, as far as a body may be large and not for long: closing a
    /// stream that the client still writes to could take the answer from it.
    pub(super) async fn discard(mut self) {
        let rest = async {
            let mut left = self.max;
            while let Some(Ok(frame)) = self.incoming.frame().await {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                match left.checked_sub(bytes) {
                    Some(less) => left = less,
                    None => return,
                }
            }
        };
        if !self.is_held_back {
            let _ = timeout(DISCARD_TIMEOUT, rest).await;
        }
    }

    async fn read(&mut self) -> Result<Bytes, Refusal> {
        // An honest length saves reading what will be refused; a false one is noticed below.
        if self.incoming.size_hint().lower() > self.max as u64 {
            return Err(Refusal::TooLarge(self.max));
        }
        self.is_held_back = false;
        let whole = async {
            let mut all = BytesMut::new();
            while let Some(frame) = self.incoming.frame().await {
                let frame = frame.map_err(|_| Refusal::Request("the body broke off"))?;
                let Ok(data) = frame.into_data() else { continue };
                if data.len() > self.max - all.len() {
                    return Err(Refusal::TooLarge(self.max));
                }
                all.extend_from_slice(&data);
            }
            Ok(all.freeze())
        };
        timeout(READ_TIMEOUT, whole).await.unwrap_or(Err(Refusal::Late))
    }
}

impl Media {
    /// Of a request with one content type; with two, nobody can say.
    fn of(headers: &HeaderMap) -> Self {
        let mut fields = headers.get_all(CONTENT_TYPE).iter();
        let text = match (fields.next(), fields.next()) {
            (Some(field), None) => field.to_str().unwrap_or_default().to_ascii_lowercase(),
            _ => return Self::Other,
        };
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let charset = parts.find_map(|parameter| parameter.strip_prefix("charset="));
        let is_utf8 = charset.is_none_or(|name| matches!(name.trim_matches('"'), "utf-8" | "utf8"));
        match name {
            "application/octet-stream" => Self::Binary,
            "application/json" if is_utf8 => Self::Json,
            "text/plain" if is_utf8 => Self::Text,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream::{self, Stream, StreamExt};
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    /// A body of chunks of ten bytes.
    fn body(chunks: impl Stream<Item = ()> + Unpin, held_back: bool) -> Body<impl Payload> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, "text/plain".parse().unwrap());
        if held_back {
            headers.insert(EXPECT, "100-continue".parse().unwrap());
        }
        let frame = |()| Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"0123456789")));
        Body::new(&headers, StreamBody::new(chunks.map(frame)), 25)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_read_within_its_bounds() {
        let read = async |chunks: usize| {
            let mut body = body(stream::repeat(()).take(chunks), false);
            body.message().await.map(|message| message.data().len())
        };
        assert_eq!((read(0).await, read(2).await), (Ok(0), Ok(20)));
        assert_eq!(read(3).await, Err(Refusal::TooLarge(25)));
        assert_eq!(read(usize::MAX).await, Err(Refusal::TooLarge(25)));
        let late = body(stream::iter([()]).chain(stream::pending()), false).message().await;
        assert_eq!(late, Err(Refusal::Late));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_of_no_use_is_read_for_a_while_but_not_asked_for() {
        let started = tokio::time::Instant::now();
        body(stream::repeat(()), false).discard().await;
        assert_eq!(started.elapsed(), Duration::ZERO, "it is bounded in bytes");
        body(stream::pending(), true).discard().await;
        assert_eq!(started.elapsed(), Duration::ZERO, "its client waits for a word");
        body(stream::pending(), false).discard().await;
        assert_eq!(started.elapsed(), DISCARD_TIMEOUT);
    }
}
