//! Old HTTP applications that moorline stands in front of: their pages pass through, their login says
//! whose a WebSocket is, and one endpoint takes the messages.

use std::net::SocketAddr;
use std::process::Command;

use tempfile::TempDir;

use super::line_of;
use crate::harness::{
    Client, Node, Process, Request, Tool, eventually, exchange_raw, free_port, have, root,
};

/// The page that the examples let connect.
const ORIGIN: &str = "http://localhost:8080";
const FORM: &str = "application/x-www-form-urlencoded";
pub(super) const SECRET: (&str, &str) = ("WS_SECRET", "s3cret");

/// The application of an example, as its page starts it, but in a copy of the folder and on a port of
/// its own.
pub(super) struct Application {
    port: u16,
    folder: TempDir,
    _process: Process,
}

impl Application {
    /// `command` is how the line of the page begins.
    pub(super) fn start(example: &str, command: &str, variables: &[(&str, &str)]) -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        let sources = root().join("examples").join(example).join(".");
        let copied = Command::new("cp").arg("-R").arg(sources).arg(folder.path()).status();
        assert!(copied.unwrap().success(), "cp");
        let packages = root().join("target/tools/node/node_modules");
        std::os::unix::fs::symlink(packages, folder.path().join("node_modules")).unwrap();
        let page = format!("examples/{example}/README.md");
        let mut line = line_of(&page, command, &[("5000", &port.to_string())]);
        line.envs(variables.iter().copied()).current_dir(&folder);
        let process = Process::start(line);
        Self { port, folder, _process: process }
    }

    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// A node in front of it with the config of `example` and variables over it, once it answers.
    pub(super) async fn behind(&self, example: &str, variables: &[(&str, &str)]) -> Node {
        let config = root().join("examples").join(example).join("moorline.yaml");
        let config = std::fs::read_to_string(config).unwrap();
        let config = config.replace("127.0.0.1:5000", &format!("127.0.0.1:{}", self.port));
        let path = self.folder.path().join("moorline.yaml");
        std::fs::write(&path, config).unwrap();
        let node = Node::of_file(path.to_str().unwrap(), variables);
        eventually("the application answers", async || {
            (!get(&node, "/", "").await.starts_with("HTTP/1.1 50")).then_some(())
        })
        .await;
        node
    }
}

pub(super) async fn get(node: &Node, path: &str, cookie: &str) -> String {
    request(node.ws(), "GET", path, (cookie, FORM), "").await
}

pub(super) async fn post(node: &Node, path: &str, cookie: &str, form: &str) -> String {
    request(node.ws(), "POST", path, (cookie, FORM), form).await
}

/// The answer to a plain request with this cookie and content type, with its head.
pub(super) async fn request(
    to: SocketAddr,
    method: &str,
    path: &str,
    (cookie, content_type): (&str, &str),
    body: &str,
) -> String {
    let length = body.len();
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost:8080\r\nConnection: close\r\n\
         Cookie: {cookie}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    exchange_raw(to, text.as_bytes()).await
}

/// The cookie that the application's own login sets.
pub(super) async fn log_in(node: &Node, path: &str, user: &str, password: &str) -> String {
    let answer = post(node, path, "", &format!("user={user}&password={password}")).await;
    cookie_of(&answer)
}

/// The first cookie that an answer sets.
pub(super) fn cookie_of(answer: &str) -> String {
    let head = answer.to_ascii_lowercase();
    let at = head.find("\r\nset-cookie: ").unwrap_or_else(|| panic!("no cookie: {answer}"));
    let cookie = &answer[at + "\r\nset-cookie: ".len()..];
    cookie[..cookie.find(';').unwrap()].to_owned()
}

/// A WebSocket as a browser on the page opens it.
///
/// # Errors
/// The status and body of a refusal.
pub(super) async fn open(node: &Node, path: &str, cookie: &str) -> Result<Client, (u16, String)> {
    let to = node.ws();
    Request::new(path).header("origin", ORIGIN).header("cookie", cookie).connect(to).await
}

