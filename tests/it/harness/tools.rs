//! Programs that others wrote, fetched by `make tools`.

use std::path::PathBuf;
use std::process::Command;

/// A program that tests use.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tool {
    NatsServer,
    Python,
    Node,
    Chromium,
}

/// Where the tool is.
pub(crate) fn tool(tool: Tool) -> PathBuf {
    let tools = root().join("target/tools");
    let path = match tool {
        Tool::NatsServer => tools.join("bin/nats-server"),
        Tool::Python => tools.join("python/bin/python3"),
        Tool::Node => PathBuf::from("/usr/bin/env"),
        Tool::Chromium => PathBuf::from("/usr/bin/chromium"),
    };
    assert!(path.exists(), "{tool:?} is not at {}: run `make tools`", path.display());
    path
}

/// The repository's folder.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a program to its end: whether it succeeded, and what it printed.
pub(crate) async fn run_tool(mut command: Command) -> (bool, String) {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}
