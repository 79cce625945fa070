//! The connections of a hub on all nodes, for whoever wants something of them.
//!
//! Solo, those are the own table's. With NATS, everything goes over it, to the own connections too:
//! nothing is done twice, and what reaches others reaches these.

use std::collections::HashSet;
use std::sync::Arc;

use async_nats::HeaderMap;
use tokio::time::Instant;

use super::command::{Command, CommandError, Done};
use super::interest::Interest;
use super::push::{Push, Target};
use super::table::Table;
use crate::id::{ConnectionId, HubName};
use crate::message::{Kind, OCTET_STREAM, TEXT_PLAIN};
use crate::nats::Channel;

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
    /// Of a group's connections, those count whose nodes have answered when none has for 50 ms: which
    /// nodes have members, nobody knows.
    ///
    /// Cancel safe in that dropping the future leaves nothing behind; who has got it is then not known.
    ///
    /// # Errors
    /// See [`FleetError`].
    pub async fn push(
        &self,
        hub: &HubName,
        push: &Push,
        deadline: Instant,
    ) -> Result<Done, FleetError> {
        let (target, now) = (&push.target, Instant::now());
        let is_over = push.expires.is_some_and(|expires| expires <= now);
        if is_over || spares(target, &push.exclude) {
            return Ok(Done::default());
        }
        let done = match &self.0.interest {
            Some(interest) => {
                let (headers, payload) = (headers(push, now), push.message.data().clone());
                interest.ask(hub, Channel::Out, target, headers, payload, deadline).await?
            }
            None => {
                let connections = match self.0.table.hub(hub) {
                    Some(hub) => hub.push(push).await,
                    None => 0,
                };
                Done { connections, ..Done::default() }
            }
        };
        unless_gone(target, done)
    }

    /// Gives a command to all it is meant for. A join has come to its end when NATS knows of it: who
    /// publishes to the group from then on reaches its new members.
    ///
    /// Cancel safe in that dropping the future leaves nothing behind; who has obeyed is then not known.
    ///
    /// # Errors
    /// See [`FleetError`].
    pub async fn command(
        &self,
        hub: &HubName,
        target: &Target,
        command: &Command,
        deadline: Instant,
    ) -> Result<Done, FleetError> {
        command.check_for(target)?;
        let json = command.to_json()?;
        if matches!(command, Command::Close { exclude, .. } if spares(target, exclude)) {
            return Ok(Done::default());
        }
        let done = match (&self.0.interest, self.0.table.hub(hub)) {
            (Some(interest), _) => {
                let headers = HeaderMap::new();
                interest.ask(hub, Channel::Ctl, target, headers, json.into(), deadline).await?
            }
            (None, Some(hub)) => hub.obey(target, command).await,
            (None, None) => Done::default(),
        };
        unless_gone(target, done)
    }
}

/// Whether the one who is meant is one of those who are not.
fn spares(target: &Target, exclude: &HashSet<ConnectionId>) -> bool {
    matches!(target, Target::Connection(id) if exclude.contains(id))
}

/// The one connection that was meant is not there, or at its end, when nothing came of it.
fn unless_gone(target: &Target, done: Done) -> Result<Done, FleetError> {
    match target {
        Target::Connection(_) if done.connections == 0 && !done.is_partial => Err(FleetError::Gone),
        _ => Ok(done),
    }
}

