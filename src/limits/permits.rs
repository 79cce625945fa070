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
    max: usize,
}

impl Permits {
    /// `max` places, all free.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Places { taken: AtomicUsize::new(0), max }))
    }

    /// Takes a place; none when all are taken.
    #[must_use]
    pub fn take(&self) -> Option<Permit> {
        let places = &self.0;
        let one_more = |taken| (taken < places.max).then_some(taken + 1);
        let took = places.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        took.ok().map(|_| Permit(Arc::clone(places)))
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
}
