//! PROXY headers by table, against another implementation, and from a real socket.

use std::net::Ipv4Addr;
use std::time::Duration;

use ppp::{HeaderResult, v1, v2};
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A header of version 2.
fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, block].concat()
}

fn is_whole(bytes: &[u8], peer: Option<SocketAddr>) {
    let whole = Ok(Parsed::Whole { length: bytes.len(), peer });
    let shown = String::from_utf8_lossy(bytes);
    assert_eq!(parse(bytes), whole, "{shown}");
    assert_eq!(parse(&[bytes, b"\x16\x03\x01\r\n"].concat()), whole, "{shown} and what follows");
    for end in 0..bytes.len() {
        assert_eq!(parse(&bytes[..end]), Ok(Parsed::Partial), "{end} bytes of {shown}");
    }
}

fn is_refused(bytes: &[u8], why: &str) {
    let error = parse(bytes).expect_err(&String::from_utf8_lossy(bytes)).to_string();
    assert!(error.contains(why), "{}: {error}", String::from_utf8_lossy(bytes));
}

#[test]
fn lines() {
    let client = address("203.0.113.7:51000");
    is_whole(b"PROXY TCP4 203.0.113.7 10.0.0.1 51000 443\r\n", Some(client));
    is_whole(b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", Some(address("0.0.0.0:0")));
    is_whole(b"PROXY TCP6 2001:db8::7 ::1 51000 443\r\n", Some(address("[2001:db8::7]:51000")));
    let mapped = address("[::ffff:203.0.113.7]:1");
    is_whole(b"PROXY TCP6 ::ffff:203.0.113.7 ::1 1 2\r\n", Some(mapped));
    is_whole(b"PROXY UNKNOWN\r\n", None);
    is_whole(b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None);
    // The longest line of the standard.
    let long = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest = format!("PROXY UNKNOWN {long} {long} 65535 65535\r\n");
    assert_eq!(longest.len(), 107);
    is_whole(longest.as_bytes(), None);
}

#[test]
fn what_is_no_line() {
    for (line, why) in [
        ("GET / HTTP/1.1\r\n", "begins with something else"),
        ("proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n", "begins with something else"),
        (" PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n", "begins with something else"),
        ("PROXY\r\n", "begins with something else"),
        ("PROXY \r\n", "exactly two addresses"),
        ("PROXY TCP4\r\n", "exactly two addresses"),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", "exactly two addresses"),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", "exactly two addresses"),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", "exactly two addresses"),
        ("PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n", "exactly two addresses"),
        ("PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n", "none of TCP4, TCP6, UNKNOWN"),
        ("PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n", "none of TCP4, TCP6, UNKNOWN"),
        ("PROXY UNKNOWNS\r\n", "none of TCP4, TCP6, UNKNOWN"),
        ("PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n", "none of TCP4, TCP6, UNKNOWN"),
        ("PROXY TCP4 ::1 ::1 1 2\r\n", "not of its family"),
        ("PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n", "not of its family"),
        ("PROXY TCP4 1.2.3.4 ::1 1 2\r\n", "not of its family"),
        ("PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n", "not of its family"),
        ("PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n", "not of its family"),
        ("PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n", "not of its family"),
        ("PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "not of its family"),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n", "a port"),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", "a port"),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", "a port"),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n", "a port"),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n", "a port"),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n", "a port"),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", "does not end with CRLF"),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\r\n", "does not end with CRLF"),
        ("PROXY UNKNOWN a\rb\r\n", "does not end with CRLF"),
        ("PROXY UNKNOWN a\nb\r\n", "does not end with CRLF"),
    ] {
        is_refused(line.as_bytes(), why);
    }
    is_refused(b"PROXY TCP4 1.2.3.\xff 1.2.3.4 1 2\r\n", "not ASCII");
    is_refused(format!("PROXY UNKNOWN {}", "a".repeat(93)).as_bytes(), "more than 107 bytes");
    for late in ["\r", "\r\n"] {
        // The line feed would be the byte 108.
        let line = format!("PROXY UNKNOWN {}{late}", "a".repeat(92));
        is_refused(line.as_bytes(), "within 107 bytes");
    }
}

