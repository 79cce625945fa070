//! The 101, and the task that starts behind it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::identity::{self, Admitted};
use super::refusal::Refusal;
use super::request::Opening;
use super::{CONNECTION_ID, Caller, Door, Doorkeeper, Gate};
use crate::close::{Cause, Close};
use crate::config::RefuseMode;
use crate::connection::{self, Accepted};
use crate::id::ConnectionId;

impl Doorkeeper {
    /// Lets a client in.
    pub(super) fn upgrade<B>(
        &self,
        request: &mut Request<B>,
        door: &Door,
        opening: &Opening,
        admitted: Admitted,
        caller: &Caller,
    ) -> Response<Full<Bytes>> {
        let (peer, unopened) = (admitted.peer, admitted.unopened);
        let mut response = switching(opening, peer.subprotocol.as_deref(), peer.id);
        for (name, value) in admitted.headers {
            response.headers_mut().append(name, value);
        }
        tracing::debug!(
            connection = %peer.id,
            user = peer.user.as_ref().map(tracing::field::display),
            hub = %peer.route.hub,
            route = peer.route.name(),
            remote = %peer.remote,
            "connection accepted"
        );
        let (registered, mailbox) = self.table.register(&peer);
        for group in &admitted.groups {
            if let Err(error) = registered.join(group) {
                tracing::warn!(connection = %peer.id, %error, "group not joined");
            }
        }
        let meters = door.plans.meters(&peer, admitted.plan.as_deref(), &self.users);
        // The drain says stop, then wishes everybody in the table to end. Looking after registering
        // leaves no gap: who comes too late for the table sees the stop here.
        if self.farewells.tasks.is_stopping() {
            mailbox.handle().part(Close::of(Cause::Drain));
        }
        // So does a revocation, which is known before the table is looked through.
        if let Gate::Jwt { revocations, .. } = &door.gate
            && revocations.cover_peer(&peer)
        {
            mailbox.handle().cut(Close::of(Cause::Revoked));
        }
        let mut accepted = Box::new(Accepted {
            peer,
            relay: door.relay.clone(),
            trace: admitted.trace,
            sequence: admitted.sequence,
            state: admitted.state,
            actions: admitted.actions,
            expires: admitted.expires.map(instant_of),
            heartbeat: Arc::clone(&door.heartbeat),
            read_buffer: caller.read_buffer,
            early: Bytes::new(),
            meters,
            mailbox,
            registered,
            seat: admitted.seat,
            entry: None,
            slot: admitted.slot,
            farewells: self.farewells.clone(),
        });
        let (upgrade, unwrap) = (hyper::upgrade::on(request), caller.unwrap);
        self.farewells.tasks.spawn("connection", async move {
            // None when the client left before the 101 was written.
            if let Ok((io, early)) = upgrade.await.map(unwrap) {
                accepted.early = early;
                accepted.entry = unopened.opened();
                connection::run(io, *accepted).await;
            }
        });
        response
    }

    /// Lets a client in only to close with the refusal's code, which a browser can read. None where it
    /// is to be told by status: the route says so, the refusal has no code, or too many are being told.
    pub(super) fn upgrade_to_close<B>(
        &self,
        request: &mut Request<B>,
        door: &Door,
        opening: &Opening,
        id: ConnectionId,
        refusal: &Refusal,
    ) -> Option<Response<Full<Bytes>>> {
        if door.route.refuse == RefuseMode::Status {
            return None;
        }
        let (code, place) = (refusal.close_code()?, self.refused.take()?);
        let subprotocol = identity::selected_for_refusal(door, opening);
        let reason = refusal.result();
        let timeout = door.heartbeat.close_timeout.get().min(REFUSED_CLOSE_TIMEOUT);
        let upgrade = hyper::upgrade::on(request);
        self.farewells.tasks.spawn("refusal", async move {
            if let Ok(io) = upgrade.await.map(TokioIo::new) {
                connection::refuse(io, code, reason, timeout).await;
            }
            drop(place);
        });
        Some(switching(opening, subprotocol.as_deref(), id))
    }
}

/// The longest that a refused client's stream stays for its close frame: enough to read it.
const REFUSED_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// RFC 6455 section 4.2.2.
fn switching(
    opening: &Opening,
    subprotocol: Option<&str>,
    id: ConnectionId,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let texts = [
        (SEC_WEBSOCKET_ACCEPT, Some(derive_accept_key(opening.key.as_bytes()))),
        (SEC_WEBSOCKET_PROTOCOL, subprotocol.map(str::to_owned)),
        (CONNECTION_ID, Some(id.to_string())),
    ];
    for (name, text) in texts {
        if let Some(Ok(value)) = text.map(HeaderValue::try_from) {
            headers.insert(name, value);
        }
    }
    response
}

/// A wall-clock time on the monotonic clock, which no clock step can move.
fn instant_of(time: SystemTime) -> Instant {
    Instant::now() + time.duration_since(SystemTime::now()).unwrap_or_default()
}
