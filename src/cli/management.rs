//! What the commands that use a node's management API share: where it is, how it lets us in, and whom
//! they mean.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, Uri};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::config::SecretSource;
use crate::http_client::{Bounds, Client};
use crate::id::{HubName, NameError};
use crate::tls;

use super::dev;

/// Where the management API is, and what it is shown.
#[derive(Debug, Args)]
pub(super) struct Access {
    /// The management API of any node
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8444")]
    url: Uri,
    /// A file with the key, else the variable MOORLINE_KEY is the key, else that of `moorline dev` is
    /// taken
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// A PEM file with the authorities of an https URL; without it, the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A PEM file with a client certificate
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// A PEM file with its private key
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// The hub
    #[arg(long, default_value = "default", value_parser = hub)]
    hub: HubName,
}

/// Whom a command means. The command says whether it is needed.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Whom {
    /// One connection
    #[arg(long, value_name = "ID")]
    pub(super) connection: Option<String>,
    /// All connections of a user
    #[arg(long)]
    user: Option<String>,
    /// All members of a group
    #[arg(long)]
    group: Option<String>,
    /// All connections of the hub
    #[arg(long)]
    all: bool,
}

/// A request to something in the hub.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) method: Method,
    /// Below the hub, as `/users/alice/:send`.
    pub(super) path: String,
    pub(super) parameters: Vec<(&'static str, String)>,
    /// Content type and content.
    pub(super) body: Option<(&'static str, Vec<u8>)>,
}

/// The body of a no.
#[derive(Debug, Deserialize)]
struct Refused {
    error: Problem,
}

#[derive(Debug, Deserialize)]
struct Problem {
    message: String,
}

/// A node takes some seconds at most; a list has some hundred kilobytes.
const BOUNDS: Bounds = Bounds { timeout: Duration::from_secs(30), max_size: 16 << 20 };
const KEY_VARIABLE: &str = "MOORLINE_KEY";

impl Access {
    /// Asks, and has a yes as the answer.
    pub(super) async fn ask(&self, ask: Ask) -> anyhow::Result<Response<Bytes>> {
        let (client, request) = (self.client()?, self.request(ask)?);
        let response = Box::pin(client.send(request, BOUNDS)).await;
        let response = response.with_context(|| format!("{} does not answer", self.url))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        match serde_json::from_slice::<Refused>(response.body()) {
            Ok(refused) => bail!("{status}: {}", refused.error.message),
            Err(_) => bail!("{status}: not a management API of moorline"),
        }
    }

    fn request(&self, ask: Ask) -> anyhow::Result<Request<Bytes>> {
        let mut request = Request::builder().uri(self.url(&ask)?).method(ask.method);
        let (content_type, body) = ask.body.unzip();
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        if let Some(key) = self.bearer()? {
            request = request.header(AUTHORIZATION, key);
        }
        Ok(request.body(Bytes::from(body.unwrap_or_default()))?)
    }

    fn url(&self, ask: &Ask) -> anyhow::Result<Uri> {
        let base = self.url.to_string();
        let (base, hub) = (base.trim_end_matches('/'), &self.hub);
        let parameters = ask.parameters.iter().map(|(name, value)| {
            format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC))
        });
        let query = parameters.collect::<Vec<_>>().join("&");
        format!("{base}/api/hubs/{hub}{}?{query}", ask.path).parse().context("--url")
    }

    fn client(&self) -> anyhow::Result<Client> {
        if self.url.scheme_str() == Some("http") {
            return Ok(Client::plain());
        }
        let identity = self.certificate.as_deref().zip(self.key.as_deref());
        Ok(Client::new(tls::client_config(self.ca.as_deref(), identity)?))
    }

    /// The `Authorization` header; none when a certificate is to be enough.
    fn bearer(&self) -> anyhow::Result<Option<HeaderValue>> {
        let source = match &self.key_file {
            Some(file) => SecretSource::File(file.clone()),
            None if std::env::var_os(KEY_VARIABLE).is_some() => {
                SecretSource::Environment(KEY_VARIABLE.to_owned())
            }
            None if self.certificate.is_some() => return Ok(None),
            None => SecretSource::File(dev::management_key()?),
        };
        let key = source.read().context(
            "no key: give --key-file, set MOORLINE_KEY, or run `moorline dev`, whose key is taken else",
        )?;
        let value = [b"Bearer ", key.trim_ascii()].concat();
        let mut value = HeaderValue::try_from(value).context("the key is none: a line of text")?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl Whom {
    /// The path of those who are meant, below the hub; all when nobody is named.
    pub(super) fn path(&self) -> String {
        let named =
            [("connections", &self.connection), ("users", &self.user), ("groups", &self.group)];
        let named = named.into_iter().find_map(|(kind, name)| Some((kind, name.as_ref()?)));
        named.map_or_else(String::new, |(kind, name)| {
            format!("/{kind}/{}", utf8_percent_encode(name, NON_ALPHANUMERIC))
        })
    }
}

pub(super) fn hub(name: &str) -> Result<HubName, NameError> {
    HubName::try_from(name.to_owned())
}
