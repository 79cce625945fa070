//! The connections of a hub on all nodes, for whoever wants something of them: solo, those of the own
//! table.

use std::sync::Arc;

use tokio::time::Instant;

use super::command::{Command, CommandError, Done};
use super::interest::Interest;
use super::push::{Push, Target};
use super::table::Table;
use crate::id::HubName;

/// All connections that there are. Clones share it.
#[derive(Debug, Clone)]
pub struct Fleet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    table: Table,
    /// None solo.
    interest: Option<Interest>,
}

/// Why nothing came of a push or a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    /// NATS takes nothing at the moment; nobody has it.
    #[error("NATS cannot be reached")]
    Unreachable,
    /// Larger than NATS takes.
    #[error("{size} bytes are over the {maximum} that NATS takes")]
    TooLarge {
        /// The payload's bytes.
        size: usize,
        /// The bound on payload and headers together.
        maximum: usize,
    },
    /// There is no such connection.
    #[error("the connection is gone")]
    Gone,
    /// The command is one that nobody may obey.
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl Fleet {
    /// A node of its own.
    #[must_use]
    pub fn solo(table: Table) -> Self {
        Self(Arc::new(Inner { table, interest: None }))
    }

    /// One node of many.
    #[must_use]
    pub fn cluster(table: Table, interest: Interest) -> Self {
        Self(Arc::new(Inner { table, interest: Some(interest) }))
    }

    /// Serves these hubs from now on. While NATS is up, it waits until NATS knows.
    pub async fn open<'a>(&self, hubs: impl Iterator<Item = &'a HubName> + Clone) {
        hubs.clone().for_each(|hub| drop(self.0.table.open(hub)));
        if let Some(interest) = &self.0.interest {
            interest.open(hubs).await;
        }
    }

    /// Whether this node serves the hub.
    #[must_use]
    pub fn has_hub(&self, hub: &HubName) -> bool {
        self.0.table.hub(hub).is_some()
    }

    /// Gives a push to all it is meant for.
    ///
    /// # Errors
    /// See [`FleetError`].
    pub async fn push(
        &self,
        hub: &HubName,
        push: &Push,
        _deadline: Instant,
    ) -> Result<Done, FleetError> {
        let hub = self.0.table.hub(hub);
        let connections = hub.map_or(0, |hub| hub.push(push));
        Done { connections, ..Done::default() }.unless_gone(&push.target)
    }

    /// Gives a command to all it is meant for.
    ///
    /// # Errors
    /// See [`FleetError`].
    pub async fn command(
        &self,
        hub: &HubName,
        target: &Target,
        command: &Command,
        _deadline: Instant,
    ) -> Result<Done, FleetError> {
        command.check()?;
        let done = match self.0.table.hub(hub) {
            Some(hub) => hub.obey(target, command).await,
            None => Done::default(),
        };
        done.unless_gone(target)
    }
}

impl Done {
    /// Nothing that came of something for one connection means that there is no such connection.
    fn unless_gone(self, target: &Target) -> Result<Self, FleetError> {
        match target {
            Target::Connection(_) if self.connections == 0 && !self.is_partial => {
                Err(FleetError::Gone)
            }
            _ => Ok(self),
        }
    }
}
