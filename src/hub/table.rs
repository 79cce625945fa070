//! All connections of the node, by hub.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::mpsc;

use super::changes::Changes;
use super::demand::{Demand, Demands};
use super::handle::{Handle, Mailbox};
use super::hub::{Hub, JoinError, Shared};
use super::member::Member;
use crate::config::Limits;
use crate::event::Peer;
use crate::id::{GroupName, HubName};
use crate::metrics::Metrics;

/// The hubs of the node. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Table(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// As many as routes ever named. Read for each push, written when there is a new one.
    hubs: RwLock<HashMap<HubName, Arc<Hub>>>,
    shared: Arc<Shared>,
}

/// A connection's place in its hub; it is given back on drop, and with it the place in every group.
#[derive(Debug)]
pub struct Registered {
    hub: Arc<Hub>,
    member: Arc<Member>,
}

impl Table {
    /// No connections yet.
    #[must_use]
    pub fn new(limits: &Limits, metrics: &Metrics) -> Self {
        let shared = Arc::new(Shared {
            groups_of_connection: limits.max_groups_per_connection.into(),
            members_of_group: limits.max_group_members.into(),
            groups: metrics.groups().clone(),
            users: metrics.users().clone(),
            changes: Changes::default(),
            demands: Demands::default(),
        });
        Self(Arc::new(Inner { hubs: RwLock::default(), shared }))
    }

    /// What commands want that no hub can do, for the first who takes it.
    #[must_use]
    pub fn demands(&self) -> mpsc::Receiver<Demand> {
        self.0.shared.demands.take()
    }

    /// Changes the bounds. Who is in a group beyond them stays.
    pub fn set_limits(&self, limits: &Limits) {
        self.0.shared.set_limits(limits);
    }

    /// Adds a connection until the returned guard is dropped.
    #[must_use]
    pub fn register(&self, peer: &Arc<Peer>) -> (Registered, Mailbox) {
        let (handle, mailbox) = Handle::new(&peer.route.outbox);
        let hub = self.open(&peer.route.hub);
        let member = Arc::new(Member::new(Arc::clone(peer), handle));
        hub.enter(&member);
        (Registered { hub, member }, mailbox)
    }

    /// A hub that the node serves, or that has or had connections here.
    #[must_use]
    pub fn hub(&self, name: &HubName) -> Option<Arc<Hub>> {
        self.0.hubs.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// All hubs that the node serves, or that have or had connections here.
    #[must_use]
    pub fn hubs(&self) -> Vec<Arc<Hub>> {
        self.0.hubs.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The lines to all connections there are now.
    #[must_use]
    pub fn handles(&self) -> Vec<Handle> {
        let all = super::Target::All;
        let members = self.hubs().into_iter().flat_map(|hub| hub.members(&all));
        members.map(|member| member.handle.clone()).collect()
    }

    /// How many connections there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hubs().iter().map(|hub| hub.count(&super::Target::All)).sum()
    }

    /// Whether there is no connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Which groups and users get their first connection here or lose their last.
    pub(super) fn changes(&self) -> &Changes {
        &self.0.shared.changes
    }

    /// A hub that the node serves from now on, also one that nobody is in yet.
    pub fn open(&self, name: &HubName) -> Arc<Hub> {
        self.hub(name).unwrap_or_else(|| {
            let mut hubs = self.0.hubs.write().unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(Hub::new(name.clone(), Arc::clone(&self.0.shared)));
            Arc::clone(hubs.entry(name.clone()).or_insert_with(new))
        })
    }
}

impl Registered {
    /// Joins the connection to a group; whether it was not in it before.
    ///
    /// # Errors
    /// When a bound is reached.
    pub fn join(&self, group: &GroupName) -> Result<bool, JoinError> {
        self.hub.join(&self.member, group)
    }

    /// Takes the connection out of a group; whether it was in it.
    pub fn leave(&self, group: &GroupName) -> bool {
        self.hub.leave(&self.member, group)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.hub.forget(&self.member);
    }
}
