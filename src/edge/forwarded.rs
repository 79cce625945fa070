//! The client's address from `X-Forwarded-For` or `Forwarded` (RFC 7239), as far as it can be believed,
//! and whether it came by TLS.
//!
//! Each proxy adds, at the end of the list, the one that it got the request from. So the list is walked
//! from its end, from one trusted proxy to the next, and the first address that is no trusted proxy's
//! is the client's. What stands before it is that client's own word and is not even looked at; and at
//! anything that is no address the walk ends where it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::{Forwarded, ForwardedHeader};

/// Proxies one behind the other; there are never so many.
const MOST_HOPS: usize = 32;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The address of the client whose request came over a connection from `remote`. Its port is 0 where
/// the header does not say it.
#[must_use]
pub fn client(remote: SocketAddr, headers: &HeaderMap, forwarded: &Forwarded) -> SocketAddr {
    let is_trusted = |hop: SocketAddr| forwarded.trusted.iter().any(|net| net.contains(hop.ip()));
    let (name, hop_of): (_, fn(&str) -> Option<SocketAddr>) = match forwarded.header {
        ForwardedHeader::XForwardedFor => (X_FORWARDED_FOR, plain_hop),
        ForwardedHeader::Forwarded => (FORWARDED, rfc_7239_hop),
    };
    // Several fields of a name are one list, in order (RFC 9110 section 5.3).
    let fields = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let mut elements = fields.rev().flat_map(FromTheEnd::new).take(MOST_HOPS);
    let mut last = remote;
    while is_trusted(last) {
        let element = elements.next().and_then(|element| std::str::from_utf8(element).ok());
        let Some(hop) = element.and_then(|element| hop_of(element.trim_ascii())) else { break };
        last = SocketAddr::new(hop.ip().to_canonical(), hop.port());
    }
    last
}

/// The scheme by which the client came to the proxy that a connection from `remote` is of: what that
/// proxy says in the last element, which is its own. None when nobody says it who is believed.
#[must_use]
pub fn scheme(
    remote: SocketAddr,
    headers: &HeaderMap,
    forwarded: &Forwarded,
) -> Option<&'static str> {
    if !forwarded.trusted.iter().any(|network| network.contains(remote.ip())) {
        return None;
    }
    let name = match forwarded.header {
        ForwardedHeader::XForwardedFor => X_FORWARDED_PROTO,
        ForwardedHeader::Forwarded => FORWARDED,
    };
    let field = headers.get_all(name).iter().next_back()?;
    let element = std::str::from_utf8(FromTheEnd::new(field.as_bytes()).next()?).ok()?.trim_ascii();
    let scheme = match forwarded.header {
        ForwardedHeader::XForwardedFor => element,
        ForwardedHeader::Forwarded => parameter(element, "proto")?,
    };
    ["http", "https"].into_iter().find(|known| scheme.eq_ignore_ascii_case(known))
}

/// The elements of a field's list, last first.
///
/// Whether a comma stands within quotes is counted from the end, too: a quote that a client leaves open
/// must not swallow what a proxy put behind it.
struct FromTheEnd<'a>(Option<&'a [u8]>);

impl<'a> FromTheEnd<'a> {
    fn new(field: &'a [u8]) -> Self {
        Self(Some(field))
    }
}

impl<'a> Iterator for FromTheEnd<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let list = self.0.take()?;
        let mut is_quoted = false;
        for (at, byte) in list.iter().enumerate().rev() {
            match byte {
                b'"' if !(is_quoted && is_escaped(list, at)) => is_quoted = !is_quoted,
                b',' if !is_quoted => {
                    self.0 = list.get(..at);
                    return list.get(at + 1..);
                }
                _ => {}
            }
        }
        Some(list)
    }
}

