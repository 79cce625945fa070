//! Events to workers behind a real nats-server, and what comes of them.
