//! Rules of tokens: which keys, for which algorithms, from where.

use std::time::Duration;

use super::{DAY, Findings, MINUTE, is_line, is_token};
use crate::config::{Jwks, Jwt, JwtKey, JwtSources, Period, Size, error::quoted};

/// Checks how tokens are found and checked.
pub(super) fn check(jwt: &Jwt, findings: &mut Findings) {
    findings.need(
        !jwt.keys.is_empty() || jwt.jwks.is_some(),
        "jwt",
        "no key to check tokens with; add `keys` or `jwks`",
    );
    for (i, entry) in jwt.keys.iter().enumerate() {
        key(entry, &format!("jwt.keys[{i}]"), findings);
    }
    if let Some(set) = &jwt.jwks {
        jwks(set, findings);
    }
    let texts = [
        ("jwt.issuer", jwt.issuer.as_deref()),
        ("jwt.typ", jwt.typ.as_deref()),
        ("jwt.claims.user", Some(jwt.claims.user.as_str())),
        ("jwt.claims.plan", Some(jwt.claims.plan.as_str())),
        ("jwt.claims.groups", Some(jwt.claims.groups.as_str())),
    ];
    for (path, text) in texts {
        findings.need(text.is_none_or(is_line), path, LINE);
    }
    for (i, audience) in jwt.audience.iter().enumerate() {
        findings.need(is_line(audience), &format!("jwt.audience[{i}]"), LINE);
    }
    findings.period("jwt.leeway", jwt.leeway, Period::secs(0), 10 * MINUTE);
    let (kept, least) = (jwt.revocation_lifetime, Period::secs(60));
    findings.period("jwt.revocation_lifetime", kept, least, YEAR);
    sources(&jwt.sources, findings);
}

fn key(key: &JwtKey, at: &str, findings: &mut Findings) {
    if let Some(kid) = &key.kid {
        findings.need(is_line(kid), &format!("{at}.kid"), LINE);
    }
    findings.need(
        !key.algorithms.is_empty(),
        &format!("{at}.algorithms"),
        "expected the algorithms this key is used with, as `[HS256]` or `[ES256]`",
    );
    let by_secret = match (&key.secret, &key.public_key) {
        (Some(_), None) => true,
        (None, Some(_)) => false,
        (Some(_), Some(_)) => {
            let message = "`secret` is set as well; expected only one of the two";
            return findings.refuse(&format!("{at}.public_key"), message);
        }
        (None, None) => {
            let message = "expected `secret` (for HS256, HS384, HS512) or `public_key`";
            return findings.refuse(at, message);
        }
    };
    // A public key used as an HMAC secret is the classic forgery (RFC 8725 section 2.1).
    for (i, algorithm) in key.algorithms.iter().enumerate() {
        let path = format!("{at}.algorithms[{i}]");
        match (by_secret, algorithm.is_symmetric()) {
            (true, false) => findings.refuse(
                &path,
                format!("{algorithm:?} needs a `public_key`, and this key is a `secret`"),
            ),
            (false, true) => findings.refuse(
                &path,
                format!("{algorithm:?} needs a `secret`, and this key is a `public_key`"),
            ),
            _ => {}
        }
    }
}

fn jwks(set: &Jwks, findings: &mut Findings) {
    if let Err(message) = location(&set.location) {
        findings.refuse("jwt.jwks.location", message);
    }
    findings.need(
        set.ca.is_none() || set.location.starts_with("https://"),
        "jwt.jwks.ca",
        "`ca` is for an https `location`",
    );
    findings.need(
        !set.algorithms.is_empty(),
        "jwt.jwks.algorithms",
        "expected at least one algorithm, as `[RS256]`",
    );
    for (i, algorithm) in set.algorithms.iter().enumerate() {
        if algorithm.is_symmetric() {
            findings.refuse(
                &format!("jwt.jwks.algorithms[{i}]"),
                format!(
                    "{algorithm:?} needs a shared secret, and secrets in a key set are never used"
                ),
            );
        }
    }
    findings.period("jwt.jwks.refresh", set.refresh, Period::secs(1), 7 * DAY);
    findings.period("jwt.jwks.min_refresh", set.min_refresh, Period::secs(1), DAY);
    findings.period("jwt.jwks.max_stale", set.max_stale, set.refresh, 30 * DAY);
    findings.period("jwt.jwks.timeout", set.timeout, Period::millis(100), MINUTE);
    let most = Size::kib(16 * 1024);
    findings.range("jwt.jwks.max_size", set.max_size, Size::kib(1), most);
}

/// Keys that come in the clear could be anybody's, so plain http is for this machine only.
fn location(location: &str) -> Result<(), String> {
    let Some((scheme, rest)) = location.split_once("://") else {
        return if is_line(location) {
            Ok(())
        } else {
            Err("expected a file path or an https URL".to_owned())
        };
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("credentials do not belong in a URL".to_owned());
    }
    let uri: Option<http::Uri> = location.parse().ok();
    let host = uri.as_ref().and_then(http::Uri::host).unwrap_or_default();
    match scheme {
        _ if host.is_empty() => {}
        "https" => return Ok(()),
        "http" if is_loopback(host) => return Ok(()),
        "http" => {
            return Err(format!(
                "http is only taken to a loopback address; expected https, found {}",
                quoted(location)
            ));
        }
        _ => {}
    }
    Err(format!("expected a file path or an https URL, found {}", quoted(location)))
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn sources(sources: &JwtSources, findings: &mut Findings) {
    let subprotocol = sources.subprotocol.as_deref().filter(|prefix| !prefix.is_empty());
    findings.need(
        sources.header
            || sources.cookie.is_some()
            || subprotocol.is_some()
            || sources.query.is_some(),
        "jwt.sources",
        "every source is off, so no token could be found",
    );
    if let Some(name) = &sources.cookie {
        let message = "expected the name of a cookie, as `session`";
        findings.need(is_token(name), "jwt.sources.cookie", message);
    }
    if let Some(prefix) = subprotocol {
        let message = "expected the beginning of a subprotocol, as `bearer.`";
        findings.need(is_token(prefix), "jwt.sources.subprotocol", message);
    }
    if let Some(name) = &sources.query {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        let fits = !name.is_empty() && name.bytes().all(plain);
        let message = "expected the name of a query parameter, as `access_token`";
        findings.need(fits, "jwt.sources.query", message);
    }
}

/// As `1year` is read.
const YEAR: Duration = Duration::from_secs(31_557_600);
const LINE: &str = "expected a text of 1 to 256 bytes without control characters";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_a_file_or_over_tls() {
        for good in [
            "jwks.json",
            "/etc/moorline/jwks.json",
            "https://id.example.com/.well-known/jwks.json?v=1",
            "http://127.0.0.1:8080/jwks",
            "http://[::1]/jwks",
            "http://localhost/jwks",
        ] {
            assert_eq!(location(good), Ok(()), "{good}");
        }
        for bad in ["", "http://id.example.com/jwks", "file:///jwks", "https://", "ftp://a/b"] {
            assert!(location(bad).is_err(), "{bad}");
        }
        assert!(!location("https://me:secret@id.example").unwrap_err().contains("secret"));
        assert!(location("http://localhost.example.com/").is_err());
    }
}
