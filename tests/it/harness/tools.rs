//! Programs that others wrote, fetched by `make tools`.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

/// A program that tests use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    NatsServer,
    Python,
    Node,
    Chromium,
    Pushpin,
}

/// Where the tool is.
pub(crate) fn tool(tool: Tool) -> PathBuf {
    let path = path(tool);
    assert!(path.exists(), "{tool:?} is not at {}: run `make tools`", path.display());
    path
}

/// Whether all of these are there; when one is not, `test` is put on the list of what was skipped,
/// which `make test` shows at its end, and which fails it where CI is true.
pub(crate) fn have(test: &str, tools: &[Tool]) -> bool {
    let missing: Vec<_> = tools.iter().filter(|tool| !path(**tool).exists()).collect();
    for tool in &missing {
        let list = root().join("target/tools/skipped");
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(list).unwrap();
        writeln!(file, "{test}: {tool:?}").unwrap();
    }
    missing.is_empty()
}

fn path(tool: Tool) -> PathBuf {
    let tools = root().join("target/tools");
    match tool {
        Tool::NatsServer => tools.join("bin/nats-server"),
        Tool::Python => tools.join("python/bin/python"),
        Tool::Node => tools.join("node/node_modules/ws/package.json"),
        Tool::Chromium => PathBuf::from("/usr/bin/chromium"),
        Tool::Pushpin => PathBuf::from("/usr/bin/pushpin"),
    }
}

/// The repository's folder.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Python with the fetched packages.
pub(crate) fn python(script: &str) -> Command {
    let mut command = Command::new(tool(Tool::Python));
    command.arg(root().join(script));
    command
}

/// Node with the fetched packages, which it finds from its working folder.
pub(crate) fn node(script: &str) -> Command {
    let mut command = Command::new("node");
    let script = std::fs::File::open(root().join(script)).unwrap();
    command.args(["--input-type=module", "-"]).stdin(script);
    command.current_dir(root().join("target/tools/node"));
    command
}

/// Runs a program to its end: whether it succeeded, and what it printed.
pub(crate) async fn finish(mut command: Command) -> (bool, String) {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}
