//! How an origin is written (RFC 6454 section 6.2): as a browser sends it, so that comparing bytes is
//! enough.

use crate::config::error::quoted;

/// Whether `origin` is exactly what a browser would send.
///
/// # Errors
/// What to write instead.
pub(super) fn check(origin: &str) -> Result<(), String> {
    if origin.contains('*') {
        return Err(format!(
            "wildcards are not taken: list each origin, or leave `origins` out to let every one in; \
             found {}",
            quoted(origin)
        ));
    }
    if origin == "null" {
        return Err("`null` is what every sandboxed page and local file sends, so it stands for \
                    nobody; list real origins"
            .to_owned());
    }
    if is_exact(origin) {
        return Ok(());
    }
    let hint =
        corrected(origin).map(|exact| format!("; write it as `{exact}`")).unwrap_or_default();
    Err(format!(
        "expected an origin as `https://example.com` or `http://localhost:3000` (scheme, host, port \
         unless it is the scheme's own; lower case, no path), found {}{hint}",
        quoted(origin)
    ))
}

fn is_exact(origin: &str) -> bool {
    let Some((scheme, rest)) = origin.split_once("://") else { return false };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let port_fits = port.is_none_or(|port| {
        let number = port.parse::<u16>();
        let own = matches!((scheme, port), ("https" | "wss", "443") | ("http" | "ws", "80"));
        number.is_ok_and(|number| number != 0 && number.to_string() == port) && !own
    });
    is_scheme(scheme) && is_host(host) && port_fits
}

fn is_scheme(scheme: &str) -> bool {
    scheme.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b))
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        let parsed = address.parse::<std::net::Ipv6Addr>();
        return parsed.is_ok_and(|parsed| parsed.to_string() == address);
    }
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
    host.len() <= 253 && host.split('.').all(|label| !label.is_empty() && label.bytes().all(plain))
}

/// The origin that was probably meant.
fn corrected(origin: &str) -> Option<String> {
    let lower = origin.trim().to_ascii_lowercase();
    let with_scheme = if lower.contains("://") { lower } else { format!("https://{lower}") };
    let (scheme, rest) = with_scheme.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let own_port = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => "",
    };
    let host = authority.strip_suffix(own_port).unwrap_or(authority).trim_end_matches('.');
    let exact = format!("{scheme}://{host}");
    is_exact(&exact).then_some(exact)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_as_a_browser_sends_it() {
        for good in [
            "https://example.com",
            "http://localhost:3000",
            "https://xn--bcher-kva.example",
            "https://[2001:db8::1]:8443",
            "http://[::1]",
            "https://10.0.0.1",
            "chrome-extension://abcdefgh",
            "http://a.example:443",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "*",
            "null",
            "https://*.example.com",
            "example.com",
            "https://",
            "https:///",
            "https://bücher.example",
            "https://a..b",
            "https://a:0",
            "https://a:",
            "https://a:080",
            "https://a:99999",
            "https://[::01]",
            "https://u@a",
            "//a",
            "https://a b",
            "1https://a",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_message_says_how_to_write_it() {
        for (found, meant) in [
            ("https://Example.com", "https://example.com"),
            ("https://example.com/", "https://example.com"),
            ("https://example.com/app?x#y", "https://example.com"),
            ("https://example.com:443", "https://example.com"),
            ("http://example.com:80/", "http://example.com"),
            ("example.com", "https://example.com"),
            (" https://example.com ", "https://example.com"),
        ] {
            let message = check(found).unwrap_err();
            assert!(message.ends_with(&format!("write it as `{meant}`")), "{message}");
        }
    }
}
