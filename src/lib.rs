//! moorline stands in front of services that only know request and reply, and gives their users live,
//! two-way connections: it terminates every WebSocket and hands each message to a backend as one plain
//! request.
//!
//! The modules are the stations of a message. Inbound, a client's bytes come down on the left and its
//! message goes out to a backend on the right; the reply takes the same way back.
//!
//! ```text
//!  client --TCP--> edge --TLS--> tls --HTTP--> handshake --101--> connection --event--> relay --> nats
//!                   |                            |                    |                  |
//!                 limits                    auth (who is it)     machine (what to do)   hold
//! ```
//!
//! `server` builds all of it from a `config::Config`, `cli` is the command line, `management` the
//! backends' door, `admin` the operators'. Nothing here reads a global: settings, metrics and tasks are handed down.
//!
//! A module imports only from rows below its own, and on the last row from those to its left; a test
//! keeps it so:
//!
//! ```text
//! fuzzing                                        any bytes through each door (tests and fuzzers only)
//! cli
//! server                                         build, reload, drain
//! edge  management  admin  bridge                clients' door | backends' door | operators' door | queue group -> HTTP service
//! handshake                                      opening handshake, refusals, Origin
//! passthrough                                    the upstream, for everything else
//! connection                                     one connection's life: machine, driver, socket
//! cluster                                        leases, registry, takeover
//! auth  relay                                    who is it | event -> outcome
//! hub                                            all connections, and the line to each
//! limits                                         places, rates, memory
//! nats  http_client                              connections, subjects, reply inbox | key sets
//! tls   task                                     certificates, acceptor | spawn, stop, backoff
//! id  close  message  config  event  metrics     ground
//! ```

pub mod id;
pub mod close;
pub mod message;
pub mod config;
pub mod event;
pub mod metrics;
pub mod task;
pub mod tls;
pub mod http_client;
pub mod nats;
pub mod limits;
pub mod hub;
pub mod relay;
pub mod auth;
pub mod cluster;
pub mod connection;
pub mod handshake;
pub mod passthrough;
pub mod edge;
pub mod management;
pub mod admin;
pub mod bridge;
pub mod server;
pub mod cli;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
