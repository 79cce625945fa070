//! What a client must pass before anybody looks at who it is: TLS, a token's signature or a question to
//! a backend costs more than to say no.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Seat;
use super::addresses::Addresses;
use super::handshakes::Handshakes;
use super::memory::Memory;
use super::permits::Permits;
use crate::config::Limits;

/// The bounds on newcomers that hold for the whole node. One for the node.
#[derive(Debug)]
pub struct Admission {
    memory: Memory,
    handshakes: ArcSwap<Handshakes>,
    /// For connections, from the decision about their handshake to their end. Who has not asked yet
    /// has none, so slow clients cannot take them all.
    places: Permits,
    addresses: Addresses,
}

/// Why a newcomer is not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The node is short of memory.
    Memory,
    /// Too many connections in the whole node.
    Full,
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
            handshakes: ArcSwap::from_pointee(Handshakes::new(limits)),
            places: Permits::new(limits.max_connections),
            addresses: Addresses::new(limits.max_connections_per_ip),
        }
    }

    /// Changes the bounds. Places that are taken stay taken; changed rates begin anew.
    pub fn set_limits(&self, limits: &Limits) {
        self.places.set_max(limits.max_connections);
        self.addresses.set_max(limits.max_connections_per_ip);
        if !self.handshakes.load().are_of(limits) {
            self.handshakes.store(Arc::new(Handshakes::new(limits)));
        }
    }

    /// Counts a TCP connection of an address, before TLS.
    ///
    /// # Errors
    /// When there are too many.
    pub fn count_stream(&self, ip: IpAddr) -> Result<(), Denied> {
        self.handshakes.load().count_stream(ip)
    }

    /// Counts a request of an address, well-formed or not: else a 404 could be had without bound.
    ///
    /// # Errors
    /// When there are too many.
    pub fn count_request(&self, ip: IpAddr) -> Result<(), Denied> {
        self.handshakes.load().count_request(ip)
    }

    /// Counts a well-formed handshake, whose request was counted, and takes what its connection needs.
    ///
    /// # Errors
    /// The first bound that is reached.
    pub fn admit(&self, ip: IpAddr) -> Result<Seat, Denied> {
        if self.memory.is_short() {
            return Err(Denied::Memory);
        }
        let node = self.places.take().ok_or(Denied::Full)?;
        self.handshakes.load().count()?;
        let address = self.addresses.take(ip).ok_or(Denied::AddressFull)?;
        Ok(Seat { node, address })
    }

    /// How many connections have a place.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.places.taken()
    }

    /// Forgets the addresses that may do anything again.
    pub fn tidy(&self) {
        self.handshakes.load().forget();
    }
}
