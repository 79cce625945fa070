//! Stories over real handshakes on loopback.

mod fixture;
mod handshake;
mod reload;
