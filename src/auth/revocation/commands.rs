//! Revocations that are wished by command, over NATS or within the fleet.

use std::error::Error;

use futures_util::StreamExt;
use futures_util::stream::poll_fn;

use super::{RevocationError, RevocationWish, Revocations};
use crate::hub::Demand;

/// Revocations that are written at the same time.
const AT_ONCE: usize = 16;

impl Revocations {
    /// Revokes what commands to the hubs wish, until the tasks stop. Once a node.
    pub fn obey(&self) {
        let (revocations, stop) = (self.clone(), self.0.tasks.clone());
        let mut demands = self.0.table.demands();
        self.0.tasks.need("revocations by command", async move {
            let demands = poll_fn(|cx| demands.poll_recv(cx));
            let all = demands.for_each_concurrent(AT_ONCE, |demand| revocations.answer(demand));
            tokio::select! {
                () = stop.stopping() => {}
                () = all => {}
            }
        });
    }

    async fn answer(&self, mut demand: Demand) {
        let (jti, user) = (demand.jti.take(), demand.user.take());
        let wish = RevocationWish { jti, user, before: demand.before, until: demand.until };
        let closed = match wish.read() {
            Ok((what, until)) => self.revoke(what, until, demand.deadline).await,
            Err(error) => Err(error),
        };
        demand.answer(closed.map_err(|error| with_cause(&error)));
    }
}

fn with_cause(error: &RevocationError) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
