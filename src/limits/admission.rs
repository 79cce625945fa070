//! What a well-formed opening handshake must pass before anybody looks at who sends it: a token's
//! signature or a question to a backend costs more than to say no.

use std::net::IpAddr;

use super::addresses::{AddressPermit, Addresses};
use super::handshakes::Handshakes;
use super::memory::Memory;
use crate::config::Limits;

/// The bounds on newcomers that hold for the whole node. One for the node.
#[derive(Debug)]
pub struct Admission {
    memory: Memory,
    handshakes: Handshakes,
    addresses: Addresses,
}

/// Why a newcomer is not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The node is short of memory.
    Memory,
    /// Too many handshakes in the whole node.
    Rate,
    /// Too many handshakes of the client's address.
    AddressRate,
    /// Too many connections of the client's address.
    AddressFull,
}

impl Admission {
    /// The bounds that `limits` set; `memory` says whether the node is short of it.
    #[must_use]
    pub fn new(limits: &Limits, memory: Memory) -> Self {
        Self {
            memory,
            handshakes: Handshakes::new(limits.handshakes, limits.handshakes_per_ip),
            addresses: Addresses::new(limits.max_connections_per_ip),
        }
    }

    /// Counts a handshake and takes a place of its address.
    ///
    /// # Errors
    /// The first bound that is reached.
    pub fn admit(&self, ip: IpAddr) -> Result<AddressPermit, Denied> {
        if self.memory.is_short() {
            return Err(Denied::Memory);
        }
        self.handshakes.count(ip)?;
        self.addresses.take(ip).ok_or(Denied::AddressFull)
    }

    /// Keeps the tables small, for ever. Cancel safe.
    pub async fn tidy(&self) {
        self.handshakes.forget().await;
    }
}
