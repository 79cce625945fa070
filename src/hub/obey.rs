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
        if let Some(demanded) = self.demand(target, command) {
            return demanded.done().await;
        }
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
            Command::Evict => {
                member.handle.cut(Close::of(Cause::Evicted));
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
            // Of all connections at once, or not the hub's business.
            Command::Count | Command::Revoke { .. } => false,
            Command::Refresh { user, expires } => {
                let is_theirs = member.peer.user.as_ref() == Some(user);
                if is_theirs {
                    member.handle.refresh(instant_of(*expires));
                }
                is_theirs
            }
            Command::Poll => {
                let can_be_asked = member.peer.route.is_websocket_over_http();
                if can_be_asked {
                    member.handle.poll();
                }
                can_be_asked
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::config::{AuthMode, Limits, Route};
    use crate::event::Peer;
    use crate::hub::{Mailbox, Registered, Table, Wish};
    use crate::id::{HubName, UserId};
    use crate::metrics::Metrics;

    struct Scene {
        table: Table,
        connected: Vec<(Arc<Peer>, Registered, Mailbox)>,
    }

    impl Scene {
        /// So many connections, the first of which is Ann's.
        fn new(connections: usize) -> Self {
            let limits =
                Limits { max_groups_per_connection: 3, max_group_members: 2, ..Limits::default() };
            let table = Table::new(&limits, &Metrics::new());
            let connect = |n| {
                let user = (n == 0).then_some("ann");
                let peer = Peer::on(Route::new("/ws", AuthMode::None), user);
                let (registered, mailbox) = table.register(&peer);
                (peer, registered, mailbox)
            };
            let connected = (0..connections).map(connect).collect();
            Self { table, connected }
        }

        async fn obey(&self, target: &Target, command: Command) -> Done {
            self.table.open(&HubName::default()).obey(target, &command).await
        }

        fn wishes(&mut self) -> Vec<Vec<Wish>> {
            let all = self.connected.iter_mut().map(|(_, _, mailbox)| {
                std::iter::from_fn(|| {
                    match mailbox.poll_wish(&mut Context::from_waker(Waker::noop())) {
                        Poll::Ready(wish) => Some(wish),
                        Poll::Pending => None,
                    }
                })
                .collect()
            });
            all.collect()
        }
    }

    fn groups(names: &[&str]) -> Vec<GroupName> {
        names.iter().map(|name| GroupName::new(name).unwrap()).collect()
    }

    fn of(connections: usize, changed: usize) -> Done {
        Done { connections, changed, ..Done::default() }
    }

    #[tokio::test]
    async fn all_are_closed_but_those_that_are_spared() {
        let mut scene = Scene::new(200);
        let exclude = HashSet::from([scene.connected[7].0.id]);
        let close = Command::Close { code: 4000, reason: "bye".into(), exclude };
        assert_eq!(scene.obey(&Target::All, close).await, of(199, 199));
        let wish = Wish::Part(Close::said(Cause::BackendClosed, 4000, "bye"));
        for (n, wishes) in scene.wishes().into_iter().enumerate() {
            let expected = if n == 7 { vec![] } else { vec![wish.clone()] };
            assert_eq!(wishes, expected, "{n}");
        }
    }

    #[tokio::test]
    async fn joining_keeps_to_the_bounds_and_says_which_one() {
        let scene = Scene::new(3);
        let join = |names| Command::Join { groups: groups(names) };
        let ann = Target::User(UserId::new("ann").unwrap());
        assert_eq!(scene.obey(&ann, join(&["a", "b"])).await, of(1, 1));
        assert_eq!(scene.obey(&ann, join(&["a", "b"])).await, of(1, 0), "it is in them");
        let full = JoinError::Full(2).to_string();
        let done = scene.obey(&Target::All, join(&["a"])).await;
        assert_eq!(done, Done { refused: Some(full), ..of(3, 1) }, "one finds it full");
        let done = scene.obey(&ann, join(&["x", "y", "z"])).await;
        assert_eq!(done.refused, Some(JoinError::TooMany(3).to_string()));
        let leave = |names| Command::Leave { groups: names };
        assert_eq!(scene.obey(&ann, leave(Some(groups(&["b", "q"])))).await, of(1, 1));
        assert_eq!(scene.obey(&ann, leave(Some(groups(&["b"])))).await, of(1, 0));
        assert_eq!(scene.obey(&Target::All, leave(None)).await, of(3, 2));
        assert!(scene.table.open(&HubName::default()).group_names().is_empty());
    }

    #[tokio::test]
    async fn connections_are_counted_and_described() {
        let scene = Scene::new(3);
        assert_eq!(scene.obey(&Target::All, Command::Count).await, of(3, 0));
        let nobody = Target::User(UserId::new("eve").unwrap());
        assert_eq!(scene.obey(&nobody, Command::Count).await, of(0, 0));
        let done = scene.obey(&Target::All, Command::Info { limit: 2 }).await;
        assert_eq!((done.connections, done.changed, done.info.len()), (3, 0, 2));
        let (peer, registered, _) = &scene.connected[0];
        registered.join(&groups(&["red"])[0]).unwrap();
        let target = Target::Connection(peer.id);
        let info = scene.obey(&target, Command::Info { limit: 2 }).await.info.remove(0);
        let expected = Info {
            id: peer.id,
            user: peer.user.clone(),
            groups: groups(&["red"]),
            route: "/ws".into(),
            remote: "127.0.0.1:1".into(),
            subprotocol: None,
            since: info.since,
            outbox_bytes: 0,
        };
        assert_eq!(info, expected);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert!(u128::from(info.since).abs_diff(now.as_millis()) < 600_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_renewed_only_for_its_user_and_everybody_is_traced() {
        let mut scene = Scene::new(2);
        let now = Instant::now();
        let today = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        for (expires, range) in
            [(0, 0..1), (today + 1000, 900..1001), (u64::MAX, 3_000_000_000..4_000_000_000)]
        {
            let refresh = Command::Refresh { user: UserId::new("ann").unwrap(), expires };
            assert_eq!(scene.obey(&Target::All, refresh).await, of(2, 1));
            let wishes = scene.wishes();
            let [Wish::Refresh(ends)] = wishes[0][..] else { panic!("{wishes:?}") };
            assert!(range.contains(&(ends - now).as_secs()), "{expires}");
            assert_eq!(wishes[1], []);
        }
        assert_eq!(scene.obey(&Target::All, Command::Trace { seconds: 60 }).await, of(2, 2));
        let traced = Wish::Trace(now + Duration::from_secs(60));
        assert_eq!(scene.wishes(), [[traced.clone()], [traced]]);
    }

    #[test]
    fn each_wish_is_given_out_once_and_none_hides_another() {
        let (mut scene, now) = (Scene::new(1), Instant::now());
        let handle = scene.connected[0].2.handle();
        let close = || Close::of(Cause::Drain);
        handle.part(close());
        handle.refresh(now + Duration::from_secs(1));
        handle.trace(now);
        handle.refresh(now);
        let expected = [Wish::Trace(now), Wish::Refresh(now), Wish::Part(close())];
        assert_eq!(scene.wishes(), [expected]);
        assert_eq!(scene.wishes(), [[]]);
    }
}
