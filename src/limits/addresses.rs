//! Places by address; each is given back on drop, and an address without any is forgotten.

use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::network::Network;
use super::shards::Shards;

/// So many places for each address: an IPv4 address, or an IPv6 network of 64 bits.
#[derive(Debug, Clone)]
pub struct Addresses(Arc<Taken>);

/// One place of an address.
#[derive(Debug)]
pub struct AddressPermit {
    taken: Arc<Taken>,
    network: Network,
}

#[derive(Debug)]
struct Taken {
    /// Never zero.
    places: Shards<Network, usize>,
    max: AtomicUsize,
}

impl Addresses {
    /// `max` places for each address, all free.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Taken { places: Shards::new(), max: AtomicUsize::new(max) }))
    }

    /// Takes a place of the address; none when all of its places are taken.
    #[must_use]
    pub fn take(&self, ip: IpAddr) -> Option<AddressPermit> {
        let network = Network::of(ip);
        let mut shard = self.0.places.of(&network);
        let places = shard.get(&network).copied().unwrap_or_default();
        if places >= self.0.max.load(Ordering::Relaxed) {
            return None;
        }
        shard.insert(network, places + 1);
        Some(AddressPermit { taken: Arc::clone(&self.0), network })
    }

    /// Makes it `max` places for each. Those taken beyond that stay taken until they are given back.
    pub fn set_max(&self, max: usize) {
        self.0.max.store(max, Ordering::Relaxed);
    }

    /// How many addresses have a place.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.places.len()
    }

    /// Whether no address has a place.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        if let Entry::Occupied(mut places) = self.taken.places.of(&self.network).entry(self.network)
        {
            *places.get_mut() -= 1;
            if *places.get() == 0 {
                places.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_places_and_no_other_loses_any() {
        let addresses = Addresses::new(2);
        let kept = [addresses.take(ip("192.0.2.1")), addresses.take(ip("::ffff:192.0.2.1"))];
        assert!(kept.iter().all(Option::is_some));
        assert!(addresses.take(ip("192.0.2.1")).is_none());
        let other = addresses.take(ip("192.0.2.2"));
        assert!(other.is_some() && addresses.len() == 2);
        drop(kept);
        assert_eq!(addresses.len(), 1);
        assert!(addresses.take(ip("192.0.2.1")).is_some());
        drop(other);
        assert!(addresses.is_empty());
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_address() {
        let addresses = Addresses::new(1);
        let _kept = addresses.take(ip("2001:db8:0:1::1")).unwrap();
        assert!(addresses.take(ip("2001:db8:0:1:aaaa::2")).is_none());
        assert!(addresses.take(ip("2001:db8:0:2::1")).is_some());
    }
}
