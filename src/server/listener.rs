//! A listener's loop, which lasts until the node stops.

use std::net;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::task::Tasks;

/// How long it waits for a file descriptor.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs the loop `serve` over `listener` on `crew`. When it panics, another goes on with the same
/// socket, so that clients in the kernel's queue only wait a little.
pub(super) fn keep<S, F>(crew: &Tasks, name: &'static str, listener: net::TcpListener, serve: S)
where
    S: Fn(TcpListener) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send,
{
    let kept = Arc::new((listener, serve, crew.clone()));
    crew.keep(name, move || {
        let kept = Arc::clone(&kept);
        async move {
            let (listener, serve, crew) = &*kept;
            tokio::select! {
                () = crew.stopping() => {}
                same = again(listener) => serve(same).await,
            }
        }
    });
}

/// The same socket once more, for a loop to own.
async fn again(listener: &net::TcpListener) -> TcpListener {
    loop {
        match listener.try_clone().and_then(TcpListener::from_std) {
            Ok(listener) => return listener,
            Err(error) => {
                tracing::warn!(%error, "listener cannot be used; waiting");
                sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn after_a_panic_clients_that_wait_are_served_and_the_stop_closes_the_door() {
        let metrics = Metrics::new();
        let tasks = Tasks::counted(metrics.task_panics().clone());
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let is_first = AtomicBool::new(true);
        let crew = tasks.clone();
        keep(&tasks, "listener", listener, move |listener| {
            let (is_first, crew) = (is_first.swap(false, Ordering::Relaxed), crew.clone());
            async move {
                assert!(!is_first, "on purpose");
                let (mut client, _) = listener.accept().await.unwrap();
                client.write_all(b"!").await.unwrap();
                crew.stopping().await;
            }
        });
        let mut client = TcpStream::connect(address).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'!');
        assert_eq!(metrics.task_panics().get(), 1);
        tasks.stop();
        tasks.ended().await;
        assert!(TcpStream::connect(address).await.is_err());
    }
}
