//! What a genuine token must say (RFC 7519 section 4.1), and who it makes its bearer.
//!
//! Time is passed in. A claim of a wrong type is refused, never taken as absent.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use crate::config::Jwt;
use crate::event::TokenFacts;
use crate::id::{GroupName, TokenId, UserId};

use super::Denied;
use super::jws::Jws;

/// Who a token says its bearer is, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// The user, from the configured claim.
    pub user: UserId,
    /// When the bearer stops being let in: `exp` and the leeway, so that a token that was just let in
    /// is not at its end at once.
    pub expires_at: SystemTime,
    /// The token's own id (`jti`).
    pub id: Option<String>,
    /// When the token was made (`iat`).
    pub issued_at: Option<SystemTime>,
    /// The plan that it names, from the configured claim.
    pub plan: Option<String>,
    /// The groups that it names, from the configured claim; what cannot be a group is left out.
    pub groups: Vec<GroupName>,
    /// All claims.
    pub claims: Map<String, Value>,
}

impl Identity {
    /// What a revocation may name the token by.
    #[must_use]
    pub fn facts(&self) -> TokenFacts {
        let since = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        TokenFacts {
            user: self.user.clone(),
            id: self.id.as_deref().map(TokenId::of),
            issued_at: self.issued_at.map(|at| since(at).as_secs()),
        }
    }
}

/// A list of names, or one name.
fn groups(claim: Option<&Value>) -> Vec<GroupName> {
    let names = match claim {
        Some(Value::Array(names)) => names.as_slice(),
        Some(name @ Value::String(_)) => std::slice::from_ref(name),
        _ => &[],
    };
    names.iter().filter_map(|name| GroupName::new(name.as_str()?).ok()).collect()
}

/// What is asked of every token.
#[derive(Debug)]
pub(super) struct Rules {
    issuer: Option<String>,
    audience: Vec<String>,
    typ: Option<String>,
    leeway: Duration,
    user: String,
    plan: String,
    groups: String,
}

impl Rules {
    pub(super) fn new(config: &Jwt) -> Self {
        Self {
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            typ: config.typ.clone(),
            leeway: config.leeway.get().min(LEEWAY_MAX),
            user: config.claims.user.clone(),
            plan: config.claims.plan.clone(),
            groups: config.claims.groups.clone(),
        }
    }

    /// Checks what the header says the token is for.
    ///
    /// # Errors
    /// When it is for something else.
    pub(super) fn check_type(&self, jws: &Jws<'_>) -> Result<(), Denied> {
        let fits = self.typ.as_deref().is_none_or(|typ| jws.is_of_type(typ));
        if fits { Ok(()) } else { Err(Denied::TYPE) }
    }

    /// Checks every claim against `now`.
    ///
    /// # Errors
    /// When one is missing, malformed, or not what is asked.
    pub(super) fn check(
        &self,
        claims: Map<String, Value>,
        now: SystemTime,
    ) -> Result<Identity, Denied> {
        let expires = date(&claims, "exp")?.ok_or(Denied::CLAIMS)?;
        let not_before = date(&claims, "nbf")?;
        let issued_at = date(&claims, "iat")?;
        let issuer = text(&claims, "iss")?;
        let subject = text(&claims, "sub")?;
        let id = text(&claims, "jti")?.map(str::to_owned);
        let audience = audience(&claims)?;

        if self.issuer.is_some() && issuer != self.issuer.as_deref() {
            return Err(Denied::ISSUER);
        }
        if !self.is_for_us(audience.as_deref()) {
            return Err(Denied::AUDIENCE);
        }
        let expires_at = expires.checked_add(self.leeway).ok_or(Denied::CLAIMS)?;
        if now >= expires_at {
            return Err(Denied::EXPIRED);
        }
        let latest = now.checked_add(self.leeway).ok_or(Denied::CLAIMS)?;
        if not_before.is_some_and(|not_before| not_before > latest) {
            return Err(Denied::NOT_YET_VALID);
        }
        let user = if self.user == "sub" { subject } else { text(&claims, &self.user)? };
        let user = user.and_then(|user| UserId::new(user).ok()).ok_or(Denied::CLAIMS)?;
        // Not asked for, so whatever else the issuer means by a claim of this name is its own business.
        let plan = claims.get(&self.plan).and_then(Value::as_str).map(str::to_owned);
        let groups = groups(claims.get(&self.groups));
        Ok(Identity { user, expires_at, id, issued_at, plan, groups, claims })
    }

    /// A token that names an audience is refused by everybody who is not in it (RFC 7519 section
    /// 4.1.3), so also when none is configured.
    fn is_for_us(&self, audience: Option<&[&str]>) -> bool {
        match audience {
            Some(named) => self.audience.iter().any(|ours| named.contains(&ours.as_str())),
            None => self.audience.is_empty(),
        }
    }
}

/// More would make `exp` meaningless.
const LEEWAY_MAX: Duration = Duration::from_secs(3600);

/// 9999-12-31T23:59:59Z, the last second that RFC 3339 can write.
const LATEST: u64 = 253_402_300_799;

fn text<'a>(claims: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Denied> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Denied::CLAIMS),
    }
}

/// One audience, or a list of them.
pub(super) fn audience(claims: &Map<String, Value>) -> Result<Option<Vec<&str>>, Denied> {
    match claims.get("aud") {
        None => Ok(None),
        Some(Value::String(one)) => Ok(Some(vec![one])),
        Some(Value::Array(list)) => {
            let all: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
            all.map(Some).ok_or(Denied::CLAIMS)
        }
        Some(_) => Err(Denied::CLAIMS),
    }
}

/// A `NumericDate`: seconds since 1970, which may have a fraction (RFC 7519 section 2). Only dates that
/// a clock can show are taken, so nothing overflows later.
pub(super) fn date(claims: &Map<String, Value>, name: &str) -> Result<Option<SystemTime>, Denied> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let since = match (value.as_u64(), value.as_f64()) {
        (Some(seconds), _) if seconds <= LATEST => Duration::from_secs(seconds),
        (None, Some(seconds)) if (0.0..=LATEST as f64).contains(&seconds) => {
            Duration::try_from_secs_f64(seconds).map_err(|_| Denied::CLAIMS)?
        }
        _ => return Err(Denied::CLAIMS),
    };
    SystemTime::UNIX_EPOCH.checked_add(since).map(Some).ok_or(Denied::CLAIMS)
}
