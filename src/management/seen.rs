//! The items that this node was given to publish, by channel and id, so that one that comes twice is published
//! once. One that may not have arrived is not among them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use tokio::time::Instant;

/// A channel and an id in it, which is the same as long as a hash is.
pub(super) type Key = [u8; 16];

/// The items of the last minute that this node was given, so that one that comes twice is published once.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<Recent>);

#[derive(Debug, Default)]
struct Recent {
    /// Since when.
    keys: HashMap<Key, Instant>,
    /// The same, the oldest first, and some that are forgotten.
    order: VecDeque<(Instant, Key)>,
}

/// Items on their way to the nodes. Whoever gives them again is to be heard unless they arrived, also
/// when nobody waits for the answer any more.
#[derive(Debug)]
pub(super) struct Unsaid<'a> {
    seen: &'a Seen,
    keys: Vec<Key>,
}

/// How long an item is remembered.
const REMEMBERED: Duration = Duration::from_secs(60);
/// The most items that are remembered, of 64 bytes each; the oldest is forgotten for one more.
const REMEMBERED_MAX: usize = 65_536;

/// The key of an item.
pub(super) fn key(channel: &str, id: &str) -> Key {
    // No text has this byte, so that no two pairs are one.
    let text = [channel.as_bytes(), &[0xff], id.as_bytes()].concat();
    let hash = digest(&SHA256, &text);
    hash.as_ref().first_chunk().copied().unwrap_or_default()
}

impl Seen {
    /// Whether an item has not come in the last minute; now it has. One without a key is always new.
    pub(super) fn is_new(&self, key: Option<Key>, now: Instant) -> bool {
        let Some(key) = key else { return true };
        let mut recent = self.lock();
        while let Some((since, oldest)) = recent.order.front().copied()
            && (since + REMEMBERED <= now || recent.order.len() >= REMEMBERED_MAX)
        {
            recent.order.pop_front();
            if recent.keys.get(&oldest) == Some(&since) {
                recent.keys.remove(&oldest);
            }
        }
        if recent.keys.contains_key(&key) {
            return false;
        }
        recent.keys.insert(key, now);
        recent.order.push_back((now, key));
        true
    }

    /// Items that are published now.
    pub(super) const fn unsaid(&self, keys: Vec<Key>) -> Unsaid<'_> {
        Unsaid { seen: self, keys }
    }

    fn forget(&self, keys: &[Key]) {
        let mut recent = self.lock();
        for key in keys {
            recent.keys.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unsaid<'_> {
    /// They arrived.
    pub(super) fn arrived(mut self) {
        self.keys.clear();
    }
}

impl Drop for Unsaid<'_> {
    fn drop(&mut self) {
        self.seen.forget(&self.keys);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_new_once_a_minute() {
        let (seen, now) = (Seen::default(), Instant::now());
        let is_new = |channel: &str, id: &str, seconds| {
            seen.is_new(Some(key(channel, id)), now + Duration::from_secs(seconds))
        };
        assert!(is_new("a", "1", 0) && !is_new("a", "1", 59));
        assert!(is_new("a", "2", 0) && is_new("b", "1", 0) && is_new("a1", "", 0));
        assert!(is_new("a", "1", 60), "it is forgotten");
        seen.forget(&[key("a", "1")]);
        assert!(is_new("a", "1", 61));
        assert!(is_new("c", "1", 61) && !is_new("a", "1", 120), "it came again since");
        assert!(seen.is_new(None, now) && seen.is_new(None, now));
        for id in 0..REMEMBERED_MAX {
            is_new("many", &id.to_string(), 62);
        }
        assert_eq!(seen.lock().keys.len(), REMEMBERED_MAX);
        assert!(is_new("a", "1", 62), "there was no room");
    }

    #[test]
    fn an_item_that_did_not_arrive_is_new_when_it_is_given_again() {
        let (seen, now, key) = (Seen::default(), Instant::now(), key("a", "1"));
        for arrives in [false, true] {
            assert!(seen.is_new(Some(key), now));
            let unsaid = seen.unsaid(vec![key]);
            if arrives { unsaid.arrived() } else { drop(unsaid) }
        }
        assert!(!seen.is_new(Some(key), now));
    }
}
