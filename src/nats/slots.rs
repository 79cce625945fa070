//! Where requests wait for their replies: one slot each, found again by the reply subject's last
//! token, which is the slot's place and a nonce.
//!
//! A slot lives exactly as long as its [`Ticket`]: dropping the ticket frees it, whatever became of
//! the request. Nothing is allocated for a request: the reply is put down in the slot itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use slab::Slab;

use super::{Reply, RequestError};

/// The slots of one connection to NATS.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Held for a few instructions by each request and each reply, never across an await.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    slots: Slab<Slot>,
    /// Whether the connection is up. It changes under the same lock that empties the slots, so that
    /// no request can slip in after the end of the others and wait for a reply that cannot come.
    is_open: bool,
}

#[derive(Debug)]
struct Slot {
    /// Tells the replies to this request from those to an earlier one in the same slot, and from
    /// those that somebody made up.
    nonce: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting(Option<Waker>),
    Answered(Reply),
    /// The connection went away.
    Lost,
    /// The reply was taken.
    Taken,
    /// There may be many replies.
    Gathering(Box<Gathering>),
}

/// How many replies a request may have.
#[derive(Debug, Clone, Copy)]
pub(super) enum Replies {
    One,
    Many,
}

/// What has come so far, of many replies to one request.
#[derive(Debug, Default)]
struct Gathering {
    replies: VecDeque<Reply>,
    waker: Option<Waker>,
    /// Whether the connection went away, and nothing more comes.
    is_lost: bool,
}

/// A request's place. Frees the slot on drop.
#[derive(Debug)]
pub(super) struct Ticket {
    slots: Arc<Slots>,
    place: u32,
    nonce: u64,
}

/// Requests that wait on one connection; far more than a node has clients, yet a bound.
const MAX_PENDING: usize = 1 << 20;
/// Replies to one request that wait until somebody looks: no fleet has more nodes.
const MAX_REPLIES: usize = 1024;
/// Hex digits of a place and a nonce.
const TOKEN_LEN: usize = 8 + 16;

impl Slots {
    /// A slot for a new request.
    ///
    /// # Errors
    /// `NotConnected` while the connection is down, `Full` when every slot is taken.
    pub(super) fn take(self: &Arc<Self>, replies: Replies) -> Result<Ticket, RequestError> {
        let state = match replies {
            Replies::One => State::Waiting(None),
            Replies::Many => State::Gathering(Box::default()),
        };
        let nonce = rand::random();
        let mut inner = self.lock();
        if !inner.is_open {
            return Err(RequestError::NotConnected);
        }
        if inner.slots.len() >= MAX_PENDING {
            return Err(RequestError::Full);
        }
        let place = inner.slots.insert(Slot { nonce, state });
        drop(inner);
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        Ok(Ticket { slots: Arc::clone(self), place, nonce })
    }

