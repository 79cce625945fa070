//! A key set (RFC 7517 section 5) from a file or a URL: read at the start, again every `refresh`, and
//! when a token names a key that nobody knows.
//!
//! Tokens are made by strangers, so all of them together cause at most one fetch in `min_refresh`, and
//! a fetch that fails never takes away keys that worked before.

mod set;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{error::Error, fmt, path::PathBuf, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};
use http::Uri;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config;
use crate::http_client::{Bounds, Client, FetchError};
use crate::task::{Backoff, Tasks, jittered};

use crate::auth::jws::Jws;
#[cfg(any(test, fuzzing))]
use crate::auth::keys::Keys;
use crate::auth::keys::Verdict;
use crate::auth::{AuthError, Denied, KeyInfo};
use set::Loaded;

pub use set::JwksError;

/// A key set that keeps itself fresh until it is dropped.
#[derive(Debug)]
pub(super) struct JwksCache {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Shared {
    config: config::Jwks,
    source: Source,
    /// The last good keys.
    loaded: ArcSwapOption<Loaded>,
    /// Locked for a look or a word only.
    asking: Mutex<Asking>,
    /// Wakes the task for a fetch that is [`Flight::Wanted`].
    wake: Notify,
    /// How the last attempt ended; changes with each.
    ended: watch::Sender<Option<Ended>>,
}

#[derive(Debug)]
enum Source {
    File(PathBuf),
    /// The client is another one after a reload, as its authorities may be.
    Url(Uri, ArcSwap<Client>),
}

/// How an attempt ended; shared, because everybody who waits is told.
type Ended = Result<(), Arc<JwksError>>;

/// Who wants a fetch, and who must not.
#[derive(Debug)]
struct Asking {
    flight: Flight,
    /// From when a token may cause a fetch again.
    next: Instant,
    /// `kid`s that a fetch did not bring, and until when they cause none.
    absent: HashMap<String, Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flight {
    None,
    Wanted,
    Under,
}

/// The keys of a set that is at hand.
#[cfg(any(test, fuzzing))]
pub(super) fn keys_of(set: &[u8], config: &config::Jwks) -> Result<Keys, JwksError> {
    Loaded::parse(set, config).map(|loaded| loaded.keys)
}

impl JwksCache {
    /// A file is read at once; a URL is fetched on `tasks`.
    pub(super) fn new(
        config: &config::Jwks,
        client: Option<Client>,
        tasks: &Tasks,
    ) -> Result<Self, AuthError> {
        check(config)?;
        let (source, loaded) = if config.is_url() {
            (Source::url(config, client)?, None)
        } else {
            let path = PathBuf::from(&config.location);
            let loaded = std::fs::read(&path)
                .map_err(JwksError::Read)
                .and_then(|bytes| Loaded::parse(&bytes, config))
                .map_err(|e| AuthError::KeySet(config.location.clone(), e))?;
            (Source::File(path), Some(loaded))
        };
        let flight = if loaded.is_some() { Flight::None } else { Flight::Wanted };
        let outcome = loaded.as_ref().map(|_| Ok(()));
        let shared = Arc::new(Shared {
            config: config.clone(),
            source,
            loaded: ArcSwapOption::new(loaded.map(Arc::new)),
            asking: Mutex::new(Asking { flight, next: Instant::now(), absent: HashMap::new() }),
            wake: Notify::new(),
            ended: watch::Sender::new(outcome),
        });
        let stop = CancellationToken::new();
        tasks.spawn("jwks", Arc::clone(&shared).keep_fresh(tasks.clone(), stop.clone()));
        Ok(Self { shared, _stop: stop.drop_guard() })
    }

    /// Checks a token that other keys gave `verdict` on. Cancel safe.
    pub(super) async fn check(&self, jws: &Jws<'_>, verdict: Verdict) -> Result<(), Denied> {
        let shared = &self.shared;
        if shared.usable().is_none() {
            shared.end_of_flight().await;
        }
        let Some(loaded) = shared.usable() else {
            return if verdict.is_open() { Err(Denied::Unavailable) } else { verdict.result() };
        };
        let mut verdict = verdict.max(loaded.keys.verdict(jws));
        if verdict.is_open()
            && let Some(kid) = jws.kid.as_deref()
        {
            let is_fetched = shared.ask_for(kid).await;
            // Newer keys may also have come by somebody else's fetch since the look above.
            if let Some(newer) = shared.usable().filter(|newer| !Arc::ptr_eq(newer, &loaded)) {
                verdict = verdict.max(newer.keys.verdict(jws));
            }
            if is_fetched && verdict.is_open() {
                shared.remember_absent(kid);
            }
        }
        verdict.result()
    }

