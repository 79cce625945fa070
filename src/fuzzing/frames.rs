//! Any bytes through an open connection to an echo.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::io::duplex;

use super::METRICS;
use super::stream::{Frame, Manner, PING, PIPE, PONG, manner, runtime, server_frames, talk};
use crate::cluster::Farewells;
use crate::config::{AuthMode, Backend, EventKind, Limits, Plan, Route, Size};
use crate::connection::{Accepted, Counted, run};
use crate::event::{Peer, Trace};
use crate::hub::Table;
use crate::id::{ConnectionId, NodeId};
use crate::limits::{Addresses, Meters, Permits, PlanRules, Seat};
use crate::relay::{Fence, Gates, Hold, Relay};
use crate::task::Tasks;

static ROUTE: LazyLock<(Arc<Route>, Relay)> = LazyLock::new(|| {
    let mut route = Route::new("/frames", AuthMode::None);
    route.backend = Backend::Echo(true);
    route.events = vec![EventKind::Connected, EventKind::Message, EventKind::Disconnected];
    route.max_message = Size::kib(1);
    let relay = Relay::new(
        &route,
        None,
        &Gates::new(&Tasks::new()),
        &Hold::new(0),
        &Fence::open(),
        &METRICS,
    )
    .unwrap();
    (Arc::new(route), relay)
});

/// Whatever comes, the connection ends in bounded time, sends only what a server may send, and
/// answers the same bytes with the same messages and the same close, however they are cut.
pub fn frames(input: &[u8]) {
    let Some((cut, bytes)) = manner(input) else { return };
    let at_once = Manner { piece: bytes.len().max(1), ..cut };
    assert_eq!(transcript(bytes, at_once), transcript(bytes, cut));
}

/// What the client sees but pings and pongs: of several pings the last may be answered alone (RFC
/// 6455 section 5.5.3).
pub(super) fn transcript(bytes: &[u8], manner: Manner) -> Vec<Frame> {
    runtime().block_on(async {
        let (ours, theirs) = duplex(PIPE);
        let (table, places) = (Table::new(&Limits::default(), &METRICS), Permits::new(1));
        let connection = Box::pin(run(Counted::new(theirs), accepted(&table, &places)));
        let all = talk(ours, bytes, manner, connection).await;
        assert!(table.is_empty() && places.taken() == 0, "nothing is left behind");
        let mut frames = server_frames(&all);
        frames.retain(|frame| ![PING, PONG].contains(&frame.opcode));
        frames
    })
}

fn accepted(table: &Table, places: &Permits) -> Accepted {
    let (route, relay) = &*ROUTE;
    let id = ConnectionId::random(NodeId::random());
    let peer = Arc::new(Peer {
        id,
        route: Arc::clone(route),
        user: None,
        token: None,
        path: "/ws".into(),
        query: Box::default(),
        params: Box::default(),
        remote: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
        subprotocol: None,
        forwarded: Box::default(),
        since: SystemTime::UNIX_EPOCH,
        is_disowned: Default::default(),
    });
    let (registered, mailbox) = table.register(&peer);
    Accepted {
        peer,
        relay: relay.clone(),
        trace: Trace::start(),
        sequence: 0,
        state: None,
        actions: Vec::new(),
        expires: None,
        heartbeat: Arc::default(),
        read_buffer: 1024,
        early: Bytes::new(),
        meters: Meters::new(&Arc::new(PlanRules::new(&Plan::default(), 0)), None),
        mailbox,
        registered,
        seat: Seat {
            node: places.take().unwrap(),
            address: Addresses::new(1).take(Ipv4Addr::LOCALHOST.into()).unwrap(),
        },
        entry: None,
        slot: None,
        farewells: Farewells { tasks: Tasks::new(), places: Permits::new(1) },
    }
}
