//! The same conversations through Pushpin and through moorline: client and service see the same.

#[path = "../../services/pushpin.rs"]
mod files;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::publishing::publish_body;
use super::{KEY, OPEN, event, events, keyed, said, text};
use crate::harness::{
    Asked, Client, Node, Request, Service, ServiceAnswer, Tool, eventually, free_port, have,
    signal, tool,
};

/// What stands between clients and the service.
struct Front {
    ws: SocketAddr,
    publish: SocketAddr,
    /// What it says to a service that has closed. moorline says that the connection is gone. Pushpin is
    /// silent, or says that the client closed, if its answer was quick.
    after_close: &'static str,
}

/// Pushpin's five processes, which end with the test.
struct Pushpin {
    runner: Child,
    _folder: tempfile::TempDir,
}

/// What a client does, or waits for, after its handshake.
enum Step {
    Say(Message),
    /// So many messages come.
    Hear(usize),
    /// What is published to the channel arrives from now on.
    Subscribed,
    Publish(Value),
    /// Closes with this code.
    Leave(u16),
    /// Ends TCP without a word.
    Vanish,
    /// The other side closes.
    Closed,
}

use Step::{Closed, Hear, Leave, Publish, Say, Subscribed, Vanish};

/// Headers that differ, and why.
const DIFFERENT: [&str; 11] = [
    // What each of them can do.
    "grip-feature",
    // Drawn by chance for each connection.
    "sec-websocket-key",
    // The length is that of the body, which is compared.
    "content-length",
    // Pushpin asks for compressed answers, whatever the client takes.
    "accept-encoding",
    // Who the client is, and on which way its words come: moorline says it, Pushpin where it is told to.
    "forwarded",
    "traceparent",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];
