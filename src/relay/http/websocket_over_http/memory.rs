//! What the dialect keeps of a connection between two events, so that it keeps nothing itself. It is the
//! connection's opaque state: JSON of at most 4 KiB, which goes where the events go.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::Broken;
use crate::event::State;

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Memory {
    /// What the backend wants to be told with every request: by names in lower case.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) meta: BTreeMap<String, String>,
    /// What messages begin with while the connection speaks GRIP; none while it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prefix: Option<String>,
    /// The backend's name of the session. Nothing is done with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) session: Option<String>,
    /// Whether the backend has left the connection to its channels and hears of nothing more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_detached: bool,
}

impl Memory {
    /// What a state holds. One that this dialect has not written holds nothing.
    pub(super) fn read(state: Option<&State>) -> Self {
        state.and_then(|state| serde_json::from_str(state.as_str()).ok()).unwrap_or_default()
    }

    /// The same as a state; none when there is nothing to keep.
    ///
    /// # Errors
    /// When it is more than a state holds.
    pub(super) fn to_state(&self) -> Result<Option<State>, Broken> {
        if *self == Self::default() {
            return Ok(None);
        }
        let json = serde_json::to_string(self).map_err(|_| Broken::Meta)?;
        State::new(&json).map_err(Broken::State)
    }

    /// Keeps an item of the backend's, or forgets it when it has no value.
    ///
    /// # Errors
    /// When it could not be told in a header.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), Broken> {
        let name = HeaderName::from_bytes(format!("meta-{name}").as_bytes());
        let name = name.map_err(|_| Broken::Meta)?;
        let name = name.as_str().strip_prefix("meta-").unwrap_or_default();
        if name.is_empty() || HeaderValue::from_bytes(value.as_bytes()).is_err() {
            return Err(Broken::Meta);
        }
        match value {
            "" => drop(self.meta.remove(name)),
            value => drop(self.meta.insert(name.to_owned(), value.to_owned())),
        }
        Ok(())
    }

    /// The headers that tell it.
    pub(super) fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        self.meta.iter().filter_map(|(name, value)| {
            let name = HeaderName::from_bytes(format!("meta-{name}").as_bytes()).ok()?;
            Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_goes_round() {
        let mut memory = Memory::default();
        assert_eq!(memory.to_state(), Ok(None));
        memory.set("User", "alice").unwrap();
        memory.set("X-Ä".to_lowercase().as_str(), "1").unwrap_err();
        memory.set("name", "Ünïcode \t \"quoted\"").unwrap();
        memory.set("meta-odd", "1").unwrap();
        (memory.prefix, memory.session) = (Some(String::new()), Some("s".to_owned()));
        memory.is_detached = true;
        let state = memory.to_state().unwrap().unwrap();
        assert_eq!(Memory::read(Some(&state)), memory);
        let headers: Vec<_> = memory.headers().map(|(name, _)| name.to_string()).collect();
        assert_eq!(headers, ["meta-meta-odd", "meta-name", "meta-user"]);
        memory.set("USER", "").unwrap();
        assert_eq!(memory.meta.len(), 2, "names are the same in any case");
    }

    #[test]
    fn what_no_header_can_say_and_what_is_too_much_is_refused() {
        let mut memory = Memory::default();
        for (name, value) in
            [("", "x"), ("a b", "x"), ("a", "x\r\ny: z"), ("a", "\u{7f}"), ("é", "x")]
        {
            assert_eq!(memory.set(name, value), Err(Broken::Meta), "{name:?} {value:?}");
        }
        memory.set("a", &"x".repeat(State::MAX)).unwrap();
        assert_eq!(memory.to_state(), Err(Broken::State(State::MAX + 17)));
        assert_eq!(Memory::read(State::new("not ours").unwrap().as_ref()), Memory::default());
    }
}
