//! A connection in memory: real frames in, real frames out.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::time::{Instant, timeout};

use super::client::{BINARY, CLOSE, Client, FIN, PING, PIPE, PONG, TEXT, frame};
use crate::close::{Cause, Close};
use crate::config::Plan;
use crate::connection::{Accepted, Counted, Progress, Stream, run};
use crate::message::Message;

#[tokio::test]
async fn messages_come_back_as_they_were() {
    let mut client = Client::connect(|_| {});
    client.frame(FIN | TEXT, "grüße".as_bytes()).await;
    client.expect(FIN | TEXT, "grüße".as_bytes()).await;
    client.frame(FIN | BINARY, &[0, 0xff]).await;
    client.expect(FIN | BINARY, &[0, 0xff]).await;
    client.frame(FIN | TEXT, b"").await;
    client.expect(FIN | TEXT, b"").await;
    let large = vec![b'x'; 65_536];
    client.frame(FIN | BINARY, &large).await;
    client.expect(FIN | BINARY, &large).await;
    client.frame(FIN | TEXT, b"small again, after the buffers were given back").await;
    client.expect(FIN | TEXT, b"small again, after the buffers were given back").await;
}

#[tokio::test]
async fn pushes_to_a_connection_at_rest_go_out_and_its_client_is_still_heard() {
    let mut client = Client::connect(|_| {});
    for size in [1, 100_000, 1] {
        let push = Message::binary(vec![b'p'; size]);
        client.handle.push(push, None).unwrap();
        client.expect(FIN | BINARY, &vec![b'p'; size]).await;
        client.frame(FIN | PING, b"there?").await;
        client.expect(FIN | PONG, b"there?").await;
        client.frame(FIN | TEXT, b"here").await;
        client.expect(FIN | TEXT, b"here").await;
    }
    // What comes while its client has half a message to say does not break that.
    client.frame(TEXT, b"first ").await;
    client.handle.push(Message::text("between"), None).unwrap();
    client.expect(FIN | TEXT, b"between").await;
    client.frame(FIN, b"second").await;
    client.expect(FIN | TEXT, b"first second").await;
}

