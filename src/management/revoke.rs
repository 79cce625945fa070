//! Revoking tokens. They are of no hub: who shows one may come into any.

use std::time::Duration;

use tokio::time::Instant;

use super::answer::Answer;
use super::body::{Body, Payload};
use super::refusal::Refusal;
use crate::auth::{RevocationError, RevocationWish, Revocations};
use crate::hub::Done;

/// For writing it down.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Revokes the tokens that the body names, and says how many connections of this node are closed by it.
///
/// # Errors
/// When it names none, makes no sense, or is not written.
pub(super) async fn revoke<B: Payload>(
    revocations: &Revocations,
    body: &mut Body<B>,
) -> Result<Answer, Refusal> {
    let wish: RevocationWish = body.json().await?;
    let (what, until) = wish.read()?;
    let closed = revocations.revoke(what, until, Instant::now() + TIMEOUT).await?;
    Ok(Answer::changed(&Done { connections: closed, changed: closed, ..Done::default() }))
}

impl From<RevocationError> for Refusal {
    fn from(error: RevocationError) -> Self {
        match error {
            RevocationError::What | RevocationError::Before(_) | RevocationError::Until(_) => {
                Self::Wrong(error.to_string())
            }
            RevocationError::Full(_) => {
                Self::Unavailable("there are too many revocations; revoke by user or by time")
            }
            RevocationError::Store(cause) => {
                tracing::warn!(error = %cause, "a revocation was not written");
                Self::Unavailable("JetStream has not taken the revocation for certain; ask again")
            }
        }
    }
}
