//! Whether a request is an opening handshake (RFC 6455 section 4.2.1).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    AsHeaderName, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Request, Version};

use super::refusal::Refusal;

/// What a well-formed opening handshake asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opening {
    /// `Sec-WebSocket-Key`.
    pub(super) key: HeaderValue,
    /// Offered subprotocols, in the client's order.
    pub(super) subprotocols: Vec<String>,
}

/// Checks what holds for every request at the public door, before a route is looked for.
pub(super) fn check_request<B>(request: &Request<B>) -> Result<(), Refusal> {
    if request.version() != Version::HTTP_11 {
        return Err(Refusal::HttpVersion);
    }
    let host = only(request.headers(), HOST)
        .map_err(|()| Refusal::BadRequest("more than one Host header"))?
        .ok_or(Refusal::BadRequest("no Host header"))?;
    let host = host.to_str().ok().filter(|host| host.parse::<http::uri::Authority>().is_ok());
    let host = host
        .filter(|host| !host.contains('@'))
        .ok_or(Refusal::BadRequest("the Host header is not a host and port"))?;
    match request.uri().authority() {
        Some(authority) if !authority.as_str().eq_ignore_ascii_case(host) => {
            // RFC 9112 section 3.2.2.
            Err(Refusal::BadRequest("the request target and the Host header differ"))
        }
        _ => Ok(()),
    }
}

/// Whether a request is well-formed and nothing in it asks for a WebSocket or another tunnel, so that
/// somebody else may answer it.
pub fn is_plain<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    check_request(request).is_ok()
        && request.method() != Method::CONNECT
        && !has_token(headers, UPGRADE, "websocket")
        && !headers.contains_key(SEC_WEBSOCKET_KEY)
}

/// Checks a request on a route.
pub(super) fn check_opening<B>(request: &Request<B>) -> Result<Opening, Refusal> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(Refusal::Method);
    }
    let has_length = headers.get_all(CONTENT_LENGTH).iter().any(|length| length != "0");
    if has_length || headers.contains_key(TRANSFER_ENCODING) {
        return Err(Refusal::Body);
    }
    if !has_token(headers, UPGRADE, "websocket") || !has_token(headers, CONNECTION, "upgrade") {
        return Err(Refusal::NotUpgrade);
    }
    match only(headers, SEC_WEBSOCKET_VERSION) {
        Ok(Some(version)) if version == "13" => {}
        _ => return Err(Refusal::Version),
    }
    let key = only(headers, SEC_WEBSOCKET_KEY)
        .map_err(|()| Refusal::BadRequest("more than one Sec-WebSocket-Key header"))?
        .ok_or(Refusal::BadRequest("no Sec-WebSocket-Key header"))?;
    if !STANDARD.decode(key.as_bytes()).is_ok_and(|nonce| nonce.len() == 16) {
        return Err(Refusal::BadRequest("Sec-WebSocket-Key is not 16 bytes in base64"));
    }
    Ok(Opening { key: key.clone(), subprotocols: subprotocols(headers)? })
}

/// The offered subprotocols: tokens, none of them twice (RFC 6455 section 4.1).
fn subprotocols(headers: &HeaderMap) -> Result<Vec<String>, Refusal> {
    const BAD: Refusal = Refusal::BadRequest("Sec-WebSocket-Protocol is not a list of tokens");
    let mut offered: Vec<String> = Vec::new();
    for header in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        for item in header.to_str().map_err(|_| BAD)?.split(',') {
            let item = item.trim_matches([' ', '\t']);
            if item.is_empty() || !item.bytes().all(is_token_char) {
                return Err(BAD);
            }
            if offered.iter().any(|other| other == item) {
                return Err(Refusal::BadRequest("Sec-WebSocket-Protocol names one twice"));
            }
            offered.push(item.to_owned());
        }
    }
    Ok(offered)
}

/// The header's only value.
fn only(headers: &HeaderMap, name: impl AsHeaderName) -> Result<Option<&HeaderValue>, ()> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() { Err(()) } else { Ok(first) }
}

