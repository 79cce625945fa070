//! The header of the PROXY protocol, version 1 (text) and 2 (binary), from bytes that have come so far.
//!
//! Pure. What is partial may become whole with more bytes; whole and malformed stay what they are.
//! Section numbers are those of HAProxy's `proxy-protocol.txt`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// What the bytes so far are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header; all of them belong to it.
    Partial,
    /// A header, and perhaps what follows it.
    Whole {
        /// The bytes of the header.
        length: usize,
        /// Whom the proxy connects for. None when it connects for itself or does not say: then the
        /// connection's own address is the client's.
        peer: Option<SocketAddr>,
    },
}

/// Not a header, whatever follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed PROXY header: {0}")]
pub struct Malformed(&'static str);

/// The bytes of the longest header that is taken: with 4 KiB of addresses and additional values, which
/// nobody needs more of.
pub const LONGEST: usize = FIXED + 4096;

const TEXT: &[u8] = b"PROXY ";
/// With CRLF (section 2.1).
const LONGEST_TEXT: usize = 107;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length of the rest (section 2.2).
const FIXED: usize = 16;
/// Version 2 and the command.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
/// The address family and the transport protocol.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const SHORT: Malformed = Malformed("a length that has no room for the addresses");

/// What `bytes`, the beginning of a stream, are.
///
/// # Errors
/// When no header begins like this.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if begins(bytes, TEXT) {
        text(bytes)
    } else if begins(bytes, SIGNATURE) {
        binary(bytes)
    } else {
        Err(Malformed("it begins with something else"))
    }
}

/// Whether the bytes are the beginning of `start` or begin with it.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(byte, expected)| byte == expected)
}

/// Version 1: one line.
fn text(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let seen = bytes.get(..LONGEST_TEXT).unwrap_or(bytes);
    let Some(end) = seen.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return match seen.len() {
            LONGEST_TEXT => Err(Malformed("a line of more than 107 bytes")),
            _ => Ok(Parsed::Partial),
        };
    };
    match seen.get(end..) {
        Some([b'\r', b'\n', ..]) => {}
        Some([b'\r']) if seen.len() < LONGEST_TEXT => return Ok(Parsed::Partial),
        _ => return Err(Malformed("a line that does not end with CRLF within 107 bytes")),
    }
    let peer = line(seen.get(TEXT.len()..end).unwrap_or_default())?;
    Ok(Parsed::Whole { length: end + 2, peer })
}

/// The line behind `PROXY `, without its end.
fn line(line: &[u8]) -> Result<Option<SocketAddr>, Malformed> {
    if let Some(rest) = line.strip_prefix(b"UNKNOWN") {
        // "The receiver must ignore anything presented before the CRLF is found" (section 2.1).
        return match rest.first() {
            None | Some(b' ') => Ok(None),
            Some(_) => Err(Malformed("a family that is none of TCP4, TCP6, UNKNOWN")),
        };
    }
    let line = std::str::from_utf8(line).map_err(|_| Malformed("a line that is not ASCII"))?;
    let mut words = line.split(' ');
    let family = words.next();
    let [Some(source), Some(destination), Some(source_port), Some(destination_port), None] =
        std::array::from_fn(|_| words.next())
    else {
        return Err(Malformed("a line without exactly two addresses and two ports"));
    };
    let (source, _) = match family {
        Some("TCP4") => (IpAddr::V4(address(source)?), IpAddr::V4(address(destination)?)),
        Some("TCP6") => (IpAddr::V6(address(source)?), IpAddr::V6(address(destination)?)),
        _ => return Err(Malformed("a family that is none of TCP4, TCP6, UNKNOWN")),
    };
    let (source_port, _) = (port(source_port)?, port(destination_port)?);
    Ok(Some(SocketAddr::new(source, source_port)))
}

/// An address of its family; IPv4 without leading zeros.
fn address<A: FromStr>(word: &str) -> Result<A, Malformed> {
    word.parse().map_err(|_| Malformed("an address that is not of its family"))
}

/// 0 to 65535 without leading zeros (section 2.1).
fn port(word: &str) -> Result<u16, Malformed> {
    let is_decimal = word.bytes().all(|byte| byte.is_ascii_digit());
    let is_padded = word.starts_with('0') && word != "0";
    let port = word.parse().ok().filter(|_| is_decimal && !is_padded);
    port.ok_or(Malformed("a port that is not 0 to 65535, without leading zeros"))
}

/// Version 2.
fn binary(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else {
        return Ok(Parsed::Partial);
    };
    let [.., command, family, high, low] = *fixed;
    match command {
        LOCAL | PROXY => {}
        _ if command >> 4 != 2 => return Err(Malformed("a version other than 2")),
        _ => return Err(Malformed("a command that is neither LOCAL nor PROXY")),
    }
    // The family "is ignored" when the connection is the proxy's own (section 2.2).
    if command == PROXY && (family >> 4 > 3 || family & 0xf > 2) {
        return Err(Malformed("an unknown address family or transport protocol"));
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if FIXED + length > LONGEST {
        return Err(Malformed("more than 4096 bytes of addresses and additional values"));
    }
    let Some(block) = rest.get(..length) else { return Ok(Parsed::Partial) };
    let peer = match (command, family) {
        (PROXY, TCP4) => Some(source_v4(block).ok_or(SHORT)?),
        (PROXY, TCP6) => Some(source_v6(block).ok_or(SHORT)?),
        // Datagrams, UNIX sockets and what is not specified have no address that is of use here.
        _ => None,
    };
    Ok(Parsed::Whole { length: FIXED + length, peer })
}

/// Source, destination, their ports; additional values follow.
fn source_v4(block: &[u8]) -> Option<SocketAddr> {
    let [a, b, c, d, _, _, _, _, high, low, _, _, ..] = *block else { return None };
    Some(SocketAddr::from((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low]))))
}

fn source_v6(block: &[u8]) -> Option<SocketAddr> {
    let (address, rest) = block.split_first_chunk::<16>()?;
    let (_destination, rest) = rest.split_first_chunk::<16>()?;
    let [high, low, _, _, ..] = *rest else { return None };
    Some(SocketAddr::from((Ipv6Addr::from(*address), u16::from_be_bytes([high, low]))))
}
