//! Places for a bounded number of things; each is given back on drop.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of places.
#[derive(Debug, Clone)]
pub struct Permits(Arc<Places>);

/// One place taken.
#[derive(Debug)]
pub struct Permit(Arc<Places>);

#[derive(Debug)]
struct Places {
    taken: AtomicUsize,
    max: AtomicUsize,
}

impl Permits {
    /// `max` places, all free.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Places { taken: AtomicUsize::new(0), max: AtomicUsize::new(max) }))
    }

    /// Takes a place; none when all are taken.
    #[must_use]
    pub fn take(&self) -> Option<Permit> {
        let places = &self.0;
        let max = places.max.load(Ordering::Relaxed);
        let one_more = |taken| (taken < max).then_some(taken + 1);
        let took = places.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        took.ok().map(|_| Permit(Arc::clone(places)))
    }

    /// Makes it `max` places. Those taken beyond that stay taken until they are given back.
    pub fn set_max(&self, max: usize) {
        self.0.max.store(max, Ordering::Relaxed);
    }

    /// How many places are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_back_on_drop() {
        let permits = Permits::new(2);
        let (a, b) = (permits.take(), permits.take());
        assert!(a.is_some() && b.is_some() && permits.take().is_none());
        drop(a);
        assert_eq!(permits.taken(), 1);
        assert!(permits.take().is_some());
    }

    #[test]
    fn fewer_places_take_none_away() {
        let permits = Permits::new(2);
        let taken = (permits.take(), permits.take());
        permits.set_max(1);
        assert_eq!(permits.taken(), 2);
        drop(taken.0);
        assert!(permits.take().is_none());
        permits.set_max(2);
        assert!(permits.take().is_some());
    }
}
