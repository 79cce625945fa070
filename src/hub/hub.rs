//! One hub: a namespace of connections, users and groups.
//!
//! Who has joined a group gets every push to it that begins after, and who has left none that begins
//! after: members change and pushes go out under the group's lock.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::IntGauge;

use super::changes::Changes;
use super::demand::Demands;
use super::member::Member;
use super::push::{Push, Target};
use crate::config::Limits;
use crate::id::{ConnectionId, GroupName, HubName, UserId};
use crate::limits::Shards;

/// The connections of a hub to this node.
#[derive(Debug)]
pub struct Hub {
    name: HubName,
    connections: Shards<ConnectionId, Arc<Member>>,
    /// Never an empty list. A user rarely has more than a few connections.
    users: Shards<UserId, Vec<Arc<Member>>>,
    /// Never an empty group.
    groups: Shards<GroupName, Arc<Group>>,
    shared: Arc<Shared>,
}

/// What the hubs of a node share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) groups_of_connection: AtomicUsize,
    pub(super) members_of_group: AtomicUsize,
    pub(super) groups: IntGauge,
    pub(super) users: IntGauge,
    pub(super) changes: Changes,
    pub(super) demands: Demands,
}

/// The members of one group, by connection.
type Members = HashMap<ConnectionId, Arc<Member>>;

#[derive(Debug, Default)]
struct Group(Mutex<Members>);

/// Why a connection does not join a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// It is in too many.
    #[error("a connection joins at most {0} groups (limits.max_groups_per_connection)")]
    TooMany(usize),
    /// The group has no room.
    #[error("a group has at most {0} members on a node (limits.max_group_members)")]
    Full(usize),
    /// The connection has ended.
    #[error("the connection has ended")]
    Gone,
}

impl Hub {
    pub(super) fn new(name: HubName, shared: Arc<Shared>) -> Self {
        let (connections, users, groups) = (Shards::new(), Shards::new(), Shards::new());
        Self { name, connections, users, groups, shared }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &HubName {
        &self.name
    }

    /// Gives a push to all it is meant for; how many took it.
    pub fn push(&self, push: &Push) -> usize {
        let mut deliveries = 0;
        self.each(&push.target, |member| {
            if !push.exclude.contains(&member.peer.id) {
                let taken = member.handle.push(push.message.clone(), push.expires);
                deliveries += usize::from(taken.is_ok());
            }
        });
        deliveries
    }

    /// The connections that are meant.
    #[must_use]
    pub fn members(&self, target: &Target) -> Vec<Arc<Member>> {
        let mut members = Vec::new();
        self.each(target, |member| members.push(Arc::clone(member)));
        members
    }

    /// How many connections are meant.
    #[must_use]
    pub fn count(&self, target: &Target) -> usize {
        match target {
            Target::Connection(id) => usize::from(self.connections.of(id).contains_key(id)),
            Target::User(user) => self.users.of(user).get(user).map_or(0, Vec::len),
            Target::Group(group) => self.group(group).map_or(0, |group| group.lock().len()),
            Target::All => self.connections.len(),
        }
    }

    /// Joins a connection to a group; whether it was not in it before.
    ///
    /// # Errors
    /// When a bound is reached or the connection has ended.
    pub fn join(&self, member: &Arc<Member>, group: &GroupName) -> Result<bool, JoinError> {
        let mut own = member.lock();
        let own = own.as_mut().ok_or(JoinError::Gone)?;
        if own.contains(group) {
            return Ok(false);
        }
        let most = self.shared.groups_of_connection.load(Ordering::Relaxed);
        if own.len() >= most {
            return Err(JoinError::TooMany(most));
        }
        let most = self.shared.members_of_group.load(Ordering::Relaxed);
        {
            let mut shard = self.groups.of(group);
            let is_new = !shard.contains_key(group);
            let entry = shard.entry(group.clone()).or_default();
            let mut members = entry.lock();
            if members.len() >= most {
                return Err(JoinError::Full(most));
            }
            members.insert(member.peer.id, Arc::clone(member));
            if is_new {
                self.shared.groups.inc();
                self.shared.changes.note_group(&self.name, group);
            }
        }
        own.insert(group.clone());
        Ok(true)
    }

    /// Takes a connection out of a group; whether it was in it.
    pub fn leave(&self, member: &Member, group: &GroupName) -> bool {
        let mut own = member.lock();
        let was_in = own.as_mut().is_some_and(|own| own.remove(group));
        if was_in {
            self.remove(member, group);
        }
        was_in
    }

    /// How many groups have members here.
    #[must_use]
    pub fn group_names(&self) -> Vec<GroupName> {
        self.groups.each().flat_map(|shard| shard.keys().cloned().collect::<Vec<_>>()).collect()
    }

    pub(super) fn demands(&self) -> &Demands {
        &self.shared.demands
    }

    pub(super) fn enter(&self, member: &Arc<Member>) {
        self.connections.of(&member.peer.id).insert(member.peer.id, Arc::clone(member));
        if let Some(user) = &member.peer.user {
            let mut shard = self.users.of(user);
            let connections = shard.entry(user.clone()).or_default();
            if connections.is_empty() {
                self.shared.users.inc();
                self.shared.changes.note_user(&self.name, user);
            }
            connections.push(Arc::clone(member));
        }
    }

    /// Forgets a connection that has ended.
    pub(super) fn forget(&self, member: &Member) {
        let mut own = member.lock();
        for group in own.take().into_iter().flatten() {
            self.remove(member, &group);
        }
        if let Some(user) = &member.peer.user
            && let Entry::Occupied(mut entry) = self.users.of(user).entry(user.clone())
        {
            entry.get_mut().retain(|other| other.peer.id != member.peer.id);
            if entry.get().is_empty() {
                entry.remove();
                self.shared.users.dec();
                self.shared.changes.note_user(&self.name, user);
            }
        }
        self.connections.of(&member.peer.id).remove(&member.peer.id);
    }

    /// Calls `act` for each connection that is meant.
    fn each(&self, target: &Target, mut act: impl FnMut(&Arc<Member>)) {
        match target {
            Target::Connection(id) => {
                let member = self.connections.of(id).get(id).cloned();
                member.iter().for_each(act);
            }
            Target::User(user) => {
                self.users.of(user).get(user).into_iter().flatten().for_each(act);
            }
            Target::Group(group) => {
                if let Some(group) = self.group(group) {
                    group.lock().values().for_each(act);
                }
            }
            Target::All => {
                self.connections.each().for_each(|shard| shard.values().for_each(&mut act));
            }
        }
    }

    /// A group, apart from its shard, so that a push to many holds up nobody else.
    fn group(&self, group: &GroupName) -> Option<Arc<Group>> {
        self.groups.of(group).get(group).cloned()
    }

    fn remove(&self, member: &Member, group: &GroupName) {
        if let Entry::Occupied(entry) = self.groups.of(group).entry(group.clone()) {
            let is_empty = {
                let mut members = entry.get().lock();
                members.remove(&member.peer.id);
                members.is_empty()
            };
            if is_empty {
                entry.remove();
                self.shared.groups.dec();
                self.shared.changes.note_group(&self.name, group);
            }
        }
    }
}

impl Shared {
    pub(super) fn set_limits(&self, limits: &Limits) {
        self.groups_of_connection.store(limits.max_groups_per_connection, Ordering::Relaxed);
        self.members_of_group.store(limits.max_group_members, Ordering::Relaxed);
    }
}

impl Group {
    /// Held while a push goes to all members, so that each gets it wholly before or after it joins.
    fn lock(&self) -> MutexGuard<'_, Members> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
