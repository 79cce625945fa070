//! Which pushes the node asks NATS for, so that NATS sends it those and no others.
//!
//! A hub's connections, users and all: from the moment that the node serves the hub. A group: from its
//! first member here until a while after its last has left.

use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::AbortHandle;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::hub::Hub;
use super::intake::{Intake, Origin, Source, source};
use super::linger::Lingering;
use super::push::Target;
use super::received::Scope;
use super::table::Table;
use crate::id::{GroupName, HubName, NodeId};
use crate::metrics::Metrics;
use crate::nats::{Feed, Nats, Subjects};
use crate::task::Tasks;

/// The node's subscriptions to pushes. Clones share them.
#[derive(Debug, Clone)]
pub struct Interest(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    node: NodeId,
    table: Table,
    feed: Feed,
    subjects: Subjects,
    /// To the task that takes what comes.
    sources: mpsc::Sender<Source>,
    /// Those that are served. Held for an insertion.
    hubs: Mutex<HashSet<HubName>>,
}

/// Subscriptions on their way to the task that takes what comes. It takes them at once.
const NEWCOMERS: usize = 64;
/// How often groups are looked at that have lost their last member.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(5);
/// How long a reload waits for the server to know of a new hub.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);

impl Interest {
    /// Begins to follow the groups of `table`, and to give pushes to its hubs.
    pub async fn start(
        node: NodeId,
        nats: &Nats,
        table: &Table,
        tasks: &Tasks,
        metrics: &Metrics,
    ) -> Self {
        let feed = nats.feed(tasks, metrics).await;
        let (sources, newcomers) = mpsc::channel(NEWCOMERS);
        table.watch_groups();
        spawn(tasks, "pushes", Intake::new(node, nats, &feed, metrics).run(newcomers));
        let interest = Self(Arc::new(Inner {
            node,
            table: table.clone(),
            feed,
            subjects: nats.subjects().clone(),
            sources,
            hubs: Mutex::default(),
        }));
        spawn(tasks, "interest", interest.clone().follow());
        interest
    }

    /// Asks for the pushes of hubs that the node serves from now on. While the connection is up, it
    /// waits until the server knows; else the server is told as soon as there is one.
    pub async fn open<'a>(&self, hubs: impl IntoIterator<Item = &'a HubName>) {
        let mut are_new = false;
        for name in hubs {
            if !self.0.hubs.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone()) {
                continue;
            }
            let hub = self.0.table.open(name);
            for scope in [Scope::Connections(self.0.node), Scope::Users, Scope::All] {
                self.subscribe(&hub, scope).await;
            }
            are_new = true;
        }
        if are_new && self.0.feed.is_up() {
            let deadline = Instant::now() + CONFIRM_TIMEOUT;
            if !self.0.feed.confirmed(deadline).await {
                tracing::warn!("NATS has not confirmed the subscriptions of a new hub");
            }
        }
    }

    /// Subscribes to groups as they get members, and no more when they have had none for a while.
    async fn follow(self) {
        let mut groups = Lingering::new();
        let mut expiry = interval(EXPIRE_INTERVAL);
        expiry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = self.0.table.changed_groups() => {
                    for key in changed {
                        self.look(&mut groups, key).await;
                    }
                }
                _ = expiry.tick() => {
                    groups.expire(Instant::now()).for_each(|handle: AbortHandle| handle.abort());
                }
            }
        }
    }

    /// Looks at a group whose first member may have come, or whose last may have left.
    async fn look(
        &self,
        groups: &mut Lingering<(HubName, GroupName), AbortHandle>,
        key: (HubName, GroupName),
    ) {
        let Some(hub) = self.0.table.hub(&key.0) else { return };
        if hub.count(&Target::Group(key.1.clone())) == 0 {
            groups.release(&key, Instant::now());
        } else if !groups.needs(&key) {
            let handle = self.subscribe(&hub, Scope::Group(key.1.clone())).await;
            groups.hold(key, handle);
        }
    }

    /// The handle ends the subscription.
    async fn subscribe(&self, hub: &Arc<Hub>, scope: Scope) -> AbortHandle {
        let filter = scope.filter(&self.0.subjects, hub.name());
        let subscription = self.0.feed.subscribe(filter.clone()).await;
        let origin = Origin { hub: Arc::clone(hub), scope, filter };
        let (source, handle) = source(origin, subscription);
        // The task that takes it ends with the node only.
        let _ = self.0.sources.send(source).await;
        handle
    }
}

/// Runs `work` until the node stops.
fn spawn(tasks: &Tasks, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    let node = tasks.clone();
    tasks.spawn(name, async move {
        tokio::select! {
            () = node.stopping() => {}
            () = work => {}
        }
    });
}

#[cfg(test)]
mod tests {
    use async_nats::Request;
    use async_nats::RequestErrorKind::{NoResponders, TimedOut};

    use super::super::linger::LINGER;
    use super::*;
    use crate::config::{AuthMode, Limits, Route};
    use crate::event::Peer;
    use crate::nats::testing::{NatsServer, within};

    /// Pushes to the group until it is answered as `expected`; none when nobody listens.
    async fn answered(client: &async_nats::Client, expected: Option<&str>) {
        let deadline = within(10);
        loop {
            let request = Request::new().payload("x".into()).timeout(Some(Duration::from_secs(1)));
            let asked = client.send_request("moorline.default.out.group.red", request).await;
            let answer = match asked {
                Ok(answer) => Some(String::from_utf8(answer.payload.to_vec()).unwrap()),
                Err(error) if error.kind() == NoResponders => None,
                // It came just when the group was let go.
                Err(error) if error.kind() == TimedOut => continue,
                Err(error) => panic!("{error}"),
            };
            if answer.as_deref() == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{answer:?} instead of {expected:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_group_is_asked_for_from_its_first_member_until_a_while_after_its_last() {
        let (server, metrics, tasks) = (NatsServer::start(), Metrics::new(), Tasks::new());
        let (nats, client) = (server.nats(&metrics).await, server.client().await);
        let table = Table::new(&Limits::default(), &metrics);
        let node = NodeId::random();
        let interest = Interest::start(node, &nats, &table, &tasks, &metrics).await;
        interest.open([&HubName::default()]).await;
        let (member, _mailbox) = table.register(&Peer::on(Route::new("/ws", AuthMode::None), None));
        let red = GroupName::new("red").unwrap();
        answered(&client, None).await;
        for _ in 0..2 {
            member.join(&red).unwrap();
            answered(&client, Some("{\"deliveries\":1}")).await;
            member.leave(&red);
            answered(&client, Some("{\"deliveries\":0}")).await;
            // What comes back in time is never let go.
            tokio::time::pause();
            tokio::time::advance(LINGER / 2).await;
            tokio::time::resume();
            member.join(&red).unwrap();
            answered(&client, Some("{\"deliveries\":1}")).await;
            member.leave(&red);
            answered(&client, Some("{\"deliveries\":0}")).await;
            tokio::time::pause();
            tokio::time::advance(LINGER + EXPIRE_INTERVAL).await;
            tokio::time::resume();
            answered(&client, None).await;
        }
        tasks.stop();
    }
}
