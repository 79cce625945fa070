//! The body of the upstream's answer on its way to the client.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

use super::tally::Tally;

/// An answer's body, in which the upstream may not pause for too long.
#[derive(Debug)]
pub struct Download(Box<Parts>);

#[derive(Debug)]
struct Parts {
    body: Incoming,
    idle: Duration,
    /// When a pause is too long; there in a pause.
    pause: Option<Pin<Box<Sleep>>>,
    tally: Tally,
}

/// The upstream's answer is not whole; nor must it look so to the client, whose stream is cut.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It broke off.
    #[error("the upstream's answer broke off")]
    Off(#[source] hyper::Error),
    /// It paused for too long.
    #[error("the upstream's answer paused for {}", humantime::format_duration(*.0))]
    Idle(Duration),
}

impl Download {
    pub(super) fn new(body: Incoming, idle: Duration, tally: Tally) -> Self {
        let mut parts = Box::new(Parts { body, idle, pause: None, tally });
        if parts.body.is_end_stream() {
            parts.tally.done();
        }
        Self(parts)
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let parts = &mut *self.0;
        let frame = match Pin::new(&mut parts.body).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let idle = parts.idle;
                let pause = parts.pause.get_or_insert_with(|| Box::pin(sleep(idle)));
                return pause.as_mut().poll(cx).map(|()| {
                    parts.tally.broken();
                    Some(Err(Broken::Idle(idle)))
                });
            }
        };
        parts.pause = None;
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                parts.tally.sent(frame.data_ref().map_or(0, Bytes::len));
                // A body of a known length is not asked for its end.
                if parts.body.is_end_stream() {
                    parts.tally.done();
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                parts.tally.broken();
                Some(Err(Broken::Off(error)))
            }
            None => {
                parts.tally.done();
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.body.size_hint()
    }
}
