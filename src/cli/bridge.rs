//! `moorline bridge`: an HTTP service as a worker behind NATS.

use std::env::var_os;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error;

use crate::config::{
    Backend, Bridge, Config, Dialect, Format, HttpBackend, Log, LogFormat, Nats, Urls,
    process_environment,
};
use crate::id::HubName;
use crate::server::{BridgeProcess, Signals};

use super::management::hub;
use super::serve::{descriptors, listen_for_signals, raise_descriptor_limit};
use super::{logging, print};

/// Give the events of a hub to an HTTP service.
///
/// Joins a queue group on NATS and posts each event to the service, whose answer is the reply, so that a
/// service that knows nothing of NATS is a worker of nodes elsewhere. While the service cannot be reached
/// it leaves the group. SIGTERM or SIGINT make it leave, answer what it has and end; a second one ends it
/// at once.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  moorline bridge --nats nats://nats:4222 --hub app --to http://127.0.0.1:5000/events\n  \
    moorline bridge -c /etc/moorline/bridge.yaml"
)]
pub(super) struct Run {
    /// The config file (.yaml, .yml or .toml), with the sections `nats` and `bridge`; with --to the variable counts
    /// for nothing
    #[arg(short, long, value_name = "FILE", env = CONFIG, required_unless_present = "to")]
    config: Option<PathBuf>,
    #[command(flatten)]
    short: Short,
    /// Print the config as it is understood, overrides included, and exit
    #[arg(long)]
    print_config: bool,
}

/// The variable that names the config file.
const CONFIG: &str = "MOORLINE_CONFIG";

/// What a config file says, for a first try.
#[derive(Debug, Args)]
struct Short {
    /// The NATS server
    #[arg(long, value_name = "URL", requires = "to")]
    nats: Option<String>,
    /// The service: where events are posted
    #[arg(long, value_name = "URL", requires = "nats")]
    to: Option<String>,
    /// The hub whose events it takes [default: default]
    #[arg(long, requires = "to", value_parser = hub)]
    hub: Option<HubName>,
    /// The queue group that it joins [default: workers]
    #[arg(long, value_name = "GROUP", requires = "to")]
    queue: Option<String>,
    /// How events are written: cloudevents or websocket-over-http [default: cloudevents]
    #[arg(long, requires = "to", value_parser = dialect)]
    dialect: Option<Dialect>,
}

impl Run {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let config = match &self.config {
            Some(file) if self.short.to.is_none() => Config::load(file, process_environment())?,
            // A variable may be there for all commands of an image; an argument is meant for this one.
            Some(file) if var_os(CONFIG).is_none_or(|variable| variable != *file) => {
                anyhow::bail!("--config cannot be used with --to")
            }
            _ => self.short.config()?,
        };
        if self.print_config {
            print(&config.to_yaml())?;
            return Ok(ExitCode::SUCCESS);
        }
        let (_logs, _level) = logging::start(&config.log)?;
        raise_descriptor_limit(descriptors(&config));
        let signals = Signals::default();
        listen_for_signals(&signals)?;
        let bridge = Box::pin(BridgeProcess::start(&config)).await?;
        Box::pin(bridge.run(&signals)).await?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Short {
    fn config(self) -> anyhow::Result<Config> {
        let mut service = HttpBackend::new(Urls::One(self.to.unwrap_or_default()));
        service.dialect = self.dialect.unwrap_or(service.dialect);
        let mut bridge = Bridge::new(Backend::Http(Box::new(service)));
        bridge.hub = self.hub.unwrap_or(bridge.hub);
        bridge.queue = self.queue.unwrap_or(bridge.queue);
        let config = Config {
            nats: Some(Nats { servers: self.nats.into_iter().collect(), ..Nats::default() }),
            bridge: Some(bridge),
            log: Log { format: LogFormat::Human, ..Log::default() },
            ..Config::default()
        };
        // As if it had been a file, so that what --print-config shows is what runs.
        let text = config.to_yaml();
        Ok(Config::parse(&text, Format::Yaml, "moorline bridge", process_environment())?)
    }
}

/// By the words of the config.
fn dialect(text: &str) -> Result<Dialect, Error> {
    Dialect::deserialize(text.into_deserializer())
}
