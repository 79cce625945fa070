//! The way to the upstream that a config names, and the paths that clients must not reach there.

use std::sync::Arc;

use super::ServerError;
use super::build::{Core, Served};
use crate::config::{Backend, Config, Route};
use crate::passthrough::Passthrough;

/// The way to the upstream of `config`: the one that there was `before`, with its connections, unless
/// another is named or a file is to be read again.
pub(super) async fn passthrough(
    config: &Config,
    core: &Core,
    before: Option<&Served>,
) -> Result<Option<Arc<Passthrough>>, ServerError> {
    let Some(upstream) = config.upstream.clone() else { return Ok(None) };
    let guarded = guarded(config);
    let open = before.and_then(|before| before.rules.passthrough.as_ref());
    if let Some(open) = open
        && open.is_as(&upstream, &guarded)
        && upstream.ca.is_none()
    {
        return Ok(Some(Arc::clone(open)));
    }
    let (node, metrics) = (core.id, core.metrics.clone());
    let tasks = core.crews.background.clone();
    let read = move || Ok(Passthrough::open(&upstream, &guarded, node, &metrics, &tasks)?);
    Ok(Some(Arc::new(core.disk.read("upstream", read).await?)))
}

/// Paths at which a backend takes events, so that clients must not get there. It may be the upstream by
/// another name, so its host is not looked at.
fn guarded(config: &Config) -> Vec<String> {
    let paths = |route: &Route| match &route.backend {
        Backend::Http(backend) => backend.paths(),
        // Behind NATS, or here.
        Backend::Nats(_) | Backend::Echo(_) => Vec::new(),
    };
    config.routes.iter().flat_map(paths).collect()
}
