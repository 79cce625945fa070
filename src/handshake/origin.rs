//! Which web pages may open a connection (RFC 6455 section 10.2, RFC 6454).

/// Exact origins: scheme, host and port. No list lets every page in, unless a browser would then speak
/// for its user on any page's behalf.
#[derive(Debug, Clone)]
pub(super) struct Origins {
    allowed: Vec<String>,
    trust: Trust,
}

/// How much a browser says about its user on any page's behalf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// Nothing: what authenticates is shown by the page itself.
    Shown,
    /// A client certificate or a password, which browsers and programs send alike, or a cookie beside
    /// what the client itself shows: pages must be listed. Browsers name the page of every handshake, so who names none is a program.
    Ambient,
    /// A cookie, which hardly any program sends: pages must be listed, and a missing Origin is not
    /// taken for a program's.
    Cookie,
}

impl Origins {
    pub(super) fn new(allowed: &[String], trust: Trust) -> Self {
        Self { allowed: allowed.iter().map(|origin| normal(origin)).collect(), trust }
    }

    /// Whether a handshake with these `Origin` headers may go on.
    pub(super) fn allow<'a>(&self, mut origins: impl Iterator<Item = &'a [u8]>) -> bool {
        if self.allowed.is_empty() && self.trust == Trust::Shown {
            return true;
        }
        let Some(origin) = origins.next() else { return self.trust != Trust::Cookie };
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
            Trust::Shown,
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
        let origins = Origins::new(&["https://good.com".to_owned()], Trust::Cookie);
        assert!(!allow(&origins, &[]));
        assert!(allow(&origins, &["https://good.com"]));
        let none = Origins::new(&[], Trust::Cookie);
        assert!(!allow(&none, &["https://good.com"]) && !allow(&none, &[]));
    }

    #[test]
    fn with_a_certificate_pages_must_be_listed_and_programs_need_no_origin() {
        let none = Origins::new(&[], Trust::Ambient);
        assert!(allow(&none, &[]), "a device");
        for page in ["https://good.com", "null", ""] {
            assert!(!allow(&none, &[page]), "{page}");
        }
        let origins = Origins::new(&["https://good.com".to_owned()], Trust::Ambient);
        assert!(allow(&origins, &["https://good.com"]) && allow(&origins, &[]));
        assert!(!allow(&origins, &["https://evil.com"]));
        assert!(allow(&Origins::new(&[], Trust::Shown), &["https://evil.com"]));
    }
}
