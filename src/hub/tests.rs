//! Who gets a push and who does not, whatever comes and goes meanwhile.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;

use super::hub::CHUNK;
use super::*;
use crate::config::{AuthMode, Limits, Route};
use crate::event::Peer;
use crate::id::{ConnectionId, GroupName, HubName, UserId};
use crate::message::Message;
use crate::metrics::Metrics;

/// A connection as its own task holds it.
struct Connected {
    peer: Arc<Peer>,
    registered: Registered,
    mailbox: Mailbox,
}

struct Scene {
    table: Table,
    metrics: Metrics,
}

impl Scene {
    fn new() -> Self {
        Self::with_room_for(50)
    }

    /// With so many members in a group.
    fn with_room_for(members: usize) -> Self {
        let metrics = Metrics::new();
        let limits = Limits {
            max_groups_per_connection: 3,
            max_group_members: members,
            ..Limits::default()
        };
        Self { table: Table::new(&limits, &metrics), metrics }
    }

    fn connect(&self, user: Option<&str>) -> Connected {
        let peer = Peer::on(Route::new("/ws", AuthMode::None), user);
        let (registered, mailbox) = self.table.register(&peer);
        Connected { peer, registered, mailbox }
    }

    fn hub(&self) -> Arc<Hub> {
        self.table.hub(&HubName::default()).unwrap()
    }

    fn push(&self, target: Target, text: &str, exclude: &[&Connected]) -> usize {
        let exclude = exclude.iter().map(|connected| connected.peer.id).collect();
        let push = Push { target, message: Message::text(text), exclude, expires: None };
        self.hub().push(&push).now_or_never().expect("few enough for one turn")
    }
}

impl Connected {
    /// Everything that waits for it.
    fn read(&self) -> Vec<String> {
        std::iter::from_fn(|| {
            self.mailbox.next(Instant::now())?;
            let data = self.mailbox.take()?.into_data();
            Some(String::from_utf8(data.to_vec()).unwrap())
        })
        .collect()
    }
}

