//! What a path names. Segments are percent-decoded once, and names in them are names or nothing.

use http::Method;
use percent_encoding::percent_decode_str;

use super::action::Action;
use super::refusal::Refusal;
use crate::hub::Target;
use crate::id::{ConnectionId, GroupName, HubName, UserId};

/// What the path of a request names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Whether the door answers.
    Health,
    /// The description of the API.
    Description,
    /// What tokens are no good any more.
    Revocations,
    /// The channels of GRIP libraries.
    Publish,
    /// Something of a hub.
    InHub(HubName, Resource),
}

/// What there is of a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resource {
    /// One connection.
    Connection(ConnectionId),
    /// A user, or a group.
    Some(Target),
    /// The connections of a target, one by one.
    Connections(Target),
    /// `:count` of a target.
    Count(Target),
    /// `:send` to a target.
    Send(Target),
    /// `:closeConnections` of a target.
    Close(Target),
    /// All groups of a target.
    Groups(Target),
    /// A target in a group.
    Membership(Target, GroupName),
    /// `:addToGroups`.
    AddToGroups,
    /// `:removeFromGroups`.
    RemoveFromGroups,
    /// `:generateToken`.
    Token,
    /// `:refresh` of a connection.
    Refresh(ConnectionId),
    /// `:trace` of a connection.
    Trace(ConnectionId),
    /// What a connection may do.
    Permission,
}

impl Place {
    /// What `path` names.
    ///
    /// # Errors
    /// When it names nothing, or a name in it is none.
    pub(super) fn find(path: &str) -> Result<Self, Refusal> {
        let segments = path.split('/').map(decode).collect::<Result<Vec<String>, Refusal>>()?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            ["", "openapi.json"] => Ok(Self::Description),
            ["", "publish"] | ["", "publish", ""] => Ok(Self::Publish),
            ["", "api", "health"] => Ok(Self::Health),
            ["", "api", "revocations"] => Ok(Self::Revocations),
            ["", "api", "hubs", hub, rest @ ..] => {
                let resource = Resource::find(rest)?;
                let hub = HubName::try_from((*hub).to_owned());
                Ok(Self::InHub(hub.map_err(|problem| Refusal::Name("hub", problem))?, resource))
            }
            _ => Err(Refusal::NoPath),
        }
    }
}

impl Resource {
    /// What the segments after the hub name.
    fn find(segments: &[&str]) -> Result<Self, Refusal> {
        Ok(match segments {
            [":addToGroups"] => Self::AddToGroups,
            [":removeFromGroups"] => Self::RemoveFromGroups,
            [":generateToken"] => Self::Token,
            ["permissions", _, "connections", id] => {
                connection(id)?;
                Self::Permission
            }
            ["connections", id] => Self::Connection(connection(id)?),
            ["connections", id, ":refresh"] => Self::Refresh(connection(id)?),
            ["connections", id, ":trace"] => Self::Trace(connection(id)?),
            ["connections", id, "groups"] => Self::Groups(Target::Connection(connection(id)?)),
            ["connections", id, ":send"] => Self::Send(Target::Connection(connection(id)?)),
            ["users", name] => Self::Some(Target::User(user(name)?)),
            ["users", name, "groups"] => Self::Groups(Target::User(user(name)?)),
            ["users", name, "groups", in_group] => {
                Self::Membership(Target::User(user(name)?), group(in_group)?)
            }
            ["groups", name] => Self::Some(Target::Group(group(name)?)),
            ["groups", name, "connections", id] => {
                let name = group(name)?;
                Self::Membership(Target::Connection(connection(id)?), name)
            }
            ["users", name, rest] => Self::of(rest, || Ok(Target::User(user(name)?)))?,
            ["groups", name, rest] => Self::of(rest, || Ok(Target::Group(group(name)?)))?,
            [rest] => Self::of(rest, || Ok(Target::All))?,
            _ => return Err(Refusal::NoPath),
        })
    }

