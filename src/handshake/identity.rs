//! Who the client is: by its token or certificate, and by what the backend says to the connect event.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderName, HeaderValue, Request};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::attempt::Attempt;
use super::refusal::Refusal;
use super::request::Opening;
use super::{Caller, Door, Gate, trace_of};
use crate::auth::{self, Denied};
use crate::config::{EventKind, JwtSources};
use crate::connection::{Farewells, Promise, Unopened};
use crate::event::{
    Event, EventBody, Grant, Offer, Outcome, Params, Peer, State, TokenFacts, Trace,
};
use crate::id::{GroupName, UserId};
use crate::limits::Seat;
use crate::relay::Relay;

/// A client that may come in.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) user: Option<UserId>,
    /// Its token.
    pub(super) token: Option<Box<TokenFacts>>,
    /// When its token ends.
    pub(super) expires: Option<SystemTime>,
    /// The plan that its token names.
    pub(super) plan: Option<String>,
    /// The groups that its route, its token and the backend put it in.
    pub(super) groups: Vec<GroupName>,
    /// The selected subprotocol.
    pub(super) subprotocol: Option<String>,
    /// The backend's state.
    pub(super) state: Option<State>,
    /// The backend's headers for the 101.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// The number of the last event: 1 after a connect event.
    pub(super) sequence: u64,
    pub(super) trace: Trace,
    /// After a connect event: tells the backend when there will be no connection after all.
    pub(super) unopened: Option<Unopened>,
    /// What its connection holds.
    pub(super) seat: Seat,
}

/// What the client showed of itself.
#[derive(Debug, Default)]
struct Shown {
    user: Option<UserId>,
    token: Option<Box<TokenFacts>>,
    expires: Option<SystemTime>,
    plan: Option<String>,
    groups: Vec<GroupName>,
    claims: serde_json::Map<String, serde_json::Value>,
    /// The query without a token.
    query: String,
    /// The offered subprotocols without a token.
    subprotocols: Vec<String>,
}

/// Subprotocols with a meaning of their own are only selected where a route lists them.
const RESERVED: &[&str] = &[
    "json.webpubsub.azure.v1",
    "json.reliable.webpubsub.azure.v1",
    "protobuf.webpubsub.azure.v1",
    "protobuf.reliable.webpubsub.azure.v1",
];

/// Finds out who the client is, and asks the backend where the route says so. Who is refused has no
/// seat any more.
pub(super) async fn admit<B>(
    door: &Door,
    request: &Request<B>,
    attempt: &mut Attempt,
    params: &Params,
    opening: &Opening,
    seat: Seat,
    farewells: &Farewells,
) -> Result<Admitted, Refusal> {
    let shown = show(door, request, &attempt.caller, opening).await?;
    attempt.user = shown.user.clone();
    let trace = trace_of(request);
    let mut admitted = Admitted {
        user: shown.user.clone(),
        token: shown.token.clone(),
        expires: shown.expires,
        plan: shown.plan.clone(),
        groups: groups_of_route(door, params)?,
        subprotocol: select(&door.route.subprotocols, &shown.subprotocols),
        state: None,
        headers: Vec::new(),
        sequence: 0,
        trace,
        unopened: None,
        seat,
    };
    admitted.groups.extend(shown.groups.iter().cloned());
    if !door.route.wants(EventKind::Connect) {
        return Ok(admitted);
    }
    let event = connect_event(door, request, attempt, params, shown, trace);
    let (grant, unopened, seat) = ask(door, event, admitted.seat, farewells).await?;
    admitted.groups.extend(grant.groups);
    Ok(Admitted {
        unopened: Some(unopened),
        subprotocol: grant.subprotocol.or(admitted.subprotocol),
        user: grant.user.or(admitted.user),
        state: grant.state,
        headers: grant.headers,
        sequence: 1,
        seat,
        ..admitted
    })
}