fn group(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

#[test]
fn a_push_reaches_whom_it_is_for_and_nobody_else() {
    let scene = Scene::new();
    let (ann, ann_too) = (scene.connect(Some("ann")), scene.connect(Some("ann")));
    let (bob, nobody) = (scene.connect(Some("bob")), scene.connect(None));
    assert_eq!(ann.registered.join(&group("red")), Ok(true));
    assert_eq!(ann.registered.join(&group("red")), Ok(false));
    assert_eq!(bob.registered.join(&group("red")), Ok(true));
    let user = |name| Target::User(UserId::new(name).unwrap());
    assert_eq!(scene.push(Target::Connection(bob.peer.id), "to one", &[]), 1);
    assert_eq!(scene.push(user("ann"), "to a user", &[]), 2);
    assert_eq!(scene.push(user("eve"), "to nobody", &[]), 0);
    assert_eq!(scene.push(Target::Group(group("red")), "to a group", &[]), 2);
    assert_eq!(scene.push(Target::Group(group("blue")), "to no group", &[]), 0);
    assert_eq!(scene.push(Target::All, "to all but one", &[&ann_too]), 3);
    assert_eq!(ann.read(), ["to a user", "to a group", "to all but one"]);
    assert_eq!(ann_too.read(), ["to a user"]);
    assert_eq!(bob.read(), ["to one", "to a group", "to all but one"]);
    assert_eq!(nobody.read(), ["to all but one"]);
    let gone = ConnectionId::random(crate::id::NodeId::random());
    assert_eq!(scene.push(Target::Connection(gone), "gone", &[]), 0);
    assert_eq!((scene.metrics.users().get(), scene.metrics.groups().get()), (2, 1));
}

#[test]
fn who_has_left_gets_nothing_more_and_leaves_nothing_behind() {
    let scene = Scene::new();
    let (ann, bob) = (scene.connect(Some("ann")), scene.connect(Some("bob")));
    for connected in [&ann, &bob] {
        connected.registered.join(&group("red")).unwrap();
    }
    assert!(ann.registered.leave(&group("red")) && !ann.registered.leave(&group("red")));
    assert_eq!(scene.push(Target::Group(group("red")), "a", &[]), 1);
    assert_eq!(ann.read(), [""; 0]);
    let member = scene.hub().members(&Target::Connection(bob.peer.id)).pop().unwrap();
    assert_eq!(member.groups(), [group("red")]);
    drop((ann, bob));
    let hub = scene.hub();
    assert_eq!(hub.join(&member, &group("red")), Err(JoinError::Gone));
    assert!(scene.table.is_empty() && hub.group_names().is_empty());
    assert_eq!((scene.metrics.users().get(), scene.metrics.groups().get()), (0, 0));
}

#[test]
fn groups_are_bounded() {
    let scene = Scene::new();
    let ann = scene.connect(None);
    for name in ["a", "b", "c"] {
        ann.registered.join(&group(name)).unwrap();
    }
    assert_eq!(ann.registered.join(&group("d")), Err(JoinError::TooMany(3)));
    let many: Vec<_> = (0..51).map(|_| scene.connect(None)).collect();
    let joined = many.iter().filter(|one| one.registered.join(&group("x")).is_ok()).count();
    assert_eq!((joined, scene.hub().count(&Target::Group(group("x")))), (50, 50));
    assert_eq!(many[50].registered.join(&group("x")), Err(JoinError::Full(50)));
    assert_eq!(many[50].registered.join(&group("y")), Ok(true), "and that is all it costs");
}

#[test]
fn hubs_are_worlds_of_their_own() {
    let scene = Scene::new();
    let ann = scene.connect(Some("ann"));
    let mut route = Route::new("/ws", AuthMode::None);
    route.hub = HubName::try_from("other".to_owned()).unwrap();
    let peer = Peer::on(route, Some("ann"));
    let (registered, mailbox) = scene.table.register(&peer);
    let there = Connected { peer, registered, mailbox };
    for one in [&ann, &there] {
        one.registered.join(&group("red")).unwrap();
    }
    assert_eq!(scene.push(Target::All, "here", &[]), 1);
    assert_eq!(scene.push(Target::Group(group("red")), "here", &[]), 1);
    assert_eq!((ann.read().len(), there.read().len()), (2, 0));
    assert_eq!((scene.table.len(), scene.table.handles().len()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_push_that_comes_too_late_is_not_sent() {
    let scene = Scene::new();
    let ann = scene.connect(None);
    let push = |text, millis| Push {
        target: Target::All,
        message: Message::text(text),
        exclude: HashSet::new(),
        expires: Some(Instant::now() + Duration::from_millis(millis)),
    };
    scene.hub().push(&push("short", 100)).await;
    scene.hub().push(&push("long", 1000)).await;
    tokio::time::advance(Duration::from_millis(200)).await;
    assert_eq!(ann.read(), ["long"]);
    assert_eq!(ann.mailbox.account().expired, 1);
}

#[tokio::test]
async fn changes_are_told_once_and_only_to_who_asks() {
    let scene = Scene::new();
    let ann = scene.connect(None);
    ann.registered.join(&group("before")).unwrap();
    scene.table.changes().watch(true, false);
    let bob = scene.connect(None);
    for name in ["a", "b"] {
        ann.registered.join(&group(name)).unwrap();
        bob.registered.join(&group(name)).unwrap();
    }
    ann.registered.leave(&group("a"));
    bob.registered.leave(&group("a"));
    let named = |name| (HubName::default(), Target::Group(group(name)));
    let (changed, version) = scene.table.changes().next().await;
    assert_eq!(changed, HashSet::from([named("a"), named("b")]));
    assert_eq!((version, scene.table.changes().version()), (3, 3));
    scene.table.changes().watch(true, true);
    drop(scene.connect(Some("ann")));
    let ann = (HubName::default(), Target::User(UserId::new("ann").unwrap()));
    assert_eq!(scene.table.changes().next().await, (HashSet::from([ann]), 5));
}

#[test]
fn a_push_to_many_lets_others_have_their_turn() {
    const MEMBERS: usize = 3 * CHUNK + 1;
    let scene = Scene::with_room_for(2 * MEMBERS);
    let red = group("red");
    let connect = || {
        let one = scene.connect(None);
        one.registered.join(&red).unwrap();
        one
    };
    let mut members: Vec<_> = (0..MEMBERS).map(|_| connect()).collect();
    let hub = scene.hub();
    let to = |target| Push {
        target,
        message: Message::text("x"),
        exclude: HashSet::new(),
        expires: None,
    };
    let push = to(Target::Group(red.clone()));
    let mut pushing = Box::pin(hub.push(&push));
    assert_eq!((&mut pushing).now_or_never(), None, "others have their turn");
    let has_it = |one: &Connected| one.mailbox.has_waiting();
    assert_eq!(members.iter().filter(|one| has_it(one)).count(), CHUNK);

    // In between two go, of whom one has it already, two go and come back in the same way, and one is
    // new.
    let last = MEMBERS - 1;
    for place in [0, 1, last - 1, last] {
        assert!(members[place].registered.leave(&red));
    }
    for place in [1, last - 1] {
        members[place].registered.join(&red).unwrap();
    }
    members.push(connect());
    let deliveries = loop {
        if let Some(deliveries) = (&mut pushing).now_or_never() {
            break deliveries;
        }
    };
    assert_eq!(deliveries, MEMBERS - 2);
    let counts: Vec<_> = members.iter().map(|one| one.read().len()).collect();
    let without = [last - 1, last, MEMBERS];
    let is_right =
        |(place, count): (usize, &usize)| *count == usize::from(!without.contains(&place));
    assert!(counts.iter().enumerate().all(is_right), "{counts:?}");

    let push = to(Target::All);
    let mut pushing = Box::pin(hub.push(&push));
    assert_eq!((&mut pushing).now_or_never(), None);
    drop(pushing);
    assert!(members.iter().filter(|one| has_it(one)).count() < MEMBERS);
}

/// Joins, leaves, pushes and ends at the same time: after a join every push arrives, after a leave
/// none, and nothing is left behind.
#[test]
fn under_load_a_member_gets_all_between_its_join_and_its_leave() {
    let scene = Scene::new();
    let stop = AtomicBool::new(false);
    let first = scene.connect(None);
    first.registered.join(&group("red")).unwrap();
    std::thread::scope(|scope| {
        let pusher = scope.spawn(|| {
            let mut n = 0u64;
            while !stop.load(Ordering::Relaxed) {
                scene.push(Target::Group(group("red")), &n.to_string(), &[]);
                first.read();
                n += 1;
            }
            n
        });
        let coming_and_going: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let one = scene.connect(Some("ann"));
                        one.registered.join(&group("red")).unwrap();
                        std::thread::yield_now();
                        one.registered.leave(&group("red"));
                        let got: Vec<u64> =
                            one.read().iter().map(|text| text.parse().unwrap()).collect();
                        let is_dense = got.windows(2).all(|two| two[1] == two[0] + 1);
                        assert!(is_dense, "{got:?}");
                        std::thread::yield_now();
                        assert!(one.read().is_empty(), "nothing comes after the leave");
                    }
                })
            })
            .collect();
        coming_and_going.into_iter().for_each(|thread| thread.join().unwrap());
        stop.store(true, Ordering::Relaxed);
        assert!(pusher.join().unwrap() > 100);
    });
    drop(first);
    assert!(scene.table.is_empty() && scene.hub().group_names().is_empty());
    assert_eq!((scene.metrics.users().get(), scene.metrics.groups().get()), (0, 0));
}
