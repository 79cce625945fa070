//! moorline as its users meet it: the real binary, a real nats-server, real TLS, clients and workers
//! that others could have written.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::large_futures,
    clippy::too_many_lines,
    reason = "a test that meets what it does not expect should stop and say so"
)]

mod harness;

mod tidy;
mod setup;
mod handshakes;
mod addresses;
mod refusals;
mod admission;
mod hostile;
mod tokens;
mod revocation;
mod tls;
mod relaying;
mod http_backend;
mod websocket_over_http;
mod bridge;
mod outages;
mod pushes;
mod management;
mod cluster;
mod control;
mod names;
mod connections;
mod limits;
mod passthrough;
mod slow;
mod operators;
mod reload;
mod drain;
mod commands;
mod clients;
mod workers;
mod examples;
