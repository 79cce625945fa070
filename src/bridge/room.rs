//! What may be in a bridge at once, in events and in bytes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The room of one bridge.
#[derive(Debug)]
pub(super) struct Room {
    events: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// An event's place. Given back on drop.
#[derive(Debug)]
pub(super) struct Place {
    _event: OwnedSemaphorePermit,
    bytes: OwnedSemaphorePermit,
}

/// What an event takes beside its headers and its data.
const OVERHEAD: usize = 1024;

impl Room {
    /// Room for so many events, and so many bytes of all together.
    pub(super) fn new(events: usize, bytes: usize) -> Self {
        let semaphore =
            |permits: usize| Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        Self { events: semaphore(events), bytes: semaphore(bytes) }
    }

    /// A place for an event of this size, if there is one now.
    pub(super) fn enter(&self, size: usize) -> Option<Place> {
        let size = u32::try_from(size.saturating_add(OVERHEAD)).ok()?;
        let event = Arc::clone(&self.events).try_acquire_owned().ok()?;
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(size).ok()?;
        Some(Place { _event: event, bytes })
    }
}

impl Place {
    /// Whether there is room for an answer of this size in the place of the event, which is gone.
    pub(super) fn fits(&mut self, size: usize) -> bool {
        let more = size.saturating_add(OVERHEAD).saturating_sub(self.bytes.num_permits());
        let Ok(more) = u32::try_from(more) else { return false };
        let bytes = Arc::clone(self.bytes.semaphore()).try_acquire_many_owned(more);
        bytes.map(|bytes| self.bytes.merge(bytes)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bounds_hold_and_what_leaves_makes_room() {
        let room = Room::new(2, 3 * OVERHEAD);
        let one = room.enter(OVERHEAD).unwrap();
        assert!(room.enter(1).is_none(), "bytes");
        let two = room.enter(0).unwrap();
        drop(one);
        let three = room.enter(0).unwrap();
        assert!(room.enter(0).is_none(), "events");
        drop((two, three));
        assert!(room.enter(2 * OVERHEAD).is_some());
        assert!(room.enter(usize::MAX).is_none());
    }

    #[test]
    fn an_answer_has_the_place_of_its_event_and_what_room_there_is() {
        let room = Room::new(2, 4 * OVERHEAD);
        let mut place = room.enter(OVERHEAD).unwrap();
        assert!(place.fits(OVERHEAD) && place.fits(0));
        assert!(!place.fits(4 * OVERHEAD) && !place.fits(usize::MAX));
        assert!(place.fits(2 * OVERHEAD));
        let other = room.enter(0).unwrap();
        assert!(!place.fits(3 * OVERHEAD), "the other has it");
        drop(other);
        assert!(place.fits(3 * OVERHEAD));
        drop(place);
        assert!(room.enter(3 * OVERHEAD).is_some());
    }
}
