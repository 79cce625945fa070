//! How a path pattern is written: literal segments, `{name}` for one segment, `{*rest}` at the end.

use crate::config::error::quoted;

/// Whether `pattern` is well formed.
///
/// # Errors
/// What is wrong, and what is expected.
pub(super) fn check(pattern: &str) -> Result<(), String> {
    let Some(rest) = pattern.strip_prefix('/') else {
        return Err(format!("expected a path that begins with `/`, found {}", quoted(pattern)));
    };
    if pattern.len() > PATTERN_MAX {
        return Err(format!("expected at most {PATTERN_MAX} bytes, found {}", pattern.len()));
    }
    if rest.is_empty() {
        return Ok(());
    }
    let mut names: Vec<&str> = Vec::new();
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        let Some(name) = variable(segment)? else { continue };
        let bare = name.strip_prefix('*').unwrap_or(name);
        if bare != name && segments.peek().is_some() {
            return Err(format!(
                "`{{{name}}}` takes all that follows, so it must be the last segment"
            ));
        }
        if names.contains(&bare) {
            return Err(format!("the name `{bare}` is used twice"));
        }
        names.push(bare);
    }
    Ok(())
}

/// The pattern without its names: two routes of one shape would match the same paths.
pub(super) fn shape(pattern: &str) -> String {
    let blank = |segment: &str| match segment.strip_prefix('{') {
        Some(name) if name.starts_with('*') => "{*}".to_owned(),
        Some(_) => "{}".to_owned(),
        None => segment.to_owned(),
    };
    pattern.split('/').map(blank).collect::<Vec<_>>().join("/")
}

/// The name in a `{name}` segment, none in a literal one.
fn variable(segment: &str) -> Result<Option<&str>, String> {
    let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
        return literal(segment).map(|()| None);
    };
    let bare = name.strip_prefix('*').unwrap_or(name);
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if (1..=64).contains(&bare.len()) && bare.bytes().all(plain) {
        Ok(Some(name))
    } else {
        Err(format!(
            "expected a name of a-z 0-9 _ in braces, as `{{room}}`, found {}",
            quoted(segment)
        ))
    }
}

fn literal(segment: &str) -> Result<(), String> {
    // The characters of a segment that mean themselves (RFC 3986 section 3.3).
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&b);
    if segment.is_empty() {
        Err("expected no empty segment: no `//`, and no `/` at the end".to_owned())
    } else if segment.contains(['{', '}']) {
        Err(format!("braces take a whole segment, as `/{{room}}`, found {}", quoted(segment)))
    } else if segment.contains('%') {
        Err(format!("percent-encoding is not taken in a pattern, found {}", quoted(segment)))
    } else if matches!(segment, "." | "..") {
        Err(format!("{} never arrives: clients resolve it away", quoted(segment)))
    } else if !segment.bytes().all(plain) {
        Err(format!(
            "expected the characters of a URL's path and no query, found {}",
            quoted(segment)
        ))
    } else {
        Ok(())
    }
}

const PATTERN_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for good in ["/", "/ws", "/ws/{room}", "/{a}/x/{b_2}", "/ws/{*rest}", "/a.b/~c@d:e"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, says) in [
            ("", "begins with `/`"),
            ("ws", "begins with `/`"),
            ("/ws/", "no empty segment"),
            ("//ws", "no empty segment"),
            ("/a/../b", "never arrives"),
            ("/a%20b", "percent-encoding"),
            ("/a?b", "no query"),
            ("/ü", "characters of a URL's path"),
            ("/x{a}", "whole segment"),
            ("/{a}x", "whole segment"),
            ("/{}", "expected a name"),
            ("/{*}", "expected a name"),
            ("/{Room}", "expected a name"),
            ("/{a}/{a}", "used twice"),
            ("/{a}/{*a}", "used twice"),
            ("/{*a}/b", "must be the last"),
        ] {
            assert!(check(bad).is_err_and(|message| message.contains(says)), "{bad}");
        }
        assert!(check(&format!("/{}", "x".repeat(1024))).is_err());
    }

    #[test]
    fn names_do_not_make_a_shape() {
        assert_eq!(shape("/a/{b}"), shape("/a/{c}"));
        assert_ne!(shape("/a/{b}"), shape("/a/{*b}"));
        assert_ne!(shape("/a"), shape("/b"));
    }
}