#[test]
fn binary_headers() {
    let v4 = [203, 0, 113, 7, 10, 0, 0, 1, 0xc7, 0x38, 0x01, 0xbb];
    let mut v6 = [0; 36];
    v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    v6[15] = 7;
    v6[32..34].copy_from_slice(&[0xc7, 0x38]);
    let (by_v4, by_v6) = (address("203.0.113.7:51000"), address("[2001:db8::7]:51000"));
    is_whole(&binary(0x21, 0x11, &v4), Some(by_v4));
    is_whole(&binary(0x21, 0x21, &v6), Some(by_v6));
    let values = [&v4[..], &[0x04, 0x00, 0x01, 0x00, 0xee]].concat();
    is_whole(&binary(0x21, 0x11, &values), Some(by_v4));
    is_whole(&binary(0x21, 0x11, &[&v4[..], &[0xff; 4084]].concat()), Some(by_v4));
    // The proxy's own, whatever else it says; and what has no address that could be used.
    for header in [
        binary(0x20, 0x00, &[]),
        binary(0x20, 0x11, &v4),
        binary(0x20, 0xff, &[1, 2, 3]),
        binary(0x21, 0x00, &[]),
        binary(0x21, 0x00, &v6),
        binary(0x21, 0x12, &v4),
        binary(0x21, 0x22, &v6),
        binary(0x21, 0x31, &[0; 216]),
        binary(0x21, 0x10, &v4),
    ] {
        is_whole(&header, None);
    }
    for (header, why) in [
        (binary(0x11, 0x11, &v4), "a version other than 2"),
        (binary(0x31, 0x11, &v4), "a version other than 2"),
        (binary(0x22, 0x11, &v4), "a command"),
        (binary(0x21, 0x13, &v4), "an unknown address family"),
        (binary(0x21, 0x41, &v4), "an unknown address family"),
        (binary(0x21, 0x11, &v4[..11]), "no room for the addresses"),
        (binary(0x21, 0x21, &v6[..35]), "no room for the addresses"),
        (binary(0x21, 0x11, &[]), "no room for the addresses"),
        (binary(0x21, 0x11, &[0; 4097]), "more than 4096 bytes"),
        (binary(0x20, 0x00, &[0; 65535])[..16].to_vec(), "more than 4096 bytes"),
        (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), "begins with something else"),
        (b"\r\n\r\nGET / HTTP/1.1".to_vec(), "begins with something else"),
    ] {
        is_refused(&header, why);
    }
}

