//! Any bytes at the public door: HTTP, the opening handshake, and the connection behind it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::duplex;
use tokio_util::sync::CancellationToken;

use super::METRICS;
use super::stream::{Manner, PIPE, manner, runtime, server_frames, talk};
use super::token::{VERIFIER, sources};
use crate::auth::Revocations;
use crate::cluster::{Cluster, Farewells, UserQuota};
use crate::config::{
    AuthMode, Backend, EventKind, Heartbeat, Limits, RefuseMode, Route, Size, WhenUserFull,
};
use crate::connection::Stream;
use crate::edge::{Edge, Proxies, Rules, Transport};
use crate::handshake::{Caller, Door, Doorkeeper, Gate, Plans, Routes};
use crate::hub::{Fleet, Table};
use crate::id::NodeId;
use crate::limits::{Admission, Memory, Pending, Permits, Users};
use crate::relay::{Fence, Gates, Hold, Relay};
use crate::task::Tasks;

/// Every status that a client may see before its connection is open.
const STATUSES: [u16; 15] =
    [101, 400, 401, 403, 404, 405, 408, 413, 426, 429, 431, 502, 503, 504, 505];

/// A route of each kind.
static ROUTES: LazyLock<Vec<(Arc<Route>, Relay)>> = LazyLock::new(|| {
    let mut asked = route("/rooms/{room}/{*rest}", AuthMode::Connect);
    asked.events = vec![EventKind::Connect, EventKind::Message, EventKind::Disconnected];
    asked.forward_headers = Some(vec!["Cookie".to_owned(), "X-Key".to_owned()]);
    let mut told = route("/told", AuthMode::Jwt);
    told.refuse = RefuseMode::Close;
    let all = [
        route("/ws", AuthMode::None),
        asked,
        told,
        route("/jwt", AuthMode::Jwt),
        route("/", AuthMode::Certificate),
    ];
    let with_relay = |route: Route| {
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
    };
    all.map(with_relay).into()
});

/// One client at a time, or the count of what is forwarded would be of several.
static ALONE: Mutex<()> = Mutex::new(());

/// Whatever comes, there is at most one answer, of a status that is meant for it, in bounded time; a
/// client that is not let in reaches no backend, and however its bytes are cut it is told the same.
pub fn head(input: &[u8]) {
    let Some((cut, bytes)) = manner(input) else { return };
    let at_once = Manner { piece: bytes.len().max(1), ..cut };
    let (whole, in_parts) = (answer(bytes, at_once), answer(bytes, cut));
    // hyper looks at what comes at once before it is a whole head, and at pieces only then; and it is
    // silent on HTTP/2's preface where that comes at once.
    let is_cut_off = matches!((whole, in_parts), (Some(400 | 431), None | Some(408)));
    let is_same = whole == in_parts || is_cut_off || bytes.starts_with(b"PRI ");
    assert!(is_same, "{whole:?}, but {in_parts:?} in pieces");
}

/// The status, none when there was no answer.
pub(super) fn answer(bytes: &[u8], manner: Manner) -> Option<u16> {
    let _alone = ALONE.lock();
    let before = forwarded();
    let all = runtime().block_on(async {
        let (ours, theirs) = duplex(PIPE);
        let (edge, caller) = edge();
        let newcomer = edge.pending.enter(None).await;
        let rules = edge.rules.load_full();
        let node = async {
            edge.http(theirs, caller, &rules, Transport::Plain, newcomer).await;
            edge.doorkeeper.farewells.tasks.ended().await;
        };
        let all = talk(ours, bytes, manner, Box::pin(node)).await;
        assert!(edge.doorkeeper.table.is_empty(), "no connection is left behind");
        assert_eq!(edge.doorkeeper.admission.taken(), 0, "no place is left taken");
        all
    });
    let Some(end) = all.windows(4).position(|four| four == b"\r\n\r\n") else {
        assert!(all.is_empty(), "an answer is whole: {}", all.escape_ascii());
        return None;
    };
    let (head, body) = (std::str::from_utf8(&all[..end]).unwrap(), &all[end + 4..]);
    let status: u16 = head["HTTP/1.1 ".len()..][..3].parse().unwrap();
    assert!(STATUSES.contains(&status), "{head}");
    if status == 101 {
        server_frames(body);
    } else {
        assert_eq!(forwarded(), before, "nothing is forwarded of a refused handshake");
        let mut lines = head.split("\r\n");
        let length = lines.find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let is_one = body.is_empty() || body.len() == length.parse::<usize>().unwrap();
        assert!(is_one, "one answer: {}", all.escape_ascii());
    }
    Some(status)
}

