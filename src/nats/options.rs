//! The client library's options from our config: servers, who we are, and how soon a dead server is
//! noticed and a living one found again.

use std::{cmp, time::Duration};

use async_nats::{ConnectOptions, ServerAddr};

use super::{BRIDGE_INBOX, INBOX, NatsError};
use crate::config;
use crate::config::SecretSource;
use crate::id::NodeId;

/// What every connection to NATS is made from.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) servers: Vec<ServerAddr>,
    pub(super) connect: ConnectOptions,
    /// What the inboxes of these connections begin with.
    pub(super) inbox: &'static str,
}

/// The longest pause between two rounds over all servers, so that work resumes within 2 s of a
/// server's return.
const ROUND_MAX: Duration = Duration::from_secs(1);
/// The pause before the second attempt; it doubles with each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// Letters of an encoded nkey seed.
const SEED_LEN: usize = 58;

impl Options {
    /// Reads the secrets and checks all that can be checked without a server.
    pub(super) fn read(
        config: &config::Nats,
        node: NodeId,
        tls: Option<rustls::ClientConfig>,
    ) -> Result<Self, NatsError> {
        let servers = servers(&config.servers)?;
        let count = u32::try_from(servers.len()).unwrap_or(u32::MAX).max(1);
        let mut connect = identity(config)?
            .name(format!("moorline {node}"))
            // Replies to the library's own requests; ours have an inbox of their own.
            .custom_inbox_prefix(format!("{INBOX}.{node}.lib"))
            .retry_on_initial_connect()
            .connection_timeout(config.connect_timeout.get())
            .ping_interval(config.ping_interval.get())
            .reconnect_delay_callback(move |attempt| pause(attempt, count));
        if config.tls.is_some() {
            connect = connect.require_tls(true);
        }
        if config.tls.as_ref().is_some_and(|tls| tls.first) {
            connect = connect.tls_first();
        }
        if let Some(tls) = tls {
            connect = connect.tls_client_config(tls);
        }
        Ok(Self { servers, connect, inbox: INBOX })
    }

    /// The same for a bridge, which is no node: its permissions need not reach to the nodes' inboxes.
    pub(super) fn of_bridge(self, id: NodeId) -> Self {
        let connect = self.connect.custom_inbox_prefix(format!("{BRIDGE_INBOX}.{id}.lib"));
        Self { connect, inbox: BRIDGE_INBOX, ..self }
    }
}

fn servers(urls: &[String]) -> Result<Vec<ServerAddr>, NatsError> {
    if urls.is_empty() {
        return Err(NatsError::NoServers);
    }
    urls.iter().map(|url| server(url)).collect()
}

fn server(url: &str) -> Result<ServerAddr, NatsError> {
    // What stands before an @ may be a password, so it is not shown.
    let shown = || match url.rsplit_once('@') {
        Some((_, host)) => format!("...@{host}"),
        None => url.to_owned(),
    };
    let refuse = |reason| Err(NatsError::Server { url: shown(), reason });
    let Ok(server) = url.parse::<ServerAddr>() else {
        return refuse("expected nats://host:port or tls://host:port");
    };
    if !matches!(server.scheme(), "nats" | "tls") {
        return refuse("only nats:// and tls:// are spoken");
    }
    if server.host().is_empty() {
        return refuse("it names no host");
    }
    if server.username().is_some() || server.password().is_some() {
        return refuse("who we are belongs in nats.user and nats.password, not in the URL");
    }
    Ok(server)
}

/// The options with who we are: at most one of user, token, credentials and nkey.
fn identity(config: &config::Nats) -> Result<ConnectOptions, NatsError> {
    let options = ConnectOptions::new();
    match (&config.user, &config.password, &config.token, &config.credentials, &config.nkey) {
        (None, None, None, None, None) => Ok(options),
        (Some(user), Some(password), None, None, None) => {
            let password = secret("nats.password", password)?;
            Ok(options.user_and_password(user.clone(), password))
        }
        (Some(_), None, None, None, None) => Err(NatsError::NoPassword),
        (None, None, Some(token), None, None) => Ok(options.token(secret("nats.token", token)?)),
        (None, None, None, Some(path), None) => {
            let unreadable = |source| NatsError::Secret { key: "nats.credentials", source };
            let file = SecretSource::File(path.clone());
            // The library wants the line end after the last line, which reading a secret takes
            // away.
            let text = secret("nats.credentials", &file)? + "\n";
            options.credentials(&text).map_err(unreadable)
        }
        (None, None, None, None, Some(seed)) => {
            let seed = secret("nats.nkey", seed)?;
            let is_letter = |b: u8| matches!(b, b'A'..=b'Z' | b'2'..=b'7');
            let is_user = seed.starts_with("SU") && seed.len() == SEED_LEN;
            if is_user && seed.bytes().all(is_letter) {
                Ok(options.nkey(seed))
            } else {
                Err(NatsError::Seed)
            }
        }
        (None, Some(_), None, None, None) => Err(NatsError::NoUser),
        _ => Err(NatsError::Identities),
    }
}

