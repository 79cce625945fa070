//! The stream below HTTP where requests are passed through: heads are looked at as they came, a client
//! that takes nothing of its answer is not waited for, and the last words to one reach it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::framing::{Heads, Scan};

/// A stream that is watched as long as HTTP is spoken on it.
#[derive(Debug)]
pub(super) struct Watched<S> {
    io: S,
    watch: Option<Box<Watch>>,
}

#[derive(Debug)]
struct Watch {
    scan: Scan,
    /// Gone once HTTP is over; what an upgrade leads to has deadlines of its own.
    heads: Weak<Heads>,
    /// Time for a write to make progress.
    timeout: Duration,
    /// When that is over, for a write that waits; behind the end, when nothing is heard any more.
    wait: Option<Pin<Box<Sleep>>>,
    /// Whether the end was sent.
    is_shut: bool,
}

/// A client that still sends when its stream is closed would have the answer taken away from it: the
/// kernel resets what it has no reader for. So what comes is passed over, for this long.
const LINGER: Duration = Duration::from_secs(1);

impl<S> Watched<S> {
    /// Watches for `heads`, where there are any.
    pub(super) fn new(io: S, heads: Option<&Arc<Heads>>, timeout: Duration) -> Self {
        let watch = heads.map(|heads| {
            let (scan, heads) = (Scan::new(), Arc::downgrade(heads));
            Box::new(Watch { scan, heads, timeout, wait: None, is_shut: false })
        });
        Self { io, watch }
    }

    /// The stream itself.
    pub(super) fn into_inner(self) -> S {
        self.io
    }

    /// The watch, as long as HTTP is spoken.
    fn watch(&mut self) -> Option<&mut Watch> {
        if self.watch.as_ref().is_some_and(|watch| watch.heads.strong_count() == 0) {
            self.watch = None;
        }
        self.watch.as_deref_mut()
    }

    /// What comes of a write that waits or not.
    fn progress<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Some(watch) = self.watch() else { return write };
        if write.is_ready() {
            // Behind the end each look flushes first, and does not begin the wait anew.
            if !watch.is_shut {
                watch.wait = None;
            }
            return write;
        }
        let timeout = watch.timeout;
        let wait = watch.wait.get_or_insert_with(|| Box::pin(sleep(timeout)));
        wait.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if let Some(watch) = self.watch()
            && let Some(heads) = watch.heads.upgrade()
        {
            watch.scan.follow(buf.filled().get(before..).unwrap_or_default(), &heads);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.progress(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.progress(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flush = Pin::new(&mut self.io).poll_flush(cx);
        self.progress(cx, flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.watch().is_some_and(|watch| watch.is_shut) {
            let shutdown = Pin::new(&mut this.io).poll_shutdown(cx);
            ready!(this.progress(cx, shutdown))?;
        }
        let Some(watch) = &mut this.watch else { return Poll::Ready(Ok(())) };
        watch.is_shut = true;
        let wait = watch.wait.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        let mut passed_over = [0; 1024];
        loop {
            if wait.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut buf = ReadBuf::new(&mut passed_over);
            match ready!(Pin::new(&mut this.io).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}
