//! Paths that clients must not reach: those at which a backend takes moorline's own events.
//!
//! Servers differ in how they read a path, so one is guarded as soon as any reading of it might be.

/// Guarded paths, in their plainest form.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Guarded(Vec<Vec<String>>);

/// A path as servers may read it.
#[derive(Debug)]
struct Reading {
    segments: Vec<Segment>,
    /// Whether `..` is among them, which some take for a step back and some for a name.
    has_steps_back: bool,
    /// Whether it begins with two slashes, after which some expect a host.
    may_name_host: bool,
}

/// One segment: in lower case and without what servers leave out of it.
#[derive(Debug)]
struct Segment {
    name: String,
    /// Whether it may be a program, and what follows its own affair (RFC 3875 section 4.1.5).
    is_script: bool,
}

/// How often a path is decoded at most: proxies between us and the server may each do it once.
const DECODINGS: usize = 4;
/// The names of programs end like this, and in `.php5` and the like. Servers find them without it, too.
const SCRIPTS: [&str; 10] =
    ["phtml", "cgi", "fcgi", "pl", "py", "rb", "wsgi", "asp", "aspx", "jsp"];
/// A folder of programs, whatever their names are.
const SCRIPT_FOLDER: &str = "cgi-bin";
/// What stands for its folder.
const INDEX: &str = "index";

impl Guarded {
    /// These paths; only a backend at `/` leaves none to guard.
    pub(super) fn new(paths: &[String]) -> Self {
        Self(paths.iter().map(|path| plain(path)).filter(|path| !path.is_empty()).collect())
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
            if self.is_read_in(&path) || (cut.len() < path.len() && self.is_read_in(cut)) {
                return true;
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

    fn is_read_in(&self, path: &[u8]) -> bool {
        let reading = Reading::of(path);
        self.0.iter().any(|guarded| reading.may_be_at(guarded))
    }
}

/// A guarded path as it is compared.
fn plain(path: &str) -> Vec<String> {
    let reading = Reading::of(path.as_bytes());
    reading.segments.into_iter().map(|segment| segment.name).collect()
}

impl Reading {
    /// `\` is `/`, and empty segments are nothing.
    fn of(path: &[u8]) -> Self {
        let is_slash = |byte: &u8| b"/\\".contains(byte);
        let may_name_host = path.iter().take(2).filter(|byte| is_slash(byte)).count() == 2;
        let mut reading = Self { segments: Vec::new(), has_steps_back: false, may_name_host };
        for text in path.split(is_slash).map(text) {
            reading.has_steps_back |= text.starts_with("..");
            reading.segments.extend(Segment::of(&text));
        }
        reading
    }

    /// Whether it may lead to a guarded path or below.
    fn may_be_at(&self, guarded: &[String]) -> bool {
        // A folder stands for its index. The topmost does not: that would be the server's first page.
        let names = |first| {
            let names = self.segments.iter().skip(first).map(|segment| segment.name.as_str());
            names.chain((first < self.segments.len()).then_some(INDEX))
        };
        // Which segments are left after steps back, servers do not agree about. The guarded ones are, in
        // their order.
        let mut all = names(0);
        if self.has_steps_back && guarded.iter().all(|name| all.any(|own| own == name)) {
            return true;
        }
        let begins = |first| names(first).take(guarded.len()).eq(guarded.iter());
        (0..self.segments.len()).any(|first| self.may_begin(first) && begins(first))
    }

    /// Whether a server may take what begins with this segment for all of the path.
    fn may_begin(&self, first: usize) -> bool {
        let before = |back| first.checked_sub(back).and_then(|at| self.segments.get(at));
        first == 0
            || (first == 1 && self.may_name_host)
            || before(1).is_some_and(|segment| segment.is_script)
            || before(2).is_some_and(|segment| segment.name == SCRIPT_FOLDER)
    }
}

/// A segment in lower case, without control characters and the spaces around it.
fn text(segment: &[u8]) -> String {
    let text = String::from_utf8_lossy(segment);
    let text: String =
        text.chars().filter(|c| !c.is_control()).flat_map(char::to_lowercase).collect();
    text.trim().to_owned()
}

impl Segment {
    /// Cuts parameters (`;a=b`) off, what was a query or a fragment to somebody, dots and spaces at the
    /// end, and the ending of a program; none when nothing is left.
    fn of(text: &str) -> Option<Self> {
        let name = text.split([';', '?', '#']).next().unwrap_or_default();
        let name = name.trim_end_matches(['.', ' ']);
        let script = name.rsplit_once('.').filter(|(stem, ending)| {
            let is_php = ending
                .strip_prefix("php")
                .is_some_and(|version| version.bytes().all(|byte| byte.is_ascii_digit()));
            !stem.is_empty() && (is_php || SCRIPTS.contains(ending))
        });
        let stem = script.map_or(name, |(stem, _)| stem);
        (!stem.is_empty()).then(|| Self { name: stem.to_owned(), is_script: script.is_some() })
    }
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

    fn guarded() -> Guarded {
        let paths = ["/ws-events", "/hooks/Moorline/", "/cgi-bin/events.py", "/app/index.php"];
        Guarded::new(&paths.map(str::to_owned))
    }

    #[test]
    fn a_guarded_path_is_guarded_however_it_is_written() {
        let guarded = guarded();
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
            "/ws-events/..",
            "/ws-events/../x",
            "/ws-events/..;a",
            "/ws-events/%2e%2e/x",
            "/hooks/..;/../moorline",
            "/hooks//../moorline",
            "/hooks/x/.. /moorline",
            "/ws-events%3Fx",
            "/ws-events%3Fx/y",
            "/ws-events%23x",
            "//host/ws-events",
            "/\\host:80/hooks/moorline",
            "/index.php/ws-events",
            "/a/app.cgi/hooks/moorline/b",
            "/index.php5;a/ws-events",
            "/cgi-bin/app/ws-events",
            "/ws-events.php",
            "/ws-events.php/x",
            "/cgi-bin/events",
            "/cgi-bin/events.py",
            "/cgi-bin/events.PY/x",
            "/cgi-bin//events.py%20",
            "/app",
            "/app/",
            "/app/index.php",
            "/app/index.php/x",
            "/app/index",
            "/%2525252525252577s",
        ] {
            assert!(guarded.covers(path), "{path}");
        }
    }

    #[test]
    fn other_paths_are_not() {
        let guarded = guarded();
        for path in [
            "/",
            "/ws",
            "/ws-eventsx",
            "/ws-events.js",
            "/x/ws-events",
            "/x.y/ws-events",
            "/a/../b",
            "/hooks",
            "/moorline/../hooks",
            "/cgi-bin/other.py",
            "/events.py",
            "//hooks",
            "/index.php",
            "/app/login.php",
            "/.php/ws-events",
            "/%zz",
            "/100%",
            "/a%2",
        ] {
            assert!(!guarded.covers(path), "{path}");
        }
        for none in [&[][..], &["/".to_owned(), "//.".to_owned()]] {
            assert!(!Guarded::new(none).covers("/ws-events"));
            assert!(!Guarded::new(none).covers("/"));
        }
    }
}