fn secret(key: &'static str, source: &SecretSource) -> Result<String, NatsError> {
    let bytes = source.read().map_err(|source| NatsError::Secret { key, source })?;
    String::from_utf8(bytes).map_err(|_| NatsError::SecretText { key })
}

/// How long to wait before the given attempt, the first being 1: none, then twice as long each
/// time, up to a share of [`ROUND_MAX`], each drawn from its upper half so that many nodes never
/// knock in step.
fn pause(attempt: usize, servers: u32) -> Duration {
    let Some(doublings) = attempt.checked_sub(2) else { return Duration::ZERO };
    let factor = 1u32 << cmp::min(doublings, 10);
    let pause = cmp::min(PAUSE_FIRST * factor, ROUND_MAX / servers);
    pause.mul_f64(0.5 + 0.5 * rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(change: impl FnOnce(&mut config::Nats)) -> Result<Options, NatsError> {
        let mut config = config::Nats::default();
        change(&mut config);
        Options::read(&config, NodeId::random(), None)
    }

    fn file(dir: &Path, name: &str, text: &str) -> SecretSource {
        std::fs::write(dir.join(name), text).unwrap();
        SecretSource::File(dir.join(name))
    }

    #[test]
    fn a_bad_url_is_named_and_a_password_in_it_is_not_shown() {
        for (url, expected) in [
            ("http://host:1", "http://host:1: expected nats://"),
            ("nats://[::1", "expected nats://"),
            ("ws://host:1", "only nats:// and tls://"),
            ("nats://bob:secret@host:4222", "...@host:4222: who we are belongs in nats.user"),
        ] {
            let error = read(|c| c.servers = vec![url.into()]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(matches!(read(|c| c.servers.clear()), Err(NatsError::NoServers)));
        let two = ["nats://a:1", "tls://b", "c:4222"].map(String::from).to_vec();
        assert_eq!(read(|c| c.servers = two).unwrap().servers.len(), 3);
    }

    #[test]
    fn who_we_are_is_said_once_and_readable() {
        let dir = tempfile::tempdir().unwrap();
        let word = file(dir.path(), "word", "s3cret\n");
        let seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
        let seed_file = file(dir.path(), "seed", seed);
        let missing = SecretSource::File(dir.path().join("missing"));

        assert!(read(|c| (c.user, c.password) = (Some("u".into()), Some(word.clone()))).is_ok());
        assert!(read(|c| c.token = Some(word.clone())).is_ok());
        assert!(read(|c| c.nkey = Some(seed_file)).is_ok());
        let creds = format!(
            "-----BEGIN NATS USER JWT-----\na.b.c\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        file(dir.path(), "creds", &creds);
        assert!(read(|c| c.credentials = Some(dir.path().join("creds"))).is_ok());

        let error = |change: &dyn Fn(&mut config::Nats)| read(|c| change(c)).unwrap_err();
        assert!(matches!(error(&|c| c.user = Some("u".into())), NatsError::NoPassword));
        assert!(matches!(error(&|c| c.password = Some(word.clone())), NatsError::NoUser));
        assert!(matches!(error(&|c| c.nkey = Some(word.clone())), NatsError::Seed));
        let both = error(&|c| (c.token, c.nkey) = (Some(word.clone()), Some(word.clone())));
        assert!(matches!(both, NatsError::Identities));
        let unread = error(&|c| c.token = Some(missing.clone()));
        assert!(matches!(unread, NatsError::Secret { key: "nats.token", .. }));
        let source = std::error::Error::source(&unread).unwrap().to_string();
        assert!(source.contains("missing"), "{source}");
        let creds = error(&|c| c.credentials = Some(dir.path().join("word")));
        assert!(matches!(creds, NatsError::Secret { key: "nats.credentials", .. }));
    }

    #[test]
    fn a_round_over_all_servers_takes_a_second_at_most() {
        assert_eq!(pause(1, 1), Duration::ZERO);
        for servers in [1, 3] {
            let round: Duration = (50..50 + servers as usize).map(|n| pause(n, servers)).sum();
            assert!(round <= ROUND_MAX && round >= ROUND_MAX / 2, "{round:?}");
        }
        assert!(pause(2, 1) <= PAUSE_FIRST);
    }
}
