//! moorline as its users meet it: the real binary, a real nats-server, real TLS, clients and workers
//! that others could have written.

mod harness;

mod tidy;
mod handshakes;
mod relaying;
mod outages;
mod connections;
