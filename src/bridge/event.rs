//! A message on a hub's subject as the event that it carries: the reverse of what a node writes. Pure, and
//! nothing that somebody publishes makes it panic.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use async_nats::HeaderMap;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use crate::config::{EventKind, Route, is_repeatable};
use crate::event::{Ended, Event, EventBody, Forwarded, Offer, Params, Peer, State, Trace};
use crate::id::{ConnectionId, UserId};
use crate::message::{Kind, Message, detached};

/// How a message is no event of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotEvent {
    #[error("it has no header {0}")]
    Missing(&'static str),
    #[error("header {0} stands there twice")]
    Twice(&'static str),
    #[error("header {0} is not as the contract says")]
    Value(&'static str),
    #[error("its data are not the JSON of the contract")]
    Data,
    #[error("the hub in ce-hub is another one")]
    Hub,
}

/// The address of a client whom the event says nothing of.
const SOMEWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Reads an event of the route's hub. What it does not say of the client stays unknown.
pub(super) fn read(
    headers: &HeaderMap,
    payload: Bytes,
    route: &Arc<Route>,
) -> Result<Event, NotEvent> {
    let fields = Fields(headers);
    fields.parsed("ce-specversion", |text| (text == "1.0").then_some(()))?;
    let kind = fields
        .parsed("ce-type", |text| EventKind::ALL.into_iter().find(|kind| kind.ce_type() == text))?;
    if fields.needed("ce-hub")? != route.hub.as_str() {
        return Err(NotEvent::Hub);
    }
    let id: ConnectionId = fields.parsed("ce-connectionid", |text| text.parse().ok())?;
    let time = fields.parsed("ce-time", |text| humantime::parse_rfc3339(text).ok())?;
    let body = match kind {
        EventKind::Connect => {
            EventBody::Connect(Box::new(Offer::parse(&payload).ok_or(NotEvent::Data)?))
        }
        EventKind::Connected => EventBody::Connected,
        EventKind::Message => {
            let content_type = fields.one("ce-datacontenttype")?;
            let data = payload.clone();
            EventBody::Message(Message::from_backend(content_type, Kind::Binary, data).detached())
        }
        EventKind::Disconnected => {
            EventBody::Disconnected(Box::new(Ended::parse(&payload).ok_or(NotEvent::Data)?))
        }
    };
    let offer = match &body {
        EventBody::Connect(offer) => Some(&**offer),
        _ => None,
    };
    let peer = Peer {
        id,
        route: Arc::clone(route),
        user: fields.decoded("ce-userid", |text| UserId::new(text).ok())?,
        token: None,
        path: fields.decoded("ce-subject", |text| Some(text.into()))?.unwrap_or_default(),
        query: offer.map(|offer| offer.query.as_str().into()).unwrap_or_default(),
        params: offer.map(params).unwrap_or_default(),
        remote: offer.and_then(|offer| offer.remote_address.parse().ok()).unwrap_or(SOMEWHERE),
        subprotocol: fields.decoded("ce-subprotocol", |text| Some(text.into()))?,
        forwarded: offer.map(forwarded).unwrap_or_default(),
        since: time,
        is_disowned: Default::default(),
    };
    let event = Event {
        peer: Arc::new(peer),
        sequence: fields
            .one("ce-sequence")?
            .map_or(Some(0), |text| text.parse().ok())
            .ok_or(NotEvent::Value("ce-sequence"))?,
        time,
        state: fields.decoded("ce-state", |text| State::new(text).ok())?.flatten(),
        trace: fields.one("traceparent")?.and_then(Trace::parse).unwrap_or_else(Trace::start),
        body,
        // A message's are the whole of it.
        written: (kind != EventKind::Message).then(|| Box::new(detached(payload))),
    };
    // The service tells by it what it has seen before.
    fields.parsed("ce-id", |text| (text == event.id()).then_some(()))?;
    Ok(event)
}

/// A message's headers. Names are in lower case, as the contract says.
struct Fields<'a>(&'a HeaderMap);

impl<'a> Fields<'a> {
    fn one(&self, name: &'static str) -> Result<Option<&'a str>, NotEvent> {
        let mut values = self.0.get_all(name);
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(NotEvent::Twice(name)),
            (value, None) => Ok(value.map(|value| value.as_str())),
        }
    }

    fn needed(&self, name: &'static str) -> Result<&'a str, NotEvent> {
        self.one(name)?.ok_or(NotEvent::Missing(name))
    }

    fn parsed<T>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<T, NotEvent> {
        parse(self.needed(name)?).ok_or(NotEvent::Value(name))
    }

    /// A value that is percent-encoded, if it is there.
    fn decoded<T>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, NotEvent> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        let text = percent_decode_str(text).decode_utf8().ok();
        text.and_then(|text| parse(&text)).map(Some).ok_or(NotEvent::Value(name))
    }
}

fn params(offer: &Offer) -> Params {
    let pair = |(name, value): (&String, &String)| (name.as_str().into(), value.as_str().into());
    offer.params.iter().map(pair).collect()
}

/// The handshake's headers as those of the request, for the service's own login. Which ones there are is
/// the route's choice; one that would say something of the request itself is passed over.
fn forwarded(offer: &Offer) -> Forwarded {
    let names = offer.headers.iter().filter_map(|(name, values)| {
        let name = HeaderName::try_from(name).ok().filter(is_repeatable)?;
        Some((name, values))
    });
    let all = names.flat_map(|(name, values)| {
        let value = |value: &String| HeaderValue::from_bytes(value.as_bytes()).ok();
        values.iter().filter_map(value).map(move |mut value| {
            value.set_sensitive(true);
            (name.clone(), value)
        })
    });
    all.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::*;
    use crate::close::{Cause, Close};
    use crate::relay::testing::{event, on_the_wire, peer, route};

    fn read_back(event: &Event) -> Result<Event, NotEvent> {
        read(&on_the_wire(event), event.data(), &Arc::new(route("app")))
    }

    fn body(kind: usize, data: Vec<u8>, text: String) -> EventBody {
        let headers = BTreeMap::from([("cookie".to_owned(), vec![text.clone(), "b=2".into()])]);
        match kind {
            0 => EventBody::Connect(Box::new(Offer {
                query: text.clone(),
                params: BTreeMap::from([("room".to_owned(), text)]),
                headers,
                subprotocols: vec!["chat".into()],
                remote_address: "192.0.2.7:51000".into(),
                ..Offer::default()
            })),
            1 => EventBody::Connected,
            2 => EventBody::Message(Message::text(text)),
            3 => EventBody::Message(Message::binary(data)),
            _ => EventBody::Disconnected(Box::new(Ended {
                close: Close::said(Cause::Client, 4001, &text),
                duration: Duration::from_millis(data.len() as u64),
            })),
        }
    }

    proptest! {
        #[test]
        fn what_a_node_writes_is_read_back(
            path in "\\PC{0,40}|[\\x00-\\x20]{1,8}",
            user in proptest::option::of("\\PC{1,40}"),
            subprotocol in proptest::option::of(".{0,20}"),
            state in "\\PC{0,60}",
            (sequence, millis) in (0..u64::MAX, 0..4_000_000_000_000_u64),
            (kind, data, text) in (0..5_usize, proptest::collection::vec(any::<u8>(), 0..64), "\\PC{0,40}"),
        ) {
            let mut peer = peer("app", None);
            peer.path = path.into();
            peer.user = user.and_then(|user| UserId::new(&user).ok());
            peer.subprotocol = subprotocol.map(Into::into);
            let written = Event {
                sequence,
                time: SystemTime::UNIX_EPOCH + Duration::from_millis(millis),
                state: State::new(&state).ok().flatten(),
                ..event(&Arc::new(peer), body(kind, data, text))
            };
            let read = read_back(&written);
            prop_assert!(read.is_ok(), "{:?}", read);
            let read = read.unwrap();
            prop_assert_eq!(read.id(), written.id());
            prop_assert_eq!(read.sequence, written.sequence);
            prop_assert_eq!((read.time, read.trace), (written.time, written.trace));
            prop_assert_eq!((read.kind(), &read.state), (written.kind(), &written.state));
            prop_assert_eq!(read.body.data(), written.data());
            prop_assert_eq!(read.body.content_type(), written.body.content_type());
            prop_assert_eq!((&read.peer.path, &read.peer.user), (&written.peer.path, &written.peer.user));
            prop_assert_eq!(&read.peer.subprotocol, &written.peer.subprotocol);
        }

        #[test]
        fn any_headers_are_safe(
            headers in proptest::collection::vec((0..NAMES.len(), "\\PC{0,30}"), 0..16),
            kind in 0..4_usize,
            payload in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut map = on_the_wire(&event(&Arc::new(peer("app", None)), EventBody::Connected));
            map.insert("ce-type", EventKind::ALL[kind].ce_type());
            for (name, value) in &headers {
                map.insert(NAMES[*name], value.as_str());
            }
            let _ = read(&map, payload.into(), &Arc::new(route("app")));
        }
    }

    const NAMES: [&str; 12] = [
        "ce-specversion",
        "ce-id",
        "ce-type",
        "ce-subject",
        "ce-time",
        "ce-hub",
        "ce-connectionid",
        "ce-userid",
        "ce-sequence",
        "ce-subprotocol",
        "ce-state",
        "traceparent",
    ];

    #[test]
    fn what_a_newer_node_says_is_handed_on() {
        let peer = Arc::new(peer("app", None));
        let ended = Ended { close: Close::of(Cause::Client), duration: Duration::ZERO };
        for (body, data) in [
            (EventBody::Connect(Box::default()), r#"{"query":"","country":"NZ"}"#),
            (EventBody::Connected, r#"{"country":"NZ"}"#),
            (
                EventBody::Disconnected(Box::new(ended)),
                r#"{"code":1006,"cause":"eaten","reason":"","duration_ms":1,"country":"NZ"}"#,
            ),
        ] {
            let headers = on_the_wire(&event(&peer, body));
            let read = read(&headers, Bytes::from_static(data.as_bytes()), &peer.route).unwrap();
            assert_eq!(read.data(), data);
        }
    }

    #[test]
    fn what_breaks_the_contract_is_named() {
        let change = |change: &dyn Fn(&mut HeaderMap)| {
            let mut headers =
                on_the_wire(&event(&Arc::new(peer("app", None)), EventBody::Connected));
            change(&mut headers);
            read(&headers, Bytes::from_static(b"{}"), &Arc::new(route("app"))).unwrap_err()
        };
        assert_eq!(change(&|h| *h = HeaderMap::new()), NotEvent::Missing("ce-specversion"));
        assert_eq!(change(&|h| h.append("ce-id", "x")), NotEvent::Twice("ce-id"));
        assert_eq!(change(&|h| h.insert("ce-hub", "other")), NotEvent::Hub);
        for (name, value) in [
            ("ce-specversion", "0.3"),
            ("ce-id", "x"),
            ("ce-type", "com.example.other"),
            ("ce-time", "yesterday"),
            ("ce-connectionid", "a.*"),
            ("ce-userid", ""),
            ("ce-userid", "%00"),
            ("ce-sequence", "-1"),
            ("ce-subject", "%ff"),
            ("ce-state", "a%0D%0Ab"),
        ] {
            assert_eq!(change(&|h| h.insert(name, value)), NotEvent::Value(name), "{value}");
        }
        let ends = |h: &mut HeaderMap| h.insert("ce-type", EventKind::Disconnected.ce_type());
        assert_eq!(change(&ends), NotEvent::Data);
        let asked = event(&Arc::new(peer("app", None)), EventBody::Connect(Box::default()));
        let no_json = Bytes::from_static(b"hello");
        let error = read(&on_the_wire(&asked), no_json, &Arc::new(route("app"))).unwrap_err();
        assert_eq!(error, NotEvent::Data);
    }

    #[test]
    fn a_handshakes_headers_become_the_requests_unless_they_are_its_own() {
        let header = |name: &str, value: &str| (name.to_owned(), vec![value.to_owned()]);
        let headers = BTreeMap::from([
            ("cookie".to_owned(), vec!["a=1".to_owned(), "b=2".to_owned()]),
            header("authorization", "Basic x"),
            header("x-odd", "a\r\nb: c"),
            header("a b", "x"),
            header("host", "evil"),
            header("content-length", "0"),
            header("content-type", "text/html"),
            header("transfer-encoding", "chunked"),
            header("connection", "close"),
            header("expect", "100-continue"),
            header("ce-type", "forged"),
            header("moorline-secret", "guess"),
        ]);
        let offer = Offer { headers, ..Offer::default() };
        let written = event(&Arc::new(peer("app", None)), EventBody::Connect(Box::new(offer)));
        let read = read_back(&written).unwrap();
        let text = |(name, value): &(HeaderName, HeaderValue)| {
            (name.to_string(), value.to_str().unwrap().to_owned())
        };
        let passed: Vec<_> = read.peer.forwarded.iter().map(text).collect();
        let expected = [("authorization", "Basic x"), ("cookie", "a=1"), ("cookie", "b=2")];
        assert_eq!(passed, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(read.peer.forwarded.iter().all(|(_, value)| value.is_sensitive()));
    }
}