async fn show<B>(
    door: &Door,
    request: &Request<B>,
    caller: &Caller,
    opening: &Opening,
) -> Result<Shown, Refusal> {
    let query = request.uri().query().unwrap_or_default();
    let plain = |user| Shown {
        user,
        query: query.to_owned(),
        subprotocols: opening.subprotocols.clone(),
        ..Shown::default()
    };
    match &door.gate {
        Gate::Connect | Gate::Open => Ok(plain(None)),
        Gate::Certificate => {
            let certificate = caller.certificate.as_ref().ok_or(Refusal::NoCertificate)?;
            let user = auth::certificate_user(certificate).map_err(|_| Refusal::NoCertificate)?;
            Ok(plain(Some(user)))
        }
        Gate::Jwt { verifier, sources, revocations } => {
            let presented = auth::find(request.headers(), query, sources).map_err(|error| {
                Refusal::BadCredentials(match error {
                    auth::TokenError::Twice => "more than one token",
                    _ => "the token is malformed",
                })
            })?;
            let rest = Shown {
                query: presented.query,
                subprotocols: presented.subprotocols,
                ..Shown::default()
            };
            let Some(token) = presented.token else {
                return if door.route.anonymous { Ok(rest) } else { Err(Refusal::NoToken) };
            };
            if !revocations.are_known() {
                return Err(Refusal::NoRevocations);
            }
            let identity = verifier.verify(&token).await.map_err(|denied| match denied {
                Denied::Invalid(why) => Refusal::BadToken(why),
                Denied::Unavailable => Refusal::NoKeys,
            })?;
            let facts = identity.facts();
            if revocations.cover(&facts) {
                return Err(Refusal::Revoked);
            }
            Ok(Shown {
                user: Some(identity.user),
                token: Some(Box::new(facts)),
                expires: Some(identity.expires_at),
                plan: identity.plan,
                groups: identity.groups,
                claims: identity.claims,
                ..rest
            })
        }
    }
}

/// The groups of the route, by what its path stands for.
fn groups_of_route(door: &Door, params: &Params) -> Result<Vec<GroupName>, Refusal> {
    let name = |template: &String| {
        let filled = params.iter().fold(template.clone(), |text, (name, value)| {
            text.replace(&format!("{{{name}}}"), value)
        });
        GroupName::new(&filled)
            .map_err(|_| Refusal::BadRequest("the path stands for a group whose name is too long"))
    };
    door.route.groups.iter().map(name).collect()
}

/// The subprotocol to select: the route's best that was offered; where a route lists none, the first
/// offer, because its messages pass as they are.
fn select(listed: &[String], offered: &[String]) -> Option<String> {
    let fits = |name: &&String| offered.contains(name);
    match listed {
        [] => offered.iter().find(|name| !RESERVED.contains(&name.as_str())).cloned(),
        listed => listed.iter().find(fits).cloned(),
    }
}

fn connect_event<B>(
    door: &Door,
    request: &Request<B>,
    attempt: &Attempt,
    params: &Params,
    shown: Shown,
    trace: Trace,
) -> Event {
    let offer = Offer {
        query: shown.query,
        params: params.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        headers: forwarded(door, request),
        claims: shown.claims,
        subprotocols: shown.subprotocols,
        certificate: attempt.caller.certificate.clone(),
        remote_address: attempt.caller.remote.to_string(),
    };
    let now = SystemTime::now();
    Event {
        peer: Arc::new(Peer {
            id: attempt.id,
            route: Arc::clone(&door.route),
            user: shown.user,
            token: shown.token,
            path: request.uri().path().into(),
            params: params.clone(),
            remote: attempt.caller.remote,
            subprotocol: None,
            since: now,
        }),
        sequence: 1,
        time: now,
        state: None,
        trace,
        body: EventBody::Connect(Box::new(offer)),
    }
}

