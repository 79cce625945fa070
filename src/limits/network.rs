//! Who counts as one when something is bounded by address, and tables by that.

use std::array;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// An IPv4 address, or the first 64 bits of an IPv6 address: the least that one customer is given
/// (RFC 6177), who may use any address in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Network {
    V4(Ipv4Addr),
    V6(u64),
}

/// A table by network, in shards so that handshakes on many cores do not meet at one lock. No lock is
/// held across an await or while another one is taken.
#[derive(Debug)]
pub(super) struct Shards<V> {
    /// Seeded, so that nobody can choose addresses that fall into one shard.
    hasher: RandomState,
    shards: [Mutex<HashMap<Network, V>>; SHARDS],
}

/// How many shards a table has.
pub(super) const SHARDS: usize = 64;

impl Network {
    /// The network of a client. An IPv4 address within IPv6 is that IPv4 address.
    pub(super) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) => Self::V6((ip.to_bits() >> 64) as u64),
        }
    }
}

impl<V> Shards<V> {
    pub(super) fn new() -> Self {
        Self { hasher: RandomState::new(), shards: array::from_fn(|_| Mutex::default()) }
    }

    /// The shard that holds `network`.
    #[expect(clippy::indexing_slicing, reason = "the remainder is below the number of shards")]
    pub(super) fn of(&self, network: &Network) -> MutexGuard<'_, HashMap<Network, V>> {
        lock(&self.shards[self.hasher.hash_one(network) as usize % SHARDS])
    }

    /// Every shard, one after the other.
    pub(super) fn each(&self) -> impl Iterator<Item = MutexGuard<'_, HashMap<Network, V>>> {
        self.shards.iter().map(lock)
    }

    /// How many networks there are.
    pub(super) fn len(&self) -> usize {
        self.each().map(|shard| shard.len()).sum()
    }
}

fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(ip: &str) -> Network {
        Network::of(ip.parse().unwrap())
    }

    #[test]
    fn an_ipv4_address_is_one_and_so_is_an_ipv6_network_of_64_bits() {
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
        assert_eq!(network("192.0.2.1"), network("::ffff:192.0.2.1"));
        assert_eq!(network("2001:db8:0:1::1"), network("2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert_ne!(network("2001:db8:0:1::1"), network("2001:db8:0:2::1"));
        assert_ne!(network("::1"), network("0.0.0.0"));
    }
}
