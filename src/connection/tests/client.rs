//! A client in memory that writes its frames by hand, and the connection it has.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;

use super::{heartbeat, route};
use crate::cluster::Farewells;
use crate::config::{Limits, Plan, Route};
use crate::connection::{Accepted, Counted, Progress, run};
use crate::event::{Peer, Trace};
use crate::hub::{Handle, Table};
use crate::id::{ConnectionId, NodeId};
use crate::limits::{Addresses, Meters, Permits, PlanRules, Seat};
use crate::metrics::Metrics;
use crate::relay::{Fence, Gates, Hold, Relay};
use crate::task::Tasks;

pub(super) const FIN: u8 = 0x80;
pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;

/// What the kernel's buffers are to a real stream.
pub(super) const PIPE: usize = 256 * 1024;

/// A client whose frames are written by hand.
pub(super) struct Client {
    pub(super) io: DuplexStream,
    pub(super) handle: Handle,
    pub(super) table: Table,
    pub(super) metrics: Metrics,
}

impl Client {
    /// A client of an echo route.
    pub(super) fn connect(edit: impl FnOnce(&mut Route)) -> Self {
        Self::over(|io| io, &Plan::default(), edit)
    }

    /// A client of an echo route under `plan`.
    pub(super) fn under(plan: &Plan, edit: impl FnOnce(&mut Route)) -> Self {
        Self::over(|io| io, plan, edit)
    }

    /// A client whose stream is wrapped on the way to the connection.
    pub(super) fn over<S>(
        wrap: impl FnOnce(Counted<DuplexStream>) -> S,
        plan: &Plan,
        edit: impl FnOnce(&mut Route),
    ) -> Self
    where
        S: Progress + Send + 'static,
    {
        let (io, theirs) = duplex(PIPE);
        let theirs = wrap(Counted::new(theirs));
        let metrics = Metrics::new();
        let table = Table::new(&Limits::default(), &metrics);
        let meters = Meters::new(&Arc::new(PlanRules::new(plan, 0)), None);
        let accepted = accepted(route(edit), &table, &metrics, meters);
        let handle = table.handles().pop().unwrap();
        #[expect(clippy::disallowed_methods, reason = "the test waits for the stream's end")]
        tokio::spawn(run(theirs, accepted));
        Self { io, handle, table, metrics }
    }

    pub(super) async fn frame(&mut self, flags: u8, payload: &[u8]) {
        self.io.write_all(&frame(flags, payload)).await.unwrap();
    }

    /// The next frame: opcode with FIN, and payload. A server's frames are never masked.
    pub(super) async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        let read = timeout(Duration::from_secs(60), self.io.read_exact(&mut head)).await.unwrap();
        read.ok()?;
        assert_eq!(head[1] & 0x80, 0, "a server's frame is not masked");
        let len = match head[1] {
            126 => u64::from(self.io.read_u16().await.unwrap()),
            127 => self.io.read_u64().await.unwrap(),
            n => u64::from(n),
        };
        let mut payload = vec![0; len as usize];
        self.io.read_exact(&mut payload).await.unwrap();
        Some((head[0], payload))
    }

    pub(super) async fn expect(&mut self, flags: u8, payload: &[u8]) {
        let (got, bytes) = self.next().await.expect("a frame");
        assert_eq!((got, bytes.as_slice()), (flags, payload));
    }

    /// The value of the first series whose line begins so; none when there is none yet.
    pub(super) fn metric(&self, series: &str) -> Option<f64> {
        let text = String::from_utf8(self.metrics.to_text()).unwrap();
        let line = text.lines().find(|line| line.starts_with(series))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// The close frame's code and reason, and then the end of the stream.
    pub(super) async fn closed(&mut self) -> (u16, String) {
        let (flags, payload) = self.next().await.expect("a close frame");
        assert_eq!(flags, FIN | CLOSE, "{payload:?}");
        assert_eq!(self.next().await, None, "nothing comes after a close frame");
        let code = u16::from_be_bytes([payload[0], payload[1]]);
        (code, String::from_utf8(payload[2..].to_vec()).unwrap())
    }
}

fn accepted(route: Arc<Route>, table: &Table, metrics: &Metrics, meters: Meters) -> Accepted {
    let id = ConnectionId::random(NodeId::random());
    let relay = Relay::new(
        &route,
        None,
        &Gates::new(&Tasks::new()),
        &Hold::new(0),
        &Fence::open(),
        metrics,
    )
    .unwrap();
    let peer = Arc::new(Peer {
        id,
        route,
        user: None,
        token: None,
        path: "/ws".into(),
        query: Box::default(),
        params: Box::default(),
        remote: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
        subprotocol: None,
        forwarded: Box::default(),
        since: SystemTime::now(),
        is_disowned: Default::default(),
    });
    let (registered, mailbox) = table.register(&peer);
    Accepted {
        peer,
        relay,
        trace: Trace::start(),
        sequence: 0,
        state: None,
        actions: Vec::new(),
        expires: None,
        heartbeat: Arc::new(heartbeat()),
        read_buffer: 1024,
        early: Bytes::new(),
        meters,
        mailbox,
        registered,
        seat: Seat {
            node: Permits::new(1).take().unwrap(),
            address: Addresses::new(1).take([127, 0, 0, 1].into()).unwrap(),
        },
        entry: None,
        slot: None,
        farewells: Farewells { tasks: Tasks::new(), places: Permits::new(1) },
    }
}

pub(super) fn frame(flags: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = vec![flags];
    match payload.len() {
        n @ 0..=125 => bytes.push(0x80 | n as u8),
        n @ 126..=65_535 => {
            bytes.push(0xfe);
            bytes.extend((n as u16).to_be_bytes());
        }
        n => {
            bytes.push(0xff);
            bytes.extend((n as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}