/// The client that another implementation finds in a header.
fn oracle(bytes: &[u8]) -> Option<(usize, SocketAddr)> {
    match HeaderResult::parse(bytes) {
        HeaderResult::V1(Ok(v1::Header { header, addresses })) => match addresses {
            v1::Addresses::Tcp4(to) => {
                Some((header.len(), (to.source_address, to.source_port).into()))
            }
            v1::Addresses::Tcp6(to) => {
                Some((header.len(), (to.source_address, to.source_port).into()))
            }
            v1::Addresses::Unknown => None,
        },
        HeaderResult::V2(Ok(v2::Header { header, command, protocol, addresses, .. })) => {
            let is_client = (command, protocol) == (v2::Command::Proxy, v2::Protocol::Stream);
            match addresses {
                v2::Addresses::IPv4(to) if is_client => {
                    Some((header.len(), (to.source_address, to.source_port).into()))
                }
                v2::Addresses::IPv6(to) if is_client => {
                    Some((header.len(), (to.source_address, to.source_port).into()))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

fn ours(bytes: &[u8]) -> Option<(usize, SocketAddr)> {
    match parse(bytes) {
        Ok(Parsed::Whole { length, peer }) => peer.map(|peer| (length, peer)),
        _ => None,
    }
}

fn header_of(source: SocketAddr, destination: SocketAddr, version: u8, values: &[u8]) -> Vec<u8> {
    if version == 1 {
        return v1::Addresses::from((source, destination)).to_string().into_bytes();
    }
    let command = v2::Version::Two | v2::Command::Proxy;
    let addresses = (source, destination);
    let builder = v2::Builder::with_addresses(command, v2::Protocol::Stream, addresses);
    builder.write_payload(values).unwrap().build().unwrap()
}

fn addresses() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let v4 = any::<([u8; 4], u16, [u8; 4], u16)>()
        .prop_map(|(a, p, b, q)| (SocketAddr::from((a, p)), SocketAddr::from((b, q))));
    let v6 = any::<([u16; 8], u16, [u16; 8], u16)>()
        .prop_map(|(a, p, b, q)| (SocketAddr::from((a, p)), SocketAddr::from((b, q))));
    prop_oneof![v4, v6]
}

proptest! {
    #[test]
    fn headers_that_another_implementation_writes(
        (source, destination) in addresses(),
        version in 1..=2_u8,
        values in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let header = header_of(source, destination, version, &values);
        is_whole(&header, Some(source));
    }

    #[test]
    fn damaged_headers_are_read_as_another_implementation_reads_them(
        (source, destination) in addresses(),
        version in 1..=2_u8,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        rest in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut header = header_of(source, destination, version, &[]);
        for (at, byte) in damage {
            // Its ports may have a plus sign.
            let at = at.index(header.len());
            header[at] = if byte == b'+' { b'0' } else { byte };
        }
        header.truncate(cut.map_or(header.len(), |cut| cut.index(header.len())));
        header.extend(rest);
        let known = oracle(&header).filter(|(length, _)| *length <= LONGEST);
        prop_assert_eq!(ours(&header), known, "{}", String::from_utf8_lossy(&header));
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), start in 0..3_usize) {
        let start: &[u8] = [&b""[..], b"PROXY TCP4 ", SIGNATURE][start];
        let bytes = [start, &bytes].concat();
        if let Ok(Parsed::Whole { length, .. }) = parse(&bytes) {
            prop_assert!(length <= bytes.len());
        }
    }
}

/// Both ends of a connection, and the address of the client's.
async fn connection() -> (TcpStream, TcpStream, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, remote) = listener.accept().await.unwrap();
    (client, server, remote)
}

fn trusting(network: &str, timeout: Period) -> ProxyProtocol {
    ProxyProtocol { trusted: vec![network.parse().unwrap()], timeout }
}

#[tokio::test]
async fn what_follows_the_header_stays_in_the_socket() {
    let trusting = trusting("127.0.0.0/8", Period::secs(30));
    let client = address("192.0.2.7:9");
    for version in [1, 2] {
        let header = header_of(client, address("192.0.2.1:443"), version, &[]);
        for piece in [1, 7, header.len() + 5] {
            let (mut far, mut near, remote) = connection().await;
            let sent = [&header, &b"hello"[..]].concat();
            let sending = async {
                for piece in sent.chunks(piece) {
                    far.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            };
            let (read, ()) = tokio::join!(read(&mut near, remote, &trusting), sending);
            assert_eq!(read.unwrap(), Some(client));
            let mut rest = [0; 5];
            near.read_exact(&mut rest).await.unwrap();
            assert_eq!(&rest, b"hello");
        }
    }
}

#[tokio::test]
async fn every_end_without_a_header_has_its_word() {
    let patient = trusting("127.0.0.0/8", Period::secs(30));
    let (mut far, mut near, remote) = connection().await;
    far.write_all(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n").await.unwrap();
    let error = read(&mut near, remote, &trusting("10.0.0.0/8", Period::secs(30))).await;
    assert_eq!(error.unwrap_err().reason(), "untrusted");

    let (mut far, mut near, remote) = connection().await;
    far.write_all(b"PROXY TCP4 1.2.3.4").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(read(&mut near, remote, &patient).await.unwrap_err().reason(), "closed");

    let (mut far, mut near, remote) = connection().await;
    far.write_all(b"\x16\x03\x01").await.unwrap();
    assert_eq!(read(&mut near, remote, &patient).await.unwrap_err().reason(), "malformed");

    let (far, mut near, remote) = connection().await;
    let hasty = trusting("127.0.0.0/8", Period::millis(100));
    let error = timeout(Duration::from_secs(30), read(&mut near, remote, &hasty));
    let error = error.await.expect("an end").unwrap_err();
    assert_eq!(error.reason(), "timeout");
    assert_eq!(error.to_string(), "no whole PROXY header within 100ms");
    drop(far);
}
