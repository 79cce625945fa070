//! A push as it comes over NATS: subject, headers and payload, by the contract with publishers. Pure,
//! and nothing a publisher sends makes it panic.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::push::{Push, Target};
use crate::id::{ConnectionId, GroupName, HubName, NodeId, UserId};
use crate::message::{Kind, Message};
use crate::nats::{Channel, Delivery, Filter, Subjects};

/// Whom that is for which one subscription takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scope {
    /// To connections of the node.
    Connections(NodeId),
    /// To users.
    Users,
    /// To one user.
    User(UserId),
    /// To groups.
    Groups,
    /// To one group.
    Group(GroupName),
    /// To all connections.
    All,
}

/// Why a push is given to nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// The last token of its subject.
    #[error("no connection, user or group has the name in the subject")]
    Name,
    /// A header that may stand there once.
    #[error("header {0} stands there twice with two values")]
    Twice(&'static str),
    /// A time to live that cannot be read.
    #[error("moorline-ttl is not a time such as 30, 30s or 1500ms, above 0")]
    Ttl,
    /// A reply subject that no answer is published to.
    #[error("the reply subject is below moorline's own prefix, or the server's")]
    Reply,
}

/// The headers of a push that mean something.
#[derive(Debug, Default)]
struct Fields<'a> {
    content_type: Option<&'a str>,
    ttl: Option<&'a str>,
    /// As often as it stands there.
    exclude: Vec<&'a str>,
}

impl Scope {
    /// What to subscribe to.
    pub(super) fn filter(&self, subjects: &Subjects, hub: &HubName, channel: Channel) -> Filter {
        match self {
            Self::Connections(node) => subjects.connections(hub, channel, *node),
            Self::Users => subjects.users(hub, channel),
            Self::User(user) => subjects.user(hub, channel, user).into(),
            Self::Groups => subjects.groups(hub, channel),
            Self::Group(group) => subjects.group(hub, channel, group).into(),
            Self::All => subjects.all(hub, channel).into(),
        }
    }

    /// Whom that is for whose subject ends with `rest`.
    pub(super) fn target(&self, rest: &str) -> Result<Target, Refused> {
        Ok(match self {
            Self::Connections(node) => {
                let id = format!("{node}.{rest}").parse().map_err(|_| Refused::Name)?;
                Target::Connection(id)
            }
            Self::Users => Target::User(UserId::from_token(rest).map_err(|_| Refused::Name)?),
            Self::User(user) => Target::User(user.clone()),
            Self::Groups => Target::Group(GroupName::from_token(rest).map_err(|_| Refused::Name)?),
            Self::Group(group) => Target::Group(group.clone()),
            Self::All => Target::All,
        })
    }
}

impl Refused {
    /// The word in metrics and logs.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Twice(_) => "header",
            Self::Ttl => "ttl",
            Self::Reply => "reply",
        }
    }
}

/// Reads a push that came to `node` just `now`. Of the connections that are not to get it, only the
/// node's own are kept, for no other gets it here.
pub(super) fn read(
    target: Target,
    delivery: &Delivery,
    node: NodeId,
    now: Instant,
) -> Result<Push, Refused> {
    let fields = Fields::read(delivery)?;
    let ids = fields.exclude.iter().flat_map(|list| list.split(','));
    let ids = ids.filter_map(|id| id.trim().parse::<ConnectionId>().ok());
    let exclude: HashSet<_> = ids.filter(|id| id.node() == node).collect();
    let until = |ttl| now.checked_add(ttl).ok_or(Refused::Ttl);
    let expires = fields.ttl.map(|text| parse_ttl(text).and_then(until)).transpose()?;
    let data = delivery.payload.clone();
    let message = Message::from_backend(fields.content_type, Kind::Text, data);
    Ok(Push { target, message, exclude, expires })
}

impl<'a> Fields<'a> {
    fn read(delivery: &'a Delivery) -> Result<Self, Refused> {
        let mut fields = Self::default();
        for (name, values) in delivery.headers.iter() {
            let name: &str = name.as_ref();
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            let values = values.iter().map(|value| value.as_str());
            if is("content-type") {
                once(&mut fields.content_type, values, "Content-Type")?;
            } else if is("moorline-ttl") {
                once(&mut fields.ttl, values, "moorline-ttl")?;
            } else if is("moorline-exclude") {
                fields.exclude.extend(values);
            }
        }
        Ok(fields)
    }
}

/// Which of two values is meant cannot be told: names in two spellings come in any order.
fn once<'a>(
    field: &mut Option<&'a str>,
    values: impl Iterator<Item = &'a str>,
    name: &'static str,
) -> Result<(), Refused> {
    for value in values {
        if field.replace(value).is_some_and(|before| before != value) {
            return Err(Refused::Twice(name));
        }
    }
    Ok(())
}