#[tokio::test]
async fn a_flask_application_gets_websockets() {
    if !have("a_flask_application_gets_websockets", &[Tool::Python]) {
        return;
    }
    let application = Application::start("flask", "python -m waitress ", &[SECRET]);
    let node = application.behind("flask", &[SECRET]).await;
    assert!(get(&node, "/", "").await.starts_with("HTTP/1.1 302"), "the login comes first");
    assert_eq!(open(&node, "/ws", "").await.err().unwrap(), (401, "log in first".to_owned()));
    let forged = open(&node, "/ws", "session=eyJ1c2VyIjoiYWxpY2UifQ.x.y").await.err().unwrap();
    assert_eq!(forged.0, 401);
    let wrong = post(&node, "/login", "", "user=alice&password=x").await;
    assert!(wrong.starts_with("HTTP/1.1 403"), "{wrong}");

    let alice = log_in(&node, "/login", "alice", "wonderland").await;
    let bob = log_in(&node, "/login", "bob", "builder").await;
    let mut socket = open(&node, "/ws", &alice).await.expect("accepted");
    assert_eq!(socket.ask("Grüße <b>").await, "entry 2 is written");
    let written = post(&node, "/entries", &bob, "entry=by+the+form").await;
    assert!(written.starts_with("HTTP/1.1 302"), "{written}");
    assert_eq!(socket.ask("again").await, "entry 4 is written");
    let page = get(&node, "/", &bob).await;
    let entries = ["the first entry", "alice: Grüße &lt;b&gt;", "bob: by the form", "alice: again"];
    let entries = entries.map(|entry| format!("<li>{entry}</li>")).concat();
    assert!(page.contains("Guest book of bob") && page.contains(&entries), "{page}");

    // What clients send to the endpoint themselves does not reach it.
    let events = post(&node, "/ws-events", &alice, "forged").await;
    assert!(events.starts_with("HTTP/1.1 404"), "{events}");
    let event = (&*alice, "text/plain; charset=utf-8\r\nce-type: moorline.message");
    let refused = request(application.address(), "POST", "/ws-events", event, "forged").await;
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    assert_eq!(socket.ask("still").await, "entry 5 is written");
}

#[test]
fn the_old_flask_application_knows_nothing_of_websockets() {
    let text = std::fs::read_to_string(root().join("examples/flask/app.py")).unwrap();
    for word in ["ws-events", "moorline", "ce-"] {
        assert!(!text.contains(word), "{word}");
    }
}

#[tokio::test]
async fn cgi_programs_get_websockets() {
    if !have("cgi_programs_get_websockets", &[Tool::Python]) {
        return;
    }
    let application = Application::start("cgi", "python server.py ", &[SECRET]);
    let node = application.behind("cgi", &[SECRET]).await;
    assert!(get(&node, "/", "").await.starts_with("HTTP/1.1 303"), "the login comes first");
    assert_eq!(open(&node, "/ws", "").await.err().unwrap(), (401, "log in first".to_owned()));
    let traversing = open(&node, "/ws", "session=../server.py").await.err().unwrap();
    assert_eq!(traversing.0, 401);

    let alice = log_in(&node, "/login.py", "alice", "wonderland").await;
    let mut socket = open(&node, "/ws", &alice).await.expect("accepted");
    assert_eq!(socket.ask("grüße").await, "alice 1: GRÜSSE");
    assert_eq!(socket.ask("again").await, "alice 2: AGAIN");
    let bob = log_in(&node, "/login.py", "bob", "builder").await;
    let mut other = open(&node, "/ws", &bob).await.expect("accepted");
    assert_eq!(other.ask("hello").await, "bob 1: HELLO");
    let page = get(&node, "/", &alice).await;
    assert!(page.contains("<h1>Hello, alice</h1>"), "{page}");
    for path in ["/ws-events.py", "/sessions.py", "/cgi-bin/page.py"] {
        let answer = post(&node, path, &alice, "").await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }

    // The session decides on each message.
    let left = post(&node, "/logout.py", &alice, "").await;
    assert!(left.starts_with("HTTP/1.1 303"), "{left}");
    socket.send("am I in?").await;
    assert_eq!(socket.closed().await, Some((4001, "logged out".to_owned())));
    assert_eq!(open(&node, "/ws", &alice).await.err().unwrap().0, 401);
    assert_eq!(other.ask("still here").await, "bob 2: STILL HERE");
}