/// Whether a comma-separated header has `token`, in any case.
fn has_token(headers: &HeaderMap, name: impl AsHeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// RFC 9110 section 5.6.2.
fn is_token_char(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(edit: impl Fn(&mut HeaderMap)) -> Request<()> {
        let mut request = Request::new(());
        for (name, value) in [
            ("host", "example.com"),
            ("upgrade", "websocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
        ] {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        edit(request.headers_mut());
        request
    }

    fn set(name: &'static str, value: &'static str) -> impl Fn(&mut HeaderMap) {
        move |headers| {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }

    fn add(name: &'static str, value: &'static str) -> impl Fn(&mut HeaderMap) {
        move |headers| {
            headers.append(name, HeaderValue::from_static(value));
        }
    }

    #[test]
    fn a_good_handshake_passes() {
        assert_eq!(check_request(&request(|_| {})), Ok(()));
        let opening = check_opening(&request(set("sec-websocket-protocol", "a, b ,c"))).unwrap();
        assert_eq!(opening.subprotocols, ["a", "b", "c"]);
        for good in
            [set("connection", "Upgrade"), set("upgrade", "WebSocket"), set("content-length", "0")]
        {
            assert!(check_opening(&request(good)).is_ok());
        }
    }

    #[test]
    fn each_fault_has_its_refusal() {
        let refused = |edit: &dyn Fn(&mut HeaderMap)| check_opening(&request(edit)).unwrap_err();
        assert_eq!(refused(&set("upgrade", "h2c")), Refusal::NotUpgrade);
        assert_eq!(refused(&set("connection", "close")), Refusal::NotUpgrade);
        assert_eq!(refused(&set("sec-websocket-version", "8")), Refusal::Version);
        assert_eq!(refused(&add("sec-websocket-version", "13")), Refusal::Version);
        assert_eq!(refused(&set("content-length", "5")), Refusal::Body);
        assert_eq!(refused(&set("transfer-encoding", "chunked")), Refusal::Body);
        for key in ["", "AA==", "dGhlIHNhbXBsZSBub25jZQ", "????????????????????????"] {
            let edit = set("sec-websocket-key", key);
            assert!(matches!(refused(&edit), Refusal::BadRequest(_)), "{key}");
        }
        for list in ["", "a,", ",a", "a b", "a,a", "a;b"] {
            let edit = set("sec-websocket-protocol", list);
            assert!(matches!(refused(&edit), Refusal::BadRequest(_)), "{list:?}");
        }
    }

    #[test]
    fn what_asks_for_a_tunnel_is_not_plain() {
        let plain = |edit: &dyn Fn(&mut HeaderMap)| {
            is_plain(&request(|headers| {
                for name in ["upgrade", "connection", "sec-websocket-key", "sec-websocket-version"]
                {
                    headers.remove(name);
                }
                edit(headers);
            }))
        };
        assert!(plain(&|_| {}));
        assert!(plain(&set("upgrade", "h2c")));
        assert!(!plain(&set("upgrade", "h2c, WebSocket")));
        assert!(!plain(&set("sec-websocket-key", "x")));
        assert!(!plain(&add("host", "other")));
        let mut connect = request(|headers| headers.clear());
        connect.headers_mut().insert("host", HeaderValue::from_static("example.com:443"));
        *connect.method_mut() = Method::CONNECT;
        *connect.uri_mut() = http::Uri::from_static("example.com:443");
        assert!(!is_plain(&connect));
    }

    #[test]
    fn the_host_is_one_and_is_the_target() {
        let bad = |edit: &dyn Fn(&mut HeaderMap)| check_request(&request(edit)).unwrap_err();
        let twice = add("host", "example.com");
        assert!(matches!(bad(&twice), Refusal::BadRequest(_)));
        assert!(matches!(bad(&|h| drop(h.remove("host"))), Refusal::BadRequest(_)));
        for host in ["", "a b", "user@example.com", "exa/mple"] {
            assert!(matches!(bad(&set("host", host)), Refusal::BadRequest(_)), "{host:?}");
        }
        let mut absolute = request(|_| {});
        *absolute.uri_mut() = http::Uri::from_static("http://evil.com/ws");
        assert!(check_request(&absolute).is_err());
        *absolute.uri_mut() = http::Uri::from_static("http://example.com/ws");
        assert!(check_request(&absolute).is_ok());
        *absolute.version_mut() = Version::HTTP_10;
        assert_eq!(check_request(&absolute), Err(Refusal::HttpVersion));
    }
}
