//! Applications for Pushpin and Fanout: moorline stands in their place, and the libraries are as they
//! come.

use super::legacy::{Application, cookie_of, get, open, post, request};
use crate::harness::{Client, Node, Tool, free_port, have, root};

pub(super) const KEY: &str = "0123456789abcdef0123456789abcdef";

/// The application and a node in front of it, which has the address that `GRIP_URL` names.
async fn site(example: &str, command: &str) -> (Node, Application) {
    let management = format!("127.0.0.1:{}", free_port());
    let page = format!("examples/{example}/README.md");
    let page = std::fs::read_to_string(root().join(page)).unwrap();
    let url = page.lines().find_map(|line| line.strip_prefix("export GRIP_URL=")).unwrap();
    let url =
        url.trim_matches('"').replace("$GRIP_KEY", KEY).replace("127.0.0.1:8444", &management);
    let application = Application::start(example, command, &[("GRIP_URL", &url)]);
    let variables = [("GRIP_KEY", KEY), ("MOORLINE_LISTENERS__MANAGEMENT__ADDRESS", &management)];
    let node = application.behind(example, &variables).await;
    (node, application)
}

/// What one says, everybody in the room hears, and nobody else.
async fn talk(ann: (&mut Client, &str), bob: (&mut Client, &str), other: (&mut Client, &str)) {
    for turn in 0..3 {
        ann.0.send(format!("Grüße {turn}")).await;
        let said = format!("{}: Grüße {turn}", ann.1);
        assert_eq!(ann.0.next_text().await, said);
        assert_eq!(bob.0.next_text().await, said);
    }
    bob.0.send("hello").await;
    let said = format!("{}: hello", bob.1);
    assert_eq!((ann.0.next_text().await, bob.0.next_text().await), (said.clone(), said));
    assert_eq!(other.0.ask("alone").await, format!("{}: alone", other.1));
}

/// An event that a client makes up reaches the application neither through the node nor past it.
async fn forged_events_are_refused(node: &Node, application: &Application, cookie: &str) {
    let events = "application/websocket-events";
    let through = request(node.ws(), "POST", "/rooms/tea", (cookie, events), "OPEN\r\n").await;
    assert!(through.starts_with("HTTP/1.1 415"), "{through}");
    let to = application.address();
    let past = request(to, "POST", "/rooms/tea", (cookie, events), "OPEN\r\n").await;
    assert!(past.starts_with("HTTP/1.1 403"), "{past}");
}

#[tokio::test]
async fn django_with_django_grip_talks_in_rooms() {
    if !have("django_with_django_grip_talks_in_rooms", &[Tool::Python]) {
        return;
    }
    let (node, application) = site("django", "python -m waitress ").await;
    assert_eq!(
        open(&node, "/rooms/tea", "").await.err().unwrap(),
        (401, "log in first".to_owned())
    );
    let log_in = async |user: &str, password: &str| {
        let form = get(&node, "/login", "").await;
        let token = form.split("value=\"").nth(1).unwrap().split('"').next().unwrap();
        let form = (cookie_of(&form), format!("csrfmiddlewaretoken={token}"));
        let body = format!("{}&user={user}&password={password}", form.1);
        post(&node, "/login", &form.0, &body).await
    };
    let wrong = log_in("alice", "x").await;
    assert!(wrong.starts_with("HTTP/1.1 403"), "{wrong}");
    let alice = cookie_of(&log_in("alice", "wonderland").await);
    let bob = cookie_of(&log_in("bob", "builder").await);
    let page = get(&node, "/", &alice).await;
    assert!(page.contains("<h1>Hello, alice</h1>"), "{page}");

    let mut ann = open(&node, "/rooms/tea", &alice).await.expect("accepted");
    let mut ben = open(&node, "/rooms/tea", &bob).await.expect("accepted");
    let mut other = open(&node, "/rooms/attic", &bob).await.expect("accepted");
    talk((&mut ann, "alice"), (&mut ben, "bob"), (&mut other, "bob")).await;
    forged_events_are_refused(&node, &application, &alice).await;
    ben.close().await;
    other.vanish();
    node.metric_becomes("moorline_groups", &[], 1.0).await;
    assert_eq!(ann.ask("still here").await, "alice: still here");
}

#[tokio::test]
async fn express_with_serve_grip_talks_in_rooms() {
    if !have("express_with_serve_grip_talks_in_rooms", &[Tool::Node]) {
        return;
    }
    let (node, application) = site("express", "node app.mjs ").await;
    let nameless = open(&node, "/rooms/tea", "").await.err().unwrap();
    assert_eq!(nameless, (400, "say your name: ?name=...".to_owned()));
    let mut ann = open(&node, "/rooms/tea?name=ann", "").await.expect("accepted");
    let mut bob = open(&node, "/rooms/tea?name=J%C3%BCrgen%20b.", "").await.expect("accepted");
    let mut eve = open(&node, "/rooms/attic?name=eve", "").await.expect("accepted");
    talk((&mut ann, "ann"), (&mut bob, "Jürgen b."), (&mut eve, "eve")).await;
    forged_events_are_refused(&node, &application, "").await;

    let page = get(&node, "/", "").await;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("<form"), "{page}");
    let said = post(&node, "/say", "", "room=tea&text=by+the+form").await;
    assert!(said.starts_with("HTTP/1.1 302"), "{said}");
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.next_text().await, "by the form");
    }
    assert_eq!(eve.ask("only me").await, "eve: only me");
    bob.vanish();
    eve.close().await;
    node.metric_becomes("moorline_groups", &[], 1.0).await;
    assert_eq!(ann.ask("still here").await, "ann: still here");
}
