//! One request and the replies of all who have something to say to it.

use async_nats::HeaderMap;
use bytes::Bytes;
use tokio::time::Instant;

use super::feed::Feed;
use super::link::Pending;
use super::slots::Replies;
use super::{Reply, RequestError, Subject};

/// The replies to one request as they come. Dropping it gives up those that have not come.
#[derive(Debug)]
pub struct Answers(pub(super) Pending);

impl Feed {
    /// Publishes a request to all who listen; nothing while the connection is down. Ends when it is on
    /// its way.
    ///
    /// Cancel safe: dropped before it ended, nothing was published.
    ///
    /// # Errors
    /// One of those after which nothing was published.
    pub async fn ask(
        &self,
        subject: &Subject,
        headers: HeaderMap,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Answers, RequestError> {
        self.link.send(Replies::Many, subject, headers, payload, deadline).await.map(Answers)
    }
}

impl Answers {
    /// The next reply, waited for until `deadline`. Nobody says which one is the last. After `TimedOut`
    /// it can be waited for again.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// `NoResponders` when nobody listens, `TimedOut`, or `Lost`.
    pub async fn next(&mut self, deadline: Instant) -> Result<Reply, RequestError> {
        self.0.reply(deadline).await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;
    use crate::id::HubName;
    use crate::metrics::Metrics;
    use crate::nats::Channel;
    use crate::nats::testing::{NatsServer, until, within};
    use crate::task::Tasks;

    #[tokio::test]
    async fn all_who_listen_are_heard_and_nobody_is_told_at_once() {
        let (mut server, metrics) = (NatsServer::start(), Metrics::new());
        let nats = server.nats(&metrics).await;
        let feed = nats.feed(&Tasks::new(), &metrics).await;
        until("the feed is up", || feed.is_up()).await;
        let subject = nats.subjects().all(&HubName::default(), Channel::Ctl);
        let ask = async || feed.ask(&subject, HeaderMap::new(), "who".into(), within(10)).await;
        let mut none = ask().await.unwrap();
        assert_eq!(none.next(within(10)).await.unwrap_err(), RequestError::NoResponders);

        let client = server.client().await;
        for name in ["a", "b", "c"] {
            let client = client.clone();
            let mut asked = client.subscribe(subject.as_str().to_owned()).await.unwrap();
            Tasks::new().spawn("listener", async move {
                while let Some(message) = asked.next().await {
                    client.publish(message.reply.unwrap(), name.into()).await.unwrap();
                }
            });
        }
        // A round trip: the server has the subscriptions.
        let _ = client.request("nobody", Bytes::new()).await;
        let mut answers = ask().await.unwrap();
        let mut names = Vec::new();
        for _ in 0..3 {
            names.push(answers.next(within(10)).await.unwrap().payload);
        }
        names.sort();
        assert_eq!(names, ["a", "b", "c"]);
        let now = Instant::now();
        assert_eq!(answers.next(now).await.unwrap_err(), RequestError::TimedOut);

        server.kill();
        assert_eq!(answers.next(within(10)).await.unwrap_err(), RequestError::Lost);
        assert_eq!(ask().await.unwrap_err(), RequestError::NotConnected);
        drop((none, answers));
        assert_eq!(feed.link.pending(), 0);
    }
}
