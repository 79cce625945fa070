//! One step in a connection's life, for the log: at trace level, or at info while somebody has this
//! connection traced. Never what a message says.

/// Logs a step of a driver's connection.
macro_rules! step {
    ($driver:expr, $($fields:tt)+) => {
        if $driver.is_traced() {
            tracing::info!(connection = %$driver.peer.id, $($fields)+);
        } else {
            tracing::trace!(connection = %$driver.peer.id, $($fields)+);
        }
    };
}

pub(super) use step;
