//! Clients that are not let in yet, in the order in which they came and by address, and who of them
//! makes room first. Time is passed in; each step takes a time that grows with the logarithm of their
//! number.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use super::network::Network;

/// The clients, by number.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// Who comes next.
    next: u64,
    /// By number, so the first has been here longest.
    all: BTreeMap<u64, Arrival>,
    /// The numbers of each address that has any.
    by_address: HashMap<Network, BTreeSet<u64>>,
    /// Those addresses by how many numbers they have, so the last has the most.
    ranking: BTreeSet<(usize, Network)>,
}

#[derive(Debug)]
struct Arrival {
    since: Instant,
    /// None for one behind a proxy, as long as that has not said whose it is.
    address: Option<Network>,
    stage: Arc<Stage>,
}

/// What became of a client, and whom to tell.
#[derive(Debug, Default)]
pub(super) struct Stage {
    pub(super) has_asked: AtomicBool,
    pub(super) is_evicted: AtomicBool,
    pub(super) waker: AtomicWaker,
}

/// Time that everybody has for a TLS handshake and a request head, however many others want to come.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// The part of the room from which on an address makes room before the others do.
const SHARE: usize = 4;

impl Arrivals {
    /// Adds a client and says its number.
    pub(super) fn add(
        &mut self,
        since: Instant,
        address: Option<Network>,
        stage: Arc<Stage>,
    ) -> u64 {
        let number = self.next;
        self.next += 1;
        self.all.insert(number, Arrival { since, address: None, stage });
        if let Some(address) = address {
            self.comes_from(number, address);
        }
        number
    }

    /// Whether nobody is here.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty() && self.by_address.is_empty() && self.ranking.is_empty()
    }

    /// Says whose address the client of this number has, which had none so far.
    pub(super) fn comes_from(&mut self, number: u64, address: Network) {
        let Some(arrival) = self.all.get_mut(&number).filter(|arrival| arrival.address.is_none())
        else {
            return;
        };
        arrival.address = Some(address);
        let numbers = self.by_address.entry(address).or_default();
        self.ranking.remove(&(numbers.len(), address));
        numbers.insert(number);
        self.ranking.insert((numbers.len(), address));
    }

    /// Removes a client, if it is still here.
    pub(super) fn remove(&mut self, number: u64) -> Option<Arc<Stage>> {
        let arrival = self.all.remove(&number)?;
        if let Some(address) = arrival.address
            && let Entry::Occupied(mut numbers) = self.by_address.entry(address)
        {
            self.ranking.remove(&(numbers.get().len(), address));
            numbers.get_mut().remove(&number);
            match numbers.get().len() {
                0 => drop(numbers.remove()),
                left => drop(self.ranking.insert((left, address))),
            }
        }
        Some(arrival.stage)
    }

    /// Makes clients go until, with so many newcomers, there are no more than `max`.
    ///
    /// # Errors
    /// When somebody has to go but is within its grace: when that ends.
    pub(super) fn make_room(
        &mut self,
        newcomers: usize,
        max: usize,
        now: Instant,
    ) -> Result<(), Instant> {
        while self.all.len() + newcomers > max {
            // Even if an older one of another address would be ready to go: the greedy one is who
            // made it necessary.
            let first = self.oldest_of_greediest(max).or_else(|| self.oldest());
            let Some((number, until)) = first else { break };
            if now < until {
                return Err(until);
            }
            if let Some(stage) = self.remove(number) {
                stage.evict();
            }
        }
        Ok(())
    }

    /// The client that has been here longest, and when its grace ends.
    fn oldest(&self) -> Option<(u64, Instant)> {
        self.all.first_key_value().map(|(number, arrival)| (*number, arrival.since + GRACE))
    }

    /// The same among those of the address that has the most, if that is more than its share.
    fn oldest_of_greediest(&self, max: usize) -> Option<(u64, Instant)> {
        let (count, address) = self.ranking.last()?;
        let numbers = self.by_address.get(address).filter(|_| *count > (max / SHARE).max(1))?;
        let number = numbers.first()?;
        self.all.get(number).map(|arrival| (*number, arrival.since + GRACE))
    }
}

