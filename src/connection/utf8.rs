//! UTF-8 as it arrives, in pieces cut anywhere, so that a bad byte is seen at once and not only after
//! the whole message (RFC 6455 section 8.1).

/// The state between two pieces of one text message.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Utf8 {
    /// The beginning of a character whose end is in the next piece.
    begun: [u8; 4],
    len: u8,
}

/// A byte that no UTF-8 text has at its place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotUtf8;

impl Utf8 {
    /// Looks at the next piece.
    pub(super) fn feed(&mut self, mut piece: &[u8]) -> Result<(), NotUtf8> {
        while self.len > 0 {
            let Some((byte, rest)) = piece.split_first() else { return Ok(()) };
            piece = rest;
            let at = usize::from(self.len);
            *self.begun.get_mut(at).ok_or(NotUtf8)? = *byte;
            match std::str::from_utf8(self.begun.get(..=at).unwrap_or_default()) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_none() => self.len += 1,
                Err(_) => return Err(NotUtf8),
            }
        }
        let Err(error) = std::str::from_utf8(piece) else { return Ok(()) };
        if error.error_len().is_some() {
            return Err(NotUtf8);
        }
        for byte in piece.get(error.valid_up_to()..).unwrap_or_default() {
            *self.begun.get_mut(usize::from(self.len)).ok_or(NotUtf8)? = *byte;
            self.len += 1;
        }
        Ok(())
    }

    /// Whether the text so far ends between two characters. At the end of a message the library asks.
    #[cfg(test)]
    pub(super) fn is_whole(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_byte_is_seen_in_its_own_piece() {
        let mut text = Utf8::default();
        assert_eq!(text.feed("κόσμε".as_bytes()), Ok(()));
        assert_eq!(text.feed(&[0xf4]), Ok(()), "may still become a character");
        assert!(!text.is_whole());
        assert_eq!(text.feed(&[0x90]), Err(NotUtf8), "beyond U+10FFFF");
        assert_eq!(Utf8::default().feed(&[0xed, 0xa0]), Err(NotUtf8), "a surrogate");
        assert_eq!(Utf8::default().feed(&[0xc0]), Err(NotUtf8), "overlong");
    }

    proptest::proptest! {
        #[test]
        fn any_cut_gives_the_verdict_of_the_whole(bytes: Vec<u8>, cuts: Vec<u8>) {
            let mut text = Utf8::default();
            let mut rest = bytes.as_slice();
            let mut verdict = Ok(());
            for cut in cuts {
                let (piece, tail) = rest.split_at(usize::from(cut).min(rest.len()));
                verdict = verdict.and_then(|()| text.feed(piece));
                rest = tail;
            }
            verdict = verdict.and_then(|()| text.feed(rest));
            let is_text = verdict.is_ok() && text.is_whole();
            assert_eq!(is_text, std::str::from_utf8(&bytes).is_ok());
        }

        #[test]
        fn text_passes_however_it_is_cut(string: String, size in 1..5usize) {
            let mut text = Utf8::default();
            for piece in string.as_bytes().chunks(size) {
                assert_eq!(text.feed(piece), Ok(()));
            }
            assert!(text.is_whole());
        }
    }
}
