//! Which web pages may open a connection (RFC 6455 section 10.2, RFC 6454).

/// Exact origins: scheme, host and port. No list lets every page in.
#[derive(Debug, Clone)]
pub(super) struct Origins {
    allowed: Vec<String>,
    /// Whether a cookie may authenticate here. A browser then speaks for its user on any page's
    /// behalf, so a missing Origin is not taken for a program's.
    cookies: bool,
}

impl Origins {
    pub(super) fn new(allowed: &[String], cookies: bool) -> Self {
        Self { allowed: allowed.iter().map(|origin| normal(origin)).collect(), cookies }
    }

    /// Whether a handshake with these `Origin` headers may go on.
    pub(super) fn allow<'a>(&self, mut origins: impl Iterator<Item = &'a [u8]>) -> bool {
        if self.allowed.is_empty() {
            return !self.cookies;
        }
        let Some(origin) = origins.next() else { return !self.cookies };
        let is_only = origins.next().is_none();
        is_only
            && std::str::from_utf8(origin)
                .is_ok_and(|origin| self.allowed.contains(&normal(origin)))
    }
}

/// An origin without its scheme's default port. Browsers send it in lower case; anything else is
/// compared as it is, and so never matches.
fn normal(origin: &str) -> String {
    let default = [("https://", ":443"), ("http://", ":80")];
    default
        .iter()
        .find(|(scheme, _)| origin.starts_with(scheme))
        .and_then(|(_, port)| origin.strip_suffix(port))
        .unwrap_or(origin)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(origins: &Origins, sent: &[&str]) -> bool {
        origins.allow(sent.iter().map(|origin| origin.as_bytes()))
    }

    #[test]
    fn only_exact_origins_pass() {
        let origins = Origins::new(
            &["https://good.com".to_owned(), "http://localhost:8080".to_owned()],
            false,
        );
        for good in ["https://good.com", "https://good.com:443", "http://localhost:8080"] {
            assert!(allow(&origins, &[good]), "{good}");
        }
        for bad in [
            "http://good.com",
            "https://good.com:8443",
            "https://good.com.evil.com",
            "https://evilgood.com",
            "https://www.good.com",
            "https://good.com@evil.com",
            "https://user@good.com",
            "https://good.com/",
            "https://good.com/path",
            "https://good.com?x",
            "https://GOOD.com",
            "HTTPS://good.com",
            "https://good.com.",
            "https://good.com ",
            " https://good.com",
            "https://good.com,https://good.com",
            "https://good.com https://evil.com",
            "https://good.com:0443",
            "https://good.com:",
            "https://good.com\t",
            "https://g\u{43e}od.com",
            "https://xn--god-6cd.com",
            "wss://good.com",
            "//good.com",
            "good.com",
            "null",
            "",
            "*",
            "file://",
            "http://localhost",
            "http://localhost:80",
            "http://localhost:8081",
            "http://127.0.0.1:8080",
            "http://[::1]:8080",
            "http://localhost.:8080",
            "http://LOCALHOST:8080",
            "https://localhost:8080",
        ] {
            assert!(!allow(&origins, &[bad]), "{bad}");
        }
        assert!(!allow(&origins, &["https://good.com", "https://good.com"]), "two headers");
        assert!(!allow(&origins, &["https://good.com", "https://evil.com"]), "two headers");
        assert!(!origins.allow([&b"https://good.com\xff"[..]].into_iter()), "not UTF-8");
        assert!(allow(&origins, &[]), "a program sends none");
    }

    #[test]
    fn with_cookies_a_missing_origin_is_refused() {
        let origins = Origins::new(&["https://good.com".to_owned()], true);
        assert!(!allow(&origins, &[]));
        assert!(allow(&origins, &["https://good.com"]));
        assert!(!allow(&Origins::new(&[], true), &["https://good.com"]));
    }
}
