//! Where each request head of a stream ends and how it frames its body, as the bytes came.
//!
//! The HTTP library reads leniently, as it may: it takes a bare LF for the end of a line, and the chunks
//! where there is a length, too. A server in front of us may have read the same bytes in another way, and
//! then what it took for a body would be a request to us. So where two readings are possible, there is
//! none (RFC 9112 section 11.2).

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// What was found of the heads that were read and not asked about yet, in their order. The library
/// reads on no further than its buffer, which bounds them.
#[derive(Debug, Default)]
pub(super) struct Heads(Mutex<VecDeque<Head>>);

/// What was found of one head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// It has one reading.
    Sound,
    /// So it has, but nobody follows what is behind it: chunks, or what it upgrades to.
    Last,
    /// What is wrong with it.
    Doubtful(&'static str),
}

/// Follows the bytes of one stream.
#[derive(Debug)]
pub(super) struct Scan(Place);

#[derive(Debug)]
enum Place {
    Head(Lines),
    /// So many bytes until the next head.
    Body(u64),
    /// Behind the last head that is followed.
    Behind,
}

/// A head so far.
#[derive(Debug, Default)]
struct Lines {
    /// The beginning of the current line.
    line: Vec<u8>,
    is_cut: bool,
    is_after_cr: bool,
    has_request_line: bool,
    length: Option<u64>,
    is_chunked: bool,
    is_upgrade: bool,
}

/// No honest line about the framing is as long.
const LONGEST: usize = 64;

impl Heads {
    /// What was found of the next head. One that was not found at all was read in another way.
    pub(super) fn next(&self) -> Head {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        found.unwrap_or(Head::Doubtful("the head does not follow the end of a request"))
    }

    fn push(&self, head: Head) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(head);
    }
}

impl Scan {
    pub(super) fn new() -> Self {
        Self(Place::Head(Lines::default()))
    }

    /// Follows more bytes, and tells of each head that ends in them.
    pub(super) fn follow(&mut self, mut bytes: &[u8], heads: &Heads) {
        while let Some((byte, rest)) = bytes.split_first() {
            match &mut self.0 {
                Place::Behind => return,
                Place::Body(left) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= here as u64;
                    bytes = bytes.get(here..).unwrap_or_default();
                    if *left == 0 {
                        self.0 = Place::Head(Lines::default());
                    }
                }
                Place::Head(lines) => {
                    bytes = rest;
                    if let Some(head) = lines.take(*byte) {
                        self.0 = match head {
                            Head::Sound => match lines.length {
                                Some(length @ 1..) => Place::Body(length),
                                _ => Place::Head(Lines::default()),
                            },
                            _ => Place::Behind,
                        };
                        heads.push(head);
                    }
                }
            }
        }
    }
}

impl Lines {
    /// What the head is, once that is known.
    fn take(&mut self, byte: u8) -> Option<Head> {
        let is_after_cr = std::mem::replace(&mut self.is_after_cr, byte == b'\r');
        match byte {
            b'\n' if is_after_cr => self.end_line(),
            b'\n' => Some(Head::Doubtful("a line of the head ends without CR")),
            _ if is_after_cr => Some(Head::Doubtful("the head has a CR that ends no line")),
            b'\r' => None,
            _ => {
                if self.line.len() < LONGEST {
                    self.line.push(byte);
                } else {
                    self.is_cut = true;
                }
                None
            }
        }
    }

    fn end_line(&mut self) -> Option<Head> {
        let mut line = std::mem::take(&mut self.line);
        let is_cut = std::mem::take(&mut self.is_cut);
        let head = self.read_line(&line, is_cut);
        // Its memory serves the next line.
        line.clear();
        self.line = line;
        head
    }

