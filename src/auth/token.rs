//! Finding the token in a handshake. Places that the configuration does not name are not looked at,
//! and a token is taken out of what goes on to backends and logs.

use std::{borrow::Cow, fmt};

use http::{HeaderMap, header};

use crate::config::JwtSources;

/// A bearer token as the client sent it. It cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Box<str>);

/// What a handshake showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    /// The token. None is no error here (RFC 6750 section 3.1: 401 without an error code).
    pub token: Option<Token>,
    /// The offered subprotocols, without the one that carried the token.
    pub subprotocols: Vec<String>,
    /// The query, without the parameter that carried the token; the rest is as it came.
    pub query: String,
}

/// Why a handshake is refused with 400 `invalid_request` (RFC 6750 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// In two places, or twice in one; nobody can say which of them counts.
    #[error("more than one token")]
    Twice,
    /// A place for a token that holds none, or characters that no token has.
    #[error("the {0} holds no well-formed bearer token")]
    Malformed(&'static str),
}

/// Looks for the token in every place that `sources` names.
///
/// An `Authorization` of another scheme than `Bearer` is no token: it may be meant for the backend, and
/// a client that sends nothing else is told to by the challenge. The same goes for a cookie whose
/// value is empty, which is how a logout leaves it.
///
/// # Errors
/// When there are two tokens, or one that cannot be a token at all.
pub fn find(
    headers: &HeaderMap,
    query: &str,
    sources: &JwtSources,
) -> Result<Presented, TokenError> {
    let mut found = Found(None);
    if sources.header {
        found.in_authorization(headers)?;
    }
    if let Some(name) = sources.cookie.as_deref().filter(|name| !name.is_empty()) {
        found.in_cookies(headers, name)?;
    }
    let prefix = sources.subprotocol.as_deref().filter(|prefix| !prefix.is_empty());
    let subprotocols = found.in_subprotocols(headers, prefix)?;
    let query = match sources.query.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => found.in_query(query, name)?,
        None => query.to_owned(),
    };
    Ok(Presented { token: found.0, subprotocols, query })
}

/// The one token found so far.
struct Found(Option<Token>);

impl Found {
    fn put(&mut self, text: &str, place: &'static str) -> Result<(), TokenError> {
        let token = Token::new(text).ok_or(TokenError::Malformed(place))?;
        if self.0.replace(token).is_some() { Err(TokenError::Twice) } else { Ok(()) }
    }

    /// RFC 6750 section 2.1: the scheme in any case, one or more spaces, the token.
    fn in_authorization(&mut self, headers: &HeaderMap) -> Result<(), TokenError> {
        let mut fields = headers.get_all(header::AUTHORIZATION).iter();
        let Some(field) = fields.next() else { return Ok(()) };
        // Not a list (RFC 9110 section 11.6.2), so two fields say two things.
        if fields.next().is_some() {
            return Err(TokenError::Twice);
        }
        let field = field.as_bytes();
        let end = field.iter().position(|b| *b == b' ').unwrap_or(field.len());
        let (scheme, rest) = field.split_at(end);
        if !scheme.eq_ignore_ascii_case(b"bearer") {
            return Ok(());
        }
        let text = std::str::from_utf8(rest).unwrap_or_default();
        self.put(text.trim_start_matches(' '), "Authorization header")
    }

    fn in_cookies(&mut self, headers: &HeaderMap, name: &str) -> Result<(), TokenError> {
        for field in headers.get_all(header::COOKIE) {
            for pair in field.as_bytes().split(|b| *b == b';') {
                let (found, value) = cut(pair, b'=');
                let value = value.unwrap_or_default();
                if found.trim_ascii() != name.as_bytes() || unquoted(value).is_empty() {
                    continue;
                }
                let text = std::str::from_utf8(unquoted(value)).unwrap_or_default();
                self.put(text, "cookie")?;
            }
        }
        Ok(())
    }

