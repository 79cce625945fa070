//! Who the client is: by its token or certificate, and by what the backend says to the connect event.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue, Request};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::attempt::Attempt;
use super::refusal::Refusal;
use super::request::Opening;
use super::{Caller, Door, Doorkeeper, Gate, repeated, trace_of};
use crate::auth::{self, Denied};
use crate::close::{Cause, Close};
use crate::cluster::{Cluster, Entry, Farewells, Slot};
use crate::config::{EventKind, JwtSources};
use crate::connection::{Promise, Unopened};
use crate::event::{
    Action, Event, EventBody, Grant, Offer, Outcome, Params, Peer, State, TokenFacts, Trace,
};
use crate::id::{GroupName, UserId};
use crate::limits::Seat;

/// A client that may come in.
#[derive(Debug)]
pub(super) struct Admitted {
    /// Who it is.
    pub(super) peer: Arc<Peer>,
    /// When its token ends.
    pub(super) expires: Option<SystemTime>,
    /// The plan that its token names.
    pub(super) plan: Option<String>,
    /// The groups that its route, its token and the backend put it in.
    pub(super) groups: Vec<GroupName>,
    /// The backend's state.
    pub(super) state: Option<State>,
    /// The backend's headers for the 101.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// What the backend wants done first.
    pub(super) actions: Vec<Action>,
    /// The number of the last event: 1 after a connect event.
    pub(super) sequence: u64,
    pub(super) trace: Trace,
    /// Tells the backend when there will be no connection after all.
    pub(super) unopened: Unopened,
    /// What its connection holds.
    pub(super) seat: Seat,
    /// Its place among its user's connections.
    pub(super) slot: Option<Box<Slot>>,
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

/// How long a client waits for its place in the registry.
const STORE_TIMEOUT: Duration = Duration::from_secs(3);

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
    keeper: &Doorkeeper,
    door: &Door,
    request: &Request<B>,
    attempt: &mut Attempt,
    params: &Params,
    opening: &Opening,
    seat: Seat,
) -> Result<Admitted, Refusal> {
    let shown = show(door, request, &attempt.caller, opening).await?;
    attempt.user = shown.user.clone();
    let (trace, since, expires) = (trace_of(request), Instant::now(), shown.expires);
    let mut groups = groups_of_route(door, params)?;
    groups.extend(shown.groups.iter().cloned());
    let plan = shown.plan.clone();
    // What is selected over HTTP, the service says, unless the route does.
    let is_theirs = door.route.is_websocket_over_http() && door.route.subprotocols.is_empty();
    let subprotocol = select(&door.route.subprotocols, &shown.subprotocols);
    let subprotocol = subprotocol.filter(|_| !is_theirs);
    let peer = |subprotocol| Peer {
        id: attempt.id,
        route: Arc::clone(&door.route),
        user: shown.user.clone(),
        token: shown.token.clone(),
        path: request.uri().path().into(),
        query: repeated::query(door, &shown.query),
        params: params.clone(),
        remote: attempt.caller.remote,
        subprotocol,
        forwarded: repeated::repeated(door, request, &attempt.caller, &shown.subprotocols),
        since: SystemTime::now(),
        is_disowned: Default::default(),
    };
    let promise = |peer, entry| Promise {
        peer,
        relay: door.relay.clone(),
        trace,
        sequence: 0,
        state: None,
        since,
        close: Close::of(Cause::Vanished),
        farewells: keeper.farewells.clone(),
        entry,
    };
    let (granted, slot) = if door.route.wants(EventKind::Connect) {
        let peer = Arc::new(peer(None));
        let entry = enter(&keeper.cluster, &peer).await?;
        let event = connect_event(door, request, attempt, Arc::clone(&peer), shown, trace);
        let asked = Asked { event, promise: promise(peer, entry), subprotocol, seat };
        let granted = ask(asked, &keeper.farewells).await?;
        // Only now is it known whose client it is. Who has no slot leaves, and the backend hears of it.
        let slot = keeper.cluster.seat(&granted.peer, door.quota).await?;
        (granted, slot)
    } else {
        let peer = Arc::new(peer(subprotocol.map(Into::into)));
        // First, so that who has a slot is in the registry.
        let entry = enter(&keeper.cluster, &peer).await?;
        let slot = keeper.cluster.seat(&peer, door.quota).await?;
        let unopened = Unopened::new(promise(Arc::clone(&peer), entry));
        (Granted { grant: Grant::default(), peer, unopened, seat }, slot)
    };
    groups.extend(granted.grant.groups);
    Ok(Admitted {
        peer: granted.peer,
        expires,
        plan,
        groups,
        state: granted.grant.state,
        headers: granted.grant.headers,
        actions: granted.grant.actions,
        sequence: u64::from(door.route.wants(EventKind::Connect)),
        trace,
        unopened: granted.unopened,
        seat: granted.seat,
        slot,
    })
}