/// The request headers that the route passes on. A token's own place is only among them when the
/// operator named it.
fn forwarded<B>(door: &Door, request: &Request<B>) -> BTreeMap<String, Vec<String>> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    door.route
        .forward_headers
        .iter()
        .map(|name| {
            let values = request.headers().get_all(name.as_str()).iter().map(text).collect();
            (name.to_ascii_lowercase(), values)
        })
        .filter(|(_, values): &(String, Vec<String>)| !values.is_empty())
        .collect()
}

/// Asks the backend in a task of its own, because hyper drops a handshake whose client left, and the
/// backend may have let it in by then. The client's seat goes with the question, so that clients that
/// leave early cannot ask more than those that stay: all of them together, and those of one address.
async fn ask(
    door: &Door,
    event: Event,
    seat: Seat,
    farewells: &Farewells,
) -> Result<(Grant, Unopened, Seat), Refusal> {
    let (tell, told) = oneshot::channel();
    let relay = door.relay.clone();
    let kept = farewells.clone();
    farewells.tasks.spawn("connect event", async move {
        let answer = answer(relay, event, kept).await;
        let _ = tell.send(answer.map(|(grant, unopened)| (grant, unopened, seat)));
    });
    // An error is a bug in the task, which logged it.
    told.await.map_err(|_| Refusal::BackendTimeout)?
}

async fn answer(
    relay: Relay,
    event: Event,
    farewells: Farewells,
) -> Result<(Grant, Unopened), Refusal> {
    let (asked, trace, since) = (Arc::clone(&event.peer), event.trace, Instant::now());
    let grant = match Box::pin(relay.request(event)).await {
        Outcome::Accepted(grant) => *grant,
        Outcome::Replied(_) => Grant::default(),
        Outcome::Refused(refusal) => {
            let body = refusal.message.map(|message| message.into_data()).unwrap_or_default();
            return Err(Refusal::Backend(refusal.status, body));
        }
        Outcome::Unavailable | Outcome::Overloaded => return Err(Refusal::BackendUnavailable),
        Outcome::Unknown if !relay.is_reachable() => return Err(Refusal::BackendUnavailable),
        Outcome::Unknown => return Err(Refusal::BackendTimeout),
    };
    let peer = Arc::new(Peer {
        id: asked.id,
        route: Arc::clone(&asked.route),
        user: grant.user.clone().or_else(|| asked.user.clone()),
        token: asked.token.clone(),
        path: asked.path.clone(),
        params: asked.params.clone(),
        remote: asked.remote,
        subprotocol: grant.subprotocol.as_deref().map(Into::into),
        since: asked.since,
    });
    let state = grant.state.clone();
    let unopened =
        Unopened::new(Promise { peer, relay, trace, sequence: 1, state, since, farewells });
    Ok((grant, unopened))
}

/// What a browser needs to see selected even when it is refused by a close frame: one of its offers
/// that is not a token.
pub(super) fn selected_for_refusal(door: &Door, opening: &Opening) -> Option<String> {
    let prefix = match &door.gate {
        Gate::Jwt { sources: JwtSources { subprotocol: Some(prefix), .. }, .. } => prefix.as_str(),
        _ => "",
    };
    let is_token = |name: &String| !prefix.is_empty() && name.starts_with(prefix);
    let offered: Vec<String> =
        opening.subprotocols.iter().filter(|name| !is_token(name)).cloned().collect();
    select(&door.route.subprotocols, &offered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_subprotocol_is_selected_only_when_it_was_offered() {
        assert_eq!(select(&[], &[]), None);
        assert_eq!(select(&[], &names(&["chat", "x"])).as_deref(), Some("chat"));
        assert_eq!(select(&names(&["a", "b"]), &names(&["b", "a"])).as_deref(), Some("a"));
        assert_eq!(select(&names(&["a"]), &names(&["b"])), None);
        let structured = names(&["json.webpubsub.azure.v1", "chat"]);
        assert_eq!(select(&[], &structured).as_deref(), Some("chat"));
        assert_eq!(select(&structured, &structured).as_deref(), Some("json.webpubsub.azure.v1"));
    }
}
