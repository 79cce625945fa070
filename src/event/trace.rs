//! W3C trace context: passed through when the client gave one, else started, so that the log lines of
//! every station of a message can be found by one id.

use std::fmt;

/// A `traceparent` of version 00.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    id: u128,
    /// Set when the client's trace is recorded; moorline itself never asks for recording.
    sampled: bool,
}

impl Trace {
    /// A new trace.
    #[must_use]
    pub fn start() -> Self {
        Self { id: rand::random::<u128>() | 1, sampled: false }
    }

    /// The trace of a `traceparent` header, if that is well formed.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let (version, id) = (parts.next()?, parts.next()?);
        let (span, flags) = (parts.next()?, parts.next()?);
        let is_hex = |text: &str, len: usize| {
            text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_known =
            is_hex(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
        if !is_known || !is_hex(id, 32) || !is_hex(span, 16) || !is_hex(flags, 2) {
            return None;
        }
        let id = u128::from_str_radix(id, 16).ok().filter(|id| *id != 0)?;
        u64::from_str_radix(span, 16).ok().filter(|span| *span != 0)?;
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        Some(Self { id, sampled })
    }
}

/// The header for one event: the trace, with a span id of its own.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = rand::random::<u64>() | 1;
        write!(f, "00-{:032x}-{span:016x}-{:02x}", self.id, u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_header_is_passed_on_and_a_bad_one_is_not() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace = Trace::parse(good).unwrap().to_string();
        assert!(trace.starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
        assert!(trace.ends_with("-01"));
        for bad in [
            "",
            "00",
            "00-0-0-0",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert_eq!(Trace::parse(bad), None, "{bad}");
        }
    }
}