/// Whole seconds, with or without `s`, or milliseconds with `ms`.
fn parse_ttl(text: &str) -> Result<Duration, Refused> {
    let text = text.trim();
    let (number, unit): (_, fn(u64) -> Duration) = match text.strip_suffix("ms") {
        Some(number) => (number, Duration::from_millis),
        None => (text.strip_suffix('s').unwrap_or(text), Duration::from_secs),
    };
    // The parser takes a sign, too.
    let is_number = number.bytes().all(|b| b.is_ascii_digit());
    let number = number.parse().ok().filter(|number| is_number && *number > 0);
    number.map(unit).ok_or(Refused::Ttl)
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderMap;
    use bytes::Bytes;

    use super::*;

    fn push(headers: &[(&str, &str)], payload: &'static [u8]) -> Result<Push, Refused> {
        let node = NodeId::random();
        read(Target::All, &delivery(headers, payload), node, Instant::now())
    }

    fn delivery(headers: &[(&str, &str)], payload: &'static [u8]) -> Delivery {
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| map.append(*name, *value));
        let payload = Bytes::from_static(payload);
        Delivery { subject: "x".into(), reply: None, headers: map, payload }
    }

    #[test]
    fn the_payload_is_the_message() {
        let kind = |headers: &[_], payload| push(headers, payload).unwrap().message.kind();
        assert_eq!(kind(&[], b"hello"), Kind::Text);
        assert_eq!(kind(&[], b""), Kind::Text);
        assert_eq!(kind(&[], &[0xff]), Kind::Binary);
        assert_eq!(kind(&[("Content-Type", "application/octet-stream")], b"hello"), Kind::Binary);
        assert_eq!(kind(&[("content-type", "application/json")], b"{}"), Kind::Text);
        assert_eq!(kind(&[("content-type", "text/plain")], &[0xff]), Kind::Binary);
        assert_eq!(push(&[], b"hello").unwrap().message.data(), "hello");
        let two = [("content-type", "text/plain"), ("Content-Type", "application/octet-stream")];
        assert_eq!(push(&two, b"").unwrap_err(), Refused::Twice("Content-Type"));
    }

    #[test]
    fn the_time_to_live_counts_from_the_arrival() {
        let now = Instant::now();
        let expires = |ttl: &str| {
            let delivery = delivery(&[("Moorline-TTL", ttl)], b"x");
            let push = read(Target::All, &delivery, NodeId::random(), now)?;
            Ok(push.expires.unwrap() - now)
        };
        assert_eq!(expires("30"), Ok(Duration::from_secs(30)));
        assert_eq!(expires(" 30s "), Ok(Duration::from_secs(30)));
        assert_eq!(expires("1500ms"), Ok(Duration::from_millis(1500)));
        let too_large = u64::MAX.to_string();
        let bad = ["", "0", "0ms", "-1", "+1", "1.5", "1 s", "1m", "s", "ms", "1e3", "\u{663}"];
        for bad in bad.into_iter().chain([too_large.as_str()]) {
            assert_eq!(expires(bad), Err(Refused::Ttl), "{bad:?}");
        }
        assert_eq!(push(&[], b"").unwrap().expires, None);
        let two = [("moorline-ttl", "1"), ("moorline-ttl", "2")];
        assert_eq!(push(&two, b"").unwrap_err(), Refused::Twice("moorline-ttl"));
    }

    #[test]
    fn only_ids_of_the_node_are_excluded_and_all_else_is_passed_over() {
        let node = NodeId::random();
        let (one, two) = (ConnectionId::random(node), ConnectionId::random(node));
        let other = ConnectionId::random(NodeId::random());
        let list = format!(" {one} ,,nobody,{other},*,{node}.>");
        let headers = [("moorline-exclude", list.as_str()), ("MOORLINE-EXCLUDE", &two.to_string())];
        let push = read(Target::All, &delivery(&headers, b""), node, Instant::now()).unwrap();
        assert_eq!(push.exclude, HashSet::from([one, two]));
    }

    #[test]
    fn the_rest_of_the_subject_is_a_name_or_the_push_is_refused() {
        let id = ConnectionId::random(NodeId::random());
        let text = id.to_string();
        let connections = Scope::Connections(id.node());
        let rest = text.split_once('.').unwrap().1;
        assert_eq!(connections.target(rest), Ok(Target::Connection(id)));
        for bad in ["", "x", "*", &text, &rest[1..]] {
            assert_eq!(connections.target(bad), Err(Refused::Name), "{bad}");
        }
        let user = |name| Ok(Target::User(UserId::new(name).unwrap()));
        assert_eq!(Scope::Users.target("alice=40example=2Ecom"), user("alice@example.com"));
        for bad in ["", "a@b", "a=4", "a=2e", "=41", "=00", "=FF", "a b", &"x".repeat(201)] {
            assert_eq!(Scope::Users.target(bad), Err(Refused::Name), "{bad}");
        }
        let group = GroupName::new("a.b").unwrap();
        assert_eq!(Scope::Groups.target("a=2Eb"), Ok(Target::Group(group.clone())));
        assert_eq!(Scope::Groups.target("a.b"), Err(Refused::Name));
        let ann = UserId::new("ann").unwrap();
        assert_eq!(Scope::User(ann.clone()).target(""), Ok(Target::User(ann)));
        assert_eq!(Scope::Group(group.clone()).target(""), Ok(Target::Group(group)));
        assert_eq!(Scope::All.target(""), Ok(Target::All));
    }

    #[test]
    fn every_refusal_is_counted_from_the_start() {
        let metrics = String::from_utf8(crate::metrics::Metrics::new().to_text()).unwrap();
        for refused in [Refused::Name, Refused::Twice("x"), Refused::Ttl, Refused::Reply] {
            let series =
                format!("moorline_pushes_refused_total{{reason=\"{}\"}} 0", refused.reason());
            assert!(metrics.contains(&series), "{series}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_safe(value in "[ -~]{0,40}", rest in "[!-~]{0,40}") {
            let _ = push(&[("moorline-ttl", &value), ("moorline-exclude", &value)], b"x");
            let _ = Scope::Users.target(&rest);
            let _ = Scope::Connections(NodeId::random()).target(&rest);
        }
    }
}