#[tokio::test(start_paused = true)]
async fn pushes_do_not_hold_up_a_ping() {
    let mut client = Client::connect(|_| {});
    let start = Instant::now();
    loop {
        client.handle.push(Message::text("push"), None).unwrap();
        if client.next().await.unwrap().0 == FIN | PING {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(start.elapsed() < Duration::from_secs(60), "no ping in a minute");
    }
}

#[tokio::test]
async fn fragments_are_one_message_and_pings_pass_between_them() {
    let mut client = Client::connect(|_| {});
    client.frame(TEXT, &"ü".as_bytes()[..1]).await;
    client.frame(FIN | PING, b"there?").await;
    client.expect(FIN | PONG, b"there?").await;
    client.frame(0, &"ü".as_bytes()[1..]).await;
    client.frame(FIN, b"!").await;
    client.expect(FIN | TEXT, "ü!".as_bytes()).await;
}

#[tokio::test]
async fn a_hundred_messages_in_one_write_are_answered_in_order() {
    let mut client = Client::connect(|_| {});
    let all: Vec<u8> =
        (0..100).flat_map(|n| frame(FIN | TEXT, format!("message {n}").as_bytes())).collect();
    client.io.write_all(&all).await.unwrap();
    for n in 0..100 {
        client.expect(FIN | TEXT, format!("message {n}").as_bytes()).await;
    }
}

#[tokio::test]
async fn a_close_is_answered_with_its_own_code() {
    let mut client = Client::connect(|_| {});
    client.frame(FIN | CLOSE, &[0x0b, 0xb9, b'b', b'y', b'e']).await;
    assert_eq!(client.closed().await, (3001, "bye".to_owned()));
}

#[tokio::test]
async fn bytes_after_the_close_are_ignored() {
    let mut client = Client::connect(|_| {});
    let bytes = [frame(FIN | CLOSE, &[0x03, 0xe8]), frame(FIN | TEXT, b"late")].concat();
    client.io.write_all(&bytes).await.unwrap();
    assert_eq!(client.closed().await.0, 1000);
}

#[tokio::test]
async fn each_offence_is_closed_with_its_code() {
    let announced = |n: u64| {
        let mut bytes = vec![FIN | BINARY, 0xff];
        bytes.extend(n.to_be_bytes());
        bytes
    };
    let offences: Vec<(&str, Vec<u8>, u16)> = vec![
        ("unmasked", vec![FIN | TEXT, 0x01, b'x'], 1002),
        ("reserved bit", vec![0xc1, 0x80, 0, 0, 0, 0], 1002),
        ("opcode 3", vec![0x83, 0x80, 0, 0, 0, 0], 1002),
        ("opcode 11", vec![0x8b, 0x80, 0, 0, 0, 0], 1002),
        ("long ping", vec![FIN | PING, 0xfe, 0, 126], 1002),
        ("ping in fragments", vec![PING, 0x80, 0, 0, 0, 0], 1002),
        ("continuation of nothing", frame(FIN, b"x"), 1002),
        ("message in a message", [frame(TEXT, b"a"), frame(FIN | TEXT, b"b")].concat(), 1002),
        ("length not minimal", vec![FIN | TEXT, 0xfe, 0, 5], 1002),
        ("top bit of the length", announced(0x8000_0000_0000_0001), 1002),
        ("2^62 bytes announced", announced(1 << 62), 1009),
        ("one byte too many", announced(65_537), 1009),
        (
            "too big in fragments",
            {
                let half = vec![b'x'; 40_000];
                [frame(BINARY, &half), frame(FIN, &half)].concat()
            },
            1009,
        ),
        ("bad UTF-8", frame(FIN | TEXT, &[0xce, 0xba, 0xed, 0xa0, 0x80]), 1007),
        (
            "bad UTF-8 in the second fragment",
            { [frame(TEXT, b"ok"), frame(FIN, &[0xff])].concat() },
            1007,
        ),
        (
            "bad UTF-8 at the start of a frame that goes on",
            {
                let mut bytes = frame(FIN | TEXT, &[&[0xff][..], &[b'x'; 50_000]].concat());
                bytes.truncate(100);
                bytes
            },
            1007,
        ),
        ("cut UTF-8", frame(FIN | TEXT, &[0xce]), 1007),
        ("close of one byte", frame(FIN | CLOSE, &[3]), 1002),
        ("close 999", frame(FIN | CLOSE, &999u16.to_be_bytes()), 1002),
        ("close 1004", frame(FIN | CLOSE, &1004u16.to_be_bytes()), 1002),
        ("close 1005", frame(FIN | CLOSE, &1005u16.to_be_bytes()), 1002),
        ("close 1006", frame(FIN | CLOSE, &1006u16.to_be_bytes()), 1002),
        ("close 1015", frame(FIN | CLOSE, &1015u16.to_be_bytes()), 1002),
        ("close 2999", frame(FIN | CLOSE, &2999u16.to_be_bytes()), 1002),
        (
            "close of one byte, and a bomb at once behind it",
            [frame(FIN | CLOSE, &[3]), announced(1 << 62)].concat(),
            1002,
        ),
        ("close with bad UTF-8", frame(FIN | CLOSE, &[3, 0xe8, 0xff]), 1007),
    ];
    for (name, bytes, code) in offences {
        let mut client = Client::connect(|_| {});
        client.io.write_all(&bytes).await.unwrap();
        assert_eq!(client.closed().await.0, code, "{name}");
    }
}

#[tokio::test]
async fn good_messages_before_an_offence_are_still_answered() {
    let mut client = Client::connect(|_| {});
    let bytes = [frame(FIN | TEXT, b"good"), vec![0x83, 0x80]].concat();
    client.io.write_all(&bytes).await.unwrap();
    client.expect(FIN | TEXT, b"good").await;
    assert_eq!(client.closed().await.0, 1002);
}

#[tokio::test]
async fn a_drained_client_is_told_to_come_back() {
    let client = Client::connect(|_| {});
    client.handle.part(Close::of(Cause::Drain));
    let mut client = client;
    client.expect(FIN | CLOSE, &[&1012u16.to_be_bytes()[..], b"drain"].concat()).await;
    client.frame(FIN | CLOSE, &1012u16.to_be_bytes()).await;
    assert_eq!(client.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_pinged_and_closed() {
    let mut client = Client::connect(|_| {});
    let start = Instant::now();
    let (flags, payload) = client.next().await.unwrap();
    assert_eq!(flags, FIN | PING);
    let quiet = start.elapsed();
    assert!(
        (Duration::from_millis(22_400)..=Duration::from_secs(26)).contains(&quiet),
        "{quiet:?}"
    );
    client.frame(FIN | PONG, &payload).await;
    let (flags, _) = client.next().await.unwrap();
    assert_eq!(flags, FIN | PING, "a pong is a sign of life");
    assert_eq!(client.closed().await, (4408, "pong-timeout".to_owned()));
    assert!(start.elapsed() < Duration::from_secs(65));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_is_given_up() {
    let mut client = Client::connect(|_| {});
    let table = client.table.clone();
    let message = frame(FIN | BINARY, &[7; 60_000]);
    let start = Instant::now();
    while timeout(Duration::from_secs(1), client.io.write_all(&message)).await.is_ok() {}
    while !table.is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_vanished_client_leaves_nothing_behind() {
    let client = Client::connect(|_| {});
    let table = client.table.clone();
    drop(client);
    gone(&table).await;
}

/// A stream that panics once.
struct Fragile {
    io: Counted<DuplexStream>,
    breaks_at: Option<Break>,
}

#[derive(PartialEq)]
enum Break {
    /// When a read brings this many bytes.
    Read(usize),
    Shutdown,
}

async fn gone(table: &crate::hub::Table) {
    let gone = async {
        while !table.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), gone).await.unwrap();
}

impl Progress for Fragile {
    fn written(&self) -> u64 {
        self.io.written()
    }
}

impl AsyncRead for Fragile {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.io).poll_read(cx, buf);
        if self.breaks_at == Some(Break::Read(buf.filled().len() - before)) {
            self.breaks_at = None;
            panic!("on purpose");
        }
        poll
    }
}

impl AsyncWrite for Fragile {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.breaks_at == Some(Break::Shutdown) {
            self.breaks_at = None;
            panic!("on purpose");
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_panic_while_the_socket_is_left_is_accounted_for() {
    let wrap = |io| Fragile { io, breaks_at: Some(Break::Shutdown) };
    let mut client = Client::over(wrap, &Plan::default(), |_| {});
    client.frame(FIN | CLOSE, &1000u16.to_be_bytes()).await;
    assert_eq!(client.closed().await.0, 1000);
    gone(&client.table).await;
    assert_eq!(client.metric("moorline_panics_total"), Some(1.0));
    assert_eq!(client.metric("moorline_connections{"), Some(0.0));
    assert_eq!(client.metric("moorline_connections_closed_total{"), Some(1.0));
}

#[tokio::test]
async fn a_panic_is_told_to_its_own_client() {
    let wrap = |io| Fragile { io, breaks_at: Some(Break::Read(6 + 11)) };
    let mut client = Client::over(wrap, &Plan::default(), |_| {});
    let table = client.table.clone();
    client.frame(FIN | TEXT, b"fine").await;
    client.expect(FIN | TEXT, b"fine").await;
    client.frame(FIN | TEXT, b"eleven byte").await;
    assert_eq!(client.closed().await, (1011, "panic".to_owned()));
    gone(&table).await;
    assert_eq!(client.metric("moorline_panics_total"), Some(1.0));
    assert_eq!(client.metric("moorline_connections{"), Some(0.0));
}

#[test]
fn an_idle_connection_is_small() {
    fn size<F: Future>(_: impl FnOnce(Stream, Accepted) -> F) -> usize {
        size_of::<F>()
    }
    let size = size(run::<Stream>);
    assert!(size <= 1536, "{size} bytes for each idle connection");
}

#[tokio::test(start_paused = true)]
async fn who_is_sent_away_reads_why_and_nothing_that_waited() {
    let mut client = Client::connect(|_| {});
    client.frame(FIN | TEXT, b"not answered any more").await;
    client.handle.push(Message::text("not delivered any more"), None).unwrap();
    client.handle.cut(Close::of(Cause::Revoked));
    assert_eq!(client.closed().await, (4403, "revoked".to_owned()));

    // One that does not read holds its connection no longer than a closing handshake may take.
    let client = Client::connect(|_| {});
    client.handle.push(Message::binary(vec![7; 2 * PIPE]), None).unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    client.handle.cut(Close::of(Cause::Revoked));
    let start = Instant::now();
    while !client.table.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(start.elapsed() < Duration::from_secs(11), "{:?}", start.elapsed());
    assert_eq!(client.metric("moorline_outbox_bytes"), Some(0.0));
}
