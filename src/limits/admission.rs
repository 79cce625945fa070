//! What a well-formed opening handshake must pass before anybody looks at who sends it: a token's
//! signature or a question to a backend costs more than to say no.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::sleep;

use super::addresses::{AddressPermit, Addresses};
use super::handshakes::Handshakes;
use super::memory::Memory;
use crate::config::Limits;

/// The bounds on newcomers that hold for the whole node. One for the node.
#[derive(Debug)]
pub struct Admission {
    memory: Memory,
    handshakes: ArcSwap<Handshakes>,
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

/// How often addresses are forgotten whose bucket is full again.
const FORGET_INTERVAL: Duration = Duration::from_secs(10);

impl Admission {
    /// The bounds that `limits` set; `memory` says whether the node is short of it.
    #[must_use]
    pub fn new(limits: &Limits, memory: Memory) -> Self {
        Self {
            memory,
            handshakes: ArcSwap::from_pointee(Handshakes::new(limits)),
            addresses: Addresses::new(limits.max_connections_per_ip),
        }
    }

    /// Changes the bounds. Places that are taken stay taken; changed rates begin anew.
    pub fn set_limits(&self, limits: &Limits) {
        self.addresses.set_max(limits.max_connections_per_ip);
        if !self.handshakes.load().are_of(limits) {
            self.handshakes.store(Arc::new(Handshakes::new(limits)));
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
        self.handshakes.load().count(ip)?;
        self.addresses.take(ip).ok_or(Denied::AddressFull)
    }

    /// Keeps the tables small, for ever. Cancel safe.
    pub async fn tidy(&self) {
        loop {
            sleep(FORGET_INTERVAL).await;
            self.handshakes.load().forget();
        }
    }
}
