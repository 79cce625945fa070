//! The worker behind both relays: says back what it hears.

use futures_util::{StreamExt, stream};

use crate::process::announce;
use crate::{bare, stage};

const QUEUE_GROUP: &str = "workers";

/// Answers until it is killed.
pub(crate) async fn run(nats: &str) -> anyhow::Result<()> {
    let nats = Box::pin(async_nats::connect(nats)).await?;
    let group = || QUEUE_GROUP.to_owned();
    let mut requests = stream::select(
        nats.queue_subscribe(bare::SUBJECT, group()).await?,
        nats.queue_subscribe(stage::SUBJECT, group()).await?,
    );
    nats.flush().await?;
    announce("nats", "");
    while let Some(request) = requests.next().await {
        if let Some(reply) = request.reply {
            nats.publish(reply, request.payload).await?;
        }
    }
    anyhow::bail!("the subscription ended")
}