    /// What there is alike of all connections, those of a user, and those of a group.
    fn of(word: &str, target: impl FnOnce() -> Result<Target, Refusal>) -> Result<Self, Refusal> {
        let of: fn(Target) -> Self = match word {
            ":send" => Self::Send,
            ":closeConnections" => Self::Close,
            ":count" => Self::Count,
            "connections" => Self::Connections,
            _ => return Err(Refusal::NoPath),
        };
        target().map(of)
    }

    /// What `method` does here.
    ///
    /// # Errors
    /// When it does nothing; the refusal names the methods that do.
    pub(super) fn action(&self, method: &Method) -> Result<Action, Refusal> {
        self.find_action(method).ok_or_else(|| {
            let methods = METHODS.iter().filter(|method| self.find_action(method).is_some());
            Refusal::Method(methods.map(Method::as_str).collect::<Vec<_>>().join(", "))
        })
    }

    fn find_action(&self, method: &Method) -> Option<Action> {
        Some(match (self, method.as_str()) {
            (Self::Connection(id), "GET") => Action::Describe(*id),
            (Self::Connection(id), "HEAD") => Action::Exists(Target::Connection(*id)),
            (Self::Connection(id), "DELETE") => Action::Close(Target::Connection(*id)),
            (Self::Some(target), "HEAD") => Action::Exists(target.clone()),
            (Self::Connections(target), "GET") => Action::List(target.clone()),
            (Self::Count(target), "GET") => Action::Count(target.clone()),
            (Self::Send(target), "POST") => Action::Send(target.clone()),
            (Self::Close(target), "POST") => Action::Close(target.clone()),
            (Self::Groups(target), "DELETE") => Action::Leave(target.clone(), None),
            (Self::Membership(target, group), "PUT") => Action::Join(target.clone(), group.clone()),
            (Self::Membership(target, group), "DELETE") => {
                Action::Leave(target.clone(), Some(group.clone()))
            }
            (Self::AddToGroups, "POST") => Action::AddToGroups,
            (Self::RemoveFromGroups, "POST") => Action::RemoveFromGroups,
            (Self::Token, "POST") => Action::MakeToken,
            (Self::Refresh(id), "POST") => Action::Refresh(*id),
            (Self::Trace(id), "POST") => Action::Trace(*id),
            (Self::Permission, "PUT" | "DELETE" | "HEAD") => Action::Permission,
            _ => return None,
        })
    }
}

/// The methods that do something somewhere.
const METHODS: [Method; 5] = [Method::GET, Method::HEAD, Method::PUT, Method::POST, Method::DELETE];

/// For what is the same for everybody.
///
/// # Errors
/// When `method` is not one that only reads.
pub(super) fn only_read(method: &Method) -> Result<(), Refusal> {
    let reads = [Method::GET, Method::HEAD].contains(method);
    if reads { Ok(()) } else { Err(Refusal::Method("GET, HEAD".to_owned())) }
}

/// For what is only added to.
///
/// # Errors
/// When `method` is another one.
pub(super) fn only_post(method: &Method) -> Result<(), Refusal> {
    if *method == Method::POST { Ok(()) } else { Err(Refusal::Method("POST".to_owned())) }
}

/// A segment without its percent-encoding (RFC 3986 section 2.1).
fn decode(segment: &str) -> Result<String, Refusal> {
    const BAD: Refusal = Refusal::Request("the path is not percent-encoded UTF-8");
    let is_escape = |after: &str| {
        after.get(..2).is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    if !segment.split('%').skip(1).all(is_escape) {
        return Err(BAD);
    }
    percent_decode_str(segment).decode_utf8().map(Into::into).map_err(|_| BAD)
}

/// A text that no id is written as is that of no connection.
fn connection(text: &str) -> Result<ConnectionId, Refusal> {
    text.parse().map_err(|_| Refusal::NoConnection)
}

fn user(name: &str) -> Result<UserId, Refusal> {
    UserId::new(name).map_err(|problem| Refusal::Name("user", problem))
}

fn group(name: &str) -> Result<GroupName, Refusal> {
    GroupName::new(name).map_err(|problem| Refusal::Name("group", problem))
}
