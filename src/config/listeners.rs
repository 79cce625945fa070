//! The doors: for clients with TLS, for clients without, for backends, and for operators.

use std::{net::SocketAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Network, Period, SecretSource, Size};

/// Where moorline listens. At least one of `public` and `plain` is needed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Listeners {
    /// Clients by `wss`.
    pub public: Option<Public>,
    /// Clients by `ws`, without TLS: only behind a load balancer that ends TLS, or on loopback.
    pub plain: Option<Plain>,
    /// Backends: the management API, by which they reach clients and ask who is there.
    pub management: Option<Management>,
    /// Operators: `/livez`, `/readyz`, `/metrics`, `POST /drain`. Not for the internet.
    pub admin: Option<Admin>,
    /// Whether clients' listeners serve the WebSocket console page at `/_moorline/`. For development
    /// only. Default: `false`.
    pub console: bool,
}

/// The public door.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Public {
    /// IP address and port, as `0.0.0.0:8443` or `[::]:8443`.
    pub address: SocketAddr,
    /// Certificates and what is asked of clients.
    pub tls: Tls,
    /// Every connection begins with a PROXY header. Default: none does, and one is a bad request.
    #[serde(default)]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// A header of the handshake names the client. Default: none is looked at.
    #[serde(default)]
    pub forwarded: Option<Forwarded>,
}

/// The door without TLS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plain {
    /// IP address and port.
    pub address: SocketAddr,
    /// Every connection begins with a PROXY header. Default: none does, and one is a bad request.
    #[serde(default)]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// A header of the handshake names the client. Default: none is looked at.
    #[serde(default)]
    pub forwarded: Option<Forwarded>,
}

/// The PROXY protocol, version 1 or 2: a proxy in front says whom it connects for, before TLS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocol {
    /// The networks that the proxies connect from; every other connection is closed. `0.0.0.0/0` and
    /// `::/0` let whoever reaches the port name any address.
    pub trusted: Vec<Network>,
    /// Time for the whole PROXY header. Default: `5s`.
    #[serde(default = "default_proxy_timeout")]
    pub timeout: Period,
}

/// A header in which proxies in front name the one that they got the request from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Forwarded {
    /// The only header that is looked at: the one that the proxies write.
    pub header: ForwardedHeader,
    /// The networks of the proxies. The client is the last address in the list that is in none of
    /// them. `0.0.0.0/0` and `::/0` let every client name any address.
    pub trusted: Vec<Network>,
}

/// A header that names the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`: a list of addresses.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// The backends' door. At least one of `key_files` and `tls.client_ca` is needed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Management {
    /// IP address and port; without `tls`, one of this machine.
    pub address: SocketAddr,
    /// Certificates, and what is asked of backends. A certificate by `client_ca` lets its bearer in
    /// without a key. Default: none, plain HTTP.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// Keys that let their bearers in: a file or `env:NAME` each, at least 32 of `A-Za-z0-9-._~+/`. A
    /// request shows one itself, or a token signed with it, as the Azure server SDKs do. Default: none.
    #[serde(default)]
    pub key_files: Vec<SecretSource>,
    /// The largest body of a request, and so the largest message. Default: `1MiB`.
    #[serde(default = "default_max_body")]
    pub max_body: Size,
}

/// The operators' door.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// IP address and port.
    pub address: SocketAddr,
}

/// TLS of a door (RFC 8446, RFC 5246).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file: the certificate, then its chain. Served when no other certificate fits the name.
    pub certificate: PathBuf,
    /// PEM file: its private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
    /// More certificates, chosen by the name the client asks for (SNI). Default: none.
    #[serde(default)]
    pub additional: Vec<Certificate>,
    /// PEM file with the authorities that client certificates are checked against. Default: none.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
    /// Whether clients show a certificate, once `client_ca` is set. Default: `optional`.
    #[serde(default)]
    pub client_certificate: ClientCertificate,
    /// The oldest TLS version taken. Default: `1.2`.
    #[serde(default)]
    pub min_version: TlsVersion,
    /// How often the files are looked at for a change. Default: `10s`.
    #[serde(default = "default_reload_interval")]
    pub reload_interval: Period,
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// PEM file: the certificate, then its chain.
    pub certificate: PathBuf,
    /// PEM file: its private key.
    pub key: PathBuf,
}

/// Whether clients show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificate {
    /// A client may come without; routes with `auth: certificate` refuse it.
    #[default]
    Optional,
    /// A client without one does not get through the TLS handshake.
    Required,
}

/// A TLS version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V1_3,
}

impl Public {
    /// A door with every default.
    #[must_use]
    pub const fn new(address: SocketAddr, tls: Tls) -> Self {
        Self { address, tls, proxy_protocol: None, forwarded: None }
    }
}

impl Plain {
    /// A door with every default.
    #[must_use]
    pub const fn new(address: SocketAddr) -> Self {
        Self { address, proxy_protocol: None, forwarded: None }
    }
}

impl Management {
    /// A door without TLS and with every default, for the bearers of these keys.
    #[must_use]
    pub fn new(address: SocketAddr, key_files: Vec<SecretSource>) -> Self {
        Self { address, tls: None, key_files, max_body: default_max_body() }
    }
}

impl Tls {
    /// TLS with one certificate and every default.
    #[must_use]
    pub fn new(certificate: PathBuf, key: PathBuf) -> Self {
        Self {
            certificate,
            key,
            additional: Vec::new(),
            client_ca: None,
            client_certificate: ClientCertificate::default(),
            min_version: TlsVersion::default(),
            reload_interval: default_reload_interval(),
        }
    }
}

fn default_reload_interval() -> Period {
    Period::secs(10)
}

fn default_max_body() -> Size {
    Size::kib(1024)
}

fn default_proxy_timeout() -> Period {
    Period::secs(5)
}
