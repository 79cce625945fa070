//! The shape of the inbound byte stream: where frames begin and end, and whether each header keeps to
//! RFC 6455 section 5, looked at before a byte of its payload is waited for.
//!
//! Knows no socket. The WebSocket library judges again what passes here, but later (after the whole
//! payload) and not all of it (minimal lengths, fragment counts).

use super::utf8::{NotUtf8, Utf8};

/// Follows the frames of one connection through its bytes.
#[derive(Debug)]
pub(super) struct Frames {
    position: Position,
    /// Payload bytes of the message so far, earlier fragments included.
    message: u64,
    /// Frames of the message so far, nil between messages.
    fragments: u32,
    /// Frames beside the one that each message needs, since they were last asked for.
    extra: u32,
    /// The most bytes of a message.
    max_message: u64,
    /// The text so far, while the message is text that does not come at once.
    text: Option<Utf8>,
}

/// What is wrong with the peer's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    /// A reserved bit is set and no extension gives it a meaning (section 5.2).
    #[error("reserved bit")]
    ReservedBit,
    /// An opcode without a meaning (section 5.2).
    #[error("unknown opcode")]
    Opcode,
    /// A client's frame must be masked (section 5.1).
    #[error("frame not masked")]
    Unmasked,
    /// A length that has a shorter form, or its top bit set (section 5.2).
    #[error("length not minimal")]
    Length,
    /// A control frame longer than 125 bytes or in fragments (section 5.5).
    #[error("control frame too long or in fragments")]
    Control,
    /// A continuation of nothing, or a new message inside another (section 5.4).
    #[error("fragments out of order")]
    Fragment,
    /// A message over the limit (section 10.4).
    #[error("message over the limit")]
    TooBig,
    /// Text with a byte that is not UTF-8 (section 8.1).
    #[error("not UTF-8")]
    Utf8,
    /// A message in more pieces than any honest client makes.
    #[error("message in too many fragments")]
    Fragments,
}

/// Where in a frame the next byte stands.
#[derive(Debug, Clone, Copy)]
enum Position {
    /// In a header: its bytes so far.
    Header {
        bytes: [u8; HEADER_MAX],
        len: u8,
    },
    Payload(Payload),
}

/// The payload that is coming in.
#[derive(Debug, Clone, Copy)]
struct Payload {
    /// Bytes still to come; never nil.
    left: u64,
    /// The mask, turned so that its first byte is for the next one of the payload.
    mask: [u8; 4],
    /// Whether it is text to be looked at. A message that is there at once is not: the library looks
    /// at it as soon.
    is_text: bool,
}

/// Flags, length and mask of the longest header.
const HEADER_MAX: usize = 14;
/// The most frames of one message. A 64 KiB message in 16-byte pieces still passes.
const MAX_FRAGMENTS: u32 = 4096;

const FIN: u8 = 0x80;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

impl Frames {
    /// At the start of a stream whose messages have at most `max_message` bytes.
    pub(super) fn new(max_message: usize) -> Self {
        Self {
            position: Position::start(),
            message: 0,
            fragments: 0,
            extra: 0,
            max_message: max_message as u64,
            text: None,
        }
    }

