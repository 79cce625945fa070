//! What a connection does with a client that sends too much, or reads too little.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter, DuplexStream};
use tokio::time::{Instant, sleep, timeout};

use super::client::{BINARY, CLOSE, Client, FIN, PING, PIPE, PONG, TEXT, frame};
use crate::close::{Cause, Close};
use crate::config::{LimitAction, Outbox, Plan, Rate, Size, WhenFull};
use crate::connection::{Counted, Progress};
use crate::hub::NotTaken;
use crate::message::Message;

fn messages(per_second: u32, action: LimitAction) -> Rate<u32> {
    Rate { per_second, burst: None, action, dry_run: false }
}

fn bytes(per_second: u64) -> Rate<Size> {
    Rate { per_second: Size::kib(per_second), ..Rate::default() }
}

fn inbound(action: LimitAction) -> Plan {
    let mut plan = Plan::default();
    plan.connection.inbound.messages = messages(10, action);
    plan
}

#[tokio::test(start_paused = true)]
async fn a_client_over_its_rate_is_slowed_down_and_loses_nothing() {
    let mut client = Client::under(&inbound(LimitAction::Throttle), |_| {});
    let start = Instant::now();
    for n in 0..50u8 {
        client.frame(FIN | TEXT, &[b'a' + n % 26]).await;
    }
    for n in 0..50u8 {
        client.expect(FIN | TEXT, &[b'a' + n % 26]).await;
    }
    let took = start.elapsed().as_millis();
    assert!((3900..4200).contains(&took), "{took} ms for 40 messages over a burst of 10");
    let limited = "moorline_limited_total{action=\"throttle\"";
    assert!(client.metric(limited).is_some_and(|count| (35.0..=40.0).contains(&count)));
}

