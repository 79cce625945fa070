//! `moorline dev`: `serve` on a laptop, with a config that needs nothing.
//!
//! Certificate and secret are made on the spot and kept in the user's cache folder, so a browser asks
//! once and a token outlives a restart.

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::Map;

use crate::config::{
    Admin, AuthMode, Backend, Config, Format, JetStream, Jwt, JwtAlgorithm, JwtKey, Limits,
    Listeners, Log, LogFormat, Management, Nats, Period, Plain, Public, Route, SecretSource,
    Shutdown, Tls, Upstream, UpstreamUrl, process_environment,
};
use crate::server::Node;
use crate::tls;

use super::{print, serve, token};

/// Run a node on this machine that needs no config, no certificate and no NATS.
///
/// It listens on loopback only: wss on port 8443 and ws on 8080, both with a console page at
/// /_moorline/, and the management API on 8444, for `moorline publish`. Without --nats it echoes every message.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  moorline dev\n  moorline dev --nats nats://127.0.0.1:4222\n  \
    moorline dev --upstream http://127.0.0.1:5000\n  \
    moorline dev --print-config > moorline.yaml"
)]
pub(super) struct Dev {
    /// Relay messages to workers behind this NATS server
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
    /// Pass requests that are no WebSocket to this HTTP server: http://, https:// or unix:/path
    #[arg(long, value_name = "URL")]
    upstream: Option<UpstreamUrl>,
    /// Print the config that it runs, and exit
    #[arg(long)]
    print_config: bool,
}

const WSS_PORT: u16 = 8443;
const WS_PORT: u16 = 8080;
const MANAGEMENT_PORT: u16 = 8444;
const ADMIN_PORT: u16 = 8445;
/// Where development servers of web frameworks listen; pages from there may connect.
const PAGE_PORTS: [u16; 8] = [3000, 4200, 5000, 5173, 8000, 8080, 8081, 8443];
const HOSTS: [&str; 4] =
    ["https://localhost", "http://localhost", "https://127.0.0.1", "http://127.0.0.1"];
/// The key of its management API, in the folder.
const MANAGEMENT_KEY: &str = "management-key";
/// Fits the descriptor limit of a laptop as it comes.
const MAX_CONNECTIONS: usize = 500;
const TOKEN_LIFE: Period = Period::secs(24 * 3600);

impl Dev {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let config = config(self.nats.as_deref(), self.upstream)?;
        if self.print_config {
            print(&config.to_yaml())?;
            return Ok(ExitCode::SUCCESS);
        }
        let shown = config.clone();
        let announce = |node: &Node| say_how_to_connect(&shown, &node.addresses());
        Box::pin(serve::serve(config, None, announce)).await
    }
}

/// The config of `moorline dev`.
pub(super) fn config(nats: Option<&str>, upstream: Option<UpstreamUrl>) -> anyhow::Result<Config> {
    let folder = folder()?;
    let (certificate, key, secret) =
        (folder.join("certificate.pem"), folder.join("key.pem"), folder.join("secret"));
    let management_key = folder.join(MANAGEMENT_KEY);
    make_certificate(&certificate, &key)?;
    make_secret(&secret)?;
    make_secret(&management_key)?;
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let origins = PAGE_PORTS.iter().flat_map(|port| HOSTS.map(|host| format!("{host}:{port}")));
    let backend = if nats.is_some() { Backend::default() } else { Backend::Echo(true) };
    let secret_key = JwtKey {
        kid: None,
        algorithms: vec![JwtAlgorithm::HS256],
        secret: Some(SecretSource::File(secret)),
        public_key: None,
    };
    let config = Config {
        listeners: Listeners {
            public: Some(Public::new(loopback(WSS_PORT), Tls::new(certificate, key))),
            plain: Some(Plain::new(loopback(WS_PORT))),
            management: Some(Management::new(
                loopback(MANAGEMENT_PORT),
                vec![SecretSource::File(management_key)],
            )),
            admin: Some(Admin { address: loopback(ADMIN_PORT) }),
            console: true,
        },
        nats: nats.map(|url| Nats {
            servers: vec![url.to_owned()],
            jetstream: JetStream::Optional,
            ..Nats::default()
        }),
        upstream: upstream.map(Upstream::new),
        jwt: Some(Jwt { keys: vec![secret_key], ..Jwt::default() }),
        routes: vec![Route {
            anonymous: true,
            backend,
            origins: origins.collect(),
            ..Route::new("/ws", AuthMode::Jwt)
        }],
        limits: Limits { max_connections: MAX_CONNECTIONS, ..Limits::default() },
        shutdown: Shutdown { lame_duck: Period::secs(0), drain: Period::secs(1) },
        log: Log { format: LogFormat::Human, ..Log::default() },
        ..Config::default()
    };
    // As if it had been a file, so that what --print-config shows is what runs.
    let text = config.to_yaml();
    let mut config = Config::parse(&text, Format::Yaml, "moorline dev", process_environment())?;
    admit_own_pages(&mut config);
    Ok(config)
}