    fn in_subprotocols(
        &mut self,
        headers: &HeaderMap,
        prefix: Option<&str>,
    ) -> Result<Vec<String>, TokenError> {
        let mut others = Vec::new();
        for field in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
            for entry in field.as_bytes().split(|b| *b == b',') {
                let entry = String::from_utf8_lossy(entry.trim_ascii());
                match prefix.and_then(|prefix| entry.strip_prefix(prefix)) {
                    Some(text) => self.put(text, "subprotocol")?,
                    None if entry.is_empty() => {}
                    None => others.push(entry.into_owned()),
                }
            }
        }
        Ok(others)
    }

    fn in_query(&mut self, query: &str, name: &str) -> Result<String, TokenError> {
        let mut others = Vec::new();
        for parameter in query.split('&') {
            let (found, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            // Decoded, so that no spelling of the name carries a token on to backends and logs.
            if decoded(found) == name {
                self.put(&decoded(value), "query")?;
            } else {
                others.push(parameter);
            }
        }
        Ok(others.join("&"))
    }
}

impl Token {
    /// The most bytes of a token that is looked at.
    pub const MAX: usize = 8 * 1024;

    /// A token, if `text` is a `b64token` (RFC 6750 section 2.1).
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let body = text.trim_end_matches('=');
        let fits = !body.is_empty()
            && body.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b));
        fits.then(|| Self(text.into()))
    }

    /// The token's characters, for checking it only.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(redacted)")
    }
}

fn cut(bytes: &[u8], at: u8) -> (&[u8], Option<&[u8]>) {
    let mut parts = bytes.splitn(2, |b| *b == at);
    (parts.next().unwrap_or_default(), parts.next())
}