/// Events that a backend heard of.
fn forwarded() -> u64 {
    ROUTES.iter().map(|(_, relay)| relay.metrics().outcomes()).sum()
}

fn route(path: &str, auth: AuthMode) -> Route {
    let mut route = Route::new(path, auth);
    route.backend = Backend::Echo(true);
    route.origins = vec!["https://good.com".to_owned()];
    route.max_message = Size::kib(1);
    route
}

fn solo(limits: &Limits) -> Cluster {
    let table = Table::new(limits, &METRICS);
    Cluster::solo(&table, &Fleet::solo(table.clone()), &Tasks::new(), &METRICS)
}

fn edge() -> (Edge, Caller) {
    let limits = Limits { max_connections: 1, ..Limits::default() };
    let caller = Caller {
        scheme: "http",
        remote: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
        certificate: None,
        read_buffer: 1024,
        unwrap: Stream::wrapped,
    };
    let table = Table::new(&limits, &METRICS);
    let gate = |route: &Route| match route.auth {
        AuthMode::None => Gate::Open,
        AuthMode::Connect => Gate::Connect,
        AuthMode::Certificate => Gate::Certificate,
        AuthMode::Jwt => Gate::Jwt {
            verifier: VERIFIER.clone(),
            sources: sources(),
            revocations: Revocations::solo(Duration::from_secs(60), table.clone(), &Tasks::new()),
        },
    };
    let doors = ROUTES.iter().map(|(route, relay)| {
        let door = Door::new(
            Arc::clone(route),
            relay.clone(),
            gate(route),
            Heartbeat::default(),
            Plans::new(&BTreeMap::new(), route),
            UserQuota { max: 0, when_full: WhenUserFull::RejectNew },
        );
        (route.path.clone(), door)
    });
    let doorkeeper = Doorkeeper {
        node: NodeId::random(),
        admission: Arc::new(Admission::new(&limits, Memory::default())),
        refused: Permits::new(1),
        table: table.clone(),
        cluster: solo(&limits),
        farewells: Farewells { tasks: Tasks::new(), places: Permits::new(1) },
        users: Users::new(),
        metrics: METRICS.clone(),
    };
    let edge = Edge {
        doorkeeper,
        rules: ArcSwap::from_pointee(Rules {
            doors: Routes::new(doors),
            limits,
            acceptor: None,
            passthrough: None,
            drain: Duration::ZERO,
            public: Proxies::default(),
            plain: Proxies::default(),
            replaced: CancellationToken::new(),
        }),
        pending: Pending::new(1),
        console: false,
        metrics: METRICS.clone(),
        tasks: Tasks::new(),
    };
    (edge, caller)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_takes_is_not_kept() {
        for stop in [false, true] {
            let (mut ours, theirs) = duplex(64);
            let (edge, caller) = edge();
            let newcomer = edge.pending.enter(None).await;
            let rules = edge.rules.load_full();
            let client = async {
                ours.write_all(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
                // The answer has begun.
                assert_eq!(ours.read_u8().await.unwrap(), b'H');
                if stop {
                    edge.tasks.stop();
                }
            };
            let started = Instant::now();
            let served = Box::pin(async {
                tokio::join!(client, edge.http(theirs, caller, &rules, Transport::Plain, newcomer));
            });
            timeout(Duration::from_secs(60), served).await.expect("the end of the stream");
            assert_eq!(started.elapsed(), rules.limits.head_timeout.get());
        }
    }
}
