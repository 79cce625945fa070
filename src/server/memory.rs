//! Whom to close when memory is very short: those that leave the most unread.

use crate::close::{Cause, Close};
use crate::config;
use crate::hub::Table;
use crate::limits::{Memory, Watch};
use crate::metrics::Metrics;

/// Outboxes below this are not worth a lost connection.
const TINY: usize = 16 * 1024;

/// Watches the node's memory and closes connections when it is very short.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    /// When it is short.
    pub(super) config: config::Memory,
    /// Who is told.
    pub(super) memory: Memory,
    /// Whom to close.
    pub(super) table: Table,
    pub(super) metrics: Metrics,
}

impl Guard {
    /// Looks once, in place of the guard before. None where the kernel does not say how much memory is
    /// used.
    pub(super) async fn open(&self) -> Option<Watch> {
        let opened =
            Watch::open(self.config, &self.memory, self.metrics.clone(), self.shed()).await;
        opened.inspect_err(|error| tracing::warn!(%error, "memory is not watched")).ok()
    }

    /// Goes on with `watch`, or with another where none is left. Cancel safe.
    pub(super) async fn run(self, watch: Option<Watch>) {
        let watch = match watch {
            Some(watch) => Some(watch),
            None => self.open().await,
        };
        if let Some(watch) = watch {
            watch.run(self.shed()).await;
        }
    }

    fn shed(&self) -> impl Fn(u64) {
        |excess| shed(&self.table, excess, &self.metrics)
    }
}

/// Closes the connections with the most unread bytes, as many as it takes to free `excess` bytes.
fn shed(table: &Table, excess: u64, metrics: &Metrics) {
    let outboxes = table.handles().into_iter().map(|handle| (handle.outbox_bytes(), handle));
    let excess = usize::try_from(excess).unwrap_or(usize::MAX);
    for handle in chosen(outboxes.collect(), excess) {
        handle.cut(Close::of(Cause::Memory));
        metrics.memory_shed().inc();
    }
}

/// The owners of the largest outboxes, as many as it takes to free `excess` bytes; of all that are
/// not tiny when they do not suffice.
fn chosen<T>(mut outboxes: Vec<(usize, T)>, excess: usize) -> Vec<T> {
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
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::config::{AuthMode, Limits, Route};
    use crate::event::Peer;
    use crate::hub::Wish;
    use crate::message::Message;

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

    #[test]
    fn who_leaves_the_most_unread_is_cut_and_counted() {
        let metrics = Metrics::new();
        let table = Table::new(&Limits::default(), &metrics);
        let mut cx = Context::from_waker(Waker::noop());
        let mut waiting = [100, 900, 1].map(|kib| {
            let peer = Peer::on(Route::new("/ws", AuthMode::None), None);
            let (registered, mailbox) = table.register(&peer);
            assert!(mailbox.offer(Message::binary(vec![0; kib * KIB])).is_ok());
            (registered, mailbox)
        });
        shed(&table, 500 * KIB as u64, &metrics);
        let wishes = waiting.each_mut().map(|(_, mailbox)| mailbox.poll_wish(&mut cx));
        let cut = Poll::Ready(Wish::Cut(Close::of(Cause::Memory)));
        assert_eq!(wishes, [Poll::Pending, cut, Poll::Pending]);
        assert_eq!(metrics.memory_shed().get(), 1);
    }
}