    /// Waits for the first attempt, and says how the last one ended. Cancel safe.
    pub(super) async fn fetched(&self) -> Ended {
        let mut ended = self.shared.ended.subscribe();
        let most = self.shared.config.timeout.get() + GRACE;
        match timeout(most, ended.wait_for(Option::is_some)).await {
            Ok(Ok(ended)) => ended.clone().unwrap_or(Ok(())),
            // The task is stopped with the node.
            _ => Err(Arc::new(JwksError::Fetch(FetchError::Timeout(most)))),
        }
    }

    /// Fetches with `client` from now on.
    pub(super) fn fetch_with(&self, client: Client) {
        if let Source::Url(_, old) = &self.shared.source {
            old.store(Arc::new(client));
        }
    }

    /// The keys of the set, those that are not used too.
    pub(super) fn describe(&self) -> Vec<KeyInfo> {
        self.shared.loaded.load_full().map(|loaded| loaded.describe()).unwrap_or_default()
    }
}

impl Shared {
    /// The task: fetches, waits, fetches again.
    async fn keep_fresh(self: Arc<Self>, tasks: Tasks, stop: CancellationToken) {
        let refresh = self.config.refresh.get();
        // While there are no keys clients wait, so `refresh` would be too long.
        let longest = self.config.min_refresh.get().max(RETRY_FIRST).min(refresh);
        let mut backoff = Backoff::new(RETRY_FIRST.min(longest), longest);
        let mut due = match &self.source {
            Source::File(_) => Instant::now() + jittered(refresh),
            Source::Url(..) => Instant::now(),
        };
        loop {
            tokio::select! {
                () = tasks.stopping() => return,
                () = stop.cancelled() => return,
                () = self.due_or_wanted(due) => {}
            }
            let attempt = tokio::select! {
                () = tasks.stopping() => return,
                () = stop.cancelled() => return,
                attempt = self.attempt() => attempt,
            };
            let pause = match &attempt {
                Ok(()) => {
                    backoff.reset();
                    jittered(refresh)
                }
                Err(error) => {
                    let (location, error) = (&self.source, chain(error.as_ref()));
                    tracing::warn!(%location, error, "key set not loaded; the last good keys stay");
                    backoff.delay()
                }
            };
            due = Instant::now() + pause;
        }
    }

    async fn due_or_wanted(&self, due: Instant) {
        tokio::select! {
            () = sleep_until(due) => {}
            // A wake-up may be left over from a fetch that was due at the same moment.
            () = async { while self.asking().flight != Flight::Wanted { self.wake.notified().await; } } => {}
        }
    }

    async fn attempt(&self) -> Ended {
        self.asking().flight = Flight::Under;
        let loaded = self.load().await.map_err(Arc::new);
        let ended = loaded.map(|loaded| self.loaded.store(Some(Arc::new(loaded))));
        // Under the lock, so that whoever waits was told of this attempt or asks for another one.
        let mut asking = self.asking();
        asking.flight = Flight::None;
        self.ended.send_replace(Some(ended.clone()));
        ended
    }

    async fn load(&self) -> Result<Loaded, JwksError> {
        let bounds =
            Bounds { timeout: self.config.timeout.get(), max_size: self.config.max_size.bytes() };
        match &self.source {
            Source::File(path) => {
                let bytes = tokio::fs::read(path).await.map_err(JwksError::Read)?;
                Loaded::parse(&bytes, &self.config)
            }
            Source::Url(url, client) => {
                let client = client.load_full();
                let bytes = client.get(url, ACCEPT, bounds).await.map_err(JwksError::Fetch)?;
                Loaded::parse(&bytes, &self.config)
            }
        }
    }

    /// The last good keys, unless they are too old.
    fn usable(&self) -> Option<Arc<Loaded>> {
        let loaded = self.loaded.load_full()?;
        (loaded.at.elapsed() < self.config.max_stale.get()).then_some(loaded)
    }

    /// Waits for a fetch that is under way.
    async fn end_of_flight(&self) {
        let ended = {
            let asking = self.asking();
            if asking.flight == Flight::None {
                return;
            }
            self.ended.subscribe()
        };
        self.wait(ended).await;
    }

