//! How many opening handshakes are looked at: of one address, and in the whole node.

use std::net::IpAddr;
use std::num::NonZeroU32;

use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

use super::Denied;
use super::clock::{At, NodeClock};
use super::network::{Network, SHARDS, Shards};
use crate::config::{HandshakeRate, Limits};

/// The rates of opening handshakes.
#[derive(Debug)]
pub(super) struct Handshakes {
    /// Those of the node and of an address, as the config has them.
    rates: [HandshakeRate; 2],
    node: Option<Limiter<NotKeyed, InMemoryState>>,
    addresses: Option<Limiter<Network, Recent>>,
}

type Limiter<K, S> = RateLimiter<K, S, NodeClock, NoOpMiddleware<At>>;

/// The addresses whose bucket is not full. One that finds no room here is not held to its own rate,
/// only to the node's: a flood from very many addresses must not lock out those it does not know.
#[derive(Debug)]
struct Recent(Shards<Nanos>);

/// Addresses remembered in each shard: 262,144 in all, about 10 MiB.
const MOST: usize = (1 << 18) / SHARDS;

impl Handshakes {
    pub(super) fn new(limits: &Limits) -> Self {
        let rates @ [node, address] = [limits.handshakes, limits.handshakes_per_ip];
        let node = quota(node).map(|q| Limiter::new(q, InMemoryState::default(), NodeClock));
        let recent = || Recent(Shards::new());
        let addresses = quota(address).map(|q| Limiter::new(q, recent(), NodeClock));
        Self { rates, node, addresses }
    }

    /// Whether these are the rates that `limits` set.
    pub(super) fn are_of(&self, limits: &Limits) -> bool {
        self.rates == [limits.handshakes, limits.handshakes_per_ip]
    }

    /// Counts a handshake. One that is too much for its address takes nothing from the others.
    pub(super) fn count(&self, ip: IpAddr) -> Result<(), Denied> {
        let network = Network::of(ip);
        if self.addresses.as_ref().is_some_and(|rate| rate.check_key(&network).is_err()) {
            return Err(Denied::AddressRate);
        }
        if self.node.as_ref().is_some_and(|rate| rate.check().is_err()) {
            return Err(Denied::Rate);
        }
        Ok(())
    }

    /// Forgets the addresses whose bucket is full again.
    pub(super) fn forget(&self) {
        if let Some(addresses) = &self.addresses {
            addresses.retain_recent();
            addresses.shrink_to_fit();
        }
    }
}

impl StateStore for Recent {
    type Key = Network;

    fn measure_and_replace<T, F, E>(&self, network: &Network, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut shard = self.0.of(network);
        let known = shard.get(network).copied();
        let (outcome, state) = measure(known)?;
        if known.is_some() || shard.len() < MOST {
            shard.insert(*network, state);
        }
        Ok(outcome)
    }
}

impl ShrinkableKeyedStateStore<Network> for Recent {
    fn retain_recent(&self, drop_below: Nanos) {
        for mut shard in self.0.each() {
            shard.retain(|_, state| *state > drop_below);
        }
    }

    fn shrink_to_fit(&self) {
        for mut shard in self.0.each() {
            shard.shrink_to_fit();
        }
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// None without a limit.
fn quota(rate: HandshakeRate) -> Option<Quota> {
    let per_second = NonZeroU32::new(rate.per_second)?;
    let burst = rate.burst.and_then(NonZeroU32::new).unwrap_or(per_second);
    Some(Quota::per_second(per_second).allow_burst(burst))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use tokio::time::advance;

    const NO_LIMIT: HandshakeRate = rate(0, 1);

    const fn rate(per_second: u32, burst: u32) -> HandshakeRate {
        HandshakeRate { per_second, burst: Some(burst) }
    }

    fn handshakes(handshakes: HandshakeRate, handshakes_per_ip: HandshakeRate) -> Handshakes {
        Handshakes::new(&Limits { handshakes, handshakes_per_ip, ..Limits::default() })
    }

    fn ip(last: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0x0a00_0000 + last).into()
    }

    fn remembered(handshakes: &Handshakes) -> usize {
        handshakes.addresses.as_ref().map_or(0, |addresses| addresses.len())
    }

    fn counted(handshakes: &Handshakes, ip: IpAddr, times: usize) -> usize {
        (0..times).filter(|_| handshakes.count(ip).is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_over_its_rate_takes_nothing_from_the_others() {
        let handshakes = handshakes(rate(1, 15), rate(2, 10));
        assert_eq!(counted(&handshakes, ip(1), 1000), 10);
        assert_eq!(handshakes.count(ip(1)), Err(Denied::AddressRate));
        assert_eq!(counted(&handshakes, ip(2), 5), 5);
        assert_eq!(handshakes.count(ip(2)), Err(Denied::Rate));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_fills_by_its_rate() {
        let handshakes = handshakes(NO_LIMIT, rate(4, 8));
        assert_eq!(counted(&handshakes, ip(1), 20), 8);
        advance(Duration::from_secs(1)).await;
        assert_eq!(counted(&handshakes, ip(1), 20), 4);
        advance(Duration::from_secs(3600)).await;
        assert_eq!(counted(&handshakes, ip(1), 20), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_forgotten_once_its_bucket_is_full() {
        let handshakes = handshakes(NO_LIMIT, rate(1, 100));
        assert_eq!(counted(&handshakes, ip(1), 100), 100);
        assert_eq!((2..1000).filter(|n| handshakes.count(ip(*n)).is_ok()).count(), 998);
        assert_eq!(remembered(&handshakes), 999);
        advance(Duration::from_secs(11)).await;
        handshakes.forget();
        assert_eq!(remembered(&handshakes), 1, "the one with an empty bucket");
        assert_eq!(counted(&handshakes, ip(1), 100), 11, "what was filled in 11 seconds");
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_bounded_and_keeps_whom_it_knows() {
        let handshakes = handshakes(NO_LIMIT, HandshakeRate { per_second: 1, burst: None });
        assert!(handshakes.count(ip(0)).is_ok());
        for n in 1..400_000 {
            assert!(handshakes.count(ip(n)).is_ok());
        }
        assert!(remembered(&handshakes) <= MOST * SHARDS);
        assert_eq!(handshakes.count(ip(0)), Err(Denied::AddressRate));
    }
}
