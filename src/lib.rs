//! moorline
pub mod id;
pub mod close;
pub mod message;
pub mod config;
pub mod event;
pub mod metrics;
pub mod task;
pub mod tls;
