//! Doing what a request asks for, by way of the fleet, and what there is to say of it.

use std::time::{Duration, UNIX_EPOCH};

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::Rules;
use super::action::Action;
use super::answer::Answer;
use super::body::{Body, Payload};
use super::query::{NO_FILTERS, Query};
use super::refusal::Refusal;
use crate::auth::{Denied, Revocations, Token};
use crate::close::{Cause, Close};
use crate::hub::{Command, Done, Fleet, FleetError, Info, Push, Target};
use crate::id::{ConnectionId, GroupName, HubName, UserId};

/// What it takes to answer one request in a hub.
#[derive(Debug, Clone, Copy)]
pub(super) struct Desk<'a> {
    pub(super) fleet: &'a Fleet,
    pub(super) revocations: &'a Revocations,
    pub(super) rules: &'a Rules,
    pub(super) hub: &'a HubName,
    pub(super) query: &'a Query,
}

/// The body of `:addToGroups` and `:removeFromGroups`.
#[derive(Debug, Deserialize)]
struct Groups {
    groups: Vec<GroupName>,
    #[serde(default)]
    filter: Option<String>,
}

/// The body of `:refresh`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fresh {
    token: String,
}

/// How long the nodes may take for a push or a command.
const FLEET_TIMEOUT: Duration = Duration::from_secs(5);
/// The most connections that one answer lists.
const LIST_MAX: u64 = 1000;
const TRACE_MAX: u64 = 600;
const TRACE_DEFAULT: u64 = 60;
/// The longest life of a token in minutes: a week.
const LIFE_MAX: u64 = 7 * 24 * 60;
const LIFE_DEFAULT: u64 = 60;