    /// Gives `reply` to the request that `token` names; false when nobody waits for it (any more).
    pub(super) fn answer(&self, token: &str, reply: Reply) -> bool {
        let Some((place, nonce)) = parse(token) else { return false };
        let mut inner = self.lock();
        let slot = inner.slots.get_mut(place as usize).filter(|slot| slot.nonce == nonce);
        let Some(Slot { state, .. }) = slot else { return false };
        let waker = match state {
            State::Waiting(waker) => {
                let waker = waker.take();
                *state = State::Answered(reply);
                waker
            }
            State::Gathering(all) if !all.is_lost && all.replies.len() < MAX_REPLIES => {
                all.replies.push_back(reply);
                all.waker.take()
            }
            _ => return false,
        };
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// The connection came up: requests may start.
    pub(super) fn open(&self) {
        self.lock().is_open = true;
    }

    /// The connection went away: every waiting request ends now, and none may start. Returns how
    /// many ended.
    pub(super) fn close(&self) -> usize {
        let mut inner = self.lock();
        inner.is_open = false;
        let mut ended = 0;
        let mut wakers = Vec::new();
        for (_, slot) in &mut inner.slots {
            match &mut slot.state {
                State::Waiting(waker) => {
                    wakers.extend(waker.take());
                    slot.state = State::Lost;
                    ended += 1;
                }
                State::Gathering(all) if !all.is_lost => {
                    wakers.extend(all.waker.take());
                    all.is_lost = true;
                    ended += 1;
                }
                _ => {}
            }
        }
        drop(inner);
        wakers.into_iter().for_each(Waker::wake);
        ended
    }

    /// How many requests have a slot.
    pub(super) fn len(&self) -> usize {
        self.lock().slots.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Adds the reply subject's last token.
    pub(super) fn write_token(&self, subject: &mut String) {
        use std::fmt::Write;
        let _ = write!(subject, "{:08x}{:016x}", self.place, self.nonce);
    }

    /// The length of [`write_token`](Self::write_token)'s text.
    pub(super) const TOKEN_LEN: usize = TOKEN_LEN;

    /// The reply, or the next of many; `Lost` when the connection went away first.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Result<Reply, RequestError>> {
        let mut inner = self.slots.lock();
        let Some(slot) = inner.slots.get_mut(self.place as usize) else {
            return Poll::Ready(Err(RequestError::Lost));
        };
        match &mut slot.state {
            State::Waiting(waker) => {
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            State::Answered(_) => match std::mem::replace(&mut slot.state, State::Taken) {
                State::Answered(reply) => Poll::Ready(Ok(reply)),
                _ => Poll::Ready(Err(RequestError::Lost)),
            },
            State::Lost | State::Taken => Poll::Ready(Err(RequestError::Lost)),
            State::Gathering(all) => match all.replies.pop_front() {
                Some(reply) => Poll::Ready(Ok(reply)),
                None if all.is_lost => Poll::Ready(Err(RequestError::Lost)),
                None => {
                    all.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            },
        }
    }

    /// Ready when the connection went away.
    pub(super) fn poll_lost(&self, cx: &Context<'_>) -> Poll<()> {
        let mut inner = self.slots.lock();
        match inner.slots.get_mut(self.place as usize).map(|slot| &mut slot.state) {
            Some(State::Waiting(waker)) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(State::Gathering(all)) if !all.is_lost => {
                all.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(State::Answered(_) | State::Taken) => Poll::Pending,
            Some(State::Lost | State::Gathering(_)) | None => Poll::Ready(()),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let slot = self.slots.lock().slots.try_remove(self.place as usize);
        // The reply and the waker are dropped here, after the lock.
        drop(slot);
    }
}

/// Place and nonce of a reply token; strict, for anybody may publish to a reply subject.
fn parse(token: &str) -> Option<(u32, u64)> {
    let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if token.len() != TOKEN_LEN || !token.bytes().all(is_hex) {
        return None;
    }
    let (place, nonce) = token.split_at_checked(8)?;
    Some((u32::from_str_radix(place, 16).ok()?, u64::from_str_radix(nonce, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Arc<Slots> {
        let slots = Arc::new(Slots::default());
        slots.open();
        slots
    }

    fn token(ticket: &Ticket) -> String {
        let mut token = String::new();
        ticket.write_token(&mut token);
        token
    }

    fn poll(ticket: &Ticket) -> Poll<Result<Reply, RequestError>> {
        ticket.poll(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_reply_finds_its_request_once() {
        let slots = open();
        let (a, b) = (slots.take(Replies::One).unwrap(), slots.take(Replies::One).unwrap());
        assert!(poll(&a).is_pending());
        assert!(slots.answer(&token(&b), Reply::of("for b")));
        assert!(!slots.answer(&token(&b), Reply::of("again")), "a second reply is late");
        assert!(poll(&a).is_pending());
        assert!(matches!(poll(&b), Poll::Ready(Ok(reply)) if reply.payload == "for b"));
        assert!(!slots.answer(&token(&b), Reply::of("again")), "late after it was taken");
        drop(b);
        assert_eq!(slots.len(), 1);
    }

    #[test]
    fn a_slot_that_is_used_again_refuses_replies_to_its_former_request() {
        let slots = open();
        let first = slots.take(Replies::One).unwrap();
        let old = token(&first);
        drop(first);
        let second = slots.take(Replies::One).unwrap();
        assert_eq!(second.place, 0, "the slot is used again");
        assert!(!slots.answer(&old, Reply::of("late")));
        assert!(poll(&second).is_pending());
    }

    #[test]
    fn hostile_tokens_are_nobodys() {
        let slots = open();
        let ticket = slots.take(Replies::One).unwrap();
        let good = token(&ticket);
        let mut bad = vec![
            String::new(),
            "*".into(),
            ">".into(),
            good.to_uppercase().replace('0', "O"),
            format!("+{}", &good[1..]),
            format!("{good}0"),
            good[1..].to_owned(),
            format!("{:08x}{:016x}", 0, ticket.nonce ^ 1),
            format!("{:08x}{:016x}", 1, ticket.nonce),
            format!("{:08x}{:016x}", u32::MAX, ticket.nonce),
            "é".repeat(12),
        ];
        bad.extend((0..TOKEN_LEN).map(|i| {
            let mut bytes = good.clone().into_bytes();
            bytes[i] = if bytes[i] == b'0' { b'1' } else { b'0' };
            String::from_utf8(bytes).unwrap()
        }));
        for token in bad {
            assert!(!slots.answer(&token, Reply::of("forged")), "{token}");
        }
        assert!(slots.answer(&good, Reply::of("true")));
    }

    #[test]
    fn a_lost_connection_ends_all_and_lets_none_in() {
        let slots = open();
        let tickets: Vec<_> = (0..3).map(|_| slots.take(Replies::One).unwrap()).collect();
        assert!(slots.answer(&token(&tickets[2]), Reply::of("in time")));
        assert_eq!(slots.close(), 2);
        assert!(matches!(poll(&tickets[0]), Poll::Ready(Err(RequestError::Lost))));
        assert!(matches!(poll(&tickets[1]), Poll::Ready(Err(RequestError::Lost))));
        assert!(matches!(poll(&tickets[2]), Poll::Ready(Ok(_))));
        assert!(matches!(slots.take(Replies::One), Err(RequestError::NotConnected)));
        drop(tickets);
        assert_eq!(slots.len(), 0);
    }

    #[test]
    fn many_replies_come_in_their_order_and_those_before_a_loss_count() {
        let slots = open();
        let (all, other) = (slots.take(Replies::Many).unwrap(), slots.take(Replies::Many).unwrap());
        let lost = || all.poll_lost(&Context::from_waker(Waker::noop()));
        assert!(poll(&all).is_pending() && lost().is_pending());
        for text in ["a", "b", "c"] {
            assert!(slots.answer(&token(&all), Reply::of(text)));
        }
        assert!(matches!(poll(&all), Poll::Ready(Ok(reply)) if reply.payload == "a"));
        assert_eq!(slots.close(), 2);
        assert!(lost().is_ready());
        assert!(!slots.answer(&token(&all), Reply::of("late")));
        assert!(matches!(poll(&all), Poll::Ready(Ok(reply)) if reply.payload == "b"));
        assert!(matches!(poll(&all), Poll::Ready(Ok(reply)) if reply.payload == "c"));
        assert!(matches!(poll(&all), Poll::Ready(Err(RequestError::Lost))));
        assert!(matches!(poll(&other), Poll::Ready(Err(RequestError::Lost))));
        drop((all, other));
        assert_eq!(slots.len(), 0);
    }

    #[test]
    fn replies_that_nobody_looks_at_are_bounded() {
        let slots = open();
        let all = slots.take(Replies::Many).unwrap();
        let taken = (0..2 * MAX_REPLIES).filter(|_| slots.answer(&token(&all), Reply::of("x")));
        assert_eq!(taken.count(), MAX_REPLIES);
    }

    proptest::proptest! {
        #[test]
        fn any_token_is_safe(token in "\\PC{0,40}|[0-9a-f]{24}") {
            let slots = open();
            let _ticket = slots.take(Replies::One).unwrap();
            proptest::prop_assert!(!slots.answer(&token, Reply::of("x")));
        }
    }
}
