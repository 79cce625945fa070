//! Names that somebody chooses badly on purpose, and a look at everything that NATS carries meanwhile.

use futures_util::StreamExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{DEADLINE, NatsServer};

/// Would be wildcards, other subjects, other commands, other headers if they got through.
const CHOSEN: [&str; 40] = [
    "*",
    ">",
    "a.*",
    "a.>",
    ".",
    "..",
    "a..b",
    ".a",
    "a.",
    " ",
    "a b",
    "a\tb",
    "=",
    "=2E",
    "=2A",
    "=2e",
    "a=",
    "%2A",
    "%",
    "\u{e9}",
    "e\u{301}",
    "\u{1f600}",
    "\u{202e}abc",
    "\u{feff}",
    "moorline.other.out.all",
    "$SYS.>",
    "_INBOX.>",
    "'; DROP",
    "{{x}}",
    "${jndi:x}",
    "../../etc/passwd",
    "\\",
    "\"",
    "a,b",
    "a\r\nPUB x 0\r\n",
    "a\nb",
    "\0",
    "a\0b",
    "\u{7f}",
    "\u{85}",
];
/// What else names are made of.
const LETTERS: [char; 16] =
    ['*', '>', '.', ' ', '=', 'a', 'Z', '%', 'ü', '$', '-', '_', '/', ',', '"', '\u{1f600}'];
/// What no name may have.
const CONTROL: [char; 6] = ['\0', '\r', '\n', '\t', '\u{7f}', '\u{9f}'];
/// The longest that a name may be as a token of a subject.
const TOKEN_MAX: usize = 200;
/// The longest name here, in bytes.
const LONGEST: usize = 10_000;
/// Every run has the same names.
const SEED: u64 = 6455;

/// So many different names, none of them empty.
pub(crate) fn hostile_names(count: usize) -> Vec<String> {
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut names: Vec<String> = CHOSEN.map(str::to_owned).to_vec();
    names.extend(["x".repeat(TOKEN_MAX), "x".repeat(TOKEN_MAX + 1), "x".repeat(LONGEST)]);
    names.extend([".".repeat(TOKEN_MAX / 3), ".".repeat(TOKEN_MAX / 3 + 1), ".".repeat(LONGEST)]);
    let mut seen: std::collections::HashSet<String> = names.iter().cloned().collect();
    while names.len() < count {
        let letters = match rng.random_range(0..10) {
            0 => rng.random_range(60..80),
            _ => rng.random_range(1..13),
        };
        let mut name: String =
            (0..letters).map(|_| LETTERS[rng.random_range(0..LETTERS.len())]).collect();
        if rng.random_range(0..3) == 0 {
            name.push(CONTROL[rng.random_range(0..CONTROL.len())]);
        }
        if seen.insert(name.clone()) {
            names.push(name);
        }
    }
    names
}

/// Whether a user or a group may have this name.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(char::is_control) && token(name).len() <= TOKEN_MAX
}

/// The name as one token of a subject.
pub(crate) fn token(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    let encode = |b| if plain(b) { char::from(b).to_string() } else { format!("={b:02X}") };
    name.bytes().map(encode).collect()
}

/// The name with every byte percent-encoded.
pub(crate) fn percent_encoded(name: &str) -> String {
    name.bytes().map(|b| format!("%{b:02X}")).collect()
}

/// Sees every message on a nats-server.
pub(crate) struct Watcher {
    client: async_nats::Client,
    /// Ends with the subjects that were none of those expected.
    seeing: JoinHandle<Vec<String>>,
}

const END: &str = "harness.end";

impl Watcher {
    /// From now on. Expected are subjects that begin with one of `prefixes`, the harness's own, and those
    /// by which nodes and the server keep the nodes' state.
    pub(crate) async fn start(nats: &NatsServer, prefixes: &[&str]) -> Self {
        let client = nats.client().await;
        let mut all = client.subscribe(">").await.unwrap();
        client.flush().await.unwrap();
        let mut prefixes: Vec<String> =
            prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
        let own = ["_INBOX", "harness.", "$JS.API.", "$JS.EVENT.", "$KV.moorline_"];
        prefixes.extend(own.map(str::to_owned));
        let seeing = tokio::spawn(async move {
            let mut others = Vec::new();
            while let Some(message) = all.next().await {
                let subject = message.subject.as_str();
                if subject == END {
                    break;
                }
                if !prefixes.iter().any(|prefix| subject.starts_with(prefix)) {
                    others.push(subject.to_owned());
                }
            }
            others
        });
        Self { client, seeing }
    }

    /// Fails the test when there was anything else.
    pub(crate) async fn saw_nothing_else(self) {
        self.client.publish(END, "".into()).await.unwrap();
        let others = timeout(DEADLINE, self.seeing).await.expect("all messages").unwrap();
        assert_eq!(others, [""; 0]);
    }
}
