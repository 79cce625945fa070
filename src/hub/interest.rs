//! Which pushes and commands the node asks NATS for, so that NATS sends it those and no others.
//!
//! Those to a hub's connections and to all, and every command: from the moment that the node serves the
//! hub. Pushes to a group, or to a user: by one subscription to all of them, or by name from the first
//! connection here until a while after the last has left.

use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::AbortHandle;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::changes::Changed;
use super::confirm::Confirmations;
use super::control::Control;
use super::hub::Hub;
use super::intake::{Intake, Origin, Source, source};
use super::linger::Lingering;
use super::node::Node;
use super::push::Target;
use super::received::Scope;
use super::roster::Roster;
use super::table::Table;
use crate::config::{self, By};
use crate::id::{HubName, NodeId};
use crate::metrics::Metrics;
use crate::nats::{Channel, Nats};
use crate::task::Tasks;

/// The node's subscriptions to pushes and commands. Clones share them.
#[derive(Debug, Clone)]
pub struct Interest(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    node: Node,
    table: Table,
    settings: config::Interest,
    /// To the tasks that take what comes.
    pushes: mpsc::Sender<Source>,
    commands: mpsc::Sender<Source>,
    /// Those that are served. Held for an insertion.
    hubs: Mutex<HashSet<HubName>>,
    confirmations: Confirmations,
}

/// Subscriptions on their way to the task that takes what comes. It takes them at once.
const NEWCOMERS: usize = 64;
/// How often groups and users are looked at that have lost their last connection.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(5);
/// How long a reload waits for the server to know of a new hub.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);

impl Interest {
    /// Begins to follow the groups and users of `table` as `settings` say, and to give pushes and
    /// commands to its hubs.
    pub async fn start(
        id: NodeId,
        nats: &Nats,
        settings: config::Interest,
        table: &Table,
        roster: &Roster,
        tasks: &Tasks,
        metrics: &Metrics,
    ) -> Self {
        let feed = nats.feed(tasks, metrics).await;
        let node = Node { id, feed, subjects: nats.subjects().clone(), roster: roster.clone() };
        let (pushes, new_pushes) = mpsc::channel(NEWCOMERS);
        let (commands, new_commands) = mpsc::channel(NEWCOMERS);
        table.changes().watch(settings.groups == By::Name, settings.users == By::Name);
        let interest = Self(Arc::new(Inner {
            node: node.clone(),
            table: table.clone(),
            settings,
            pushes,
            commands,
            hubs: Mutex::default(),
            confirmations: Confirmations::new(),
        }));
        need(tasks, "pushes", Intake::new(node, metrics).run(new_pushes));
        need(tasks, "commands", Control::new(interest.clone(), metrics).run(new_commands));
        need(tasks, "interest", interest.clone().follow());
        let (confirming, stop) = (interest.clone(), tasks.clone());
        tasks.keep("confirmations", move || {
            let (confirming, stop) = (confirming.clone(), stop.clone());
            async move {
                tokio::select! {
                    () = stop.stopping() => {}
                    () = confirming.0.confirmations.run(&confirming.0.node.feed) => {}
                }
            }
        });
        interest
    }

