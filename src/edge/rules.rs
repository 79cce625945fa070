//! What a newcomer meets by the config, from its first byte to the answer to its handshake.

use crate::config::Limits;
use crate::handshake::{Door, Routes};
use crate::tls::Acceptor;

/// All of one config that newcomers meet. A client keeps to those that were in force when it came, so
/// that no handshake ever sees half of two configs; none is changed once it is made.
#[derive(Debug)]
pub struct Rules {
    /// The doors by path.
    pub doors: Routes<Door>,
    /// Bounds of the time and size of what comes before the handshake.
    pub limits: Limits,
    /// The certificates; none without a `wss` listener.
    pub acceptor: Option<Acceptor>,
}
