//! Events to real servers, good and bad, and what comes of them.

mod answers;
mod servers;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::{Backend, Period, Urls};
use crate::event::{Action, EventBody, Peer, Refusal};
use crate::message::Message;
use crate::nats::testing::until;
use crate::relay::Relay;
use crate::relay::testing::{event, peer, route};
use crate::task::Tasks;

/// What a server does with a request.
#[derive(Debug, Clone)]
enum Does {
    /// Writes these bytes and waits for the next request.
    Says(String),
    /// Writes these bytes and closes.
    Ends(String),
    /// Resets the connection.
    Resets,
    /// Says nothing.
    Sleeps,
    /// Writes a body without an end.
    Streams,
}

/// A server on a port of its own; ends when dropped.
struct Service {
    address: SocketAddr,
    state: Arc<State>,
    tasks: Tasks,
}

struct State {
    does: Mutex<Does>,
    /// Heads and bodies.
    requests: Mutex<Vec<(String, String)>>,
    connections: AtomicUsize,
    open: AtomicUsize,
}

fn ok(body: &str) -> Does {
    with("200 OK", &[], body)
}

fn with(status: &str, headers: &[&str], body: &str) -> Does {
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let length = body.len();
    Does::Says(format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}"))
}

impl Service {
    async fn start(does: Does) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), does).await
    }

    async fn at(address: SocketAddr, does: Does) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let state = Arc::new(State {
            does: Mutex::new(does),
            requests: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
        });
        let (address, tasks) = (listener.local_addr().unwrap(), Tasks::new());
        let (each, shared) = (tasks.clone(), Arc::clone(&state));
        tasks.spawn("service", async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    () = each.stopping() => return,
                };
                let (state, until) = (Arc::clone(&shared), each.clone());
                each.spawn("service connection", async move {
                    state.connections.fetch_add(1, Ordering::SeqCst);
                    state.open.fetch_add(1, Ordering::SeqCst);
                    tokio::select! {
                        _ = serve(stream, &state) => {}
                        () = until.stopping() => {}
                    }
                    state.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, state, tasks }
    }

    fn now(&self, does: Does) {
        *self.state.does.lock().unwrap() = does;
    }

    fn url(&self) -> String {
        format!("http://{}/ws-events?a=b", self.address)
    }

    fn bodies(&self) -> Vec<String> {
        self.state.requests.lock().unwrap().iter().map(|(_, body)| body.clone()).collect()
    }

    fn last_head(&self) -> String {
        self.state.requests.lock().unwrap().last().unwrap().0.clone()
    }

    fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Ends it; its port is free when this returns.
    async fn stop(self) -> SocketAddr {
        self.tasks.stop();
        self.tasks.ended().await;
        self.address
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

async fn serve(mut stream: TcpStream, state: &State) -> Option<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        stream.read_exact(&mut body).await.ok()?;
        let body = String::from_utf8_lossy(&body).into_owned();
        state.requests.lock().unwrap().push((head, body));
        let does = state.does.lock().unwrap().clone();
        match does {
            Does::Says(text) => stream.write_all(text.as_bytes()).await.ok()?,
            Does::Ends(text) => return stream.write_all(text.as_bytes()).await.ok(),
            Does::Resets => {
                return SockRef::from(&stream).set_linger(Some(Duration::ZERO)).ok();
            }
            // Ends when the other side closes.
            Does::Sleeps => return stream.read_u8().await.ok().map(drop),
            Does::Streams => {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                stream.write_all(head.as_bytes()).await.ok()?;
                let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
                loop {
                    stream.write_all(chunk.as_bytes()).await.ok()?;
                }
            }
        }
    }
}

/// A route to services.
struct Edge {
    relay: Relay,
    metrics: Metrics,
    hold: Hold,
    peer: Arc<Peer>,
}

impl Edge {
    fn new(urls: Vec<String>, change: impl FnOnce(&mut Route, &mut HttpBackend)) -> Self {
        let (mut route, mut backend) = (route("app"), HttpBackend::new(Urls::Many(urls)));
        route.hold = Period::secs(0);
        change(&mut route, &mut backend);
        route.backend = Backend::Http(Box::new(backend));
        let (metrics, hold) = (Metrics::new(), Hold::new(1 << 20));
        let gates = Gates::new(&Tasks::new());
        let relay = Relay::new(&route, None, &gates, &hold, &Fence::open(), &metrics).unwrap();
        Self { relay, metrics, hold, peer: Arc::new(peer("app", None)) }
    }

    fn to(service: &Service) -> Self {
        Self::new(vec![service.url()], |_, _| ())
    }

    async fn ask(&self, text: &str) -> Outcome {
        self.ask_with(EventBody::Message(Message::text(text))).await
    }

    async fn ask_with(&self, body: EventBody) -> Outcome {
        Box::pin(self.relay.request(event(&self.peer, body))).await
    }

    fn metric(&self, name: &str, label: &str) -> u64 {
        let text = String::from_utf8(self.metrics.to_text()).unwrap();
        let fits = |line: &&str| line.starts_with(&format!("{name}{{")) && line.contains(label);
        text.lines().find(fits).and_then(|line| line.rsplit(' ').next()).unwrap().parse().unwrap()
    }

    fn outcomes(&self, outcome: &str) -> u64 {
        self.metric("moorline_backend_requests_total", &format!("outcome=\"{outcome}\""))
    }

    fn circuits(&self) -> u64 {
        self.metric("moorline_backend_circuits_open", "")
    }

    fn assert_at_rest(&self) {
        let in_flight = self.metric("moorline_backend_in_flight", "");
        assert_eq!(
            (in_flight, self.metric("moorline_backend_held", ""), self.hold.used()),
            (0, 0, 0)
        );
    }
}

fn said(text: &str) -> Outcome {
    Outcome::Replied(vec![Action::Send(Message::text(text))])
}

fn refused(status: u16) -> Outcome {
    Outcome::Refused(Refusal::new(status, None))
}

fn broken() -> Outcome {
    Outcome::Refused(Refusal::broken(502))
}

/// An address that takes no connections.
async fn nobody() -> SocketAddr {
    Service::start(Does::Sleeps).await.stop().await
}