/// A cookie's value may stand in double quotes (RFC 6265 section 4.1.1).
fn unquoted(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

/// Percent-decoded text; as it is when it is not UTF-8 then. A plus is a plus, which tokens may have.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped = match tail {
            [high, low, ..] if *first == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        bytes.push(escaped.map_or(*first, |(high, low)| high << 4 | low));
        rest = tail.get(if escaped.is_some() { 2 } else { 0 }..).unwrap_or_default();
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(text), Cow::Owned)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every place is looked at; each case shows up to four of them.
    fn found(fields: &[(&'static str, &str)], query: &str) -> Result<Presented, TokenError> {
        let sources = JwtSources {
            header: true,
            cookie: Some("session".to_owned()),
            subprotocol: Some("bearer.".to_owned()),
            query: Some("token".to_owned()),
        };
        find(&headers(fields), query, &sources)
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, header::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn token(fields: &[(&'static str, &str)], query: &str) -> Option<String> {
        found(fields, query).unwrap().token.map(|token| token.as_str().to_owned())
    }

    #[test]
    fn each_place_is_found() {
        let one = Some("a.b-_~+/c==".to_owned());
        for value in ["Bearer a.b-_~+/c==", "bearer a.b-_~+/c==", "BEARER   a.b-_~+/c=="] {
            assert_eq!(token(&[("authorization", value)], ""), one, "{value}");
        }
        let one = Some("a.b.c".to_owned());
        for value in
            ["session=a.b.c", "x=1; session=a.b.c ;y", "session=\"a.b.c\"", "; session=a.b.c"]
        {
            assert_eq!(token(&[("cookie", value)], ""), one, "{value}");
        }
        assert_eq!(token(&[("cookie", "x=1"), ("cookie", "session=a.b.c")], ""), one);
        assert_eq!(token(&[("sec-websocket-protocol", "v1, bearer.a.b.c")], ""), one);
        for query in ["token=a.b.c", "x=1&token=a.b.c", "t%6fken=a%2Eb.c&x", "%74oken=a.b.c"] {
            assert_eq!(token(&[], query), one, "{query}");
        }
    }

    #[test]
    fn what_goes_on_holds_no_token() {
        let shown = found(
            &[("sec-websocket-protocol", "v1, bearer.a.b.c"), ("sec-websocket-protocol", ",v2")],
            "a=%20&b",
        )
        .unwrap();
        assert_eq!(shown.subprotocols, ["v1", "v2"]);
        assert_eq!(shown.query, "a=%20&b");
        let shown = found(&[], "a=%zz&token=a.b.c&b&&c=%").unwrap();
        assert_eq!(shown.query, "a=%zz&b&&c=%");
        assert_eq!(format!("{shown:?}").matches("a.b.c").count(), 0, "{shown:?}");
        assert!(format!("{shown:?}").contains("redacted"));
    }

    #[test]
    fn no_token_is_no_error() {
        for fields in [
            &[][..],
            &[("authorization", "Basic YTpi")],
            &[("authorization", "Bearerx a.b.c")],
            &[("cookie", "session=; other=a.b.c")],
            &[("cookie", "session=\"\"")],
            &[("cookie", "xsession=a.b.c; session")],
            &[("sec-websocket-protocol", "v1, Bearer.a.b.c")],
        ] {
            assert_eq!(token(fields, "tokens=a.b.c&Token=a"), None, "{fields:?}");
        }
        let other = [("authorization", "Basic YTpi"), ("cookie", "session=a.b.c")];
        assert_eq!(token(&other, "").as_deref(), Some("a.b.c"));
    }

    #[test]
    fn two_tokens_are_refused() {
        let bearer = ("authorization", "Bearer a.b.c");
        let cookie = ("cookie", "session=a.b.c");
        let subprotocol = ("sec-websocket-protocol", "bearer.a.b.c");
        for (fields, query) in [
            (&[bearer, bearer][..], ""),
            (&[bearer, ("authorization", "Basic YTpi")], ""),
            (&[bearer, cookie], ""),
            (&[bearer, subprotocol], ""),
            (&[cookie, subprotocol], ""),
            (&[cookie, cookie], ""),
            (&[("cookie", "session=a; session=b")], ""),
            (&[("sec-websocket-protocol", "bearer.a, bearer.b")], ""),
            (&[subprotocol, subprotocol], ""),
            (&[bearer], "token=a.b.c"),
            (&[], "token=a.b.c&token=a.b.c"),
            (&[], "token=a.b.c&%74oken=a.b.c"),
        ] {
            assert_eq!(found(fields, query), Err(TokenError::Twice), "{fields:?} {query}");
        }
    }

    #[test]
    fn what_cannot_be_a_token_is_refused() {
        for value in [
            "Bearer",
            "Bearer ",
            "Bearer a b",
            "Bearer a, Bearer b",
            "Bearer ==",
            "Bearer a=b",
            "bearer \"a\"",
            "Bearer a\tb",
            "Bearer é",
        ] {
            let refused = found(&[("authorization", value)], "");
            assert_eq!(refused, Err(TokenError::Malformed("Authorization header")), "{value}");
        }
        for query in ["token", "token=", "token=%20", "token=a%00", "token=%"] {
            assert_eq!(found(&[], query), Err(TokenError::Malformed("query")), "{query}");
        }
        for value in ["bearer.", "bearer. x", "bearer.a;b"] {
            let refused = found(&[("sec-websocket-protocol", value)], "");
            assert_eq!(refused, Err(TokenError::Malformed("subprotocol")), "{value}");
        }
        let refused = found(&[("cookie", "session={}")], "");
        assert_eq!(refused, Err(TokenError::Malformed("cookie")));
    }

    #[test]
    fn places_that_are_off_are_not_looked_at() {
        let off = JwtSources {
            header: false,
            cookie: None,
            subprotocol: Some(String::new()),
            query: None,
        };
        let fields = headers(&[
            ("authorization", "Bearer"),
            ("cookie", "session=a.b.c"),
            ("sec-websocket-protocol", "bearer.a.b.c"),
        ]);
        let shown = find(&fields, "token=a.b.c", &off).unwrap();
        assert_eq!(shown.token, None);
        assert_eq!(shown.subprotocols, ["bearer.a.b.c"]);
        assert_eq!(shown.query, "token=a.b.c");
    }

    proptest::proptest! {
        #[test]
        fn nothing_a_client_sends_panics(query in ".{0,64}", cookie in "[ -~]{0,64}") {
            let _ = found(&[("cookie", cookie.as_str()), ("authorization", cookie.as_str()),
                ("sec-websocket-protocol", cookie.as_str())], &query);
        }
    }
}
