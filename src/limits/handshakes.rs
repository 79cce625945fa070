//! How many opening handshakes are looked at: of one address, and in the whole node; and how many TCP
//! connections of one address, because TLS costs more than the handshake behind it.

use std::net::IpAddr;
use std::num::NonZeroU32;

use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

use super::Denied;
use super::clock::{At, NodeClock};
use super::network::Network;
use super::shards::{SHARDS, Shards};
use crate::config::{HandshakeRate, Limits};

/// The rates of opening handshakes, and of the TCP connections before them.
#[derive(Debug)]
pub(super) struct Handshakes {
    /// Those of the node and of an address, as the config has them.
    rates: [HandshakeRate; 2],
    /// Well-formed handshakes of all addresses that are not over their own rate.
    node: Option<Limiter<NotKeyed, InMemoryState>>,
    /// Requests of an address, whatever is wrong with them.
    addresses: Option<Limiter<Network, Recent>>,
    /// TCP connections of an address.
    streams: Option<Limiter<Network, Recent>>,
}

type Limiter<K, S> = RateLimiter<K, S, NodeClock, NoOpMiddleware<At>>;

/// The addresses whose bucket is not full. One that finds no room here is not held to its own rate,
/// only to the node's: a flood from very many addresses must not lock out those it does not know.
#[derive(Debug)]
struct Recent(Shards<Network, Nanos>);

/// Addresses remembered in each shard: 262,144 in a table, about 10 MiB.
const MOST: usize = (1 << 18) / SHARDS;
/// TCP connections for each handshake that an address may have: a browser opens some that it never
/// uses, and a client that was told to come back must get as far as being told so again.
const STREAMS_PER_HANDSHAKE: u32 = 4;

impl Handshakes {
    pub(super) fn new(limits: &Limits) -> Self {
        let rates @ [node, address] = [limits.handshakes, limits.handshakes_per_ip];
        let node = quota(node).map(|q| Limiter::new(q, InMemoryState::default(), NodeClock));
        let by_address = |q| Limiter::new(q, Recent(Shards::new()), NodeClock);
        let addresses = quota(address).map(by_address);
        let streams = quota(looser(address)).map(by_address);
        Self { rates, node, addresses, streams }
    }

    /// Whether these are the rates that `limits` set.
    pub(super) fn are_of(&self, limits: &Limits) -> bool {
        self.rates == [limits.handshakes, limits.handshakes_per_ip]
    }

    /// Counts a TCP connection.
    pub(super) fn count_stream(&self, ip: IpAddr) -> Result<(), Denied> {
        check(self.streams.as_ref(), ip)
    }

    /// Counts a request of an address.
    pub(super) fn count_request(&self, ip: IpAddr) -> Result<(), Denied> {
        check(self.addresses.as_ref(), ip)
    }

    /// Counts a well-formed handshake. Asked only about one that is not too much for its address,
    /// which must take nothing from the others.
    pub(super) fn count(&self) -> Result<(), Denied> {
        match &self.node {
            Some(rate) if rate.check().is_err() => Err(Denied::Rate),
            _ => Ok(()),
        }
    }

    /// Forgets the addresses whose buckets are full again.
    pub(super) fn forget(&self) {
        for addresses in self.addresses.iter().chain(&self.streams) {
            addresses.retain_recent();
            addresses.shrink_to_fit();
        }
    }
}

fn check(rate: Option<&Limiter<Network, Recent>>, ip: IpAddr) -> Result<(), Denied> {
    match rate {
        Some(rate) if rate.check_key(&Network::of(ip)).is_err() => Err(Denied::AddressRate),
        _ => Ok(()),
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

/// The rate of TCP connections that goes with one of handshakes.
fn looser(rate: HandshakeRate) -> HandshakeRate {
    let more = |number: u32| number.saturating_mul(STREAMS_PER_HANDSHAKE);
    HandshakeRate { per_second: more(rate.per_second), burst: rate.burst.map(more) }
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

    /// As for a well-formed handshake.
    fn count(handshakes: &Handshakes, ip: IpAddr) -> Result<(), Denied> {
        handshakes.count_request(ip)?;
        handshakes.count()
    }

    fn counted(handshakes: &Handshakes, ip: IpAddr, times: usize) -> usize {
        (0..times).filter(|_| count(handshakes, ip).is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_over_its_rate_takes_nothing_from_the_others() {
        let handshakes = handshakes(rate(1, 15), rate(2, 10));
        assert_eq!(counted(&handshakes, ip(1), 1000), 10);
        assert_eq!(count(&handshakes, ip(1)), Err(Denied::AddressRate));
        assert_eq!(counted(&handshakes, ip(2), 5), 5);
        assert_eq!(count(&handshakes, ip(2)), Err(Denied::Rate));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_has_four_streams_for_each_of_its_handshakes() {
        let handshakes = handshakes(NO_LIMIT, rate(2, 10));
        let streams = |times| (0..times).filter(|_| handshakes.count_stream(ip(1)).is_ok()).count();
        assert_eq!(streams(1000), 40);
        advance(Duration::from_secs(1)).await;
        assert_eq!(streams(1000), 8);
        assert_eq!(counted(&handshakes, ip(1), 1000), 10, "they take none of its handshakes");
        assert!(handshakes.count_stream(ip(2)).is_ok());
        advance(Duration::from_secs(100)).await;
        handshakes.forget();
        assert!(
            [&handshakes.addresses, &handshakes.streams]
                .iter()
                .all(|rate| { rate.as_ref().is_some_and(|rate| rate.is_empty()) })
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_is_counted() {
        let handshakes = handshakes(NO_LIMIT, NO_LIMIT);
        assert_eq!(counted(&handshakes, ip(1), 10_000), 10_000);
        assert!((0..10_000).all(|_| handshakes.count_stream(ip(1)).is_ok()));
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
        assert_eq!((2..1000).filter(|n| count(&handshakes, ip(*n)).is_ok()).count(), 998);
        assert_eq!(remembered(&handshakes), 999);
        advance(Duration::from_secs(11)).await;
        handshakes.forget();
        assert_eq!(remembered(&handshakes), 1, "the one with an empty bucket");
        assert_eq!(counted(&handshakes, ip(1), 100), 11, "what was filled in 11 seconds");
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_bounded_and_keeps_whom_it_knows() {
        let handshakes = handshakes(NO_LIMIT, HandshakeRate { per_second: 1, burst: None });
        assert!(count(&handshakes, ip(0)).is_ok());
        for n in 1..400_000 {
            assert!(count(&handshakes, ip(n)).is_ok());
        }
        assert!(remembered(&handshakes) <= MOST * SHARDS);
        assert_eq!(count(&handshakes, ip(0)), Err(Denied::AddressRate));
    }
}
