//! Load of three kinds: many handshakes, echoes as fast as they come back, and messages or newcomers at
//! a fixed rate.

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::client::{Client, Framed};
use crate::stage::Door;

/// Somebody who asks and waits for the answer.
pub(crate) enum Asker {
    /// Over a relay.
    WebSocket(Client, Framed),
    /// Straight to the worker.
    Nats { client: async_nats::Client, subject: &'static str, payload: Bytes },
    /// By coming in, and going again.
    Newcomer(Door),
}

/// How long each message took, in the order of length.
#[derive(Debug)]
pub(crate) struct Latencies(Vec<Duration>);

/// Handshakes at the same time.
pub(crate) const LANES: usize = 32;
/// Messages that are due and wait for one asker; more would mean that the relay stands still.
const DUE: usize = 64;
/// How long the last answers may take.
const GRACE: Duration = Duration::from_secs(20);

/// Opens `count` connections, `LANES` at a time.
pub(crate) async fn connect(door: &Door, count: usize) -> anyhow::Result<Vec<Client>> {
    let lanes = (0..LANES).map(|lane| {
        let door = door.clone();
        let count = count / LANES + usize::from(lane < count % LANES);
        async move {
            let mut clients = Vec::with_capacity(count);
            for _ in 0..count {
                clients.push(door.connect().await?);
            }
            anyhow::Ok(clients)
        }
    });
    Ok(all(lanes).await?.into_iter().flatten().collect())
}

/// Closes all of them, `LANES` at a time.
pub(crate) async fn close(clients: Vec<Client>) -> anyhow::Result<()> {
    let closes = stream::iter(clients).map(|client| Ok(client.close()));
    let closed = closes.try_buffer_unordered(LANES).try_collect();
    timeout(3 * GRACE, closed).await.context("clients did not end in time")?
}

/// Each sends the message once and waits until it has come back, `LANES` at a time.
pub(crate) async fn echo_once(
    clients: Vec<Client>,
    message: &Framed,
) -> anyhow::Result<Vec<Client>> {
    let echoes = stream::iter(clients)
        .map(|mut client| Ok(async move { client.echo(message).await.map(|()| client) }));
    let echoed = echoes.try_buffer_unordered(LANES).try_collect();
    timeout(3 * GRACE, echoed).await.context("not all echoes came in time")?
}

/// Clients that only answer pings.
pub(crate) async fn idle(clients: Vec<Client>, window: Duration) -> anyhow::Result<Vec<Client>> {
    let end = Instant::now() + window;
    let idle = clients.into_iter().map(|mut client| async move {
        client.idle(end).await?;
        anyhow::Ok(client)
    });
    all(idle).await
}

/// Each client sends, waits for the echo, and sends again. Returns how many echoes came.
pub(crate) async fn closed_loop(
    clients: Vec<Client>,
    message: &Framed,
    window: Duration,
) -> anyhow::Result<(Vec<Client>, u64)> {
    let end = Instant::now() + window;
    let loops = clients.into_iter().map(|mut client| {
        let message = message.clone();
        async move {
            let mut echoes = 0;
            while Instant::now() < end {
                client.echo(&message).await?;
                echoes += 1;
            }
            anyhow::Ok((client, echoes))
        }
    });
    let (clients, echoes): (Vec<_>, Vec<u64>) = all(loops).await?.into_iter().unzip();
    Ok((clients, echoes.iter().sum()))
}

/// All askers in turn send `rate` messages a second, whether or not the former ones are answered.
///
/// A latency is counted from the time a message is due, so that a relay that stands still is charged
/// for all messages that should have been sent meanwhile (no coordinated omission).
pub(crate) async fn open_loop(
    askers: Vec<Asker>,
    rate: u32,
    window: Duration,
) -> anyhow::Result<(Vec<Asker>, Latencies)> {
    let (senders, receivers): (Vec<_>, Vec<_>) =
        askers.iter().map(|_| mpsc::channel::<Instant>(DUE)).unzip();
    let loops = askers.into_iter().zip(receivers).map(|(mut asker, mut receiver)| async move {
        let mut latencies = Vec::new();
        while let Some(due) = receiver.recv().await {
            latencies.push(asker.ask(due).await?);
        }
        anyhow::Ok((asker, latencies))
    });
    let pace = tokio::task::spawn_blocking(move || pace(&senders, rate, window));
    let answered = timeout(window + GRACE, all(loops)).await.context("no answers in time")??;
    pace.await??;
    let (askers, latencies): (Vec<_>, Vec<_>) = answered.into_iter().unzip();
    Ok((askers, Latencies::new(latencies.concat())))
}

/// Says when messages are due. On a thread of its own, for a timer of the runtime has a resolution of
/// 1 ms, which is more than most answers take.
fn pace(askers: &[mpsc::Sender<Instant>], rate: u32, window: Duration) -> anyhow::Result<()> {
    let start = Instant::now();
    for (number, asker) in (0..).zip(askers.iter().cycle()) {
        let offset = Duration::from_secs(1) * number / rate;
        if offset >= window {
            break;
        }
        let due = start + offset;
        while let Some(wait) = due.checked_duration_since(Instant::now()).filter(|w| !w.is_zero()) {
            std::thread::park_timeout(wait);
        }
        ensure!(asker.try_send(due).is_ok(), "{DUE} messages of one client wait or it is gone");
    }
    Ok(())
}

/// Runs all futures at once; the first error ends all.
pub(crate) async fn all<T: Send + 'static>(
    futures: impl Iterator<Item = impl Future<Output = anyhow::Result<T>> + Send + 'static>,
) -> anyhow::Result<Vec<T>> {
    let mut tasks: JoinSet<_> = futures.collect();
    let mut results = Vec::with_capacity(tasks.len());
    while let Some(result) = tasks.join_next().await {
        results.push(result??);
    }
    Ok(results)
}

impl Asker {
    /// Another asker on the same connection to NATS; a WebSocket has but one.
    pub(crate) fn another(&self) -> Option<Self> {
        match self {
            Self::WebSocket(..) | Self::Newcomer(_) => None,
            Self::Nats { client, subject, payload } => {
                Some(Self::Nats { client: client.clone(), subject, payload: payload.clone() })
            }
        }
    }

    /// How long the answer took since the question was due.
    async fn ask(&mut self, due: Instant) -> anyhow::Result<Duration> {
        match self {
            Self::WebSocket(client, message) => client.echo(message).await?,
            Self::Newcomer(door) => {
                let client = door.connect().await?;
                let took = due.elapsed();
                client.close().await?;
                return Ok(took);
            }
            Self::Nats { client, subject, payload } => {
                let reply = client.request(*subject, payload.clone());
                let reply = timeout_at(Instant::now() + GRACE, reply).await??;
                ensure!(reply.payload == *payload, "the answer is another message");
            }
        }
        Ok(due.elapsed())
    }
}

impl Latencies {
    pub(crate) fn new(mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        Self(latencies)
    }

    /// How many messages there were.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The latency, in microseconds, that this part of all messages did not exceed.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        let place = (last as f64 * part).round() as usize;
        self.0.get(place).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
    }
}
