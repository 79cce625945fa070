//! What is revoked. Pure: time is passed in, in seconds since 1970.
//!
//! Revocations of the same tokens are merged to the one that covers both, so it makes no difference in
//! which order they come, or how often: what is covered stays covered until its end.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::event::{Peer, TokenFacts};
use crate::id::{TokenId, UserId};

/// All revocations that this node knows of.
#[derive(Debug, Default)]
pub(super) struct List(HashMap<Scope, Term>);

/// Whose tokens a revocation is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Scope {
    /// One token.
    Token(TokenId),
    /// Those of a user.
    User(UserId),
    /// Everybody's.
    All,
}

/// Which of them, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Term {
    /// Those that were made before. Says nothing of a single token.
    #[serde(default)]
    pub(super) before: u64,
    /// When they all have ended.
    pub(super) until: u64,
}

/// How much longer a revocation holds: a token lets its bearer in for a little after its end
/// (`jwt.leeway`, at most ten minutes), and clocks differ.
const GRACE: u64 = 15 * 60;

impl List {
    /// Adds a revocation to what is known of its scope; whether more is covered now.
    pub(super) fn add(&mut self, scope: Scope, term: Term, now: u64) -> bool {
        let known = self.get(&scope);
        let merged = term.merged(known, now);
        if !merged.holds(now) || known == Some(merged) {
            return false;
        }
        self.0.insert(scope, merged);
        true
    }

    /// Takes a revocation back.
    pub(super) fn lift(&mut self, scope: &Scope) {
        self.0.remove(scope);
    }

    /// Forgets what is over.
    pub(super) fn prune(&mut self, now: u64) {
        self.0.retain(|_, term| term.holds(now));
    }

    /// Whether a token is revoked.
    pub(super) fn covers(&self, token: &TokenFacts, now: u64) -> bool {
        self.covers_as(&token.user, token, now)
    }

    /// Whether the token that let a client in is revoked, also by the name that the backend gave it.
    pub(super) fn covers_peer(&self, peer: &Peer, now: u64) -> bool {
        let Some(token) = &peer.token else { return false };
        let other = peer.user.as_ref().filter(|user| **user != token.user);
        self.covers(token, now) || other.is_some_and(|user| self.covers_as(user, token, now))
    }

    /// Whether a token is revoked as one of this user.
    fn covers_as(&self, user: &UserId, token: &TokenFacts, now: u64) -> bool {
        let term = |scope| self.0.get(&scope).filter(|term| term.holds(now));
        // One that does not say when it was made may have been made at any time.
        let is_before = |term: &Term| token.issued_at.is_none_or(|made| made < term.before);
        !self.0.is_empty()
            && (token.id.is_some_and(|id| term(Scope::Token(id)).is_some())
                || term(Scope::User(user.clone())).is_some_and(is_before)
                || term(Scope::All).is_some_and(is_before))
    }

    /// What is known of a scope.
    pub(super) fn get(&self, scope: &Scope) -> Option<Term> {
        self.0.get(scope).copied()
    }