#[tokio::test(start_paused = true)]
async fn a_throttled_client_that_says_nothing_more_is_not_given_up() {
    let mut plan = Plan::default();
    plan.connection.inbound.bytes = bytes(1);
    let mut client = Client::under(&plan, |_| {});
    client.frame(FIN | BINARY, &[1; 60_000]).await;
    let start = Instant::now();
    client.expect(FIN | BINARY, &[1; 60_000]).await;
    assert!(start.elapsed() > Duration::from_secs(55), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn messages_over_the_rate_are_dropped_where_the_plan_says_so() {
    let mut client = Client::under(&inbound(LimitAction::Drop), |_| {});
    for n in 0..30u8 {
        client.frame(FIN | BINARY, &[n]).await;
    }
    client.frame(FIN | CLOSE, &1000u16.to_be_bytes()).await;
    for n in 0..10u8 {
        client.expect(FIN | BINARY, &[n]).await;
    }
    assert_eq!(client.closed().await.0, 1000);
    assert_eq!(client.metric("moorline_limited_total{action=\"drop\""), Some(20.0));
}

#[tokio::test(start_paused = true)]
async fn a_client_over_the_rate_is_closed_where_the_plan_says_so() {
    let mut client = Client::under(&inbound(LimitAction::Close), |_| {});
    for n in 0..11u8 {
        client.frame(FIN | BINARY, &[n]).await;
    }
    for n in 0..10u8 {
        client.expect(FIN | BINARY, &[n]).await;
    }
    assert_eq!(client.closed().await, (4429, "rate-limited".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_frames_that_are_no_messages_is_closed() {
    let ping = frame(FIN | PING, b"flood");
    let mut fragments = frame(TEXT, b"");
    fragments.extend(frame(0, b"").repeat(4000));
    fragments.extend(frame(FIN, b""));
    for flood in [ping.repeat(6000), fragments.repeat(2)] {
        let mut client = Client::connect(|_| {});
        client.io.write_all(&flood).await.unwrap();
        loop {
            let (flags, payload) = client.next().await.expect("a close frame");
            if flags == FIN | CLOSE {
                assert_eq!(payload, [&4429u16.to_be_bytes()[..], b"rate-limited"].concat());
                break;
            }
            assert!(flags == FIN | PONG || flags == FIN | TEXT, "{flags}");
        }
    }
}

/// A client whose reply of 50,000 bytes goes out at 1 KiB/s.
async fn shaped() -> Client {
    let mut plan = Plan::default();
    plan.connection.outbound.bytes = bytes(1);
    let mut client = Client::under(&plan, |_| {});
    client.frame(FIN | BINARY, &[1; 50_000]).await;
    client
}

#[tokio::test(start_paused = true)]
async fn replies_are_shaped_and_heartbeats_pass_them_by() {
    let mut client = shaped().await;
    let start = Instant::now();
    client.frame(FIN | PING, b"still there?").await;
    client.expect(FIN | PONG, b"still there?").await;
    assert!(start.elapsed() < Duration::from_secs(1));
    let mut pings = 0;
    loop {
        match client.next().await.unwrap() {
            (flags, payload) if flags == FIN | PING => {
                pings += 1;
                client.frame(FIN | PONG, &payload).await;
            }
            (flags, payload) => {
                assert_eq!((flags, payload.len()), (FIN | BINARY, 50_000));
                break;
            }
        }
    }
    let took = start.elapsed().as_secs();
    assert!((47..=49).contains(&took), "{took} s");
    assert!(pings >= 1, "{pings}");
    assert_eq!(client.metric("moorline_outbox_bytes"), Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn a_client_with_a_shaped_reply_is_answered_when_it_leaves() {
    let mut client = shaped().await;
    let start = Instant::now();
    client.frame(FIN | CLOSE, &1001u16.to_be_bytes()).await;
    assert_eq!(client.closed().await.0, 1001);
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_no_limit() {
    let start = Instant::now();
    let mut shaped = shaped().await;
    tokio::task::yield_now().await;
    shaped.handle.part(Close::of(Cause::Drain));
    shaped.expect(FIN | BINARY, &[1; 50_000]).await;
    let (flags, payload) = shaped.next().await.unwrap();
    assert_eq!((flags, &payload[..2]), (FIN | CLOSE, &1012u16.to_be_bytes()[..]));
    let mut plan = Plan::default();
    plan.connection.inbound.bytes = bytes(1);
    let mut throttled = Client::under(&plan, |_| {});
    throttled.frame(FIN | BINARY, &[1; 65_536]).await;
    throttled.frame(FIN | BINARY, &[1; 65_536]).await;
    tokio::task::yield_now().await;
    throttled.handle.part(Close::of(Cause::Drain));
    loop {
        let (flags, payload) = throttled.next().await.unwrap();
        if flags == FIN | CLOSE {
            assert_eq!(payload[..2], 1012u16.to_be_bytes());
            break;
        }
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_for_a_client_that_is_being_closed() {
    let mut client = Client::connect(|_| {});
    client.handle.part(Close::of(Cause::Drain));
    let (flags, payload) = client.next().await.unwrap();
    assert_eq!((flags, &payload[..2]), (FIN | CLOSE, &1012u16.to_be_bytes()[..]));
    assert_eq!(client.handle.push(Message::text("too late"), None), Err(NotTaken::Ended));
    client.frame(FIN | CLOSE, &1012u16.to_be_bytes()).await;
    assert_eq!(client.next().await, None, "the stream ends in good order");
    let closed = "moorline_connections_closed_total{cause=\"drain\",code=\"1012\"";
    assert_eq!(client.metric(closed), Some(1.0));
}

#[tokio::test(start_paused = true)]
async fn replies_over_the_rate_are_dropped_or_end_the_connection() {
    for action in [LimitAction::Drop, LimitAction::Close] {
        let mut plan = Plan::default();
        plan.connection.outbound.messages = messages(2, action);
        let mut client = Client::under(&plan, |_| {});
        for n in 0..4u8 {
            client.frame(FIN | BINARY, &[n]).await;
        }
        for n in 0..2u8 {
            client.expect(FIN | BINARY, &[n]).await;
        }
        if action == LimitAction::Close {
            assert_eq!(client.closed().await, (4429, "rate-limited".to_owned()));
        } else {
            client.frame(FIN | CLOSE, &1000u16.to_be_bytes()).await;
            assert_eq!(client.closed().await.0, 1000);
            assert_eq!(client.metric("moorline_limited_total{action=\"drop\""), Some(2.0));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_frames_may_be_slowed_down_instead() {
    let mut plan = Plan::default();
    plan.connection.inbound.frames = messages(10, LimitAction::Throttle);
    let mut client = Client::under(&plan, |_| {});
    let start = Instant::now();
    client.io.write_all(&frame(FIN | PING, b"x").repeat(110)).await.unwrap();
    client.frame(FIN | TEXT, b"behind them").await;
    loop {
        match client.next().await.unwrap() {
            (flags, payload) if flags == FIN | TEXT => break assert_eq!(payload, b"behind them"),
            (flags, _) => assert_eq!(flags, FIN | PONG),
        }
    }
    let took = start.elapsed().as_secs();
    assert!((9..=11).contains(&took), "{took} s");
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_client_that_never_reads_is_bounded() {
    let bounded = |when_full| {
        Client::connect(|route| {
            route.outbox = Outbox { max_bytes: Size::kib(100), max_messages: 100, when_full };
        })
    };
    let push = |client: &Client, n: u8| client.handle.push(Message::binary(vec![n; 30_000]), None);
    let ended = async |client: &Client, cause: &str| {
        while !client.table.is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(client.metric("moorline_outbox_bytes"), Some(0.0));
        let closed = format!("moorline_connections_closed_total{{cause=\"{cause}\"");
        assert_eq!(client.metric(&closed), Some(1.0), "{cause}");
    };
    let overflows =
        |policy| format!("moorline_outbox_overflow_total{{hub=\"default\",policy=\"{policy}\"");

    let client = bounded(WhenFull::Close);
    let mut pushed = 0;
    while push(&client, 1).is_ok() {
        pushed += 1;
        sleep(Duration::from_millis(1)).await;
        assert!(client.metric("moorline_outbox_bytes") <= Some(102_400.0));
    }
    // 256 KiB are on their way, one message is in the socket's own buffer.
    assert!((11..=14).contains(&pushed), "{pushed}");
    ended(&client, "outbox-full").await;
    assert_eq!(client.metric(&overflows("close")), Some(1.0));

    let mut client = bounded(WhenFull::DropOldest);
    for n in 0..50 {
        push(&client, n).unwrap();
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(client.handle.outbox_bytes(), 90_000);
    assert_eq!(client.metric("moorline_outbox_bytes"), Some(90_000.0));
    let dropped = client.metric(&overflows("drop-oldest")).unwrap() as usize;
    let mut last = 0;
    for _ in dropped..50 {
        last = client.next().await.unwrap().1[0];
    }
    assert_eq!(last, 49, "the newest is not dropped");

    let client = bounded(WhenFull::DropOldest);
    for n in 0..50 {
        push(&client, n).unwrap();
        sleep(Duration::from_millis(1)).await;
    }
    client.handle.cut(Close::of(Cause::Memory));
    ended(&client, "memory").await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_trickles_in_is_given_up() {
    let mut client = Client::connect(|_| {});
    let bytes = frame(FIN | TEXT, &[b'x'; 100]);
    let start = Instant::now();
    for byte in &bytes {
        client.io.write_all(&[*byte]).await.unwrap();
        if let Ok(Some((flags, payload))) = timeout(Duration::from_secs(1), client.next()).await {
            assert_eq!(flags, FIN | CLOSE);
            assert_eq!(payload, [&4408u16.to_be_bytes()[..], b"message-timeout"].concat());
            break;
        }
    }
    let took = start.elapsed().as_secs();
    assert!((30..=32).contains(&took), "{took} s");
}

impl Progress for BufWriter<Counted<DuplexStream>> {
    fn written(&self) -> u64 {
        self.get_ref().written()
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_a_little_at_a_time_is_not_stalled() {
    // As TLS does, the stream takes much at once and passes it on bit by bit.
    let wrap = |io| BufWriter::with_capacity(4 * PIPE, io);
    let mut client = Client::over(wrap, &Plan::default(), |route| {
        route.max_message = Size::kib(1024);
    });
    let message = frame(FIN | BINARY, &[7; 2 * PIPE]);
    client.io.write_all(&message).await.unwrap();
    let start = Instant::now();
    let mut read = 0;
    // As long as something still waits in between.
    while read < PIPE {
        sleep(Duration::from_secs(5)).await;
        let mut some = [0; 16 * 1024];
        read += client.io.read(&mut some).await.unwrap();
    }
    assert!(start.elapsed() > Duration::from_secs(60), "{:?}", start.elapsed());
    assert_eq!(client.metric("moorline_connections{"), Some(1.0));
}
