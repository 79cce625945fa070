//! What a stream is told from outside while HTTP is spoken on it.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::sleep;

use super::Rules;
use super::session::Session;
use crate::task::Tasks;

/// What a stream is told.
#[derive(Debug)]
pub(super) enum Signal {
    /// The client did not take the last answer in time.
    Overdue,
    /// The node stops.
    Stopping,
    /// Other rules are in force.
    Replaced,
    /// The time of a node that stops is over.
    Drained,
}

/// Each signal once. Each is looked at only when it is given: most of them are of all streams, which would
/// get in each other's way if every event on one of them led to a look.
pub(super) fn signals<'a>(
    session: &'a Session<'_>,
    rules: &'a Rules,
    tasks: &'a Tasks,
) -> FuturesUnordered<BoxFuture<'a, Signal>> {
    let all: [BoxFuture<'a, Signal>; 4] = [
        Box::pin(async {
            session.answered.notified().await;
            sleep(rules.limits.head_timeout.get()).await;
            Signal::Overdue
        }),
        Box::pin(tasks.stopping().map(|()| Signal::Stopping)),
        Box::pin(rules.replaced.cancelled().map(|()| Signal::Replaced)),
        Box::pin(async {
            tasks.stopping().await;
            sleep(rules.drain).await;
            Signal::Drained
        }),
    ];
    all.into_iter().collect()
}