/// Whether the quote at this place within a quoted string is a part of it.
fn is_escaped(list: &[u8], at: usize) -> bool {
    let before = list.iter().take(at).rev();
    before.take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// An element of `X-Forwarded-For`. There is no standard: bare addresses are usual, ports and brackets
/// occur.
fn plain_hop(element: &str) -> Option<SocketAddr> {
    let bare = element.parse().ok().map(|address| SocketAddr::new(address, 0));
    bare.or_else(|| node(element))
}

/// The address in an element of `Forwarded`.
fn rfc_7239_hop(element: &str) -> Option<SocketAddr> {
    node(parameter(element, "for")?)
}

/// A parameter of an element of `Forwarded` (RFC 7239 section 4), which has each only once.
fn parameter<'a>(element: &'a str, wanted: &str) -> Option<&'a str> {
    let mut found = None;
    let mut rest = element;
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let (value, after) = value(after)?;
        if name.eq_ignore_ascii_case(wanted) && found.replace(value).is_some()
            || !name.bytes().all(is_token)
        {
            return None;
        }
        let after = after.trim_ascii_start();
        rest = match after.strip_prefix(';') {
            Some(next) => next.trim_ascii_start(),
            None if after.is_empty() => after,
            None => return None,
        };
    }
    found
}

/// The token or quoted string that a text begins with, and what follows it. Escapes stay as they are:
/// no address has one.
fn value(text: &str) -> Option<(&str, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.bytes().position(|byte| !is_token(byte)).unwrap_or(text.len());
        return text.split_at_checked(end);
    };
    let mut is_escape = false;
    let end = quoted.bytes().position(|byte| {
        let is_end = byte == b'"' && !is_escape;
        is_escape = byte == b'\\' && !is_escape;
        is_end
    })?;
    Some((quoted.get(..end)?, quoted.get(end + 1..)?))
}

/// RFC 7239 section 6: an address, IPv6 in brackets, and perhaps a port. `unknown` and obfuscated
/// names lead nowhere.
fn node(text: &str) -> Option<SocketAddr> {
    let (address, port) = match text.strip_prefix('[') {
        Some(text) => {
            let (address, port) = text.split_once(']')?;
            (IpAddr::V6(address.parse::<Ipv6Addr>().ok()?), port)
        }
        None => {
            let (address, port) = text.split_at_checked(text.find(':').unwrap_or(text.len()))?;
            (IpAddr::V4(address.parse::<Ipv4Addr>().ok()?), port)
        }
    };
    let port = if port.is_empty() { 0 } else { node_port(port.strip_prefix(':')?)? };
    Some(SocketAddr::new(address, port))
}

