//! Paths that clients must not reach: those at which a backend takes moorline's own events.
//!
//! Servers differ in how they read a path, so one is guarded as soon as any reading of it might be.

/// Guarded paths, in their plainest form.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Guarded(Vec<Vec<String>>);

/// How often a path is decoded at most: proxies between us and the server may each do it once.
const DECODINGS: usize = 4;

impl Guarded {
    pub(super) fn new(paths: &[String]) -> Self {
        Self(paths.iter().map(|path| plain(path.as_bytes())).collect())
    }

    /// Whether a path is a guarded one or below it.
    pub(super) fn covers(&self, path: &str) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let mut path = path.as_bytes().to_vec();
        for _ in 0..DECODINGS {
            // A NUL is passed over, or it ends the path.
            let cut = path.split(|byte| *byte == 0).next().unwrap_or_default();
            for read in [plain(&path), plain(cut)] {
                if self.0.iter().any(|guarded| read.starts_with(guarded)) {
                    return true;
                }
            }
            let decoded = decode(&path);
            if decoded == path {
                return false;
            }
            path = decoded;
        }
        // No honest path is encoded so often.
        true
    }
}

/// The segments of a path after all that a server may do to it: `\` is `/`, empty ones and `.` are
/// nothing, `..` takes one away, parameters (`;a=b`) and dots and spaces at the end are cut off, and
/// case does not count.
fn plain(path: &[u8]) -> Vec<String> {
    let mut segments = Vec::new();
    for segment in path.split(|byte| b"/\\".contains(byte)) {
        let segment = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        let text: String = String::from_utf8_lossy(segment)
            .chars()
            .filter(|c| !c.is_control())
            .flat_map(char::to_lowercase)
            .collect();
        if text.trim() == ".." {
            segments.pop();
            continue;
        }
        let text = text.trim_start().trim_end_matches(['.', ' ']);
        if !text.is_empty() {
            segments.push(text.to_owned());
        }
    }
    segments
}

/// The path with its percent-encodings decoded once, and with what lenient decoders take for ASCII: two
/// bytes where one would do (RFC 3629 section 3 forbids it).
fn decode(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, tail)) = rest.split_first() {
        let byte = match tail {
            [high, low, after @ ..] if *first == b'%' => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    rest = after;
                    high * 16 + low
                }
                _ => {
                    rest = tail;
                    *first
                }
            },
            _ => {
                rest = tail;
                *first
            }
        };
        match (decoded.last().copied(), byte) {
            (Some(lead @ (0xc0 | 0xc1)), 0x80..=0xbf) => {
                decoded.pop();
                decoded.push(((lead & 1) << 6) | (byte & 0x3f));
            }
            _ => decoded.push(byte),
        }
    }
    decoded
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guarded_path_is_guarded_however_it_is_written() {
        let guarded = Guarded::new(&["/ws-events".to_owned(), "/hooks/Moorline/".to_owned()]);
        for path in [
            "/ws-events",
            "/ws-events/",
            "/ws-events/below",
            "//ws-events",
            "/./ws-events",
            "/a/../ws-events",
            "/../ws-events",
            "/WS-Events",
            "/ws%2Devents",
            "/ws%2devents",
            "/ws%252Devents",
            "/%77s-events",
            "/a/%2e%2e/ws-events",
            "/a/.%2e/ws-events",
            "/a%2f..%2fws-events",
            "/a%5c..%5cws-events",
            "/a\\..\\ws-events",
            "/\\ws-events",
            "/ws-events;a=b",
            "/;a/ws-events",
            "/ws-events%3Ba",
            "/ws-events.",
            "/ws-events%20",
            "/ws-events%00",
            "/ws-events%00.png",
            "/ws-\u{9}events",
            "/a/%c0%ae%c0%ae/ws-events",
            "/a%c0%af..%c0%afws-events",
            "/a/..;/ws-events",
            "/hooks/moorline",
            "/hooks//moorline/x",
            "/%2525252525252577s",
        ] {
            assert!(guarded.covers(path), "{path}");
        }
        for path in ["/", "/ws", "/ws-eventsx", "/x/ws-events", "/hooks", "/%zz", "/100%", "/a%2"] {
            assert!(!guarded.covers(path), "{path}");
        }
        assert!(!Guarded::new(&[]).covers("/ws-events"));
    }
}
