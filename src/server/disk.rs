//! Reading the files that a config names: on a thread that may block, for so long and no longer.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::ServerError;

/// The node's way to its files. One reads at a time, and whoever gave up waiting still counts until the
/// disk has answered: a disk that hangs holds one thread, however often it is tried again.
#[derive(Debug)]
pub(super) struct Disk(Arc<Semaphore>);

/// How long the disk may take. A network file system that hangs must not hang the node.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

impl Disk {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// Runs `read`, which blocks, when it is its turn. `what` it reads is told when that takes too
    /// long. Cancel safe: a read that has begun goes on, and nobody takes what comes of it.
    ///
    /// # Errors
    /// Those of `read`, or that it took too long.
    ///
    /// # Panics
    /// When `read` does.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        what: &'static str,
        read: impl FnOnce() -> Result<T, ServerError> + Send + 'static,
    ) -> Result<T, ServerError> {
        let unread = || ServerError::Unread { what, limit: READ_TIMEOUT };
        let done = async {
            let turn = Arc::clone(&self.0).acquire_owned().await.map_err(|_| unread())?;
            let read = move || {
                let _turn = turn;
                read()
            };
            spawn_blocking(read).await.unwrap_or_else(|error| match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => Err(unread()),
            })
        };
        timeout(READ_TIMEOUT, done).await.unwrap_or_else(|_| Err(unread()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_is_given_up_and_holds_one_thread() {
        let disk = Disk::new();
        let (answer, answered) = sync_channel::<()>(0);
        let hanging = disk.read("jwt", move || {
            let _ = answered.recv();
            Ok(())
        });
        let given_up = tokio::join!(hanging, tokio::time::advance(READ_TIMEOUT)).0;
        assert_eq!(given_up.unwrap_err().to_string(), "jwt: its files were not read within 30s");
        let second = disk.read("the config file", || Ok(()));
        let given_up = tokio::join!(second, tokio::time::advance(READ_TIMEOUT)).0;
        assert!(given_up.is_err(), "the first one still has its turn");
        drop(answer);
        assert_eq!(disk.read("jwt", || Ok(7)).await.unwrap(), 7);
    }
}
