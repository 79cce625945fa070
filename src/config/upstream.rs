//! The HTTP server behind the node, which answers everything that is no WebSocket.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use http::uri::Authority;
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::{Period, error::quoted};

/// Where requests go that ask for no WebSocket, and how long and how many at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Where it is: `http://127.0.0.1:5000`, `https://app.internal` or `unix:/run/app.sock`, without a
    /// path, which is the request's.
    pub url: UpstreamUrl,
    /// With https: PEM file with the authorities that it is checked against. Default: the system's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Time for a connection to come up, TLS included (504). Default: `5s`.
    #[serde(default = "default_connect_timeout")]
    pub connect_timeout: Period,
    /// Time from the end of the request, or from the last of it that the upstream took, to the head of
    /// the answer (504). Default: `1m`.
    #[serde(default = "default_first_byte_timeout")]
    pub first_byte_timeout: Period,
    /// Time without a byte in a body: of the client's (408), of the upstream's, or none taken by the
    /// client; also for the rest of the client's behind the end of the answer. Default: `1m`. An event
    /// stream that is silent for longer ends.
    #[serde(default = "default_idle_timeout")]
    pub idle_timeout: Period,
    /// Requests at the upstream at once. Default: 1024. As many more wait for `queue_timeout`.
    #[serde(default = "default_max_requests")]
    pub max_requests: usize,
    /// How long a request waits for its turn (503). Default: `1s`; `0s`: not at all.
    #[serde(default = "default_queue_timeout")]
    pub queue_timeout: Period,
    /// Clients whose connection stays open for further requests. Default: 4096. Those of others are
    /// closed after their answer. Each takes a file descriptor.
    #[serde(default = "default_max_clients")]
    pub max_clients: usize,
}

/// Where an upstream is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum UpstreamUrl {
    /// HTTP over TCP.
    Http(Authority),
    /// HTTP over TLS.
    Https(Authority),
    /// HTTP over a Unix socket.
    Unix(PathBuf),
}

/// How the section is written: only the URL, or all of it.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes what `read` takes")]
pub(super) enum UrlOrSection {
    Url(UpstreamUrl),
    Section(Upstream),
}

impl Upstream {
    /// An upstream with every default.
    #[must_use]
    pub fn new(url: UpstreamUrl) -> Self {
        Self {
            url,
            ca: None,
            connect_timeout: default_connect_timeout(),
            first_byte_timeout: default_first_byte_timeout(),
            idle_timeout: default_idle_timeout(),
            max_requests: default_max_requests(),
            queue_timeout: default_queue_timeout(),
            max_clients: default_max_clients(),
        }
    }

    /// File descriptors that it may take: one of the client and one of ours for each request, one of
    /// each client that waits for its turn, and those of clients between two.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.max_requests.saturating_mul(3).saturating_add(self.max_clients)
    }
}

/// Reads the section, or its short form, which is only the URL.
pub(super) fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Upstream>, D::Error> {
    struct Written;

    impl<'de> Visitor<'de> for Written {
        type Value = Option<Upstream>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a URL, or a section with the key `url`")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_str<E: serde::de::Error>(self, url: &str) -> Result<Self::Value, E> {
            url.parse().map(|url| Some(Upstream::new(url))).map_err(E::custom)
        }

        fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Self::Value, M::Error> {
            Upstream::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }

    from.deserialize_any(Written)
}

impl FromStr for UpstreamUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "expected a URL as `http://127.0.0.1:5000`, `https://app.internal` or \
                 `unix:/run/app.sock`, found {}",
                quoted(text)
            )
        };
        if let Some(path) = text.strip_prefix("unix:") {
            // As `unix:///run/app.sock`, too.
            let path = path.strip_prefix("//").unwrap_or(path);
            let fits = path.starts_with('/') && (2..=SOCKET_PATH_MAX).contains(&path.len());
            return if fits { Ok(Self::Unix(path.into())) } else { Err(expected()) };
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(expected)?;
        if rest.contains('@') {
            return Err("credentials do not belong in a URL; clients show their own".to_owned());
        }
        let bare = rest.strip_suffix('/').unwrap_or(rest);
        if bare.contains(['/', '?', '#']) {
            return Err(format!(
                "a path or query in it would be of no use, for a request keeps its own; found {}",
                quoted(text)
            ));
        }
        let authority: Authority = bare.parse().map_err(|_| expected())?;
        let port = authority.port().map(|port| port.as_str().to_owned());
        let has_port = authority.host().len() < authority.as_str().len();
        let fits = match port {
            Some(port) => port.parse::<u16>().is_ok_and(|port| port != 0),
            None => !has_port,
        };
        match scheme {
            "http" if fits && !authority.host().is_empty() => Ok(Self::Http(authority)),
            "https" if fits && !authority.host().is_empty() => Ok(Self::Https(authority)),
            _ => Err(expected()),
        }
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(authority) => write!(f, "http://{authority}"),
            Self::Https(authority) => write!(f, "https://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl TryFrom<String> for UpstreamUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<UpstreamUrl> for String {
    fn from(url: UpstreamUrl) -> Self {
        url.to_string()
    }
}

/// What the kernel takes as the address of a socket, less its NUL.
const SOCKET_PATH_MAX: usize = 107;

fn default_connect_timeout() -> Period {
    Period::secs(5)
}

fn default_first_byte_timeout() -> Period {
    Period::secs(60)
}

fn default_idle_timeout() -> Period {
    Period::secs(60)
}

fn default_max_requests() -> usize {
    1024
}

fn default_queue_timeout() -> Period {
    Period::secs(1)
}

fn default_max_clients() -> usize {
    4096
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_scheme_and_a_place() {
        for (text, shown) in [
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
            ("http://app/", "http://app"),
            ("https://app.internal", "https://app.internal"),
            ("http://[::1]:80", "http://[::1]:80"),
            ("unix:/run/app.sock", "unix:/run/app.sock"),
            ("unix:///run/app.sock", "unix:/run/app.sock"),
        ] {
            assert_eq!(text.parse::<UpstreamUrl>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "app:80",
            "ftp://app",
            "HTTP://app",
            "http://",
            "http://:80",
            "http://app:",
            "http://app:0",
            "http://app:99999",
            "http://a b",
            "unix:",
            "unix:run/app.sock",
            "unix://run/app.sock",
        ] {
            let error = text.parse::<UpstreamUrl>().unwrap_err();
            assert!(error.starts_with("expected a URL as"), "{text}: {error}");
        }
        assert!(format!("unix:/{}", "x".repeat(107)).parse::<UpstreamUrl>().is_err());
        for text in ["http://app/base", "http://app?x", "http://app#x", "http://app//"] {
            let error = text.parse::<UpstreamUrl>().unwrap_err();
            assert!(error.starts_with("a path or query"), "{text}: {error}");
        }
        let error = "http://me:secret@app".parse::<UpstreamUrl>().unwrap_err();
        assert!(!error.contains("secret"), "{error}");
    }
}
