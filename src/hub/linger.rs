//! Keeping what nobody needs any more for a while, so that what comes and goes is not let go and taken
//! again each time. Pure: time is passed in.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// What is held for each key.
#[derive(Debug)]
pub(super) struct Lingering<K, V> {
    kept: HashMap<K, Kept<V>>,
}

#[derive(Debug)]
struct Kept<V> {
    value: V,
    /// Since when nobody needs it.
    unneeded: Option<Instant>,
}

/// How long something is kept that nobody needs. A page that is loaded again, or a phone that changes
/// its network, is back well within; and an empty group costs no more than a few kilobytes meanwhile.
pub(super) const LINGER: Duration = Duration::from_secs(30);

impl<K: Eq + Hash, V> Lingering<K, V> {
    pub(super) fn new() -> Self {
        Self { kept: HashMap::new() }
    }

    /// Says that the key is needed; whether something is held for it. If not, [`hold`](Self::hold) it.
    pub(super) fn needs(&mut self, key: &K) -> bool {
        let kept = self.kept.get_mut(key);
        kept.map(|kept| kept.unneeded = None).is_some()
    }

    /// Holds `value` for a key that is needed.
    pub(super) fn hold(&mut self, key: K, value: V) {
        self.kept.insert(key, Kept { value, unneeded: None });
    }

    /// Says that nobody needs the key any more.
    pub(super) fn release(&mut self, key: &K, now: Instant) {
        if let Some(kept) = self.kept.get_mut(key) {
            kept.unneeded.get_or_insert(now);
        }
    }

    /// Takes out all that was not needed for long enough.
    pub(super) fn expire(&mut self, now: Instant) -> impl Iterator<Item = V> {
        let is_over = move |_: &K, kept: &mut Kept<V>| {
            kept.unneeded.is_some_and(|since| now.saturating_duration_since(since) >= LINGER)
        };
        self.kept.extract_if(is_over).map(|(_, kept)| kept.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_needed_is_kept_for_a_while() {
        let (mut groups, start) = (Lingering::new(), Instant::now());
        let expired = |groups: &mut Lingering<_, _>, now| groups.expire(now).collect::<Vec<_>>();
        assert!(!groups.needs(&"red"));
        groups.hold("red", 1);
        assert!(groups.needs(&"red"));
        assert!(expired(&mut groups, start + LINGER * 9).is_empty(), "needed, however long");
        groups.release(&"red", start);
        assert!(expired(&mut groups, start + LINGER - Duration::from_millis(1)).is_empty());
        assert_eq!(expired(&mut groups, start + LINGER), [1]);
        assert!(!groups.needs(&"red"));
        groups.release(&"blue", start);
        assert!(expired(&mut groups, start + LINGER).is_empty(), "never held");
    }

    #[test]
    fn what_comes_and_goes_is_held_once() {
        let (mut groups, start) = (Lingering::new(), Instant::now());
        groups.hold("red", 1);
        let mut now = start;
        for _ in 0..1000 {
            groups.release(&"red", now);
            now += Duration::from_secs(1);
            assert_eq!(groups.expire(now).count(), 0);
            assert!(groups.needs(&"red"));
        }
        groups.release(&"red", now);
        groups.release(&"red", now + LINGER / 2);
        assert_eq!(groups.expire(now + LINGER).count(), 1, "the first release counts");
    }
}