    /// Every scope that something is known of.
    pub(super) fn scopes(&self) -> Vec<Scope> {
        self.0.keys().cloned().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Term {
    /// The least that covers what this and a known one do, where neither is over.
    pub(super) fn merged(self, known: Option<Self>, now: u64) -> Self {
        match known.filter(|known| known.holds(now)) {
            Some(known) if self.holds(now) => {
                Self { before: self.before.max(known.before), until: self.until.max(known.until) }
            }
            Some(known) => known,
            None => self,
        }
    }

    /// For how many seconds it still holds.
    pub(super) fn left(self, now: u64) -> u64 {
        self.until.saturating_add(GRACE).saturating_sub(now)
    }

    fn holds(self, now: u64) -> bool {
        self.left(now) > 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{AuthMode, Route};

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn token(name: &str, id: Option<&str>, issued_at: Option<u64>) -> TokenFacts {
        TokenFacts { user: user(name), id: id.map(TokenId::of), issued_at }
    }

    #[test]
    fn a_revocation_covers_what_it_names_and_nothing_else() {
        let of = |scope, before| {
            let mut list = List::default();
            assert!(list.add(scope, Term { before, until: 1000 }, 500));
            list
        };
        let one = of(Scope::Token(TokenId::of("7")), 0);
        let ann = of(Scope::User(user("ann")), 100);
        let all = of(Scope::All, 100);
        for (token, by_one, by_ann, by_all) in [
            (token("ann", Some("7"), Some(99)), true, true, true),
            (token("ann", Some("7"), Some(100)), true, false, false),
            (token("ann", Some("8"), Some(99)), false, true, true),
            (token("ann", None, None), false, true, true),
            (token("bob", Some("7"), Some(500)), true, false, false),
            (token("bob", None, Some(0)), false, false, true),
            (token("bob", Some(""), None), false, false, true),
        ] {
            let by = [&one, &ann, &all].map(|list| list.covers(&token, 500));
            assert_eq!(by, [by_one, by_ann, by_all], "{token:?}");
            assert!(!List::default().covers(&token, 500));
        }
    }

    #[test]
    fn a_client_is_covered_by_its_tokens_user_and_by_the_name_that_the_backend_gave_it() {
        let mut list = List::default();
        list.add(Scope::User(user("ann")), Term { before: 100, until: 1000 }, 500);
        for (by_token, by_backend, made, is_covered) in [
            (Some("ann"), "ann", 99, true),
            (Some("ann"), "bob", 99, true),
            (Some("bob"), "ann", 99, true),
            (Some("bob"), "ann", 100, false),
            (Some("bob"), "bob", 99, false),
            (None, "ann", 99, false),
        ] {
            let mut peer = Peer::on(Route::new("/ws", AuthMode::Jwt), Some(by_backend));
            let facts = by_token.map(|name| Box::new(token(name, None, Some(made))));
            Arc::get_mut(&mut peer).unwrap().token = facts;
            assert_eq!(list.covers_peer(&peer, 500), is_covered, "{peer:?}");
        }
    }

    #[test]
    fn a_revocation_outlives_the_leeway_of_the_tokens_and_is_forgotten() {
        let mut list = List::default();
        list.add(Scope::All, Term { before: 100, until: 1000 }, 500);
        let token = token("ann", None, Some(99));
        let end = 1000 + GRACE;
        assert!(list.covers(&token, end - 1) && !list.covers(&token, end));
        list.prune(end - 1);
        assert_eq!(list.len(), 1);
        list.prune(end);
        assert_eq!(list.len(), 0);
        assert!(!list.add(Scope::All, Term { before: 100, until: 1000 }, end));
        assert_eq!(list.len(), 0);
        let ever = Term { before: 1, until: u64::MAX };
        assert!(ever.holds(u64::MAX - 1), "nothing overflows");
    }

    #[test]
    fn an_earlier_cutoff_changes_nothing_and_a_revocation_can_be_lifted() {
        let mut list = List::default();
        let later = Term { before: 200, until: 1000 };
        assert!(list.add(Scope::All, later, 500));
        assert!(!list.add(Scope::All, Term { before: 100, until: 900 }, 500));
        assert_eq!(list.get(&Scope::All), Some(later));
        assert!(list.add(Scope::All, Term { before: 100, until: 2000 }, 500));
        assert_eq!(list.get(&Scope::All), Some(Term { before: 200, until: 2000 }));
        list.lift(&Scope::All);
        assert_eq!(list.scopes(), []);
    }

    fn scopes() -> impl Strategy<Value = Scope> {
        prop_oneof![
            "[ab]".prop_map(|id| Scope::Token(TokenId::of(&id))),
            "[ab]".prop_map(|name| Scope::User(user(&name))),
            Just(Scope::All),
        ]
    }

    fn revocations() -> impl Strategy<Value = Vec<(Scope, Term)>> {
        let term = (0..50_u64, 0..50_u64).prop_map(|(before, until)| Term { before, until });
        prop::collection::vec((scopes(), term), 0..12)
    }

    proptest! {
        #[test]
        fn what_is_covered_stays_covered_whatever_the_order(
            (all, shuffled) in revocations()
                .prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
            (name, id) in ("[abc]", proptest::option::of("[abc]")),
            issued_at in proptest::option::of(0..60_u64),
            now in 0..GRACE + 60,
        ) {
            let token = token(&name, id.as_deref(), issued_at);
            let mut list = List::default();
            let mut was_covered = false;
            for (scope, term) in all {
                list.prune(now);
                list.add(scope, term, now);
                let is_covered = list.covers(&token, now);
                prop_assert!(is_covered || !was_covered, "a revocation took another back");
                was_covered = is_covered;
            }
            let mut other = List::default();
            for (scope, term) in shuffled.iter().chain(&shuffled).cloned() {
                other.add(scope, term, now);
            }
            prop_assert_eq!(other.covers(&token, now), was_covered);
        }
    }
}
