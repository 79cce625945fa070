//! One hub: a namespace of connections, users and groups.
//!
//! Who has joined a group gets every push to it that begins after, and who has left none that begins
//! after, though a push to many lets others have their turn in between: members are numbered as they
//! join, and a push goes to those that were there when it began and still are when it comes to them.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::IntGauge;
use tokio::task::yield_now;

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

#[derive(Debug, Default)]
struct Group(Mutex<Members>);

/// The members of one group, in the order in which they joined.
#[derive(Debug, Default)]
struct Members {
    /// The number of the next who joins.
    next: u64,
    joined: BTreeMap<u64, Arc<Member>>,
}

/// Connections that are given a push before others have their turn: about 300 us, during which nobody
/// can join the group or leave it. With a quarter of it the cores fall asleep in between, and a delivery
/// costs a tenth more.
pub(super) const CHUNK: usize = 1024;

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

    /// Gives a push to all it is meant for; how many took it. Not cancel safe: the rest would not get
    /// it.
    pub async fn push(&self, push: &Push) -> usize {
        match &push.target {
            Target::Group(group) => match self.group(group) {
                Some(group) => group.push(push).await,
                None => 0,
            },
            Target::All => self.push_to_all(push).await,
            target => {
                let mut deliveries = 0;
                self.each(target, |member| deliveries += usize::from(member.push(push)));
                deliveries
            }
        }
    }

    async fn push_to_all(&self, push: &Push) -> usize {
        let shards = self.connections.each().map(|connections| {
            let taken = connections.values().filter(|member| member.push(push)).count();
            (taken, connections.len())
        });
        let (mut deliveries, mut given) = (0, 0);
        for (taken, asked) in shards {
            deliveries += taken;
            given += asked;
            if given >= CHUNK {
                given = 0;
                yield_now().await;
            }
        }
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
            Target::Group(group) => self.group(group).map_or(0, |group| group.lock().joined.len()),
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
        if own.contains_key(group) {
            return Ok(false);
        }
        let most = self.shared.groups_of_connection.load(Ordering::Relaxed);
        if own.len() >= most {
            return Err(JoinError::TooMany(most));
        }
        let most = self.shared.members_of_group.load(Ordering::Relaxed);
        let number = {
            let mut shard = self.groups.of(group);
            let is_new = !shard.contains_key(group);
            let entry = shard.entry(group.clone()).or_default();
            let mut members = entry.lock();
            if members.joined.len() >= most {
                return Err(JoinError::Full(most));
            }
            let number = members.add(member);
            if is_new {
                self.shared.groups.inc();
                self.shared.changes.note_group(&self.name, group);
            }
            number
        };
        own.insert(group.clone(), number);
        Ok(true)
    }

    /// Takes a connection out of a group; whether it was in it.
    pub fn leave(&self, member: &Member, group: &GroupName) -> bool {
        let mut own = member.lock();
        let number = own.as_mut().and_then(|own| own.remove(group));
        if let Some(number) = number {
            self.remove(number, group);
        }
        number.is_some()
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
        for (group, number) in own.take().into_iter().flatten() {
            self.remove(number, &group);
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
                    group.lock().joined.values().for_each(act);
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

    fn remove(&self, number: u64, group: &GroupName) {
        if let Entry::Occupied(entry) = self.groups.of(group).entry(group.clone()) {
            let is_empty = {
                let mut members = entry.get().lock();
                members.joined.remove(&number);
                members.joined.is_empty()
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
    /// Gives a push to all who are members now.
    async fn push(&self, push: &Push) -> usize {
        let end = self.lock().next;
        let (mut deliveries, mut from) = (0, 0);
        loop {
            let (taken, last) = self.lock().push(push, from..end);
            deliveries += taken;
            match last {
                Some(last) => from = last + 1,
                None => return deliveries,
            }
            yield_now().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Members {
    fn add(&mut self, member: &Arc<Member>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.joined.insert(number, Arc::clone(member));
        number
    }

    /// Gives a push to the first of these: how many took it, and the last of them if there may be more.
    fn push(&self, push: &Push, numbers: Range<u64>) -> (usize, Option<u64>) {
        let (mut taken, mut given, mut last) = (0, 0, None);
        for (number, member) in self.joined.range(numbers).take(CHUNK) {
            taken += usize::from(member.push(push));
            given += 1;
            last = Some(*number);
        }
        (taken, last.filter(|_| given == CHUNK))
    }
}