/// What moorline's transcript has on a path, what Pushpin's has in its place, and why.
const KNOWN: [(&str, &str, &str); 5] = [
    // What a control message sets is told to the service like what a header sets.
    ("/ws/set-meta", r#""meta-user: ann", "#, ""),
    // The client's own code comes back (RFC 6455 section 5.5.1), not the service's.
    ("/ws/other-code", "Err(Some((3901, \"\")))", "Err(Some((3900, \"\")))"),
    // The client learns that it was the service.
    ("/ws/failure", "Err(Some((1011, \"backend-failed\")))", "Err(None)"),
    // Words for people.
    ("/ws/bad-items", "format: expected an object", "format."),
    (
        "/ws/bad-items",
        "invalid type: integer `1`, expected a sequence",
        "object contains 'items' with wrong type",
    ),
];
const PROBE: &str = "m:probe";
/// How long a published probe may take before the next is published.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);
/// How long the first handshakes may take, while Pushpin's parts find each other.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_client_and_a_service_see_what_they_see_with_pushpin() {
    let test = "a_client_and_a_service_see_what_they_see_with_pushpin";
    if !have(test, &[Tool::Pushpin]) {
        return;
    }
    let (theirs, ours) = (Service::start(answer).await, Service::start(answer).await);
    let (_pushpin, pushpin) = Pushpin::start(&theirs).await;
    let (_node, moorline) = moorline(&ours);
    let mut differences = Vec::new();
    for (path, steps) in scripts() {
        let expected = Box::pin(transcript(&pushpin, &theirs, path, &steps)).await;
        let actual = Box::pin(transcript(&moorline, &ours, path, &steps)).await;
        let mut actual = actual.join("\n");
        for (_, here, there) in KNOWN.iter().filter(|(known, ..)| *known == path) {
            assert!(actual.contains(here), "{path}: no more {here:?} in\n{actual}");
            actual = actual.replace(here, there);
        }
        let expected = expected.join("\n");
        if actual != expected {
            differences.push(format!("{path}\nPushpin:\n{expected}\nmoorline:\n{actual}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// What is said on which path. Those that end with a refusal have no steps.
fn scripts() -> Vec<(&'static str, Vec<Step>)> {
    let say = |text: &str| Say(Message::text(text));
    let publish = |message: Value| {
        Publish(json!({"items": [{"channel": "/ws/channel", "formats": {"ws-message": message}}]}))
    };
    vec![
        ("/ws/refused", vec![]),
        ("/ws/moved?to=login", vec![]),
        (
            "/ws/plain?a=1&b=%20",
            vec![
                say("hello"),
                Hear(1),
                say("ünïcode €"),
                Hear(1),
                say(""),
                Hear(1),
                Say(Message::binary(&[0, 1, 127][..])),
                Hear(1),
                say("several"),
                Hear(3),
                say("empty"),
                Hear(2),
                say("accepted"),
                Hear(1),
                Leave(3900),
            ],
        ),
        ("/ws/early", vec![Hear(2), Leave(3900)]),
        ("/ws/other-code", vec![Leave(3901)]),
        (
            "/ws/meta",
            [say("remember"), say("add"), say("forget"), say("all")]
                .into_iter()
                .flat_map(|say| [say, Hear(1)])
                .chain([Vanish])
                .collect(),
        ),
        ("/ws/grip", vec![Hear(1), say("mixed"), Hear(2), Vanish]),
        ("/ws/set-meta", vec![say("set"), Hear(1), say("?"), Hear(1), Vanish]),
        ("/ws/prefix", vec![say("mixed"), Hear(2), Vanish]),
        ("/ws/no-prefix", vec![say("mixed"), Hear(3), Vanish]),
        (
            "/ws/channel",
            vec![
                Subscribed,
                publish(json!({"content": "one"})),
                publish(json!({"content-bin": "AH8="})),
                publish(json!({"content": "two", "type": "text", "action": "send"})),
                Hear(3),
                publish(json!({"action": "close", "code": 4000, "reason": "bye"})),
                Closed,
            ],
        ),
        ("/ws/bad-items", vec![Publish(json!([])), Publish(json!({"items": 1})), Vanish]),
        ("/ws/close", vec![say("close"), Hear(1), Closed]),
        ("/ws/cut", vec![say("cut"), Closed]),
        ("/ws/failure", vec![say("fail"), Closed]),
    ]
}

/// The service behind both.
fn answer(asked: &Asked) -> ServiceAnswer {
    let path = asked.target.split('?').next().unwrap_or_default();
    if asked.body == "OPEN\r\n" {
        return open(path);
    }
    if asked.body.starts_with("CLOSE") {
        return events(&[&event("CLOSE", 3900_u16.to_be_bytes())]);
    }
    if asked.body.starts_with("BINARY") {
        return events(&[&event("BINARY", [0, 255])]);
    }
    let mixed: [&[u8]; 3] = [&text("m:one"), &text(">two"), &event("BINARY", b"m:\xff")];
    match said(asked) {
        None if asked.body.starts_with("TEXT") => events(&[&text("heard nothing")]),
        None => events(&[]),
        Some("empty") => events(&[&text(""), b"BINARY\r\n"]),
        Some("several") => events(&[&text("a"), &event("BINARY", [0, 255]), &text("b")]),
        Some("accepted") => events(&[&text("all")]).header("content-bytes-accepted: 8"),
        Some("remember") => events(&[&text("1")]).header("Set-Meta-User: ann"),
        Some("add") => {
            events(&[&text("2")]).header("set-meta-user: Bob").header("SET-META-ROOM: a b")
        }
        Some("forget") => events(&[&text("3")]).header("Set-Meta-User: "),
        Some("mixed") if path == "/ws/prefix" => {
            events(&[&text("m:no"), &text(">one"), &event("BINARY", b">\xff")])
        }
        Some("mixed") => events(&mixed),
        Some("set") => events(&[
            &text(r#"c:{"type": "set-meta", "name": "user", "value": "ann"}"#),
            &text("m:set"),
        ]),
        Some("close") => events(&[&text("bye"), &event("CLOSE", b"\x0f\xa0done"), &text("late")]),
        Some("fail") => ServiceAnswer::status("500 No", "trace"),
        Some("cut") => events(&[b"DISCONNECT\r\n"]),
        Some("") => events(&[&text("heard nothing")]),
        Some(other) if path == "/ws/set-meta" => events(&[&text(&format!("m:{other}"))]),
        Some(other) => events(&[&text(other)]),
    }
}

/// The answer to the handshake.
fn open(path: &str) -> ServiceAnswer {
    let subscribe = format!(r#"c:{{"type": "subscribe", "channel": "{path}"}}"#);
    let grip = "Sec-WebSocket-Extensions: grip";
    let opened = match path {
        "/ws/refused" => {
            let answer = ServiceAnswer::status("403 Forbidden", "<p>no</p>");
            return answer.header("content-type: text/html");
        }
        "/ws/moved" => {
            let answer = ServiceAnswer::status("302 Found", "elsewhere");
            return answer.header("location: /login").header("content-type: text/plain");
        }
        "/ws/early" => events(&[OPEN, &text("one"), &event("BINARY", [0, 255])]),
        "/ws/grip" => events(&[OPEN, &text("m:welcome")]).header(grip),
        "/ws/set-meta" => events(&[OPEN]).header(grip),
        "/ws/prefix" => events(&[OPEN]).header(&format!("{grip}; message-prefix=\">\"")),
        "/ws/no-prefix" => events(&[OPEN]).header(&format!("{grip}; message-prefix=\"\"")),
        "/ws/channel" => events(&[OPEN, &text(&subscribe)]).header(grip),
        _ => events(&[OPEN]),
    };
    opened.header("sec-websocket-protocol: v2").header("set-cookie: a=1")
}

/// All that the client and the service see of one connection.
async fn transcript(front: &Front, service: &Service, path: &str, steps: &[Step]) -> Vec<String> {
    let request = Request::new(path)
        .header("origin", "https://a.example")
        .header("cookie", "session=1")
        .header("user-agent", "a-client/1")
        .header("x-tenant", "t")
        .header("meta-user", "forged")
        .header("sec-websocket-protocol", "v1, v2");
    let mut seen = Vec::new();
    match request.connect(front.ws).await {
        // Of the body, this client knows what came together with the head, which is up to chance.
        Err((status, _)) => seen.push(format!("refused: {status}")),
        Ok(client) => {
            for name in ["sec-websocket-protocol", "set-cookie", "content-type"] {
                seen.push(format!("{name}: {:?}", client.headers.get(name)));
            }
            walk(front, client, path, steps, &mut seen).await;
        }
    }
    let is_over = |asked: &&Asked| ["CLOSE", "DISCONNECT"].iter().any(|e| asked.body.contains(e));
    let asked = eventually("the service hears of the end", async || {
        let mut asked = service.asked();
        asked.retain(|asked| asked.target == path);
        let is_told = matches!(steps.last(), Some(Leave(_) | Vanish));
        (!is_told || asked.iter().any(|asked| is_over(&asked))).then_some(asked)
    })
    .await;
    let is_ended_by_service = matches!(steps.last(), Some(Closed));
    let is_known = |asked: &Asked| is_ended_by_service && asked.body == front.after_close;
    let told = asked.iter().filter(|asked| !is_known(asked));
    seen.extend(told.map(|request| described(request, &asked[0])));
    seen
}

async fn walk(front: &Front, client: Client, path: &str, steps: &[Step], seen: &mut Vec<String>) {
    let mut client = Some(client);
    for step in steps {
        let open = client.as_mut().expect("steps after the end");
        match step {
            Say(message) => open.send(message.clone()).await,
            Hear(count) => {
                for _ in 0..*count {
                    seen.push(format!("{:?}", hear(open).await));
                }
            }
            Subscribed => subscribed(front, open, path).await,
            Publish(body) => seen.push(publish(front, body).await),
            Leave(code) => {
                let frame = CloseFrame { code: (*code).into(), reason: "".into() };
                open.send(Message::Close(Some(frame))).await;
                seen.push(format!("{:?}", hear(open).await));
            }
            Closed => seen.push(format!("{:?}", hear(open).await)),
            Vanish => client.take().expect("an open connection").vanish(),
        }
    }
}

/// What comes next; probes are passed over.
async fn hear(client: &mut Client) -> Result<Message, Option<(u16, String)>> {
    loop {
        let heard = client.next().await;
        if heard != Ok(Message::text(PROBE)) {
            return heard;
        }
    }
}

/// Publishes until the client hears of it: Pushpin's handler learns of a subscription some time after
/// the client has what came with it.
async fn subscribed(front: &Front, client: &mut Client, channel: &str) {
    let message = json!({"ws-message": {"content": PROBE}});
    let probe = json!({"items": [{"channel": channel, "formats": message}]});
    eventually("the subscription", async || {
        publish(front, &probe).await;
        timeout(PROBE_TIMEOUT, client.next()).await.ok()
    })
    .await
    .expect("an open connection");
}

/// The answer's status and body.
async fn publish(front: &Front, body: &Value) -> String {
    let (status, said) = publish_body(front.publish, &body.to_string()).await;
    format!("{status} {said}")
}

/// A request of a connection whose first was `first`.
fn described(request: &Asked, first: &Asked) -> String {
    let headers = request.headers.iter().filter(|(name, _)| !DIFFERENT.contains(&name.as_str()));
    let mut lines: Vec<_> = headers
        .map(|(name, value)| match name.as_str() {
            "connection-id" => format!("{name}: {}", value == first.header("connection-id")),
            "grip-sig" => format!("{name}: {}", issuer(value)),
            _ => format!("{name}: {value}"),
        })
        .collect();
    lines.sort();
    let body = match request.body.as_str() {
        // How Pushpin says it. The protocol's text has a length here, and moorline keeps to that.
        "TEXT\r\n" => "TEXT 0\r\n\r\n",
        body => body,
    };
    format!("{body:?} {lines:?}")
}

fn issuer(signature: &str) -> Value {
    let claims = signature.split('.').nth(1).expect("a token of three parts");
    let claims = URL_SAFE_NO_PAD.decode(claims).expect("base64");
    serde_json::from_slice::<Value>(&claims).expect("JSON")["iss"].clone()
}

fn moorline(service: &Service) -> ((Node, tempfile::TempDir), Front) {
    let (files, key, listeners) = keyed();
    let config = format!(
        "routes:\n- {{path: '/ws/{{*rest}}', auth: none, origins: ['https://a.example'], \
         backend: {{http: '{}', dialect: websocket-over-http, \
         grip: {{issuer: realm, key_file: '{key}'}}}}}}",
        service.origin()
    );
    let node = Node::with_listeners(&listeners, &config);
    let front = Front { ws: node.ws(), publish: node.management(), after_close: "DISCONNECT\r\n" };
    ((node, files), front)
}

impl Pushpin {
    async fn start(service: &Service) -> (Self, Front) {
        let [ws, publish] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let folder = tempfile::tempdir().unwrap();
        let backend = service.origin().replace("http://", "");
        let path =
            files::configure(folder.path(), &backend, ws, publish.port(), "realm", KEY).unwrap();
        let mut command = Command::new(tool(Tool::Pushpin));
        command.arg("--config").arg(path).stdin(Stdio::null()).stdout(Stdio::null());
        let pushpin = Self { runner: command.spawn().unwrap(), _folder: folder };
        for door in [ws, publish] {
            eventually("Pushpin listens", async || TcpStream::connect(door).await.ok()).await;
        }
        eventually("Pushpin reaches the service", async || {
            let handshake = Request::new("/ws/ready").header("sec-websocket-protocol", "v2");
            timeout(HANDSHAKE_TIMEOUT, handshake.connect(ws)).await.ok()?.ok()
        })
        .await;
        (pushpin, Front { ws, publish, after_close: "CLOSE\r\n" })
    }
}

impl Drop for Pushpin {
    fn drop(&mut self) {
        // It ends its other processes, and itself.
        signal(self.runner.id(), "TERM");
        let _ = self.runner.wait();
    }
}
