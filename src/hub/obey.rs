//! What a hub does with its connections when it is told to.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::command::{Command, Done, Info};
use super::hub::{Hub, JoinError};
use super::member::Member;
use super::push::Target;
use crate::close::{Cause, Close};
use crate::id::GroupName;

/// Connections that are dealt with until others get their turn.
const TURN: usize = 64;
/// A token that ends later is as good as one without an end.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl Hub {
    /// Does with the connections that are meant as `command` says, which must be within its bounds.
    ///
    /// Cancel safe in that each connection is dealt with wholly or not at all.
    pub async fn obey(&self, target: &Target, command: &Command) -> Done {
        let mut done = Done::default();
        if *command == Command::Count {
            done.connections = self.count(target);
            return done;
        }
        for (n, member) in self.members(target).iter().enumerate() {
            if n % TURN == TURN - 1 {
                tokio::task::yield_now().await;
            }
            let is_spared = matches!(command, Command::Close { exclude, .. }
                if exclude.contains(&member.peer.id));
            if !is_spared {
                done.connections += 1;
                done.changed += usize::from(self.apply(member, command, &mut done));
            }
        }
        done
    }

    /// Whether the command changed the connection.
    fn apply(&self, member: &Arc<Member>, command: &Command, done: &mut Done) -> bool {
        match command {
            Command::Close { code, reason, .. } => {
                member.handle.part(Close::said(Cause::BackendClosed, *code, reason));
                true
            }
            Command::Join { groups } => {
                let (is_changed, refused) = self.join_all(member, groups);
                done.refused = done.refused.take().or(refused.map(|error| error.to_string()));
                is_changed
            }
            Command::Leave { groups: Some(groups) } => self.leave_all(member, groups),
            Command::Leave { groups: None } => self.leave_all(member, &member.groups()),
            Command::Info { limit } => {
                if done.info.len() < *limit {
                    done.info.push(Info::of(member));
                }
                false
            }
            Command::Count => false,
            Command::Refresh { user, expires } => {
                let is_theirs = member.peer.user.as_ref() == Some(user);
                if is_theirs {
                    member.handle.refresh(instant_of(*expires));
                }
                is_theirs
            }
            Command::Trace { seconds } => {
                let time = Duration::from_secs((*seconds).into());
                member.handle.trace(Instant::now() + time);
                true
            }
        }
    }

    /// Whether it joined any, and the first reason why it did not join another.
    fn join_all(&self, member: &Arc<Member>, groups: &[GroupName]) -> (bool, Option<JoinError>) {
        let (mut has_joined, mut refused) = (false, None);
        for group in groups {
            match self.join(member, group) {
                Ok(is_new) => has_joined |= is_new,
                Err(error @ JoinError::Full(_)) => drop(refused.get_or_insert(error)),
                // It would be the same with every other.
                Err(error @ (JoinError::TooMany(_) | JoinError::Gone)) => {
                    refused.get_or_insert(error);
                    break;
                }
            }
        }
        (has_joined, refused)
    }

    fn leave_all(&self, member: &Member, groups: &[GroupName]) -> bool {
        groups.iter().filter(|group| self.leave(member, group)).count() > 0
    }
}

impl Info {
    fn of(member: &Member) -> Self {
        let peer = &member.peer;
        let since = peer.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            id: peer.id,
            user: peer.user.clone(),
            groups: member.groups(),
            route: peer.route.name().to_owned(),
            remote: peer.remote.to_string(),
            subprotocol: peer.subprotocol.as_deref().map(str::to_owned),
            since: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            outbox_bytes: member.handle.outbox_bytes(),
        }
    }
}

/// Seconds since 1970 on the monotonic clock.
fn instant_of(seconds: u64) -> Instant {
    let today = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Instant::now() + Duration::from_secs(seconds).saturating_sub(today).min(CENTURY)
}
