//! The cron job that speaks to a user: the line of the crontab runs as it stands, as cron runs it.

use std::path::Path;
use std::process::Command;

use super::grip::KEY;
use super::legacy::{Application, SECRET, log_in, open};
use crate::harness::{Node, Tool, finish, have, root};

/// The one job of the crontab, by cron's rules: the schedule, and the command.
fn job(crontab: &str) -> ([&str; 5], &str) {
    let is_job = |line: &&str| line.starts_with(|c: char| c.is_ascii_digit() || c == '*');
    let mut jobs = crontab.lines().filter(is_job);
    let (job, None) = (jobs.next().expect("a job"), jobs.next()) else { panic!("one job") };
    let mut fields = job.splitn(6, ' ');
    let schedule = [(); 5].map(|()| fields.next().unwrap());
    (schedule, fields.next().expect("a command"))
}

/// Runs the job with the crontab's variables, of which some have the test's values.
async fn run(node: &Node, command: &str, key: &Path) -> (bool, String) {
    let mut shell = Command::new("/bin/sh");
    let home = root().join("examples/cron");
    shell.arg("-c").arg(command).env_clear().current_dir(&home);
    let management = format!("http://{}", node.management());
    shell.envs([("PATH", "/usr/bin:/bin"), ("SHELL", "/bin/sh"), ("MANAGEMENT", &management)]);
    shell.env("HOME", home).env("KEY_FILE", key);
    finish(shell).await
}

#[tokio::test]
async fn a_cron_job_speaks_to_a_user() {
    if !have("a_cron_job_speaks_to_a_user", &[Tool::Python]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [key, other] =
        [("key", KEY), ("other", "another-key-that-is-of-no-use-at-all")].map(|(name, text)| {
            let path = folder.path().join(name);
            std::fs::write(&path, format!("{text}\n")).unwrap();
            path
        });
    let application = Application::start("flask", "python -m waitress ", &[SECRET]);
    let keys = format!("['{}']", key.display());
    let variables = [
        SECRET,
        ("MOORLINE_LISTENERS__MANAGEMENT__ADDRESS", "127.0.0.1:0"),
        ("MOORLINE_LISTENERS__MANAGEMENT__KEY_FILES", &keys),
    ];
    let node = application.behind("cron", &variables).await;
    let alice = log_in(&node, "/login", "alice", "wonderland").await;
    let bob = log_in(&node, "/login", "bob", "builder").await;
    let mut clients = [
        open(&node, "/ws", &alice).await.expect("accepted"),
        open(&node, "/ws", &alice).await.expect("accepted"),
    ];
    let mut stranger = open(&node, "/ws", &bob).await.expect("accepted");

    let crontab = std::fs::read_to_string(root().join("examples/cron/crontab")).unwrap();
    for variable in ["HOME", "MANAGEMENT", "KEY_FILE"] {
        assert!(crontab.contains(&format!("\n{variable}=")), "{variable}");
    }
    let (schedule, command) = job(&crontab);
    assert_eq!(schedule, ["0", "8", "*", "*", "1-5"]);
    assert_eq!(run(&node, command, &key).await, (true, String::new()));
    for client in &mut clients {
        let said = client.next_text().await;
        assert_eq!(said, "Good morning, alice: two invoices are due today.");
    }
    let to_bob =
        command.replacen("alice", "bob", 1).replace("two invoices", "@etc & 'no' invoices");
    assert_eq!(run(&node, &to_bob, &key).await, (true, String::new()));
    let said = stranger.next_text().await;
    assert_eq!(said, "Good morning, alice: @etc & 'no' invoices are due today.");

    // Nobody there is no failure; a wrong key is, and so is one that cannot be read.
    let (ok, text) = run(&node, &command.replacen("alice", "carol", 1), &key).await;
    assert!(ok, "{text}");
    let (ok, text) = run(&node, command, &other).await;
    assert!(!ok && text.contains("401"), "{text}");
    let (ok, text) = run(&node, command, &folder.path().join("none")).await;
    assert!(!ok && text.contains("none"), "{text}");
    assert_eq!(clients[0].ask("hello").await, "entry 2 is written", "nothing else came");
}
