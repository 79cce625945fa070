//! Where a route's events go: to workers behind NATS, to an HTTP service, or nowhere but back.

use std::fmt;
use std::path::PathBuf;

use http::Uri;
use schemars::JsonSchema;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Period, SecretSource};

/// Where a route's events go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Keys", into = "Keys")]
#[schemars(with = "Keys")]
pub enum Backend {
    /// Workers behind NATS, on subjects below this prefix; empty: the prefix of the `nats` section.
    Nats(String),
    /// An HTTP service.
    Http(Box<HttpBackend>),
    /// The echo inside moorline, for a first try; `true` is its only value.
    Echo(bool),
}

/// An HTTP service: where it is, how events are written for it, and how much of it is asked at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpBackend {
    /// Where events are posted. More than one are equals: each event goes to one of them.
    pub urls: Urls,
    /// How events and answers are written.
    pub dialect: Dialect,
    /// What every request carries as `moorline-secret`.
    pub secret_file: Option<SecretSource>,
    /// PEM file with the authorities that `https` URLs are checked against; none: the system's.
    pub ca: Option<PathBuf>,
    /// Requests at the backend at once.
    pub max_requests: u32,
    /// How long an event waits while as many as `max_requests` are there.
    pub queue_timeout: Period,
    /// How long a connection may take to come up.
    pub connect_timeout: Period,
    /// How requests are signed for GRIP; none: they are not.
    pub grip: Option<Grip>,
}

/// How events and answers are written over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// CloudEvents 1.0 in binary mode, as over NATS.
    #[default]
    Cloudevents,
    /// WebSocket-over-HTTP with GRIP, as backends of Pushpin and Fanout speak it.
    WebsocketOverHttp,
}

/// What requests are signed with, as `Grip-Sig`, so that the service knows whose they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Grip {
    /// The `iss` of the signature.
    pub issuer: String,
    /// A file or `env:NAME` with the key that the service checks it with, as it is or as
    /// `base64:<key>`.
    pub key_file: SecretSource,
}

/// One URL or several, none of them parsed yet.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub enum Urls {
    /// As `http://127.0.0.1:5000/events`.
    One(String),
    /// As `[http://a:5000/events, http://b:5000/events]`.
    Many(Vec<String>),
}

/// The keys of a backend. One of `nats`, `http` and `echo` is there; the others belong to `http`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Backend")]
struct Keys {
    /// Workers behind NATS, on subjects below this prefix; empty: the prefix of the `nats` section.
    #[serde(skip_serializing_if = "Option::is_none")]
    nats: Option<String>,
    /// An HTTP service: the URL that events are posted to, or several of equal servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<Urls>,
    /// The echo inside moorline, for a first try; `true` is its only value.
    #[serde(skip_serializing_if = "Option::is_none")]
    echo: Option<bool>,
    /// With `http`: how events and answers are written. Default: `cloudevents`.
    #[serde(skip_serializing_if = "Option::is_none")]
    dialect: Option<Dialect>,
    /// With `http`: a file or `env:NAME` with what every request carries as `moorline-secret`, so that
    /// the service can tell events from requests of others. Default: none. Needed with an `upstream`.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_file: Option<SecretSource>,
    /// With `http`: PEM file with the authorities that `https` URLs are checked against. Default: the
    /// system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
    /// With `http`: requests at the backend at once. Default: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_requests: Option<u32>,
    /// With `http`: how long an event waits while as many as `max_requests` are at the backend; then it
    /// is `overloaded`. Default: `1s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_timeout: Option<Period>,
    /// With `http`: how long a connection may take to come up. Default: `2s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_timeout: Option<Period>,
    /// With `dialect: websocket-over-http`: what requests are signed with, as `Grip-Sig`. Default: they
    /// are not signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    grip: Option<Grip>,
}

impl HttpBackend {
    /// A service with every default.
    #[must_use]
    pub fn new(urls: Urls) -> Self {
        Self {
            urls,
            dialect: Dialect::default(),
            secret_file: None,
            ca: None,
            max_requests: 100,
            queue_timeout: Period::secs(1),
            connect_timeout: Period::secs(2),
            grip: None,
        }
    }

    /// Whether one of its servers is the one of `url`: the same scheme, host and port.
    #[must_use]
    pub fn is_at(&self, url: &str) -> bool {
        let origin = origin(url);
        origin.is_some() && self.urls.as_slice().iter().any(|own| self::origin(own) == origin)
    }

