//! Which route takes a request path. The most specific pattern wins: segment by segment, a literal
//! before a `{name}`, and that before a `{*rest}`.

use crate::event::Params;

/// Path patterns and what they lead to, most specific first.
#[derive(Debug)]
pub struct Routes<T> {
    routes: Vec<(Pattern, T)>,
}

/// A path that no route may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the path has a bad percent-encoding, a dot segment or a control character")]
pub(super) struct BadPath;

#[derive(Debug, PartialEq, Eq)]
struct Pattern(Vec<Segment>);

/// In the order of their precedence.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Literal(String),
    Name(String),
    Rest(String),
}

impl<T> Routes<T> {
    /// Routes by their patterns, which the config has checked.
    pub fn new(routes: impl IntoIterator<Item = (String, T)>) -> Self {
        let mut routes: Vec<_> =
            routes.into_iter().map(|(path, target)| (Pattern::parse(&path), target)).collect();
        routes.sort_by_cached_key(|(pattern, _)| pattern.rank());
        Self { routes }
    }

    /// What all routes lead to.
    pub fn targets(&self) -> impl Iterator<Item = &T> {
        self.routes.iter().map(|(_, target)| target)
    }

    /// The route of `path`, and what its names stand for.
    ///
    /// # Errors
    /// When the path could mean one thing here and another elsewhere.
    pub(super) fn find(&self, path: &str) -> Result<Option<(&T, Params)>, BadPath> {
        let segments =
            path.split('/').skip(1).map(decode).collect::<Result<Vec<String>, BadPath>>()?;
        Ok(self.routes.iter().find_map(|(pattern, target)| {
            pattern.matches(&segments).map(|params| (target, params))
        }))
    }
}

impl Pattern {
    fn parse(path: &str) -> Self {
        let segment =
            |text: &str| match text.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) {
                Some(name) => match name.strip_prefix('*') {
                    Some(rest) => Segment::Rest(rest.to_owned()),
                    None => Segment::Name(name.to_owned()),
                },
                None => Segment::Literal(text.to_owned()),
            };
        Self(path.split('/').skip(1).map(segment).collect())
    }

    fn rank(&self) -> Vec<u8> {
        let rank = |segment: &Segment| match segment {
            Segment::Literal(_) => 0,
            Segment::Name(_) => 1,
            Segment::Rest(_) => 2,
        };
        self.0.iter().map(rank).collect()
    }

    fn matches(&self, path: &[String]) -> Option<Params> {
        let mut params = Vec::new();
        let mut path = path.iter();
        for segment in &self.0 {
            let (name, value) = match segment {
                Segment::Literal(text) => {
                    if path.next()? != text {
                        return None;
                    }
                    continue;
                }
                Segment::Name(name) => {
                    (name, path.next().filter(|value| !value.is_empty())?.clone())
                }
                Segment::Rest(name) => {
                    let rest: Vec<&str> = path.by_ref().map(String::as_str).collect();
                    (name, Some(rest.join("/")).filter(|rest| !rest.is_empty())?)
                }
            };
            params.push((name.as_str().into(), value.into_boxed_str()));
        }
        path.next().is_none().then(|| params.into_boxed_slice())
    }
}

/// One segment without its percent-encoding (RFC 3986 section 2.1).
fn decode(segment: &str) -> Result<String, BadPath> {
    let mut bytes = segment.bytes();
    let mut decoded = Vec::with_capacity(segment.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
                let (high, low) = (digit().ok_or(BadPath)?, digit().ok_or(BadPath)?);
                u8::try_from(high * 16 + low).map_err(|_| BadPath)?
            }
            byte => byte,
        });
    }
    let text = String::from_utf8(decoded).map_err(|_| BadPath)?;
    let is_dots = matches!(text.as_str(), "." | "..");
    if is_dots || text.chars().any(char::is_control) { Err(BadPath) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Routes<&'static str> {
        let paths =
            ["/{*all}", "/ws", "/ws/{room}", "/ws/lobby", "/ws/{room}/{seat}", "/files/{*path}"];
        Routes::new(paths.map(|path| (path.to_owned(), path)))
    }

    fn find(path: &str) -> (&'static str, Vec<(String, String)>) {
        let routes = routes();
        let (target, params) = routes.find(path).unwrap().unwrap();
        (target, params.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
    }

    #[test]
    fn the_most_specific_route_wins() {
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(find("/ws"), ("/ws", vec![]));
        assert_eq!(find("/ws/lobby"), ("/ws/lobby", vec![]));
        assert_eq!(find("/ws/7"), ("/ws/{room}", vec![pair("room", "7")]));
        assert_eq!(
            find("/ws/7/b"),
            ("/ws/{room}/{seat}", vec![pair("room", "7"), pair("seat", "b")])
        );
        assert_eq!(find("/files/a/b.txt"), ("/files/{*path}", vec![pair("path", "a/b.txt")]));
        assert_eq!(find("/other").0, "/{*all}");
        assert_eq!(find("/ws/").0, "/{*all}", "an empty segment is no room");
        assert_eq!(find("/ws/a%20b%2Fc").1, vec![pair("room", "a b/c")]);
    }

    #[test]
    fn paths_with_two_meanings_are_refused() {
        let routes = routes();
        for path in
            ["/ws/..", "/ws/%2e%2E/x", "/ws/.", "/ws/%", "/ws/%2", "/ws/%zz", "/ws/%00", "/ws/%ff"]
        {
            assert_eq!(routes.find(path).unwrap_err(), BadPath, "{path}");
        }
    }
}
