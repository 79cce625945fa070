//! The parts that tests put together: a node, NATS, clients, workers, certificates.

mod node;
mod nats;
mod service;
mod client;
mod certificates;
mod names;
mod tools;

use std::time::Duration;

pub(crate) use certificates::{Certificates, replace};
pub(crate) use client::{Client, Io, Request, connect_tls, exchange, exchange_raw};
pub(crate) use names::{Watcher, hostile_names, is_name, percent_encoded, token};
pub(crate) use nats::{Answer, NatsServer, Worker, header};
pub(crate) use node::{Node, signal};
pub(crate) use service::{Answer as ServiceAnswer, Asked, FAILURE, Service, echo, talk};
pub(crate) use tools::{Process, Tool, finish, have, node as node_program, python, root, tool};

/// The longest that a test waits for something that should happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A port that nobody listens on now, for servers that must be found, or come back, on a known port.
/// Below the range that the kernel gives to clients, so that none of them takes it meanwhile.
pub(crate) fn free_port() -> u16 {
    loop {
        let port = FIRST_PORT + rand::random::<u16>() % PORTS;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits until `condition` holds; fails the test, naming `what`, when it does not in time.
pub(crate) async fn eventually<F, T>(what: &str, mut condition: F) -> T
where
    F: AsyncFnMut() -> Option<T>,
{
    let started = tokio::time::Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(started.elapsed() < DEADLINE, "{what} did not happen in {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 12_000;