/// The key that `moorline dev` lets into its management API; there once it has run.
pub(super) fn management_key() -> anyhow::Result<PathBuf> {
    Ok(folder()?.join(MANAGEMENT_KEY))
}

/// The console page comes from our own listeners, whatever ports the environment gave them.
fn admit_own_pages(config: &mut Config) {
    let public = config.listeners.public.as_ref().map(|public| public.address.port());
    let plain = config.listeners.plain.as_ref().map(|plain| plain.address.port());
    let own: Vec<String> = public
        .into_iter()
        .chain(plain)
        .flat_map(|port| HOSTS.map(|h| format!("{h}:{port}")))
        .collect();
    for route in config.routes.iter_mut().filter(|route| !route.origins.is_empty()) {
        let missing = own.iter().filter(|origin| !route.origins.contains(origin)).cloned();
        let missing: Vec<String> = missing.collect();
        route.origins.extend(missing);
    }
}

fn say_how_to_connect(config: &Config, addresses: &[SocketAddr]) -> anyhow::Result<()> {
    let token = token::mint(config, "dev", TOKEN_LIFE, Map::new())?;
    let certificate = config
        .listeners
        .public
        .as_ref()
        .map(|public| public.tls.certificate.display().to_string())
        .unwrap_or_default();
    let mut ports = addresses.iter().map(SocketAddr::port);
    let (wss, ws) = (ports.next().unwrap_or(WSS_PORT), ports.next().unwrap_or(WS_PORT));
    let nats = config.nats.as_ref().and_then(|nats| Some((nats, nats.servers.first()?)));
    let backend = match (nats, config.routes.first()) {
        (Some((nats, url)), Some(route)) => {
            let (prefix, hub) = (&nats.prefix, &route.hub);
            format!("workers behind {url}, subject {prefix}.{hub}.in.message")
        }
        _ => "echo".to_owned(),
    };
    let upstream = config.upstream.as_ref().map(|upstream| upstream.url.to_string());
    let upstream = upstream.as_deref().unwrap_or("none: only WebSockets are answered");
    let management = config.listeners.management.as_ref();
    let management = management.map(|door| format!("http://{}", door.address)).unwrap_or_default();
    let text = format!(
        "\nmoorline dev\n\n  \
        url      wss://localhost:{wss}/ws   ws://localhost:{ws}/ws\n  \
        console  https://localhost:{wss}/_moorline/   http://localhost:{ws}/_moorline/\n  \
        backend  {backend}\n  \
        upstream {upstream}\n  \
        publish  moorline publish --url {management} --all hello\n  \
        token    {token}\n\n\
        Try it (pip install websockets):\n\n  \
        SSL_CERT_FILE={certificate} python3 -c \"with __import__('websockets.sync.client', \
        fromlist=['*']).connect('wss://localhost:{wss}/ws', additional_headers={{'Authorization': \
        'Bearer {token}'}}) as c: c.send('hello'); print(c.recv())\"\n\n"
    );
    io::stderr().write_all(text.as_bytes())?;
    Ok(())
}

/// Where the files are kept: in the user's cache folder, readable by nobody else.
fn folder() -> anyhow::Result<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let cache = absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .context(
            "neither HOME nor XDG_CACHE_HOME says where to keep the development certificate",
        )?;
    let folder = cache.join("moorline").join("dev");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .with_context(|| format!("{} cannot be made", folder.display()))?;
    Ok(folder)
}

/// Makes a certificate, unless there is a good one.
fn make_certificate(certificate: &Path, key: &Path) -> anyhow::Result<()> {
    if tls::inspect(&Tls::new(certificate.to_owned(), key.to_owned())).is_err() {
        let made = tls::self_signed(&["localhost", "127.0.0.1", "::1"])?;
        write_private(certificate, made.certificate_pem.as_bytes())?;
        write_private(key, made.key_pem.as_bytes())?;
    }
    Ok(())
}

/// Makes a secret, unless there is one.
fn make_secret(secret: &Path) -> anyhow::Result<()> {
    if fs::metadata(secret).is_err() {
        let random: [u128; 2] = [rand::random(), rand::random()];
        write_private(secret, format!("{:032x}{:032x}", random[0], random[1]).as_bytes())?;
    }
    Ok(())
}

/// Writes a file that only the user can read, whole or not at all.
fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let next = path.with_extension(format!("{}.new", std::process::id()));
    let write = || -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&next)?.write_all(bytes)?;
        fs::rename(&next, path)
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}