impl Desk<'_> {
    /// Does it.
    ///
    /// # Errors
    /// When it cannot be done, or not wholly and it does no harm to ask again.
    pub(super) async fn perform<B: Payload>(
        self,
        action: Action,
        body: &mut Body<B>,
    ) -> Result<Answer, Refusal> {
        match action {
            Action::Send(target) => self.send(target, body).await,
            Action::Exists(target) => self.exists(&target).await,
            Action::Describe(id) => self.describe(id).await,
            Action::List(target) => self.list(&target).await,
            Action::Count(target) => {
                let done = self.command(&target, &Command::Count).await?;
                let body = json!({"connections": done.connections, "partial": done.is_partial});
                Ok(Answer::of_nodes(StatusCode::OK, &body, done.is_partial))
            }
            Action::Close(target) => self.close(&target).await,
            Action::Join(target, group) => self.join(&target, vec![group]).await,
            Action::Leave(target, group) => {
                let groups = group.map(|group| vec![group]);
                let done = self.command_if_there(&target, &Command::Leave { groups }).await?;
                whole(done).map(|done| Answer::changed_silently(&done))
            }
            Action::AddToGroups => self.join(&Target::All, Self::groups(body).await?).await,
            Action::RemoveFromGroups => {
                let groups = Some(Self::groups(body).await?);
                let done = self.command(&Target::All, &Command::Leave { groups }).await?;
                whole(done).map(|done| Answer::changed(&done))
            }
            Action::Refresh(id) => self.refresh(id, body).await,
            Action::Trace(id) => self.trace(id).await,
            Action::MakeToken => self.make_token(),
            Action::Permission => {
                Err(Refusal::Not("connections have no permissions: clients only talk to backends"))
            }
        }
    }

    async fn send<B: Payload>(self, target: Target, body: &mut Body<B>) -> Result<Answer, Refusal> {
        self.query.check_no_filter()?;
        let ttl = self.query.number("messageTtlSeconds", 0..=300, "expected 0 to 300")?;
        let exclude = self.query.excluded();
        let message = body.message().await?;
        let now = Instant::now();
        // The Azure data plane has 0 mean that the message never expires.
        let expires = ttl.filter(|ttl| *ttl > 0).map(|ttl| now + Duration::from_secs(ttl));
        let push = Push { target, message, exclude, expires };
        let done = match self.fleet.push(self.hub, &push, now + FLEET_TIMEOUT).await {
            Err(FleetError::Gone) => Done::default(),
            done => done?,
        };
        let body = json!({"deliveries": done.connections, "partial": done.is_partial});
        Ok(Answer::of_nodes(StatusCode::ACCEPTED, &body, done.is_partial))
    }

    async fn exists(self, target: &Target) -> Result<Answer, Refusal> {
        let done = self.command_if_there(target, &Command::Count).await?;
        match done.connections {
            0 => whole(done).map(|_| Answer::empty(StatusCode::NOT_FOUND)),
            _ => Ok(Answer::empty(StatusCode::OK)),
        }
    }

    async fn describe(self, id: ConnectionId) -> Result<Answer, Refusal> {
        let target = Target::Connection(id);
        let done = self.command(&target, &Command::Info { limit: 1 }).await?;
        match done.info.first() {
            Some(info) => Ok(Answer::json(StatusCode::OK, described(info).to_string())),
            None => whole(done).and(Err(Refusal::NoConnection)),
        }
    }

    async fn list(self, target: &Target) -> Result<Answer, Refusal> {
        const RANGE: &str = "expected 1 to 1000";
        if self.query.one("continuationToken")?.is_some() {
            let problem = "lists come in one piece, so there is nothing to continue";
            return Err(Refusal::Parameter("continuationToken", problem));
        }
        // `top` is what the SDKs call it.
        let limit = self.query.number("limit", 1..=LIST_MAX, RANGE)?;
        let top = self.query.number("top", 1..=u64::MAX, "expected a number above 0")?;
        let limit = limit.or(top).map_or(LIST_MAX, |limit| limit.min(LIST_MAX));
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut done = self.command(target, &Command::Info { limit }).await?;
        // Each node has described as many.
        done.info.sort_by_key(|info| info.since);
        let value: Vec<Value> = done.info.iter().take(limit).map(described).collect();
        let body =
            json!({"value": value, "connections": done.connections, "partial": done.is_partial});
        Ok(Answer::of_nodes(StatusCode::OK, &body, done.is_partial))
    }

    async fn close(self, target: &Target) -> Result<Answer, Refusal> {
        const RANGE: &str = "expected 1000 to 1003, 1007 to 1014 or 3000 to 4999";
        self.query.check_no_filter()?;
        let code = self.query.number("code", 1000..=4999, RANGE)?;
        let code = code.and_then(|code| u16::try_from(code).ok());
        let command = Command::Close {
            code: code.unwrap_or(Close::of(Cause::BackendClosed).code),
            reason: self.query.one("reason")?.unwrap_or_default().to_owned(),
            exclude: self.query.excluded(),
        };
        let done = self.command_if_there(target, &command).await?;
        whole(done).map(|done| Answer::changed_silently(&done))
    }

    async fn join(self, target: &Target, groups: Vec<GroupName>) -> Result<Answer, Refusal> {
        let done = self.command(target, &Command::Join { groups }).await?;
        obeyed(done).map(|done| Answer::changed(&done))
    }

    /// The groups in a body; a filter that would leave connections out is refused.
    async fn groups<B: Payload>(body: &mut Body<B>) -> Result<Vec<GroupName>, Refusal> {
        let Groups { groups, filter } = body.json().await?;
        match filter.filter(|filter| !filter.is_empty()) {
            None => Ok(groups),
            Some(_) => Err(Refusal::Parameter("filter", NO_FILTERS)),
        }
    }

    async fn refresh<B: Payload>(
        self,
        id: ConnectionId,
        body: &mut Body<B>,
    ) -> Result<Answer, Refusal> {
        let Fresh { token } = body.json().await?;
        let verifier = self.rules.verifier.as_ref();
        let verifier = verifier.ok_or(Refusal::Not("no tokens are checked here: set jwt"))?;
        let token = Token::new(&token).ok_or(Refusal::Parameter("token", "it is no token"))?;
        let identity = verifier.verify(&token).await.map_err(|denied| match denied {
            Denied::Invalid(why) => Refusal::Parameter("token", why),
            Denied::Unavailable => Refusal::Unavailable("tokens cannot be checked now"),
        })?;
        if !self.revocations.are_known() {
            return Err(Refusal::Unavailable("tokens cannot be checked yet"));
        }
        if self.revocations.cover(&identity.facts()) {
            return Err(Refusal::Parameter("token", "revoked"));
        }
        let expires = identity.expires_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let command = Command::Refresh { user: identity.user, expires };
        let mut done = whole(self.command(&Target::Connection(id), &command).await?)?;
        if done.changed < done.connections {
            done.refused = Some("the token is of another user".to_owned());
        }
        obeyed(done).map(|done| Answer::changed(&done))
    }

    async fn trace(self, id: ConnectionId) -> Result<Answer, Refusal> {
        let seconds = self.query.number("seconds", 1..=TRACE_MAX, "expected 1 to 600")?;
        let seconds = u16::try_from(seconds.unwrap_or(TRACE_DEFAULT)).unwrap_or(u16::MAX);
        let done = self.command(&Target::Connection(id), &Command::Trace { seconds }).await?;
        obeyed(done).map(|done| Answer::changed(&done))
    }

    fn make_token(self) -> Result<Answer, Refusal> {
        const NO_SECRET: &str =
            "no tokens are made here: jwt.keys has no HMAC secret; tokens come from your issuer";
        let minter = self.rules.minter.as_ref().ok_or(Refusal::Not(NO_SECRET))?;
        if self.query.one("clientType")?.is_some_and(|kind| !kind.eq_ignore_ascii_case("default")) {
            return Err(Refusal::Parameter("clientType", "expected Default"));
        }
        let user = self.query.one("userId")?;
        let user =
            user.ok_or(Refusal::Parameter("userId", "expected a user, as tokens here have"))?;
        let user = UserId::new(user).map_err(|problem| Refusal::Name("userId", problem))?;
        let groups = self.query.all("group").map(|name| {
            GroupName::new(name).map_err(|problem| Refusal::Name("group", problem))?;
            Ok(Value::from(name))
        });
        let groups = groups.collect::<Result<Vec<Value>, Refusal>>()?;
        let roles: Vec<Value> = self.query.all("role").map(Value::from).collect();
        let minutes = self.query.number("minutesToExpire", 1..=LIFE_MAX, "expected 1 to 10080")?;
        let life = Duration::from_secs(60 * minutes.unwrap_or(LIFE_DEFAULT));
        let lists = [(minter.groups_claim(), groups), ("role", roles)];
        let lists = lists.into_iter().filter(|(_, list)| !list.is_empty());
        let claims: Map<_, _> = lists.map(|(name, list)| (name.to_owned(), list.into())).collect();
        let token = minter.mint(user.as_str(), life, claims);
        let token = token.map_err(|error| Refusal::Bug(error.to_string()))?;
        Ok(Answer::json(StatusCode::OK, json!({"token": token}).to_string()))
    }

    async fn command(self, target: &Target, command: &Command) -> Result<Done, Refusal> {
        let deadline = Instant::now() + FLEET_TIMEOUT;
        Ok(self.fleet.command(self.hub, target, command, deadline).await?)
    }

    /// Where a connection that is gone has what was wished for it.
    async fn command_if_there(self, target: &Target, command: &Command) -> Result<Done, Refusal> {
        match self.command(target, command).await {
            Err(Refusal::NoConnection) => Ok(Done::default()),
            done => done,
        }
    }
}

/// What all nodes have said.
///
/// # Errors
/// When not all have: whoever asks again does no harm.
fn whole(done: Done) -> Result<Done, Refusal> {
    if done.is_partial { Err(Refusal::Partial) } else { Ok(done) }
}

/// What was done for all connections that were meant.
///
/// # Errors
/// When it was not done for some.
pub(super) fn obeyed(done: Done) -> Result<Done, Refusal> {
    match done.refused {
        Some(reason) => {
            let (connections, changed) = (done.connections, done.changed);
            Err(Refusal::Conflict { connections, changed, reason })
        }
        None => whole(done),
    }
}

/// A connection, with the names that the Azure data plane has for what it knows.
fn described(info: &Info) -> Value {
    let since = UNIX_EPOCH.checked_add(Duration::from_millis(info.since)).unwrap_or(UNIX_EPOCH);
    json!({
        "connectionId": info.id,
        "userId": info.user,
        "groups": info.groups,
        "route": info.route,
        "remoteAddress": info.remote,
        "subprotocol": info.subprotocol,
        "since": humantime::format_rfc3339_millis(since).to_string(),
        "outboxBytes": info.outbox_bytes,
    })
}
