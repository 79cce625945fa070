//! The parameters of a request. Those that nobody knows are passed over: newer SDKs send more of them.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use percent_encoding::percent_decode_str;

use super::refusal::Refusal;
use crate::id::ConnectionId;

/// A query (`application/x-www-form-urlencoded`), decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

/// The versions of the Azure data plane whose requests are understood; each only adds to the one before.
const VERSIONS: RangeInclusive<&str> = "2021-10-01"..="2024-12-01";

impl Query {
    /// Reads the query of a URL.
    ///
    /// # Errors
    /// When it is not UTF-8 once decoded.
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let parameters = text.split('&').filter(|parameter| !parameter.is_empty());
        let pairs = parameters.map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            Ok((decode(name)?, decode(value)?))
        });
        Ok(Self(pairs.collect::<Result<_, Refusal>>()?))
    }

    /// The value of a parameter that may stand there once; an empty one is none.
    ///
    /// # Errors
    /// When it stands there twice: nobody can say which of them counts.
    pub(super) fn one(&self, name: &'static str) -> Result<Option<&str>, Refusal> {
        let mut values = self.all(name);
        let first = values.next();
        match values.next() {
            None => Ok(first),
            Some(_) => Err(Refusal::Parameter(name, "expected it once")),
        }
    }

    /// The values of a parameter that may be repeated, without empty ones.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.0.iter().filter(move |(found, value)| found == name && !value.is_empty());
        named.map(|(_, value)| value.as_str())
    }

    /// A whole number within `range`, none without the parameter.
    ///
    /// # Errors
    /// When it is anything else; `expected` says what it should be.
    pub(super) fn number(
        &self,
        name: &'static str,
        range: RangeInclusive<u64>,
        expected: &'static str,
    ) -> Result<Option<u64>, Refusal> {
        let read = |text: &str| {
            // The parser takes a sign, too.
            let number = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok());
            number.flatten().filter(|number| range.contains(number))
        };
        let text = self.one(name)?;
        text.map(|text| read(text).ok_or(Refusal::Parameter(name, expected))).transpose()
    }

    /// Who is left out. A text that no id is written as is that of nobody who could be meant.
    pub(super) fn excluded(&self) -> HashSet<ConnectionId> {
        self.all("excluded").filter_map(|id| id.parse().ok()).collect()
    }

    /// Refuses what an OData filter would leave out and we would not.
    ///
    /// # Errors
    /// When there is one.
    pub(super) fn check_no_filter(&self) -> Result<(), Refusal> {
        match self.all("filter").next() {
            None => Ok(()),
            Some(_) => Err(Refusal::Parameter("filter", NO_FILTERS)),
        }
    }

    /// Refuses a version whose requests may mean something else.
    ///
    /// # Errors
    /// When it names one; no version is fine.
    pub(super) fn check_version(&self) -> Result<(), Refusal> {
        match self.one("api-version")? {
            Some(version) if !(version.len() == 10 && VERSIONS.contains(&version)) => {
                Err(Refusal::Parameter("api-version", "expected 2021-10-01 to 2024-12-01"))
            }
            _ => Ok(()),
        }
    }
}

/// Why a filter is refused.
pub(super) const NO_FILTERS: &str = "OData filters are not understood here; use users and groups";

fn decode(text: &str) -> Result<String, Refusal> {
    let text = text.replace('+', " ");
    let decoded = percent_decode_str(&text).decode_utf8();
    decoded.map(Into::into).map_err(|_| Refusal::Request("the query is not UTF-8 once decoded"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::parse(text).unwrap()
    }

    #[test]
    fn parameters_are_decoded_as_forms_are() {
        let query = query("reason=see+you%20%2B1&&x&excluded=a&excluded=b&empty=");
        assert_eq!(query.one("reason"), Ok(Some("see you +1")));
        assert_eq!(query.all("excluded").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((query.one("empty"), query.one("absent")), (Ok(None), Ok(None)));
        assert_eq!(query.one("excluded"), Err(Refusal::Parameter("excluded", "expected it once")));
        assert!(Query::parse("reason=%ff").is_err());
    }

    #[test]
    fn numbers_are_within_their_range() {
        let number = |text: &str| query(text).number("n", 0..=300, "0 to 300");
        assert_eq!(number("n=300"), Ok(Some(300)));
        assert_eq!(number("m=1"), Ok(None));
        for bad in ["n=301", "n=-1", "n=%2B1", "n=1.0", "n=x", "n=99999999999999999999", "n=1&n=1"]
        {
            assert!(number(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn versions_between_the_first_and_the_last_are_taken() {
        for good in
            ["", "api-version=2021-10-01", "api-version=2023-07-01", "api-version=2024-12-01"]
        {
            assert_eq!(query(good).check_version(), Ok(()), "{good}");
        }
        for bad in ["2021-09-30", "2025-01-01", "2023-07-01-preview", "2023", "x"] {
            assert!(query(&format!("api-version={bad}")).check_version().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_is_an_id_is_left_out() {
        let id = ConnectionId::random(crate::id::NodeId::random());
        let text = format!("excluded={id}&excluded=*&excluded=&excluded={id}");
        assert_eq!(query(&text).excluded(), HashSet::from([id]));
        assert!(query("filter=userId+eq+'x'").check_no_filter().is_err());
        assert_eq!(query("filter=").check_no_filter(), Ok(()));
    }
}
