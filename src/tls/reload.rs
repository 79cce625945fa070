//! Taking over changed files while connections stay as they are.
//!
//! Contents are compared, not times: Kubernetes swaps a symbolic link, and copies keep old times. What
//! cannot be used is told once and what was served before stays.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    acceptor::{Acceptor, Shared, Source, off_the_runtime},
    error::TlsError,
    served::Files,
};
use crate::metrics::Metrics;

/// What a look at the files came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reloaded {
    /// New contents are served from now on.
    Changed,
    /// The files are as they were.
    Unchanged,
}

/// Files that were not taken over. Two are equal when the same contents failed in the same way.
pub(super) struct Refused {
    /// Of the contents; none when they could not be read.
    digest: Option<Vec<u8>>,
    error: TlsError,
}

/// A shorter interval would only burn processor time.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

impl Acceptor {
    /// Reads the files again and serves them, when they changed and can be used. On an error, what was
    /// served before stays. Open connections are not touched.
    ///
    /// Cancel safe: a reload that has begun reading goes on.
    ///
    /// # Errors
    /// When a file cannot be used, or the disk does not answer in time.
    pub async fn reload(&self) -> Result<Reloaded, TlsError> {
        self.attempt().await.map_err(|refused| refused.error)
    }

    /// Looks at the files every `reload_interval` until `stopping` ends. Tells logs and metrics about
    /// a change, and about a failure when it is a new one. Ends at once when no file is watched.
    ///
    /// Cancel safe.
    pub async fn watch(self, metrics: Metrics, stopping: impl Future<Output = ()> + Send) {
        let Some(source) = &self.0.source else { return };
        let interval = source.tls.reload_interval.get().max(SHORTEST_INTERVAL);
        self.tell_expiry(&metrics);
        let polls = async {
            let mut last = None;
            loop {
                tokio::time::sleep(interval).await;
                last = self.poll(last, &metrics).await;
            }
        };
        tokio::select! {
            () = polls => {}
            () = stopping => {}
        }
    }

    /// One look at the files; `last` is what the look before refused, and the answer what this one did.
    pub(super) async fn poll(&self, last: Option<Refused>, metrics: &Metrics) -> Option<Refused> {
        match self.attempt().await {
            Ok(Reloaded::Changed) => self.tell_changed(metrics),
            Ok(Reloaded::Unchanged) if last.is_some() => {
                tracing::info!(place = self.place(), "certificates are again as they are served");
            }
            Ok(Reloaded::Unchanged) => {}
            Err(refused) => {
                if !last.is_some_and(|last| last.is_like(&refused)) {
                    self.tell_refused(&refused, metrics);
                }
                return Some(refused);
            }
        }
        None
    }

    async fn attempt(&self) -> Result<Reloaded, Refused> {
        let shared = Arc::clone(&self.0);
        let turn = Arc::clone(&self.0.turn);
        let looked = off_the_runtime(turn, move || Ok(shared.look())).await;
        looked.unwrap_or_else(|error| Err(Refused { digest: None, error }))
    }

    fn tell_changed(&self, metrics: &Metrics) {
        metrics.config_reload("ok");
        self.tell_expiry(metrics);
        let certificates = self.0.served.load().facts.len();
        tracing::info!(place = self.place(), certificates, "certificates reloaded");
    }

    fn tell_refused(&self, refused: &Refused, metrics: &Metrics) {
        metrics.config_reload("failed");
        let error: &(dyn std::error::Error + 'static) = &refused.error;
        tracing::error!(
            place = self.place(),
            error,
            "certificates not reloaded, the old ones stay"
        );
    }

    fn tell_expiry(&self, metrics: &Metrics) {
        let served = self.0.served.load();
        let ends = served.facts.iter().map(|facts| {
            let end = facts.not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            i64::try_from(end).unwrap_or(i64::MAX)
        });
        metrics.certificate_expiries(self.place(), ends);
    }

    fn place(&self) -> &str {
        self.0.source.as_ref().map_or("", |source| &source.place)
    }
}

impl Shared {
    /// Reads the files and swaps them in. Blocks.
    fn look(&self) -> Result<Reloaded, Refused> {
        let Some(Source { tls, .. }) = &self.source else { return Ok(Reloaded::Unchanged) };
        let files = Files::read(tls).map_err(|error| Refused { digest: None, error })?;
        let digest = files.digest();
        let before = self.served.load();
        if digest == before.digest {
            return Ok(Reloaded::Unchanged);
        }
        let served = files
            .serve(tls.into(), Some(&before), SystemTime::now())
            .map_err(|error| Refused { digest: Some(digest), error })?;
        self.served.store(Arc::new(served));
        Ok(Reloaded::Changed)
    }
}

impl Refused {
    fn is_like(&self, other: &Self) -> bool {
        // Debug also tells the cause below the error.
        self.digest == other.digest && format!("{:?}", self.error) == format!("{:?}", other.error)
    }
}
