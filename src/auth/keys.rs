//! Keys side by side, and which of them a token may be checked with.

use super::jws::Jws;
use super::key::Key;
use super::{Denied, KeyInfo};

/// The keys of one source.
#[derive(Debug, Default)]
pub(super) struct Keys(Vec<Key>);

/// What some keys say about a token's signature; a greater one outweighs a smaller one of other keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// No key here has the token's `kid`.
    NoKey,
    /// The keys that any token may be signed with have not signed it: those without a `kid`, and all
    /// when the token names none.
    NotByUnnamed,
    /// The key is here, and must not be used with the token's algorithm.
    OtherAlgorithm,
    /// The keys with the token's `kid` have not signed it.
    Forged,
    /// One of the keys has signed it.
    Genuine,
}

impl Keys {
    pub(super) fn new(keys: Vec<Key>) -> Self {
        Self(keys)
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any of them may be used with the token's algorithm.
    pub(super) fn know(&self, jws: &Jws<'_>) -> bool {
        self.0.iter().any(|key| key.is_for(jws.algorithm))
    }

    /// Checks the token's signature with the keys it may be: those with its `kid`, then those without
    /// one; all of its algorithm when the token names none. At most [`TRIES`].
    pub(super) fn verdict(&self, jws: &Jws<'_>) -> Verdict {
        let kid = jws.kid.as_deref();
        let named = self.0.iter().filter(|key| kid.is_some() && key.kid() == kid);
        let unnamed = self.0.iter().filter(|key| kid.is_none() || key.kid().is_none());
        let mut verdict = Verdict::NoKey;
        let mut tries = 0;
        for (key, failed) in named
            .map(|key| (key, Verdict::Forged))
            .chain(unnamed.map(|key| (key, Verdict::NotByUnnamed)))
        {
            let is_candidate = key.is_for(jws.algorithm);
            let said = match failed {
                Verdict::Forged if !is_candidate => Verdict::OtherAlgorithm,
                _ if !is_candidate => continue,
                _ if tries == TRIES => break,
                _ if key.has_signed(jws) => return Verdict::Genuine,
                failed => failed,
            };
            tries += usize::from(is_candidate);
            verdict = verdict.max(said);
        }
        verdict
    }

    /// The keys as `moorline check` shows them; `place` says where the nth one stands.
    pub(super) fn describe(&self, place: impl Fn(usize) -> String) -> Vec<KeyInfo> {
        self.0.iter().enumerate().map(|(i, key)| key.info(place(i))).collect()
    }
}

impl Verdict {
    /// Whether the token's `kid` leads to no key here, so that other or newer keys may know more.
    pub(super) fn is_open(self) -> bool {
        self < Self::OtherAlgorithm
    }

    /// The verdict as an answer, when no newer keys can be had.
    ///
    /// # Errors
    /// Unless it is [`Genuine`](Self::Genuine).
    pub(super) fn result(self) -> Result<(), Denied> {
        match self {
            Self::Genuine => Ok(()),
            Self::Forged | Self::NotByUnnamed => Err(Denied::SIGNATURE),
            Self::OtherAlgorithm => Err(Denied::ALGORITHM),
            Self::NoKey => Err(Denied::UNKNOWN_KEY),
        }
    }
}

/// The most signature checks that one token causes in one set of keys.
const TRIES: usize = 8;