/// A port; an obfuscated one is as good as none.
fn node_port(text: &str) -> Option<u16> {
    if let Some(name) = text.strip_prefix('_') {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        return (!name.is_empty() && name.bytes().all(is_name)).then_some(0);
    }
    let is_number = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(header: ForwardedHeader) -> Forwarded {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());
        Forwarded { header, trusted: trusted.to_vec() }
    }

    /// The client by these fields of a header, when the connection comes from a trusted proxy.
    fn client_by(header: ForwardedHeader, fields: &[&str]) -> String {
        let name = match header {
            ForwardedHeader::XForwardedFor => "x-forwarded-for",
            ForwardedHeader::Forwarded => "forwarded",
        };
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(name, HeaderValue::from_bytes(field.as_bytes()).unwrap());
        }
        client("10.0.0.1:5".parse().unwrap(), &headers, &forwarded(header)).to_string()
    }

    #[test]
    fn elements_of_forwarded() {
        for (field, expected) in [
            ("for=192.0.2.7", "192.0.2.7:0"),
            ("FOR=192.0.2.7", "192.0.2.7:0"),
            ("for=\"192.0.2.7\"", "192.0.2.7:0"),
            ("for=\"192.0.2.7:80\"", "192.0.2.7:80"),
            ("for=\"192.0.2.7:_web\"", "192.0.2.7:0"),
            ("for=\"[2001:db8::7]\"", "[2001:db8::7]:0"),
            ("for=\"[2001:db8::7]:00080\"", "[2001:db8::7]:80"),
            ("for=\"[::ffff:192.0.2.7]:80\"", "192.0.2.7:80"),
            ("proto=https;for=192.0.2.7;by=10.0.0.1", "192.0.2.7:0"),
            ("proto=https ; for=192.0.2.7 ;", "192.0.2.7:0"),
            ("host=\"a,b;for=1.1.1.1\";for=192.0.2.7", "192.0.2.7:0"),
            ("host=\"a\\\",b\";for=192.0.2.7", "192.0.2.7:0"),
            ("for=192.0.2.7;host=\"a\\\\\"", "192.0.2.7:0"),
            // Another's open quote does not reach into the last element.
            ("for=\"1.1.1.1, for=192.0.2.7", "192.0.2.7:0"),
            ("for=\"\\, for=\"192.0.2.7\"", "192.0.2.7:0"),
        ] {
            assert_eq!(client_by(ForwardedHeader::Forwarded, &[field]), expected, "{field}");
        }
        for field in [
            "",
            ";",
            "for",
            "for=",
            "for=\"\"",
            "for=unknown",
            "for=_gazonk",
            "for=192.0.2.7:80",
            "for=[2001:db8::7]",
            "for=\"2001:db8::7\"",
            "for=\"[2001:db8::7\"",
            "for=\"[2001:db8::7]x\"",
            "for=\"[192.0.2.7]\"",
            "for=\"[fe80::1%1]\"",
            "for=\"192.0.2.7:\"",
            "for=\"192.0.2.7:65536\"",
            "for=\"192.0.2.7:000080\"",
            "for=\"192.0.2.7:+80\"",
            "for=\"192.0.2.7:_\"",
            "for=\"192.0.2.7:_a b\"",
            "for=\"1\\92.0.2.7\"",
            "for=\"192.0.2.7",
            "for=192.0.2.7\"",
            "for=192.0.2.07",
            "for =192.0.2.7",
            "for= 192.0.2.7",
            "for=192.0.2.7;for=192.0.2.8",
            "for=192.0.2.7 for=192.0.2.8",
            "for=192.0.2.7;by",
            "proto=https",
            "192.0.2.7",
        ] {
            let client = client_by(ForwardedHeader::Forwarded, &[field]);
            assert_eq!(client, "10.0.0.1:5", "{field}");
        }
    }

    #[test]
    fn the_scheme_is_what_the_last_proxy_says() {
        let said = |header, remote: &str, fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            scheme(remote.parse().unwrap(), &headers, &forwarded(header))
        };
        let (plain, rfc) = (ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded);
        let x = "x-forwarded-proto";
        assert_eq!(said(plain, "10.0.0.1:5", &[(x, "https")]), Some("https"));
        assert_eq!(said(plain, "10.0.0.1:5", &[(x, "https, HTTP ")]), Some("http"));
        assert_eq!(said(plain, "10.0.0.1:5", &[(x, "https"), (x, "http")]), Some("http"));
        assert_eq!(said(plain, "192.0.2.1:5", &[(x, "https")]), None);
        assert_eq!(said(plain, "10.0.0.1:5", &[(x, "javascript")]), None);
        assert_eq!(said(plain, "10.0.0.1:5", &[("forwarded", "proto=https")]), None);
        assert_eq!(said(plain, "10.0.0.1:5", &[]), None);
        let field = ("forwarded", "for=1.1.1.1;proto=http, for=\"[::1]\";proto=\"https\"");
        assert_eq!(said(rfc, "10.0.0.1:5", &[field]), Some("https"));
        assert_eq!(said(rfc, "10.0.0.1:5", &[("forwarded", "proto=http;proto=https")]), None);
        assert_eq!(said(rfc, "10.0.0.1:5", &[(x, "https")]), None);
    }

    #[test]
    fn a_walk_goes_no_further_than_it_may() {
        let hops = |count: usize| {
            let hops = (0..count).map(|n| format!("10.0.1.{n}"));
            std::iter::once("192.0.2.7".to_owned()).chain(hops).collect::<Vec<_>>()
        };
        for (list, expected) in [(hops(31), "192.0.2.7:0"), (hops(32), "10.0.1.0:0")] {
            let header = ForwardedHeader::XForwardedFor;
            assert_eq!(client_by(header, &[&list.join(",")]), expected);
            let fields: Vec<_> = list.iter().map(String::as_str).collect();
            assert_eq!(client_by(header, &fields), expected);
        }
    }

    proptest::proptest! {
        /// Whatever a client sends, its address is what the trusted proxy adds behind it.
        #[test]
        fn nothing_before_the_proxys_own_element_matters(
            forged in "[ -~\\t]{0,80}",
            is_own_field in proptest::bool::ANY,
        ) {
            for (header, added) in [
                (ForwardedHeader::XForwardedFor, "192.0.2.7"),
                (ForwardedHeader::Forwarded, "for=\"192.0.2.7\";host=\"a\\\"b\""),
            ] {
                let together = format!("{forged}, {added}");
                let fields =
                    if is_own_field { vec![forged.as_str(), added] } else { vec![together.as_str()] };
                proptest::prop_assert_eq!(client_by(header, &fields), "192.0.2.7:0");
            }
        }
    }
}