    fn read_line(&mut self, line: &[u8], is_cut: bool) -> Option<Head> {
        if line.is_empty() {
            // Empty lines before a request are passed over (RFC 9112 section 2.2).
            return self.has_request_line.then(|| self.end());
        }
        if !std::mem::replace(&mut self.has_request_line, true) {
            return None;
        }
        if line.first().is_some_and(|first| b" \t".contains(first)) {
            return Some(Head::Doubtful("a header field is folded"));
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let is = |known: &str| name.trim_ascii().eq_ignore_ascii_case(known.as_bytes());
        let fault = if is("content-length") {
            match length(value).filter(|_| !is_cut) {
                None => Some("Content-Length is not a number"),
                Some(_) if self.length.is_some() => Some("more than one Content-Length"),
                Some(length) => {
                    self.length = Some(length);
                    None
                }
            }
        } else if is("transfer-encoding") {
            if is_cut || !value.eq_ignore_ascii_case(b"chunked") {
                Some("only the transfer encoding chunked is taken")
            } else if std::mem::replace(&mut self.is_chunked, true) {
                Some("more than one Transfer-Encoding")
            } else {
                None
            }
        } else {
            self.is_upgrade |= is("upgrade");
            None
        };
        fault.map(Head::Doubtful)
    }

    fn end(&self) -> Head {
        match (self.length, self.is_chunked) {
            (Some(_), true) => Head::Doubtful("both Content-Length and Transfer-Encoding"),
            (None, true) => Head::Last,
            _ if self.is_upgrade => Head::Last,
            _ => Head::Sound,
        }
    }
}

/// Digits only: neither signs nor lists, which some take and others do not.
fn length(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| is_number)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found of each head of a stream that comes in pieces of this size.
    fn found(stream: &str, piece: usize) -> Vec<Head> {
        let (heads, mut scan) = (Heads::default(), Scan::new());
        for piece in stream.as_bytes().chunks(piece) {
            scan.follow(piece, &heads);
        }
        heads.0.into_inner().unwrap().into()
    }

    #[test]
    fn heads_are_found_behind_bodies() {
        use Head::{Last, Sound};
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let post = "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n\r\n\r\n";
        let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n";
        let upgrade = "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";
        let long = format!("GET / HTTP/1.1\r\nCookie: {}\r\n\r\n", "x".repeat(5000));
        for (stream, expected) in [
            (format!("{get}{get}{post}{get}"), vec![Sound; 4]),
            (format!("\r\n\r\n{get}\r\n{long}{get}"), vec![Sound; 3]),
            (format!("{post}{chunked}{get}"), vec![Sound, Last]),
            (format!("{get}{upgrade}{get}"), vec![Sound, Last]),
            ("GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n".repeat(2), vec![Sound; 2]),
            ("GET / HTTP/1.1\r\nHost: a\r\n".to_owned(), vec![]),
        ] {
            for piece in [1, 2, 7, stream.len()] {
                assert_eq!(found(&stream, piece), expected, "{stream:?} by {piece}");
            }
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_doubtful() {
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Transfer-Encoding: chunked\r\nContent-Length: 0",
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: 5, 5",
            "Content-Length: +5",
            "Content-Length: 0x5",
            "Content-Length: 5 5",
            "Content-Length:",
            "Content-Length: 99999999999999999999",
            "CONTENT-LENGTH : 5\r\nContent-Length: 6",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: \"chunked\"",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\n\tx",
            "X: a\r\n Transfer-Encoding: chunked",
            "X: a\nTransfer-Encoding: chunked",
            "X: a\rTransfer-Encoding: chunked",
            "X: a\r\r\nContent-Length: 5",
        ] {
            let stream = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\nhello");
            for piece in [1, 3, stream.len()] {
                let found = found(&stream, piece);
                assert!(matches!(found[..], [Head::Doubtful(_)]), "{fields:?}: {found:?}");
            }
        }
        let padded = format!("P\r\nTransfer-Encoding:{}chunked\r\n\r\n", " ".repeat(60));
        assert!(matches!(found(&padded, 9)[..], [Head::Doubtful(_)]));
        assert!(matches!(Heads::default().next(), Head::Doubtful(_)));
    }
}
