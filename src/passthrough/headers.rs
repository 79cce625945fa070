//! Which headers pass, and what moorline itself says of a client.
//!
//! Names are compared as CGI and its children read them: in `HTTP_X_FORWARDED_FOR` nobody sees whether
//! `X-Forwarded-For` or `X_Forwarded.For` was sent.

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName,
    HeaderValue, TRANSFER_ENCODING, VIA,
};
use http::{Method, Response, Version};

use super::{Origin, Refusal};

/// About one hop (RFC 9110 section 7.6.1), and what asks for another protocol on it.
const HOP_BY_HOP: [&str; 11] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// What only moorline says to those behind it; what would make the path another one than was looked at,
/// to gunicorn (`SCRIPT_NAME`), behind IIS (`X-Original-URL`) and in old frameworks; and `Proxy`, which CGI
/// takes for the variable `HTTP_PROXY`.
const OWN: [&str; 10] = [
    "connection-id",
    "expect",
    "forwarded",
    "path-info",
    "proxy",
    "script-name",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
    "x-script-name",
];
/// The same, by how they begin: of moorline, CloudEvents, GRIP and WebSocket-over-HTTP, and proxies.
const OWN_FAMILIES: [&str; 6] =
    ["moorline-", "ce-", "grip-", "meta-", "x-forwarded-", "sec-websocket-"];

/// Events, which a backend believes: of WebSocket-over-HTTP, and CloudEvents that are all body, as their
/// headers do not pass.
const EVENTS: [&[u8]; 2] = [b"application/websocket-events", b"application/cloudevents"];
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Whether the headers are of a request that may be passed on.
pub(super) fn check(headers: &HeaderMap) -> Result<(), Refusal> {
    let names = |value: &HeaderValue, events: &[u8]| {
        value.as_bytes().windows(events.len()).any(|part| part.eq_ignore_ascii_case(events))
    };
    let types = headers.iter().filter(|(name, _)| reads_as(name, CONTENT_TYPE.as_str()));
    if types.into_iter().any(|(_, value)| EVENTS.iter().any(|events| names(value, events))) {
        return Err(Refusal::MediaType);
    }
    let is_met = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if headers.get_all(EXPECT).iter().all(is_met) { Ok(()) } else { Err(Refusal::Expectation) }
}

/// Makes a client's headers those that a service behind moorline sees.
pub fn to_upstream(headers: &mut HeaderMap, origin: Origin) {
    remove_hop_by_hop(headers);
    remove(headers, |name| {
        OWN.iter().any(|own| reads_as(name, own))
            || OWN_FAMILIES.iter().any(|family| begins_as(name, family))
            // The one that frames the body is known by its own name.
            || (name != CONTENT_LENGTH && reads_as(name, "content-length"))
    });
    let ip = origin.client.ip();
    // The edge has checked that it is a host and a port.
    let host = headers.get(HOST).cloned();
    let shown = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
    let address = ip.to_string();
    if let Ok(value) = HeaderValue::try_from(forwarded(ip, &address, shown, origin.scheme)) {
        headers.insert(FORWARDED, value);
    }
    if let Ok(value) = HeaderValue::try_from(address) {
        headers.insert(X_FORWARDED_FOR, value.clone());
        headers.insert(X_REAL_IP, value);
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(origin.scheme));
    if let Some(host) = host {
        headers.insert(X_FORWARDED_HOST, host);
    }
    // RFC 9110 section 7.6.3.
    headers.append(VIA, HeaderValue::from_static("1.1 moorline"));
}

/// Says that the body has no length that is known now. Without it, the client library would leave out
/// the body of a GET.
pub(super) fn set_chunked(headers: &mut HeaderMap) {
    headers.remove(CONTENT_LENGTH);
    headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
}

/// Makes the head of the upstream's answer the client's: what was about the hop to the upstream, its
/// version included, says nothing about the one to the client.
pub(super) fn to_client<B>(answer: &mut Response<B>, method: &Method) {
    // Where there is a body, its own length counts; where it is left out, the header is all there is.
    let is_bodyless = *method == Method::HEAD;
    *answer.version_mut() = Version::HTTP_11;
    let headers = answer.headers_mut();
    let is_one_length = !headers.contains_key(TRANSFER_ENCODING)
        && headers.get_all(CONTENT_LENGTH).iter().count() == 1
        && headers.get(CONTENT_LENGTH).is_some_and(is_number);
    remove_hop_by_hop(headers);
    if !(is_bodyless && is_one_length) {
        headers.remove(CONTENT_LENGTH);
    }
}

fn is_number(value: &HeaderValue) -> bool {
    (1..=19).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_digit)
}

/// Removes what is about one hop, and what `Connection` says is. `Host` is not, whatever it says.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| *name != HOST)
        .collect();
    for name in listed {
        headers.remove(name);
    }
    remove(headers, |name| HOP_BY_HOP.iter().any(|hop| reads_as(name, hop)));
}

fn remove(headers: &mut HeaderMap, goes: impl Fn(&HeaderName) -> bool) {
    let gone: Vec<HeaderName> = headers.keys().filter(|name| goes(name)).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
}

/// An element of `Forwarded` (RFC 7239): IPv6 stands in brackets, and so in quotes.
fn forwarded(ip: IpAddr, address: &str, host: &str, scheme: &str) -> String {
    let (open, close) = if ip.is_ipv6() { ("\"[", "]\"") } else { ("", "") };
    ["for=", open, address, close, ";host=\"", host, "\";proto=", scheme].concat()
}

fn reads_as(name: &HeaderName, known: &str) -> bool {
    name.as_str().len() == known.len() && begins_as(name, known)
}

/// Whether a name begins with this, when everything but letters and digits is one sign.
fn begins_as(name: &HeaderName, known: &str) -> bool {
    let folded = |byte: u8| if byte.is_ascii_alphanumeric() { byte } else { b'-' };
    let name = name.as_str().as_bytes();
    name.get(..known.len()).is_some_and(|start| start.iter().copied().map(folded).eq(known.bytes()))
}
