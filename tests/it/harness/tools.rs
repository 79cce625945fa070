//! Programs that others wrote, fetched by `make tools`.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

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
/// which `make test` shows at its end.
pub(crate) fn have(test: &str, tools: &[Tool]) -> bool {
    let missing: Vec<_> = tools.iter().filter(|tool| !path(**tool).exists()).collect();
    for tool in &missing {
        let folder = root().join("target/tools");
        std::fs::create_dir_all(&folder).unwrap();
        let list = folder.join("skipped");
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(list).unwrap();
        writeln!(file, "{test}: {tool:?}").unwrap();
    }
    missing.is_empty()
}

fn path(tool: Tool) -> PathBuf {
    let tools = root().join("target/tools");
    match tool {
        Tool::NatsServer => tools.join("bin/nats-server"),
        Tool::Python => tools.join("python/bin/python3"),
        Tool::Node => tools.join("node/node_modules/playwright-core/package.json"),
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
    let mut command = Command::new("sh");
    command.args(["-c", r#"exec node --input-type=module - "$@" <"$0""#]).arg(root().join(script));
    command.current_dir(root().join("target/tools/node"));
    command
}

/// A program that runs beside the test; killed when that is over.
pub(crate) struct Process(Child);

impl Process {
    /// What it says on its standard output is thrown away.
    pub(crate) fn start(mut command: Command) -> Self {
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }

    pub(crate) fn signal(&self, signal: &str) {
        super::signal(self.0.id(), signal);
    }

    pub(crate) async fn ends(&mut self) -> ExitStatus {
        super::eventually("the program ends", async || self.0.try_wait().unwrap()).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program to its end: whether it succeeded, and what it printed.
pub(crate) async fn finish(command: Command) -> (bool, String) {
    finish_before(tokio::time::sleep(LONGEST_RUN), command).await
}

/// Runs a program, which has no more time when `deadline` is over: then the test has failed, and
/// nothing is left of the program and of those that it started.
async fn finish_before(deadline: impl Future<Output = ()>, mut command: Command) -> (bool, String) {
    let program = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
    let group = format!("-{}", child.id());
    let end = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    tokio::pin!(end);
    let (output, is_late) = tokio::select! {
        output = &mut end => (output.unwrap(), false),
        () = deadline => {
            let killed = Command::new("kill").args(["-KILL", "--", &group]).status().unwrap();
            assert!(killed.success(), "{program}: {killed}");
            (end.await.unwrap(), true)
        }
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(!is_late, "{program} did not end, and was killed; it said:\n{text}");
    (output.status.success(), text)
}

/// Longer than any program here needs, and longer than its own deadlines, on a busy machine too.
const LONGEST_RUN: Duration = Duration::from_secs(120);

#[tokio::test]
#[should_panic(expected = "it said:\nstarted\n")]
async fn a_program_that_hangs_is_killed_with_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("started");
    let mut command = Command::new("sh");
    // The child holds the pipe, too, so only its end ends the wait for what was said.
    command.args(["-c", r#"echo started; sleep 3600 & : >"$0"; wait"#]).arg(&mark);
    let deadline = async {
        super::eventually("it starts", async || mark.exists().then_some(())).await;
    };
    finish_before(deadline, command).await;
}
