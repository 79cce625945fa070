//! Any bytes at the backends' door, from somebody who has shown a certificate: HTTP, and what the path,
//! the query and the body ask for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::io::duplex;
use tokio_util::sync::CancellationToken;

use super::METRICS;
use super::stream::{Manner, PIPE, manner, runtime, talk};
use super::token::VERIFIER;
use crate::auth::{AccessKeys, Revocations};
use crate::config::{AuthMode, Limits, Route};
use crate::event::{Params, Peer};
use crate::hub::{Fleet, Mailbox, Registered, Table, Wish};
use crate::id::{HubName, UserId};
use crate::management::{Management, Rules};
use crate::task::Tasks;

/// Every status that a backend may see; one that tells of a bug is none of them.
const STATUSES: [u16; 17] =
    [100, 200, 202, 204, 400, 403, 404, 405, 406, 408, 409, 413, 414, 415, 431, 501, 503];
/// The one connection, ann's, so that seeds can name it.
const CONNECTION: &str = "aaaaaaaaaaaa.aaaaaaaaaaaaaaaaaaaaaaaaaa";
const MAX_BODY: usize = 1024;
const REMOTE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// Whatever comes, each answer is whole, of a status that is meant for it, and one that refuses says why in
/// JSON or in words; nothing happens to a connection without an answer that says so; and however the bytes are cut the
/// answers are the same.
pub fn management(input: &[u8]) {
    let Some((cut, bytes)) = manner(input) else { return };
    let at_once = Manner { piece: bytes.len().max(1), ..cut };
    let (mut whole, in_parts) = (answers(bytes, at_once), answers(bytes, cut));
    // hyper looks at what comes at once before it is a whole head, and at pieces only then; and it is
    // silent on HTTP/2's preface where that comes at once.
    if whole.len() == in_parts.len() + 1 && matches!(whole.last(), Some(400 | 431)) {
        whole.pop();
    }
    let ends_early = is_held_back(bytes) && whole.starts_with(&in_parts);
    let is_same = whole == in_parts || ends_early || is_preface(bytes);
    assert!(is_same, "{whole:?}, but {in_parts:?} in pieces");
}

/// The statuses, without those that only tell to go on.
pub(super) fn answers(bytes: &[u8], manner: Manner) -> Vec<u16> {
    let (all, took, wishes) = runtime().block_on(async {
        let (ours, theirs) = duplex(PIPE);
        let (door, rules, (_registered, mut mailbox)) = door().await;
        let node = Box::pin(door.http(theirs, REMOTE, &rules, true));
        let all = talk(ours, bytes, manner, node).await;
        let took = std::iter::from_fn(|| mailbox.take()).count();
        (all, took, wishes(&mut mailbox))
    });
    let statuses = statuses(&all, bytes);
    let told = |wanted: u16| statuses.iter().filter(|status| **status == wanted).count();
    // Who hangs up may not hear of what it asked for.
    if !manner.hangs_up {
        // What is published is answered with 200, whoever takes it.
        assert!(took <= told(202) || told(200) > 0, "{took} messages, and {statuses:?}");
        let is_told = |wish: &Wish| match wish {
            Wish::Part(_) | Wish::Cut(_) => told(204) + told(200) > 0,
            Wish::Refresh(_) | Wish::Trace(_) => told(200) > 0,
            Wish::Poll => panic!("the peer's backend is never asked"),
        };
        assert!(wishes.iter().all(is_told), "{wishes:?}, and {statuses:?}");
    }
    statuses
}

fn statuses(mut all: &[u8], asked: &[u8]) -> Vec<u16> {
    let mut statuses = Vec::new();
    while !all.is_empty() {
        let end = all.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head") + 4;
        let head = std::str::from_utf8(&all[..end]).unwrap();
        // Whoever asks in HTTP/1.0 is answered in it.
        let status: u16 = head["HTTP/1.1 ".len()..][..3].parse().unwrap();
        assert!(STATUSES.contains(&status), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        all = &all[end..];
        if length > 0 && (all.is_empty() || all.starts_with(b"HTTP/1.")) {
            assert!(asked.windows(4).any(|four| four == b"HEAD"), "a body for {head}");
        } else {
            let body = &all[..length];
            all = &all[length..];
            assert!(length == 0 || tells(status, body), "{head}{}", body.escape_ascii());
        }
        if status != 100 {
            statuses.push(status);
        }
    }
    statuses
}

/// Whether a body is JSON, and that of a refusal says why; or what GRIP libraries are told.
fn tells(status: u16, body: &[u8]) -> bool {
    let is_text = |text: &&str| body.starts_with(text.as_bytes());
    match status {
        200 if is_text(&"Published\n") => return true,
        400 if ["Invalid format: ", "Body is not valid JSON."].iter().any(is_text) => return true,
        _ => {}
    }
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return false };
    let says = |part: &str| body["error"][part].as_str().is_some_and(|text| !text.is_empty());
    status < 400 || says("code") && says("message")
}

/// Whether a body may be one that waits for a word. If it is refused that word, it is not waited for, and
/// nothing can follow it.
fn is_held_back(bytes: &[u8]) -> bool {
    bytes.windows(7).any(|seven| seven.eq_ignore_ascii_case(b"expect:"))
}

fn is_preface(bytes: &[u8]) -> bool {
    bytes.windows(4).any(|four| four == b"PRI ")
}

fn wishes(mailbox: &mut Mailbox) -> Vec<Wish> {
    let mut cx = Context::from_waker(Waker::noop());
    let next = || match mailbox.poll_wish(&mut cx) {
        Poll::Ready(wish) => Some(wish),
        Poll::Pending => None,
    };
    std::iter::from_fn(next).collect()
}

/// A door to the one connection of the hub `default`.
async fn door() -> (Management, Arc<Rules>, (Registered, Mailbox)) {
    let (limits, tasks) = (Limits::default(), Tasks::new());
    let table = Table::new(&limits, &METRICS);
    let fleet = Fleet::solo(table.clone());
    fleet.open([HubName::default()].iter()).await;
    let connected = table.register(&Arc::new(ann()));
    let rules = Arc::new(Rules {
        keys: AccessKeys::read("", &[]).unwrap(),
        acceptor: None,
        verifier: Some(VERIFIER.clone()),
        minter: None,
        limits,
        max_body: MAX_BODY,
        published: vec![HubName::default()],
        replaced: CancellationToken::new(),
    });
    let revocations = Revocations::solo(Duration::from_secs(60), table, &tasks);
    let door = Management::new(fleet, revocations, Arc::clone(&rules), &METRICS, &tasks);
    (door, rules, connected)
}

/// A client of the hub `default`.
pub(super) fn ann() -> Peer {
    Peer {
        id: CONNECTION.parse().unwrap(),
        route: Arc::new(Route::new("/ws", AuthMode::None)),
        user: Some(UserId::new("ann").unwrap()),
        token: None,
        path: "/ws".into(),
        query: Box::default(),
        params: Params::default(),
        remote: REMOTE,
        subprotocol: None,
        forwarded: Box::default(),
        since: SystemTime::UNIX_EPOCH,
        is_disowned: false.into(),
    }
}