    /// Fetches because of an unknown `kid`, if that may be; then keys may be newer.
    async fn ask_for(&self, kid: &str) -> bool {
        if kid.len() > KID_MAX {
            return false;
        }
        let ended = {
            let now = Instant::now();
            let mut asking = self.asking();
            let is_absent = asking.absent.get(kid).is_some_and(|until| now < *until);
            if is_absent || (asking.flight == Flight::None && now < asking.next) {
                return false;
            }
            if asking.flight == Flight::None {
                asking.next = now + self.config.min_refresh.get();
                asking.flight = Flight::Wanted;
                self.wake.notify_one();
            }
            self.ended.subscribe()
        };
        self.wait(ended).await
    }

    /// Waits for the attempt under way; false when it failed or does not end.
    async fn wait(&self, mut ended: watch::Receiver<Option<Ended>>) -> bool {
        let most = self.config.timeout.get() + GRACE;
        let is_over = timeout(most, ended.changed()).await.is_ok_and(|changed| changed.is_ok());
        is_over && matches!(*ended.borrow(), Some(Ok(())))
    }

    /// Keeps a `kid` from causing a fetch for four times `min_refresh`: else one client with an old
    /// token, trying again and again, takes the one fetch that a newly made key needs.
    fn remember_absent(&self, kid: &str) {
        let now = Instant::now();
        let mut asking = self.asking();
        if asking.absent.len() >= ABSENT_MAX {
            asking.absent.retain(|_, until| now < *until);
        }
        if asking.absent.len() < ABSENT_MAX {
            asking.absent.insert(kid.to_owned(), now + 4 * self.config.min_refresh.get());
        }
    }

    fn asking(&self) -> MutexGuard<'_, Asking> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source {
    fn url(config: &config::Jwks, client: Option<Client>) -> Result<Self, AuthError> {
        let url: Uri = config.location.parse().map_err(|_| AuthError::Location(FetchError::Url))?;
        Client::check(&url).map_err(AuthError::Location)?;
        let client = client.ok_or(AuthError::Value {
            key: "jwt.jwks.location",
            expected: "expected a file, because nothing here fetches URLs".to_owned(),
        })?;
        Ok(Self::Url(url, ArcSwap::from_pointee(client)))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            // Without the query, which may hold a secret.
            Self::Url(url, _) => {
                let (scheme, host) = (url.scheme_str(), url.authority());
                let host = host.map(http::uri::Authority::as_str).unwrap_or_default();
                write!(f, "{}://{host}{}", scheme.unwrap_or_default(), url.path())
            }
        }
    }
}

fn check(config: &config::Jwks) -> Result<(), AuthError> {
    let wrong = |key, expected: &str| Err(AuthError::Value { key, expected: expected.to_owned() });
    if config.refresh.get().is_zero() {
        return wrong("jwt.jwks.refresh", "expected more than 0s");
    }
    if config.timeout.get().is_zero() {
        return wrong("jwt.jwks.timeout", "expected more than 0s");
    }
    // A handshake waits for it.
    if config.timeout.get() > TIMEOUT_MAX {
        return wrong("jwt.jwks.timeout", "expected at most 1m");
    }
    // Longer ones would only overflow the clock.
    if config.refresh.get().max(config.min_refresh.get()) > PERIOD_MAX {
        return wrong("jwt.jwks", "expected refresh and min_refresh of at most 365days");
    }
    if config.max_stale < config.refresh {
        return wrong("jwt.jwks.max_stale", "expected at least jwt.jwks.refresh");
    }
    if config.algorithms.is_empty() {
        return wrong("jwt.jwks.algorithms", "expected at least one algorithm");
    }
    match config.algorithms.iter().find(|algorithm| algorithm.is_symmetric()) {
        Some(algorithm) => {
            let expected =
                format!("{algorithm:?} is symmetric, and a key set has public keys only");
            Err(AuthError::Value { key: "jwt.jwks.algorithms", expected })
        }
        None => Ok(()),
    }
}

/// An error and its causes, because the outermost one says the least.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// RFC 7517 section 8.5.2; some servers only know the other.
const ACCEPT: &str = "application/jwk-set+json, application/json";

/// The longest `timeout`, `refresh` and `min_refresh`.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
const PERIOD_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// The longest `kid` in bytes that is worth a fetch, and how many are remembered.
const KID_MAX: usize = 256;
const ABSENT_MAX: usize = 1000;

/// The first wait after a failed fetch.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// What a fetch may take beyond its own deadline, for the task to be scheduled.
const GRACE: Duration = Duration::from_secs(1);
