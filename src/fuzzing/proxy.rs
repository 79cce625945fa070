//! Whom a proxy says that it connects for: the PROXY header, and the header of a request.

use std::net::{Ipv4Addr, SocketAddr};

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

use crate::config::{Forwarded, ForwardedHeader};
use crate::edge::forwarded;
use crate::edge::proxy::{LONGEST, Parsed, parse};

/// Prefixes that are looked at one by one; a longer header only has more additional values.
const PREFIXES: usize = 300;
/// Whom the trusted proxy got the request from.
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const PROXY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// A PROXY header ends at one place, however much of it has come and whatever follows; and what a client
/// writes into a header before its proxy does never becomes its address. The first byte says which
/// of the three headers the rest is.
pub fn proxy(input: &[u8]) {
    let Some((which, bytes)) = input.split_first() else { return };
    match which % 3 {
        0 => header(bytes),
        1 => list(bytes, ForwardedHeader::XForwardedFor, "x-forwarded-for", "192.0.2.7"),
        _ => list(bytes, ForwardedHeader::Forwarded, FORWARDED.as_str(), "for=192.0.2.7"),
    }
}

fn header(bytes: &[u8]) {
    let whole = parse(bytes);
    match whole {
        Ok(Parsed::Partial) => assert!(bytes.len() < LONGEST, "a header has an end"),
        Ok(Parsed::Whole { length, .. }) => {
            assert!(length <= LONGEST && length <= bytes.len());
            assert_eq!(parse(&bytes[..length]), whole, "what follows is not looked at");
        }
        Err(_) => {}
    }
    for end in 0..bytes.len().min(PREFIXES) {
        match parse(&bytes[..end]) {
            Ok(Parsed::Partial) => {}
            // Whole and malformed stay what they are.
            decided => assert_eq!(decided, whole, "at {end}"),
        }
    }
}

fn list(forged: &[u8], header: ForwardedHeader, name: &str, element: &str) {
    let trusted = vec!["10.0.0.0/8".parse().unwrap()];
    let forwarded = Forwarded { header, trusted };
    let name: HeaderName = name.parse().unwrap();
    let Ok(value) = HeaderValue::from_bytes(forged) else { return };
    let client = |remote: Ipv4Addr, headers: &HeaderMap| {
        forwarded::client(SocketAddr::from((remote, 1)), headers, &forwarded)
    };
    let mut headers = HeaderMap::from_iter([(name.clone(), value)]);
    client(PROXY, &headers);
    assert_eq!(client(CLIENT, &headers), SocketAddr::from((CLIENT, 1)), "nobody asked it");
    // The proxy puts its word behind in a field of its own, or behind a comma in the same one.
    headers.append(name.clone(), HeaderValue::from_str(element).unwrap());
    assert_eq!(client(PROXY, &headers).ip(), CLIENT);
    let one = [forged, b", ", element.as_bytes()].concat();
    let one = HeaderMap::from_iter([(name, HeaderValue::from_bytes(&one).unwrap())]);
    assert_eq!(client(PROXY, &one).ip(), CLIENT);
}