    /// The paths of its URLs.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        let path = |url: &String| Some(url.parse::<Uri>().ok()?.path().to_owned());
        self.urls.as_slice().iter().filter_map(path).collect()
    }
}

/// Scheme, host in lower case, and port. The names of this machine are one.
fn origin(url: &str) -> Option<(bool, String, u16)> {
    let url: Uri = url.parse().ok()?;
    let is_tls = url.scheme_str()? == "https";
    let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let host = match url.host()?.to_ascii_lowercase() {
        host if ["127.0.0.1", "[::1]"].contains(&host.as_str()) => "localhost".to_owned(),
        host => host,
    };
    Some((is_tls, host, port))
}

impl Urls {
    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(url) => std::slice::from_ref(url),
            Self::Many(urls) => urls,
        }
    }
}

impl TryFrom<Keys> for Backend {
    type Error = String;

    fn try_from(keys: Keys) -> Result<Self, String> {
        let Keys { nats, http, echo, dialect, secret_file, ca, .. } = keys;
        let Keys { max_requests, queue_timeout, connect_timeout, grip, .. } = keys;
        let found = [nats.is_some(), http.is_some(), echo.is_some()];
        let count = found.iter().filter(|is_there| **is_there).count();
        if count != 1 {
            return Err(format!("expected exactly one of `nats`, `http` or `echo`, found {count}"));
        }
        if let Some(urls) = http {
            let plain = HttpBackend::new(urls);
            return Ok(Self::Http(Box::new(HttpBackend {
                dialect: dialect.unwrap_or(plain.dialect),
                secret_file,
                ca,
                max_requests: max_requests.unwrap_or(plain.max_requests),
                queue_timeout: queue_timeout.unwrap_or(plain.queue_timeout),
                connect_timeout: connect_timeout.unwrap_or(plain.connect_timeout),
                grip,
                ..plain
            })));
        }
        let foreign = [
            ("dialect", dialect.is_some()),
            ("secret_file", secret_file.is_some()),
            ("ca", ca.is_some()),
            ("max_requests", max_requests.is_some()),
            ("queue_timeout", queue_timeout.is_some()),
            ("connect_timeout", connect_timeout.is_some()),
            ("grip", grip.is_some()),
        ];
        if let Some((name, _)) = foreign.iter().find(|(_, is_there)| *is_there) {
            return Err(format!("`{name}` is for a backend with `http` only"));
        }
        Ok(match nats {
            Some(prefix) => Self::Nats(prefix),
            None => Self::Echo(echo.unwrap_or_default()),
        })
    }
}

impl From<Backend> for Keys {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Nats(prefix) => Self { nats: Some(prefix), ..Self::default() },
            Backend::Echo(echo) => Self { echo: Some(echo), ..Self::default() },
            Backend::Http(http) => Self {
                http: Some(http.urls),
                dialect: Some(http.dialect),
                secret_file: http.secret_file,
                ca: http.ca,
                max_requests: Some(http.max_requests),
                queue_timeout: Some(http.queue_timeout),
                connect_timeout: Some(http.connect_timeout),
                grip: http.grip,
                ..Self::default()
            },
        }
    }
}

impl Default for Backend {
    fn default() -> Self {
        Self::Nats(String::new())
    }
}

impl Serialize for Urls {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(url) => serializer.serialize_str(url),
            Self::Many(urls) => urls.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Urls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UrlsVisitor)
    }
}

struct UrlsVisitor;

impl<'de> Visitor<'de> for UrlsVisitor {
    type Value = Urls;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a URL as `http://127.0.0.1:5000/events`, or a list of them")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Urls, E> {
        Ok(Urls::One(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Urls, A::Error> {
        let mut urls = Vec::new();
        while let Some(url) = items.next_element()? {
            urls.push(url);
        }
        Ok(Urls::Many(urls))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_scheme_host_and_port() {
        let urls = ["http://app:5000/events?x", "https://B.example", "http://127.0.0.1/"];
        let backend = HttpBackend::new(Urls::Many(urls.map(str::to_owned).into()));
        assert_eq!(backend.paths(), ["/events", "/", "/"]);
        for same in [
            "http://APP:5000",
            "http://app:5000/other?x",
            "https://b.example:443/",
            "http://localhost",
            "http://[::1]:80",
        ] {
            assert!(backend.is_at(same), "{same}");
        }
        for other in ["http://app", "https://app:5000", "http://b.example", "app:5000", ""] {
            assert!(!backend.is_at(other), "{other}");
        }
    }
}
