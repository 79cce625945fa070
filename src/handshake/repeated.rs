//! What a backend sees of a handshake's head, beside the connect event: headers and query that are said
//! again with each event.

use std::collections::BTreeMap;

use http::header::{
    ACCEPT, HOST, HeaderMap, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
};
use http::{HeaderName, HeaderValue, Request};

use super::{Caller, Door};
use crate::config::is_of_body;
use crate::event::Forwarded;
use crate::passthrough::{Origin, to_upstream};

/// The request headers that the route passes on. A token's own place is only among them when the
/// operator named it.
pub(super) fn named<B>(door: &Door, request: &Request<B>) -> BTreeMap<String, Vec<String>> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let names = door.route.forwarded_headers().into_iter();
    names
        .map(|name| {
            let values = request.headers().get_all(name).iter().map(text).collect();
            (name.to_ascii_lowercase(), values)
        })
        .filter(|(_, values): &(String, Vec<String>)| !values.is_empty())
        .collect()
}

/// The headers as they came, where every event repeats them.
pub(super) fn repeated<B>(
    door: &Door,
    request: &Request<B>,
    caller: &Caller,
    subprotocols: &[String],
) -> Forwarded {
    if door.route.is_websocket_over_http() {
        return whole(door, request.headers(), caller, subprotocols);
    }
    if !door.route.repeats_headers() {
        return Forwarded::default();
    }
    let names = door.route.forwarded_headers().into_iter();
    let names = names.filter_map(|name| HeaderName::try_from(name).ok());
    let all = names.flat_map(|name| {
        let values = request.headers().get_all(&name).iter();
        values.filter_map(detached).map(|value| (name.clone(), value)).collect::<Vec<_>>()
    });
    all.collect()
}

/// The query without a token, where every event repeats it.
pub(super) fn query(door: &Door, query: &str) -> Box<str> {
    if door.route.is_websocket_over_http() { query.into() } else { Box::default() }
}

/// The handshake as a service behind HTTP sees it: what the client said, as far as the route forwards it,
/// and what moorline says of the client.
fn whole(door: &Door, said: &HeaderMap, caller: &Caller, subprotocols: &[String]) -> Forwarded {
    let passes = |name: &HeaderName| {
        // What is of the request to the backend is not of the handshake.
        let is_of_request = *name == ACCEPT || is_of_body(name.as_str());
        *name == HOST || (!is_of_request && door.route.forwards(name.as_str()))
    };
    let passed = said.iter().filter(|(name, _)| passes(name));
    let mut headers: HeaderMap =
        passed.map(|(name, value)| (name.clone(), value.clone())).collect();
    to_upstream(&mut headers, Origin { client: caller.remote, scheme: caller.scheme });
    for name in [SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION] {
        if let Some(value) = said.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    // Without a token among them.
    if let Ok(offered) = HeaderValue::try_from(subprotocols.join(", "))
        && !subprotocols.is_empty()
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, offered);
    }
    headers.iter().filter_map(|(name, value)| Some((name.clone(), detached(value)?))).collect()
}

/// The value by itself: a slice of the request's head would keep all of that in memory. It may hold
/// credentials.
fn detached(value: &HeaderValue) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
    value.set_sensitive(true);
    Some(value)
}