impl Stage {
    fn evict(&self) {
        self.is_evicted.store(true, Ordering::Release);
        self.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn address(last: u8) -> Option<Network> {
        Some(Network::V4(std::net::Ipv4Addr::new(192, 0, 2, last)))
    }

    /// Clients that came one after the other, a tenth of the grace apart, from these addresses.
    fn arrivals(addresses: &[Option<Network>]) -> (Arrivals, Instant) {
        let (mut arrivals, mut now) = (Arrivals::default(), Instant::now());
        for address in addresses {
            arrivals.add(now, *address, Arc::default());
            now += GRACE / 10;
        }
        (arrivals, now)
    }

    fn numbers(arrivals: &Arrivals) -> Vec<u64> {
        arrivals.all.keys().copied().collect()
    }

    #[test]
    fn an_address_with_more_than_its_share_makes_room_first() {
        let (honest, greedy, proxied) = (address(1), address(2), None);
        let (mut room, now) =
            arrivals(&[honest, proxied, greedy, greedy, proxied, greedy, honest, proxied]);
        let later = now + GRACE;
        assert_eq!(room.make_room(1, 8, later), Ok(()));
        assert_eq!(numbers(&room), [0, 1, 3, 4, 5, 6, 7]);
        assert_eq!(room.make_room(1, 7, later), Ok(()), "two of seven is still too much");
        assert_eq!(numbers(&room), [0, 1, 4, 5, 6, 7]);
        room.add(now, greedy, Arc::default());
        room.remove(5);
        assert_eq!(room.make_room(1, 6, later), Ok(()), "nobody has more than one or a quarter");
        assert_eq!(numbers(&room), [1, 4, 6, 7, 8]);
    }

    #[test]
    fn nobody_goes_within_the_grace_and_nobody_in_anothers_stead() {
        let (honest, greedy) = (address(1), address(2));
        let (mut room, now) = arrivals(&[honest, greedy, greedy, greedy]);
        let until = now - 3 * (GRACE / 10) + GRACE;
        assert_eq!(room.make_room(1, 4, now), Err(until));
        assert_eq!(room.make_room(1, 4, until - GRACE / 20), Err(until), "the honest one is older");
        assert_eq!(room.make_room(1, 4, until), Ok(()));
        assert_eq!(numbers(&room), [0, 2, 3]);
    }

    #[test]
    fn a_smaller_room_is_made_in_one_step() {
        let (mut room, now) = arrivals(&[None; 20]);
        assert_eq!(room.make_room(0, 15, now + GRACE), Ok(()));
        assert_eq!(numbers(&room), (5..20).collect::<Vec<_>>());
        let came = now - 15 * (GRACE / 10);
        assert_eq!(room.make_room(0, 5, came + GRACE), Err(came + GRACE + GRACE / 10));
        assert_eq!(numbers(&room), (6..20).collect::<Vec<_>>());
    }

    #[test]
    fn an_address_that_is_known_later_counts_from_then_on() {
        let (mut room, now) = arrivals(&[address(1), None, None, None]);
        for number in 1..4 {
            room.comes_from(number, Network::V6(7));
        }
        room.comes_from(0, Network::V6(7));
        room.comes_from(9, Network::V6(7));
        assert_eq!(room.make_room(1, 4, now + GRACE), Ok(()));
        assert_eq!(numbers(&room), [0, 2, 3]);
    }

    proptest::proptest! {
        /// Whoever comes and goes, the tables agree, and nothing is left of those that went.
        #[test]
        fn the_tables_agree(steps in proptest::collection::vec((0_u8..4, 0_u8..5, 0_u64..40), 0..80)) {
            let (mut room, mut now) = (Arrivals::default(), Instant::now());
            for (step, last, number) in steps {
                now += GRACE / 3;
                match step {
                    0 | 1 => drop(room.add(now, address(last).filter(|_| last > 0), Arc::default())),
                    2 => drop(room.remove(number)),
                    _ => drop(room.make_room(1, 6, now)),
                }
                let mut counts = HashMap::<Network, usize>::new();
                for network in room.all.values().filter_map(|arrival| arrival.address) {
                    *counts.entry(network).or_default() += 1;
                }
                let ranking = counts.iter().map(|(network, count)| (*count, *network)).collect();
                proptest::prop_assert_eq!(&room.ranking, &ranking);
                let listed = room.by_address.iter().map(|(n, numbers)| (*n, numbers.len())).collect();
                proptest::prop_assert_eq!(counts, listed);
            }
        }
    }
}