    /// Looks at the next `bytes` of the stream.
    ///
    /// # Errors
    /// At the first violation: how many of the bytes come before the offending frame, and what it is.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Result<(), (usize, Violation)> {
        let mut at = 0;
        let mut frame_start = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match &mut self.position {
                Position::Payload(payload) => {
                    let step =
                        usize::try_from(payload.left).map_or(rest.len(), |n| n.min(rest.len()));
                    if let (true, Some(text)) = (payload.is_text, &mut self.text) {
                        let piece = rest.get(..step).unwrap_or_default();
                        payload
                            .look(piece, text)
                            .map_err(|NotUtf8| (frame_start, Violation::Utf8))?;
                    }
                    payload.left -= step as u64;
                    at += step;
                    if payload.left == 0 {
                        self.position = Position::start();
                    }
                    frame_start = at;
                }
                Position::Header { bytes: header, len } => {
                    if let (Some(slot), Some(byte)) =
                        (header.get_mut(usize::from(*len)), rest.first())
                    {
                        *slot = *byte;
                        *len += 1;
                        at += 1;
                    }
                    let (header, len) = (*header, usize::from(*len));
                    let Some(left) = self.header(&header, len).map_err(|v| (frame_start, v))?
                    else {
                        continue;
                    };
                    self.position = Position::start();
                    if left > 0 {
                        let is_whole = bytes.len() as u64 - at as u64 >= left;
                        self.position =
                            Position::Payload(self.payload(&header, len, left, is_whole));
                    } else {
                        frame_start = at;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether all bytes so far make whole messages, with nothing begun.
    pub(super) fn is_between_messages(&self) -> bool {
        self.fragments == 0 && matches!(self.position, Position::Header { len: 0, .. })
    }

    /// Control frames and continuations since the last call: work that no message accounts for.
    pub(super) fn take_extra(&mut self) -> u32 {
        std::mem::take(&mut self.extra)
    }

    /// The payload behind a whole header of `len` bytes.
    fn payload(&self, header: &[u8; HEADER_MAX], len: usize, left: u64, is_whole: bool) -> Payload {
        let [flags, ..] = *header;
        let mask = header.get(len.saturating_sub(4)..len).and_then(|mask| mask.try_into().ok());
        let is_message = flags & FIN != 0 && flags & 0x0f == TEXT;
        let is_data = flags & 0x0f <= BINARY;
        let is_text = is_data && self.text.is_some() && !(is_message && is_whole);
        Payload { left, mask: mask.unwrap_or_default(), is_text }
    }

    /// Judges a header as far as it has come; its payload length once it is whole.
    fn header(&mut self, header: &[u8; HEADER_MAX], len: usize) -> Result<Option<u64>, Violation> {
        let [flags, second, ..] = *header;
        if flags & RESERVED != 0 {
            return Err(Violation::ReservedBit);
        }
        let is_control = match flags & 0x0f {
            0..=2 => false,
            8..=10 => true,
            _ => return Err(Violation::Opcode),
        };
        if len < 2 {
            return Ok(None);
        }
        if second & MASKED == 0 {
            return Err(Violation::Unmasked);
        }
        let short = second & 0x7f;
        if is_control && (short > 125 || flags & FIN == 0) {
            return Err(Violation::Control);
        }
        let [_, _, a, b, c, d, e, f, g, h, ..] = *header;
        let (extended, payload, least) = match short {
            126 => (2, u64::from(u16::from_be_bytes([a, b])), 126),
            127 => (8, u64::from_be_bytes([a, b, c, d, e, f, g, h]), 65_536),
            n => (0, u64::from(n), 0),
        };
        if len < 2 + extended {
            return Ok(None);
        }
        if payload < least || payload >> 63 == 1 {
            return Err(Violation::Length);
        }
        if len == 2 + extended && (is_control || flags & 0x0f == 0) {
            self.extra = self.extra.saturating_add(1);
        }
        if len == 2 + extended && !is_control {
            self.data(flags, payload)?;
        }
        Ok((len == 2 + extended + 4).then_some(payload))
    }

    /// Takes the header of a data frame into account (section 5.4).
    fn data(&mut self, flags: u8, payload: u64) -> Result<(), Violation> {
        let continues = flags & 0x0f == 0;
        if continues != (self.fragments > 0) {
            return Err(Violation::Fragment);
        }
        if !continues {
            self.text = (flags & 0x0f == TEXT).then(Utf8::default);
        }
        self.message = self.message.saturating_add(payload);
        self.fragments += 1;
        if self.message > self.max_message {
            return Err(Violation::TooBig);
        }
        if self.fragments > MAX_FRAGMENTS {
            return Err(Violation::Fragments);
        }
        if flags & FIN != 0 {
            self.message = 0;
            self.fragments = 0;
        }
        Ok(())
    }
}

impl Payload {
    /// Looks at the next masked piece of a text.
    fn look(&mut self, piece: &[u8], text: &mut Utf8) -> Result<(), NotUtf8> {
        let mut plain = [0; 256];
        for part in piece.chunks(plain.len()) {
            for ((to, from), mask) in plain.iter_mut().zip(part).zip(self.mask.iter().cycle()) {
                *to = from ^ mask;
            }
            self.mask.rotate_left(part.len() % 4);
            text.feed(plain.get(..part.len()).unwrap_or_default())?;
        }
        Ok(())
    }
}

impl Position {
    fn start() -> Self {
        Self::Header { bytes: [0; HEADER_MAX], len: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [1, 2, 3, 4];

    fn frame(flags: u8, len: u64) -> Vec<u8> {
        let mut bytes = vec![flags];
        match len {
            0..=125 => bytes.push(0x80 | len as u8),
            126..=65_535 => {
                bytes.push(0xfe);
                bytes.extend((len as u16).to_be_bytes());
            }
            _ => {
                bytes.push(0xff);
                bytes.extend(len.to_be_bytes());
            }
        }
        bytes.extend(MASK);
        bytes.extend(vec![b'x'; len.min(70_000) as usize]);
        bytes
    }

    /// The same verdict whether the bytes come at once or one by one.
    fn scan(bytes: &[u8]) -> Result<bool, (usize, Violation)> {
        let mut whole = Frames::new(66_000);
        let verdict = whole.scan(bytes).map(|()| whole.is_between_messages());
        let mut single = Frames::new(66_000);
        let broken = bytes.iter().find_map(|b| single.scan(&[*b]).err());
        assert_eq!(broken.map(|(_, v)| v), verdict.err().map(|(_, v)| v));
        verdict
    }

    #[test]
    fn good_streams_pass() {
        let hello = frame(0x81, 5);
        assert_eq!(scan(&hello), Ok(true));
        assert_eq!(scan(&hello[..7]), Ok(false));
        assert_eq!(scan(&[hello.clone(), hello].concat()), Ok(true));
        for len in [0, 1, 125, 126, 65_535, 65_536] {
            assert_eq!(scan(&frame(0x82, len)), Ok(true), "{len}");
        }
        let parts = [frame(0x01, 3), frame(0x89, 4), frame(0x00, 3), frame(0x80, 0)].concat();
        assert_eq!(scan(&parts), Ok(true));
        assert_eq!(scan(&frame(0x01, 3)), Ok(false));
    }

    #[test]
    fn each_violation_is_seen_in_the_header() {
        use Violation as V;
        for (header, violation) in [
            (vec![0xc1], V::ReservedBit),
            (vec![0x91], V::ReservedBit),
            (vec![0x83], V::Opcode),
            (vec![0x8b], V::Opcode),
            (vec![0x81, 0x05], V::Unmasked),
            (vec![0x81, 0xfe, 0, 125], V::Length),
            (vec![0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], V::Length),
            (vec![0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1], V::Length),
            (vec![0x81, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0], V::TooBig),
            (vec![0x89, 0xfe], V::Control),
            (vec![0x09, 0x80], V::Control),
            (vec![0x80, 0x80], V::Fragment),
        ] {
            assert_eq!(scan(&header), Err((0, violation)), "{header:x?}");
        }
    }

    #[test]
    fn the_bytes_before_an_offence_still_count() {
        let mut bytes = frame(0x81, 5);
        bytes.extend([0x83, 0x80]);
        assert_eq!(scan(&bytes), Err((11, Violation::Opcode)));
        let nested = [frame(0x01, 1), frame(0x81, 1)].concat();
        assert_eq!(scan(&nested), Err((7, Violation::Fragment)));
    }

    #[test]
    fn text_is_looked_at_as_it_arrives() {
        let good = "grüße, 世界, κόσμε".as_bytes();
        let masked = |bytes: &[u8]| -> Vec<u8> {
            bytes.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
        };
        let text = |flags, bytes: &[u8]| {
            let mut frame = vec![flags, 0x80 | bytes.len() as u8];
            frame.extend(MASK);
            frame.extend(masked(bytes));
            frame
        };
        let (head, tail) = good.split_at(3);
        let parts = [text(0x01, head), text(0x89, b"\xff"), text(0x80, tail)].concat();
        assert_eq!(scan(&parts), Ok(true), "a ping is no text");
        let mut frames = Frames::new(1000);
        let cut = text(0x81, &[good, b"\xff and more"].concat());
        let bad = 6 + good.len();
        assert_eq!(frames.scan(&cut[..bad]), Ok(()));
        assert_eq!(frames.scan(&cut[bad..=bad]), Err((0, Violation::Utf8)));
        assert_eq!(scan(&[text(0x02, b"\xff"), text(0x80, b"\xff")].concat()), Ok(true), "binary");
    }

    #[test]
    fn sizes_and_pieces_are_bounded() {
        let halves = [frame(0x01, 40_000), frame(0x80, 40_000)].concat();
        assert_eq!(scan(&halves).unwrap_err().1, Violation::TooBig);
        let mut pieces = frame(0x01, 0);
        pieces.extend(frame(0x00, 0).repeat(MAX_FRAGMENTS as usize));
        assert_eq!(scan(&pieces).unwrap_err().1, Violation::Fragments);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_cut_anywhere_give_one_verdict(bytes: Vec<u8>, cut: u8) {
            let cut = usize::from(cut).min(bytes.len());
            let mut whole = Frames::new(100);
            let mut parts = Frames::new(100);
            let at_once = whole.scan(&bytes).map_err(|(_, v)| v);
            let (head, tail) = bytes.split_at(cut);
            let in_parts = parts.scan(head).and_then(|()| parts.scan(tail)).map_err(|(_, v)| v);
            // Text that is there at once is left to the library, and so is only seen here when cut.
            let is_about_text = [at_once, in_parts].contains(&Err(Violation::Utf8));
            assert!(is_about_text || at_once == in_parts, "{at_once:?}, {in_parts:?}");
        }
    }
}
