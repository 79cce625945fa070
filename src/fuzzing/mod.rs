//! Fuzz targets: each takes any bytes through one door of the node and panics when a promise of that
//! door is broken.
//!
//! Deterministic: no network, no disk, and a clock that only goes on while there is nothing to do.
//! `tests/fuzz` runs them under libFuzzer; the seeds that are kept there are replayed by a test here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a broken promise must stop the fuzzer"
)]

mod stream;
mod head;
mod proxy;
mod frames;
mod token;
mod reply;
mod config;
mod management;
mod websocket_over_http;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use crate::metrics::Metrics;

pub use config::config;
pub use frames::frames;
pub use head::head;
pub use management::management;
pub use proxy::proxy;
pub use reply::reply;
pub use token::token;
pub use websocket_over_http::websocket_over_http;

/// Takes the bytes through one door.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its program and of its folder of seeds.
pub const TARGETS: [(&str, Target); 8] = [
    ("proxy", proxy),
    ("head", head),
    ("frames", frames),
    ("token", token),
    ("reply", reply),
    ("config", config),
    ("management", management),
    ("websocket_over_http", websocket_over_http),
];

/// Made once: registering all families takes longer than a whole run of a target.
static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);