/// Enters a client of whose end its backend must hear, before that backend hears of the client at all.
async fn enter(cluster: &Cluster, peer: &Arc<Peer>) -> Result<Option<Entry>, Refusal> {
    let Some(entry) = cluster.enter(peer) else { return Ok(None) };
    match entry.is_stored(Instant::now() + STORE_TIMEOUT).await {
        true => Ok(Some(entry)),
        false => Err(Refusal::BackendUnavailable),
    }
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
    peer: Arc<Peer>,
    shown: Shown,
    trace: Trace,
) -> Event {
    let offer = Offer {
        query: shown.query,
        params: peer.params.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        headers: repeated::named(door, request),
        claims: shown.claims,
        subprotocols: shown.subprotocols,
        certificate: attempt.caller.certificate.clone(),
        remote_address: attempt.caller.remote.to_string(),
    };
    Event {
        time: peer.since,
        peer,
        sequence: 1,
        state: None,
        trace,
        written: None,
        body: EventBody::Connect(Box::new(offer)),
    }
}

/// What goes to a backend that decides about a client.
struct Asked {
    event: Event,
    /// Made good when the backend lets the client in.
    promise: Promise,
    /// What is selected unless the backend selects another.
    subprotocol: Option<String>,
    seat: Seat,
}

/// A client that a backend lets in.
struct Granted {
    grant: Grant,
    peer: Arc<Peer>,
    unopened: Unopened,
    seat: Seat,
}

/// Asks the backend in a task of its own, because hyper drops a handshake whose client left, and the
/// backend may have let it in by then. The client's seat goes with the question, so that clients that
/// leave early cannot ask more than those that stay: all of them together, and those of one address.
async fn ask(asked: Asked, farewells: &Farewells) -> Result<Granted, Refusal> {
    let (tell, told) = oneshot::channel();
    farewells.tasks.spawn("connect event", async move {
        let _ = tell.send(asked.answer().await);
    });
    // An error is a bug in the task, which logged it.
    told.await.map_err(|_| Refusal::BackendTimeout)?
}

impl Asked {
    async fn answer(self) -> Result<Granted, Refusal> {
        let Self { event, mut promise, subprotocol, seat } = self;
        let grant = match Box::pin(promise.relay.request(event)).await {
            Outcome::Accepted(grant) => *grant,
            Outcome::Replied(_) => Grant::default(),
            Outcome::Refused(refusal) => {
                if refusal.may_be_yes() {
                    tell_of_end(promise);
                }
                return Err(Refusal::Backend(Box::new(refusal)));
            }
            Outcome::Unavailable | Outcome::Overloaded => return Err(Refusal::BackendUnavailable),
            Outcome::Unknown => {
                let is_reachable = promise.relay.is_reachable();
                tell_of_end(promise);
                return Err(match is_reachable {
                    true => Refusal::BackendTimeout,
                    false => Refusal::BackendUnavailable,
                });
            }
        };
        let subprotocol = grant.subprotocol.clone().or(subprotocol);
        let peer = Arc::new(promise.peer.granted(grant.user.clone(), subprotocol.map(Into::into)));
        promise.peer = Arc::clone(&peer);
        (promise.sequence, promise.state) = (1, grant.state.clone());
        if let Some(entry) = &promise.entry {
            entry.know(&peer);
            // It is stored as it was before; only who it is would be missing.
            entry.is_stored(Instant::now() + STORE_TIMEOUT).await;
        }
        Ok(Granted { grant, peer, unopened: Unopened::new(promise), seat })
    }
}

/// A backend that may have let in a client that is refused must hear of its end.
fn tell_of_end(mut promise: Promise) {
    if promise.peer.route.wants(EventKind::Disconnected) {
        promise.sequence = 1;
        // There was no close frame.
        promise.close = Close::with_code(Cause::BackendFailed, Cause::Vanished.code());
        drop(Unopened::new(promise));
    }
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
