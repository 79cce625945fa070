//! What a command wants and no hub can do: that tokens are no good any more. A station above, which knows
//! tokens, takes it and answers.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::command::{Command, Done};
use super::hub::Hub;
use super::push::Target;
use crate::id::UserId;

/// Tokens are to be no good any more; times are in seconds since 1970.
#[derive(Debug)]
pub struct Demand {
    /// The one of this id.
    pub jti: Option<String>,
    /// Those of this user.
    pub user: Option<UserId>,
    /// Those that were made before.
    pub before: Option<u64>,
    /// When they all have ended.
    pub until: Option<u64>,
    /// Nobody waits any longer.
    pub deadline: Instant,
    answer: oneshot::Sender<Result<usize, String>>,
}

/// Where demands go; to nobody, until somebody takes them.
#[derive(Debug, Default)]
pub(super) struct Demands(OnceLock<mpsc::Sender<Demand>>);

/// What will come of a demand.
#[derive(Debug)]
pub(super) struct Demanded {
    answer: oneshot::Receiver<Result<usize, String>>,
    deadline: Instant,
}

/// Demands that wait to be taken.
const WAITING: usize = 64;
/// For an answer; less than those wait who ask all nodes.
const TIMEOUT: Duration = Duration::from_secs(4);

impl Hub {
    /// Passes a command on that is a demand; none when it is one for a hub.
    pub(super) fn demand(&self, target: &Target, command: &Command) -> Option<Demanded> {
        let Command::Revoke { jti, before, until } = command else { return None };
        let user = match target {
            Target::User(user) => Some(user.clone()),
            _ => None,
        };
        let (tell, answer) = oneshot::channel();
        let deadline = Instant::now() + TIMEOUT;
        let (jti, before, until) = (jti.clone(), *before, *until);
        self.demands().put(Demand { jti, user, before, until, deadline, answer: tell });
        Some(Demanded { answer, deadline })
    }
}

impl Demand {
    /// Says how many connections were closed, or why none can be.
    pub fn answer(self, closed: Result<usize, String>) {
        // Whoever asked may not wait for it.
        let _ = self.answer.send(closed);
    }
}

impl Demands {
    /// All demands from now on, for the first who takes them.
    pub(super) fn take(&self) -> mpsc::Receiver<Demand> {
        let (give, taken) = mpsc::channel(WAITING);
        let _ = self.0.set(give);
        taken
    }

    fn put(&self, demand: Demand) {
        use mpsc::error::TrySendError::{Closed, Full};
        let not_put = match self.0.get() {
            None => Some((demand, "tokens are not revoked here")),
            Some(way) => match way.try_send(demand) {
                Ok(()) => None,
                Err(Full(demand)) => Some((demand, "too many revocations wait; say it again")),
                Err(Closed(demand)) => Some((demand, "the node is stopping")),
            },
        };
        if let Some((demand, why)) = not_put {
            demand.answer(Err(why.to_owned()));
        }
    }
}

impl Demanded {
    /// What came of it.
    pub(super) async fn done(self) -> Done {
        let late = || Err("not done in time; say it again".to_owned());
        let answer = timeout_at(self.deadline, self.answer).await;
        match answer.map_or_else(|_| late(), |answer| answer.unwrap_or_else(|_| late())) {
            Ok(closed) => Done { connections: closed, changed: closed, ..Done::default() },
            Err(why) => Done { refused: Some(why), ..Done::default() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::hub::Table;
    use crate::id::HubName;
    use crate::metrics::Metrics;

    fn one(n: usize) -> Command {
        Command::Revoke { jti: Some(n.to_string()), before: None, until: Some(7) }
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_demands_answers_them_and_nobody_waits_for_ever() {
        let table = Table::new(&Limits::default(), &Metrics::new());
        let hub = table.open(&HubName::default());
        let why = async |hub: &Hub, n| hub.obey(&Target::All, &one(n)).await.refused.unwrap();
        assert!(why(&hub, 0).await.contains("not revoked here"));
        let mut demands = table.demands();
        let waiting: Vec<_> =
            (0..WAITING).map(|n| hub.demand(&Target::All, &one(n)).unwrap()).collect();
        assert!(why(&hub, 0).await.contains("too many"));
        let first = demands.recv().await.unwrap();
        assert_eq!((first.jti.as_deref(), first.until, &first.user), (Some("0"), Some(7), &None));
        first.answer(Ok(3));
        let mut waiting = waiting.into_iter().map(Demanded::done);
        let done = Done { connections: 3, changed: 3, ..Done::default() };
        assert_eq!(waiting.next().unwrap().await, done);
        assert!(waiting.next().unwrap().await.refused.unwrap().contains("in time"));
        drop(demands);
        assert!(waiting.next().unwrap().await.refused.unwrap().contains("in time"));
        assert!(why(&hub, 0).await.contains("stopping"));
        assert!(hub.demand(&Target::All, &Command::Count).is_none());
    }
}