    /// Asks for the pushes and commands of hubs that the node serves from now on. While the connection
    /// is up, it waits until the server knows; else the server is told as soon as there is one.
    pub async fn open<'a>(&self, hubs: impl IntoIterator<Item = &'a HubName>) {
        let config::Interest { groups, users } = self.0.settings;
        let node = self.0.node.id;
        let mut are_new = false;
        for name in hubs {
            if !self.0.hubs.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone()) {
                continue;
            }
            let hub = self.0.table.open(name);
            let users = (users == By::Wildcard).then_some(Scope::Users);
            let groups = (groups == By::Wildcard).then_some(Scope::Groups);
            let pushes = [Scope::Connections(node), Scope::All];
            for scope in pushes.into_iter().chain(users).chain(groups) {
                self.subscribe(&hub, scope, Channel::Out).await;
            }
            for scope in [Scope::Connections(node), Scope::Users, Scope::Groups, Scope::All] {
                self.subscribe(&hub, scope, Channel::Ctl).await;
            }
            are_new = true;
        }
        if are_new && self.0.node.feed.is_up() {
            let deadline = Instant::now() + CONFIRM_TIMEOUT;
            if !self.0.node.feed.confirmed(deadline).await {
                tracing::warn!("NATS has not confirmed the subscriptions of a new hub");
            }
        }
    }

    /// Waits until NATS knows of all groups and users that have connections here by now; false when it
    /// is not known to, at the deadline. Cancel safe.
    pub(super) async fn confirmed(&self, deadline: Instant) -> bool {
        let version = self.0.table.changes().version();
        self.0.confirmations.wait(version, deadline).await
    }

    /// Whether pushes to such a target come to every node.
    pub(super) fn takes_all(&self, target: &Target) -> bool {
        match target {
            Target::User(_) => self.0.settings.users == By::Wildcard,
            Target::Group(_) => self.0.settings.groups == By::Wildcard,
            Target::Connection(_) | Target::All => true,
        }
    }

    pub(super) fn node(&self) -> &Node {
        &self.0.node
    }

    /// Subscribes to groups and users as they get connections, and no more when they have had none for
    /// a while.
    async fn follow(self) {
        let mut held = Lingering::new();
        let mut expiry = interval(EXPIRE_INTERVAL);
        expiry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                (changed, version) = self.0.table.changes().next() => {
                    for key in changed {
                        self.look(&mut held, key).await;
                    }
                    self.0.confirmations.subscribed(version);
                }
                _ = expiry.tick() => {
                    held.expire(Instant::now()).for_each(|handle: AbortHandle| handle.abort());
                }
            }
        }
    }

    /// Looks at a group or a user whose first connection may have come, or whose last may have left.
    async fn look(&self, held: &mut Lingering<Changed, AbortHandle>, key: Changed) {
        let Some(hub) = self.0.table.hub(&key.0) else { return };
        if hub.count(&key.1) == 0 {
            held.release(&key, Instant::now());
        } else if !held.needs(&key) {
            let scope = match key.1.clone() {
                Target::Group(group) => Scope::Group(group),
                Target::User(user) => Scope::User(user),
                Target::Connection(_) | Target::All => return,
            };
            let handle = self.subscribe(&hub, scope, Channel::Out).await;
            held.hold(key, handle);
        }
    }

    /// The handle ends the subscription.
    async fn subscribe(&self, hub: &Arc<Hub>, scope: Scope, channel: Channel) -> AbortHandle {
        let filter = scope.filter(&self.0.node.subjects, hub.name(), channel);
        let subscription = self.0.node.feed.subscribe(filter.clone()).await;
        let origin = Origin { hub: Arc::clone(hub), scope, filter };
        let (source, handle) = source(origin, subscription);
        let taker = match channel {
            Channel::Out => &self.0.pushes,
            Channel::Ctl => &self.0.commands,
        };
        // The task that takes it ends with the node only.
        let _ = taker.send(source).await;
        handle
    }
}

/// Runs `work` until the node stops. The subscriptions that it has end with it.
fn need(tasks: &Tasks, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    let node = tasks.clone();
    tasks.need(name, async move {
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
    use crate::id::GroupName;
    use crate::nats::testing::{NatsServer, within};

    /// Pushes to the group until it is answered as `expected`; none when nobody listens.
    async fn answered(client: &async_nats::Client, expected: Option<u64>) {
        let deadline = within(10);
        loop {
            let request = Request::new().payload("x".into()).timeout(Some(Duration::from_secs(1)));
            let asked = client.send_request("moorline.default.out.group.red", request).await;
            let answer = match asked {
                Ok(answer) => {
                    let answer: serde_json::Value =
                        serde_json::from_slice(&answer.payload).unwrap();
                    answer["deliveries"].as_u64()
                }
                Err(error) if error.kind() == NoResponders => None,
                // It came just when the group was let go.
                Err(error) if error.kind() == TimedOut => continue,
                Err(error) => panic!("{error}"),
            };
            if answer == expected {
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
        let (node, roster) = (NodeId::random(), Roster::default());
        let settings = config::Interest::default();
        let interest =
            Interest::start(node, &nats, settings, &table, &roster, &tasks, &metrics).await;
        interest.open([&HubName::default()]).await;
        let (member, _mailbox) = table.register(&Peer::on(Route::new("/ws", AuthMode::None), None));
        let red = GroupName::new("red").unwrap();
        answered(&client, None).await;
        for _ in 0..2 {
            member.join(&red).unwrap();
            answered(&client, Some(1)).await;
            member.leave(&red);
            answered(&client, Some(0)).await;
            // What comes back in time is never let go.
            tokio::time::pause();
            tokio::time::advance(LINGER / 2).await;
            tokio::time::resume();
            member.join(&red).unwrap();
            answered(&client, Some(1)).await;
            member.leave(&red);
            answered(&client, Some(0)).await;
            tokio::time::pause();
            tokio::time::advance(LINGER + EXPIRE_INTERVAL).await;
            tokio::time::resume();
            answered(&client, None).await;
        }
        tasks.stop();
    }
}
