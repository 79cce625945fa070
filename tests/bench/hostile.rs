//! Clients that a node must bear: slow, noisy and deaf ones.

use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt, sink};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};

use crate::client::{Framed, Stream};

/// How long a node may put up with any of them.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How often a noisy client sends; a timer of the runtime is too coarse for single messages.
const TURN: Duration = Duration::from_millis(10);

/// Sends a byte a second, and nothing when there are no more, until the node ends the stream.
/// Returns how long that took.
pub(crate) async fn trickle(mut stream: Stream, bytes: &[u8]) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let mut second = interval(Duration::from_secs(1));
    let mut rest = bytes.iter();
    let ended = async {
        let mut answer = [0; 256];
        loop {
            tokio::select! {
                read = stream.read(&mut answer) => if matches!(read, Ok(0) | Err(_)) { return },
                _ = second.tick() => if let Some(byte) = rest.next() {
                    // The node may have ended the stream just now, which is for the read to say.
                    let _ = stream.write_all(&[*byte]).await;
                    let _ = stream.flush().await;
                },
            }
        }
    };
    timeout(TIMEOUT, ended).await.context("a slow client was never closed")?;
    Ok(start.elapsed())
}

/// Sends `rate` messages a second until `end`, or as many as the node takes, and reads what comes.
pub(crate) async fn chatter(
    stream: Stream,
    message: Framed,
    rate: u32,
    end: Instant,
) -> anyhow::Result<()> {
    let bytes = message.bytes().repeat((rate * TURN).as_secs_f64().round() as usize);
    let (mut read, mut write) = tokio::io::split(stream);
    let mut nowhere = sink();
    let send = async {
        let mut turn = interval(TURN);
        // What the node did not take in its turn is not made up for.
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while write.write_all(&bytes).await.is_ok() && write.flush().await.is_ok() {
            turn.tick().await;
        }
    };
    let ended = timeout_at(end, async {
        tokio::select! {
            () = send => {}
            _ = tokio::io::copy(&mut read, &mut nowhere) => {}
        }
    });
    ensure!(ended.await.is_err(), "a noisy client was closed, not slowed down");
    Ok(())
}

/// Sends without end and never reads, until the node ends the stream. Returns how long that took.
pub(crate) async fn flood(mut stream: Stream, message: Framed) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let bytes = message.bytes();
    let ended = async { while stream.write_all(&bytes).await.is_ok() {} };
    timeout(TIMEOUT, ended).await.context("a deaf client was never closed")?;
    Ok(start.elapsed())
}
