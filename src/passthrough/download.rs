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
    /// Why it broke off, until what came before is on its way to the client.
    broken: Option<Broken>,
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
        let mut parts = Box::new(Parts { body, idle, pause: None, broken: None, tally });
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
        if let Some(broken) = parts.broken.take() {
            return Poll::Ready(Some(Err(broken)));
        }
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
                // hyper drops what it has not flushed when a body fails, and flushes when it must wait.
                parts.broken = Some(Broken::Off(error));
                cx.waker().wake_by_ref();
                return Poll::Pending;
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use http_body_util::{BodyExt, Empty};
    use hyper::Request;
    use hyper::client::conn::http1;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::id::{ConnectionId, NodeId};
    use crate::metrics::Metrics;
    use crate::passthrough::Origin;
    use crate::task::Tasks;

    #[tokio::test]
    async fn an_answer_that_broke_off_first_lets_through_what_came_before() {
        let (near, mut far) = duplex(4096);
        let (mut send, connection) = http1::handshake(TokioIo::new(near)).await.unwrap();
        let connection = Tasks::new().spawn("upstream", connection.map(Result::unwrap));
        let asked = Request::new(Empty::<Bytes>::new());
        let origin = Origin { client: "192.0.2.7:5".parse().unwrap(), scheme: "https" };
        let id = ConnectionId::random(NodeId::random());
        let tally = Tally::new(id, &asked, origin, &Metrics::new());
        let upstream = async {
            far.read_buf(&mut Vec::new()).await.unwrap();
            let start = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";
            far.write_all(start).await.unwrap();
            drop(far);
        };
        let (answer, ()) = tokio::join!(send.send_request(asked), upstream);
        let mut body = Download::new(answer.unwrap().into_body(), Duration::from_secs(9), tally);
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "hello");
        connection.await.unwrap();
        // One look that finds nothing, at which hyper flushes; then the end.
        assert!(body.frame().now_or_never().is_none());
        assert!(matches!(body.frame().now_or_never(), Some(Some(Err(Broken::Off(_))))));
    }
}