/// What a publisher says of a push, by the contract.
fn headers(push: &Push, now: Instant) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let content_type = match push.message.kind() {
        Kind::Text => TEXT_PLAIN,
        Kind::Binary => OCTET_STREAM,
    };
    headers.insert("Content-Type", content_type);
    if !push.exclude.is_empty() {
        let ids: Vec<_> = push.exclude.iter().map(ConnectionId::to_string).collect();
        headers.insert("moorline-exclude", ids.join(","));
    }
    if let Some(expires) = push.expires {
        let millis = (expires - now).as_millis().max(1);
        headers.insert("moorline-ttl", format!("{millis}ms"));
    }
    headers
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{self, AuthMode, By, Limits, Route};
    use crate::event::Peer;
    use crate::hub::{Mailbox, Registered, Roster};
    use crate::id::{GroupName, NodeId, UserId};
    use crate::message::Message;
    use crate::metrics::Metrics;
    use crate::nats::Nats;
    use crate::nats::testing::{NatsServer, until, within};
    use crate::task::Tasks;

    /// A node without doors.
    struct OneNode {
        id: NodeId,
        table: Table,
        roster: Roster,
        fleet: Fleet,
        _nats: Nats,
    }

    impl OneNode {
        async fn start(server: &NatsServer, settings: config::Interest) -> Self {
            let (id, metrics, tasks) = (NodeId::random(), Metrics::new(), Tasks::new());
            let limits = Limits { max_groups_per_connection: 2, ..Limits::default() };
            let (table, roster) = (Table::new(&limits, &metrics), Roster::default());
            let nats = server.nats(&metrics).await;
            let interest =
                Interest::start(id, &nats, settings, &table, &roster, &tasks, &metrics).await;
            assert!(interest.node().feed.confirmed(within(10)).await);
            let fleet = Fleet::cluster(table.clone(), interest);
            fleet.open([HubName::default()].iter()).await;
            Self { id, table, roster, fleet, _nats: nats }
        }

        fn connect(&self, user: &str) -> (ConnectionId, Registered, Mailbox) {
            connect(&self.table, self.id, user)
        }

        async fn command(&self, target: &Target, command: &Command) -> Result<Done, FleetError> {
            self.fleet.command(&HubName::default(), target, command, within(10)).await
        }

        async fn push(&self, target: Target, deadline: Instant) -> Result<Done, FleetError> {
            self.fleet.push(&HubName::default(), &to(target), deadline).await
        }
    }

    fn connect(table: &Table, node: NodeId, user: &str) -> (ConnectionId, Registered, Mailbox) {
        let peer = Peer::on(Route::new("/ws", AuthMode::None), Some(user));
        let mut peer = Arc::into_inner(peer).unwrap();
        peer.id = ConnectionId::random(node);
        let id = peer.id;
        let (registered, mailbox) = table.register(&Arc::new(peer));
        (id, registered, mailbox)
    }

    /// Three nodes that know of each other.
    async fn three(server: &NatsServer, settings: config::Interest) -> [OneNode; 3] {
        let start = || OneNode::start(server, settings);
        let nodes = [start().await, start().await, start().await];
        let ids: HashSet<_> = nodes.iter().map(|node| node.id).collect();
        nodes.iter().for_each(|node| node.roster.set(Some(ids.clone())));
        nodes
    }

    fn user(name: &str) -> Target {
        Target::User(UserId::new(name).unwrap())
    }

    fn group(name: &str) -> GroupName {
        GroupName::new(name).unwrap()
    }

    fn to(target: Target) -> Push {
        let message = Message::text("hello");
        Push { target, message, exclude: HashSet::new(), expires: None }
    }

    fn of(connections: usize, changed: usize) -> Done {
        Done { connections, changed, ..Done::default() }
    }

    #[tokio::test]
    async fn solo_the_own_table_is_all_there_is() {
        let table = Table::new(&Limits::default(), &Metrics::new());
        let (fleet, hub, node) = (Fleet::solo(table.clone()), HubName::default(), NodeId::random());
        assert!(!fleet.has_hub(&hub));
        fleet.open([hub.clone()].iter()).await;
        assert!(fleet.has_hub(&hub));
        let (ann, _registered, mailbox) = connect(&table, node, "ann");
        let command = async |target: Target, command| {
            fleet.command(&hub, &target, &command, within(10)).await
        };
        let join = Command::Join { groups: vec![group("red")] };
        assert_eq!(command(user("ann"), join).await, Ok(of(1, 1)));
        let mut push = to(Target::Group(group("red")));
        assert_eq!(fleet.push(&hub, &push, within(10)).await, Ok(of(1, 0)));
        push.exclude.insert(ann);
        assert_eq!(fleet.push(&hub, &push, within(10)).await, Ok(of(0, 0)));
        push.target = Target::Connection(ann);
        assert_eq!(fleet.push(&hub, &push, within(10)).await, Ok(of(0, 0)), "it is there");
        push.target = Target::Connection(ConnectionId::random(node));
        assert_eq!(fleet.push(&hub, &push, within(10)).await, Err(FleetError::Gone));
        assert_eq!(command(push.target.clone(), Command::Count).await, Err(FleetError::Gone));
        let long = Command::Trace { seconds: 601 };
        assert!(matches!(command(Target::All, long).await, Err(FleetError::Command(_))));
        assert_eq!(mailbox.next(Instant::now()), Some(5));
    }

    #[tokio::test]
    async fn everybody_meant_is_reached_on_all_nodes_once() {
        let server = NatsServer::start();
        let nodes = Box::pin(three(&server, config::Interest::default())).await;
        let clients: Vec<_> = nodes.iter().map(|node| node.connect("ann")).collect();
        let (bob, _bobs, _mailbox) = nodes[2].connect("bob");
        let first = &nodes[0];
        assert_eq!(first.push(user("ann"), within(10)).await, Ok(of(3, 0)));
        assert_eq!(first.push(Target::All, within(10)).await, Ok(of(4, 0)));
        assert_eq!(first.push(Target::Connection(bob), within(10)).await, Ok(of(1, 0)));
        assert_eq!(first.push(Target::Group(group("red")), within(10)).await, Ok(of(0, 0)));
        let join = Command::Join { groups: vec![group("red"), group("b l.*>ue")] };
        assert_eq!(first.command(&user("ann"), &join).await, Ok(of(3, 3)));
        // The join is confirmed, so there is nothing to wait for.
        for name in ["red", "b l.*>ue"] {
            let done = first.push(Target::Group(group(name)), within(10)).await.unwrap();
            // On a busy machine one may answer after the silence.
            assert!((1..=3).contains(&done.connections) && !done.is_partial);
        }
        let join = Command::Join { groups: vec![group("green")] };
        let refused = first.command(&user("ann"), &join).await.unwrap();
        assert!(refused.refused.unwrap().contains("limits.max_groups_per_connection"));
        let some = Command::Leave { groups: Some(vec![group("red")]) };
        assert_eq!(first.command(&Target::Group(group("red")), &some).await, Ok(of(3, 3)));
        assert_eq!(first.push(Target::Group(group("red")), within(10)).await, Ok(of(0, 0)));
        let info = first.command(&user("ann"), &Command::Info { limit: 1 }).await.unwrap();
        assert_eq!((info.connections, info.info.len()), (3, 3), "one of each node");
        assert!(info.info.iter().all(|info| info.groups == [group("b l.*>ue")]));
        assert_eq!(first.command(&Target::All, &Command::Count).await, Ok(of(4, 0)));
        let exclude = HashSet::from([clients[1].0]);
        let close = Command::Close { code: 4000, reason: "bye".into(), exclude };
        assert_eq!(first.command(&user("ann"), &close).await, Ok(of(2, 2)));
        for (_, _, mailbox) in &clients {
            let mut got = 0;
            until("the pushes have come", || {
                got += std::iter::from_fn(|| mailbox.take()).count();
                got >= 4
            })
            .await;
            assert_eq!(got, 4);
        }
    }

    #[tokio::test]
    async fn who_is_gone_is_told_by_its_node_or_by_nats() {
        let server = NatsServer::start();
        let [one, two, _] = Box::pin(three(&server, config::Interest::default())).await;
        for gone in [ConnectionId::random(two.id), ConnectionId::random(NodeId::random())] {
            let gone = Target::Connection(gone);
            assert_eq!(one.command(&gone, &Command::Count).await, Err(FleetError::Gone));
            assert_eq!(one.push(gone, within(10)).await, Err(FleetError::Gone));
        }
    }

    #[tokio::test]
    async fn a_node_that_says_nothing_is_not_passed_over_in_silence() {
        let server = NatsServer::start();
        let nodes = Box::pin(three(&server, config::Interest::default())).await;
        let clients: Vec<_> = nodes.iter().map(|node| node.connect("ann")).collect();
        let soon = || Instant::now() + Duration::from_millis(200);
        let mut ids: HashSet<_> = nodes.iter().map(|node| node.id).collect();
        ids.insert(NodeId::random());
        nodes[0].roster.set(Some(ids));
        let partial = Done { is_partial: true, ..of(3, 0) };
        // On a busy machine it takes more than one try until the others answer in time.
        while nodes[0].push(user("ann"), soon()).await != Ok(partial.clone()) {}
        let join = Command::Join { groups: vec![group("red")] };
        nodes[0].command(&Target::Connection(clients[1].0), &join).await.unwrap();
        let red = Target::Group(group("red"));
        assert_eq!(nodes[0].push(red, within(10)).await, Ok(of(1, 0)), "nobody else has members");
        // Without a roster, nobody can say that it is all.
        nodes[0].roster.set(None);
        while nodes[0].push(user("ann"), within(10)).await != Ok(partial.clone()) {}
    }

    #[tokio::test]
    async fn interest_may_be_by_name_or_by_wildcard() {
        let server = NatsServer::start();
        let settings = config::Interest { groups: By::Wildcard, users: By::Name };
        let [one, two, three] = Box::pin(three(&server, settings)).await;
        let (_, registered, _mailbox) = two.connect("ann");
        let (_, _three, _mailbox_too) = three.connect("bob");
        registered.join(&group("red")).unwrap();
        for node in [&two, &three] {
            let interest = node.fleet.0.interest.as_ref().unwrap();
            assert!(interest.confirmed(within(10)).await);
        }
        for (target, deliveries) in
            [(user("ann"), 1), (user("eve"), 0), (Target::Group(group("red")), 1)]
        {
            assert_eq!(one.push(target, within(10)).await, Ok(of(deliveries, 0)));
        }
        let client = server.client().await;
        let asked = client.request("moorline.default.out.user.eve", "x".into()).await;
        assert_eq!(asked.unwrap_err().kind(), async_nats::RequestErrorKind::NoResponders);
        let asked = client.request("moorline.default.out.group.blue", "x".into()).await;
        assert!(asked.is_ok(), "every node listens");
    }

    #[tokio::test]
    async fn what_nats_does_not_take_is_told() {
        let mut server = NatsServer::start();
        let node = OneNode::start(&server, config::Interest::default()).await;
        let mut push = to(Target::All);
        push.message = Message::binary(vec![0; 2 << 20]);
        let hub = HubName::default();
        let refused = node.fleet.push(&hub, &push, within(10)).await;
        let too_large = FleetError::TooLarge { size: 2 << 20, maximum: 1 << 20 };
        assert_eq!(refused, Err(too_large));
        server.kill();
        let feed = &node.fleet.0.interest.as_ref().unwrap().node().feed;
        until("the connection is lost", || !feed.is_up()).await;
        let push = node.push(Target::All, within(10)).await;
        assert_eq!(push, Err(FleetError::Unreachable));
    }

    #[test]
    fn a_push_is_published_as_the_contract_says() {
        let now = Instant::now();
        let (mut push, id) = (to(Target::All), ConnectionId::random(NodeId::random()));
        push.exclude.insert(id);
        push.expires = Some(now + Duration::from_micros(1_500_300));
        let written = headers(&push, now);
        let value = |name| written.get(name).map(async_nats::HeaderValue::as_str);
        assert_eq!(value("Content-Type"), Some("text/plain; charset=utf-8"));
        assert_eq!(value("moorline-exclude"), Some(id.to_string().as_str()));
        assert_eq!(value("moorline-ttl"), Some("1500ms"));
        push.expires = Some(now + Duration::from_micros(3));
        assert_eq!(headers(&push, now).get("moorline-ttl").unwrap().as_str(), "1ms");
    }
}
