//! The examples do what their pages say.

mod chat;
mod cron;
mod grip;
mod legacy;

use std::path::Path;
use std::process::Command;

use crate::harness::{finish, root};

/// The line of the page that begins so, with what is written there for an example replaced. It finds
/// the fetched Python packages.
fn line_of(page: &str, start: &str, replaced: &[(&str, &str)]) -> Command {
    let page = std::fs::read_to_string(root().join(page)).unwrap();
    let line = page.lines().find(|line| line.starts_with(start)).unwrap();
    let line = replaced.iter().fold(line.to_owned(), |line, (example, real)| {
        assert!(line.contains(example), "{line}");
        line.replace(example, real)
    });
    let packages = root().join("target/tools/python/bin");
    let path = format!("{}:{}", packages.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    // The process is the program itself.
    shell.arg("-c").arg(format!("exec {}", line.trim_end_matches(" &"))).env("PATH", path);
    shell
}

/// Runs `moorline check` in a folder that has the files which the examples name.
async fn check(config: &Path) -> (bool, String) {
    let place = tempfile::tempdir().unwrap();
    for file in ["management.key", "ws.secret"] {
        std::fs::write(place.path().join(file), "k".repeat(32)).unwrap();
    }
    let mut check = Command::new(env!("CARGO_BIN_EXE_moorline"));
    check.arg("check").arg("-c").arg(config).current_dir(place.path());
    check.envs([("WS_SECRET", "s3cret"), ("GRIP_KEY", grip::KEY)]);
    finish(check).await
}

#[tokio::test]
async fn check_accepts_the_configs_that_stand_on_pages() {
    for (page, begin, end) in
        [("README.md", "```yaml\n", "```\n"), ("examples/README.md", "<<END\n", "END\n")]
    {
        let page = std::fs::read_to_string(root().join(page)).unwrap();
        let (config, _) = page.split_once(begin).unwrap().1.split_once(end).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moorline.yaml");
        std::fs::write(&path, config).unwrap();
        let (ok, said) = check(&path).await;
        assert!(ok, "{config}: {said}");
    }
}

#[tokio::test]
async fn check_accepts_each_config_and_each_page_is_short() {
    let mut seen = 0;
    for entry in std::fs::read_dir(root().join("examples")).unwrap() {
        let folder = entry.unwrap().path();
        let config = folder.join("moorline.yaml");
        if !config.exists() {
            continue;
        }
        seen += 1;
        let page = std::fs::read_to_string(folder.join("README.md")).unwrap();
        assert!(page.lines().count() <= 25, "{}", folder.display());
        // The chat is behind NATS, which is not there.
        if std::fs::read_to_string(&config).unwrap().contains("\nnats:") {
            continue;
        }
        let (ok, said) = check(&config).await;
        assert!(ok, "{}: {said}", folder.display());
    }
    assert!(seen >= 4, "{seen} examples");
}
