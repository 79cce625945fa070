//! Whom to close when memory is very short.

/// Outboxes below this are not worth a lost connection.
const TINY: usize = 16 * 1024;

/// The owners of the largest outboxes, as many as it takes to free `excess` bytes; of all that are
/// not tiny when they do not suffice.
#[cfg_attr(not(test), expect(dead_code, reason = "the call comes with the outboxes"))]
pub(super) fn chosen<T>(mut outboxes: Vec<(usize, T)>, excess: usize) -> Vec<T> {
    outboxes.retain(|(bytes, _)| *bytes >= TINY);
    outboxes.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    let mut freed = 0_usize;
    let enough = outboxes.into_iter().take_while(|(bytes, _)| {
        let is_needed = freed < excess;
        freed = freed.saturating_add(*bytes);
        is_needed
    });
    enough.map(|(_, owner)| owner).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    #[test]
    fn the_largest_go_first_and_no_more_than_needed() {
        let outboxes = || vec![(20 * KIB, 'a'), (500 * KIB, 'b'), (90 * KIB, 'c'), (KIB, 'd')];
        assert!(chosen(outboxes(), 0).is_empty());
        assert_eq!(chosen(outboxes(), 1), ['b']);
        assert_eq!(chosen(outboxes(), 500 * KIB), ['b']);
        assert_eq!(chosen(outboxes(), 501 * KIB), ['b', 'c']);
    }

    #[test]
    fn nobody_is_closed_for_a_tiny_outbox() {
        assert_eq!(chosen(vec![(20 * KIB, 'a'), (KIB, 'b'), (0, 'c')], usize::MAX), ['a']);
    }
}
