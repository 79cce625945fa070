//! The JSON with which a backend lets a client in: `{"user_id", "groups", "subprotocol", "state",
//! "headers"}`, all optional; an empty body accepts and says nothing more.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue};
use serde::Deserialize;

use super::Broken;
use crate::event::{Grant, State};
use crate::id::{GroupName, UserId};

/// The most bytes of the JSON.
pub(super) const MAX: usize = 64 * 1024;
/// The most bytes of header names and values for the 101, so that no client finds its head too
/// large.
pub(in crate::relay) const HEADERS_MAX: usize = 8 * 1024;

/// Unknown names are ignored, so that a backend may be newer than the node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    user_id: Option<String>,
    groups: Option<Vec<String>>,
    subprotocol: Option<String>,
    state: Option<String>,
    headers: Option<BTreeMap<String, Values>>,
}

/// A header's value, or several, as `Set-Cookie` may have.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Values {
    One(String),
    Many(Vec<String>),
}

/// Reads the answer to a client that offered these subprotocols.
pub(super) fn parse(json: &[u8], offered: &[String]) -> Result<Grant, Broken> {
    if json.trim_ascii().is_empty() {
        return Ok(Grant::default());
    }
    if json.len() > MAX {
        return Err(Broken::TooLong(json.len()));
    }
    // An array would be read as an object's values in their order.
    if !json.trim_ascii_start().starts_with(b"{") {
        return Err(Broken::Json);
    }
    let answer: Answer = serde_json::from_slice(json).map_err(|_| Broken::Json)?;
    let user = answer.user_id.as_deref().map(UserId::new).transpose();
    let groups = answer.groups.unwrap_or_default();
    let groups = groups.iter().map(|name| GroupName::new(name)).collect::<Result<_, _>>();
    let state = answer.state.as_deref().map(State::new).transpose();
    if answer.subprotocol.as_ref().is_some_and(|chosen| !offered.contains(chosen)) {
        return Err(Broken::Subprotocol);
    }
    Ok(Grant {
        user: user.map_err(|_| Broken::User)?,
        groups: groups.map_err(|_| Broken::Group)?,
        subprotocol: answer.subprotocol,
        state: state.map_err(Broken::State)?.flatten(),
        headers: headers(answer.headers.unwrap_or_default())?,
        actions: Vec::new(),
    })
}

fn headers(given: BTreeMap<String, Values>) -> Result<Vec<(HeaderName, HeaderValue)>, Broken> {
    let mut headers = Vec::new();
    let mut size = 0;
    for (name, values) in given {
        let name = HeaderName::try_from(name).map_err(|_| Broken::Header)?;
        if is_ours(name.as_str()) {
            return Err(Broken::Header);
        }
        let values = match values {
            Values::One(value) => vec![value],
            Values::Many(values) => values,
        };
        for value in values {
            size += name.as_str().len() + value.len();
            let value = HeaderValue::try_from(value).map_err(|_| Broken::Header)?;
            headers.push((name.clone(), value));
        }
    }
    if size > HEADERS_MAX { Err(Broken::Header) } else { Ok(headers) }
}

/// Whether the field belongs to the connection, to its framing or to the handshake, and so to us
/// (RFC 9110 section 7.6.1, RFC 6455 section 4.2.2).
pub(in crate::relay) fn is_ours(name: &str) -> bool {
    const NAMES: [&str; 15] = [
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    ];
    NAMES.contains(&name) || name.starts_with("sec-websocket-") || name.starts_with("moorline-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> Result<Grant, Broken> {
        parse(json.as_bytes(), &["chat".into(), "v2".into()])
    }

    #[test]
    fn everything_is_optional() {
        for json in [
            "",
            " \r\n",
            "{}",
            r#"{"user_id":null,"headers":null,"state":"","groups":null,"new":1}"#,
        ] {
            assert_eq!(parsed(json), Ok(Grant::default()), "{json}");
        }
    }

    #[test]
    fn all_that_is_said_is_kept() {
        let json = r#"{"user_id": "alice", "subprotocol": "v2", "state": "s 1",
            "headers": {"Set-Cookie": ["a=1", "b=2"], "X-Served-By": "w1"}}"#;
        let grant = parsed(json).unwrap();
        assert_eq!(grant.user.unwrap().as_str(), "alice");
        assert_eq!(grant.subprotocol.as_deref(), Some("v2"));
        assert_eq!(grant.state.unwrap().as_str(), "s 1");
        let headers: Vec<_> =
            grant.headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        assert_eq!(headers, [("set-cookie", "a=1"), ("set-cookie", "b=2"), ("x-served-by", "w1")]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let long_state = format!(r#"{{"state":"{}"}}"#, "x".repeat(4097));
        let many = format!(r#"{{"headers":{{"x":"{}"}}}}"#, "y".repeat(9000));
        for (json, expected) in [
            ("[]", Broken::Json),
            (r#"["alice"]"#, Broken::Json),
            ("true", Broken::Json),
            ("{", Broken::Json),
            (r#"{"user_id": 7}"#, Broken::Json),
            ("\u{feff}{}", Broken::Json),
            (r#"{"user_id": ""}"#, Broken::User),
            (r#"{"user_id": "a\nb"}"#, Broken::User),
            (r#"{"subprotocol": "other"}"#, Broken::Subprotocol),
            (r#"{"state": "a\rb"}"#, Broken::State(3)),
            (&long_state, Broken::State(4097)),
            (r#"{"headers": {"a b": "x"}}"#, Broken::Header),
            (r#"{"headers": {"": "x"}}"#, Broken::Header),
            (r#"{"headers": {"x": "a\r\nb: c"}}"#, Broken::Header),
            (r#"{"headers": {"Content-Length": "0"}}"#, Broken::Header),
            (r#"{"headers": {"Connection": "close"}}"#, Broken::Header),
            (r#"{"headers": {"Transfer-Encoding": "chunked"}}"#, Broken::Header),
            (r#"{"headers": {"Sec-WebSocket-Accept": "x"}}"#, Broken::Header),
            (r#"{"headers": {"Sec-WebSocket-Extensions": "permessage-deflate"}}"#, Broken::Header),
            (r#"{"headers": {"Moorline-Connection-Id": "x"}}"#, Broken::Header),
            (&many, Broken::Header),
        ] {
            assert_eq!(parsed(json), Err(expected), "{json}");
        }
        let long = vec![b' '; MAX + 1];
        assert_eq!(parse(&[long.as_slice(), b"{}"].concat(), &[]), Err(Broken::TooLong(MAX + 3)));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = parse(&bytes, &[]);
        }
    }
}
