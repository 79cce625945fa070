//! Services that only know HTTP: what they get, what their answers do, and what becomes of messages
//! while they are away, hang or misbehave.

mod trouble;

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{
    FAILURE, NatsServer, Node, Process, Request, Service, ServiceAnswer as Answer, Tool, echo,
    eventually, exchange, free_port, have, python, talk,
};

async fn outcomes(node: &Node, outcome: &str) -> f64 {
    let label = format!("outcome=\"{outcome}\"");
    node.metric("moorline_backend_requests_total", &[&label, "transport=\"http\""]).await
}

#[tokio::test]
async fn the_python_service_talks_as_the_contract_says() {
    if !have("the_python_service_talks_as_the_contract_says", &[Tool::Python]) {
        return;
    }
    let port = free_port();
    let command = || {
        let mut command = python("examples/python/http_worker.py");
        command.arg(port.to_string()).env("MOORLINE_SECRET", "a sécret");
        command
    };
    let node = Node::with_variable(
        ("BACKEND_SECRET", "a sécret"),
        &format!(
            "routes:\n- {{path: /ws, auth: connect, origins: ['https://a.example'], hold: 30s, \
             events: [connect, connected, message, disconnected], \
             backend: {{http: 'http://localhost:{port}/events', secret_file: 'env:BACKEND_SECRET'}}}}"
        ),
    );
    // The first event waits until the service is there.
    let mut service = Process::start(command());
    let ask = |path| Request::new(path).header("origin", "https://a.example").connect(node.ws());
    let mut client = ask("/ws").await.expect("accepted");
    assert_eq!(client.ask("hello").await, "guest 1: HELLO");
    assert_eq!(client.ask("refuse").await, "refused");
    assert_eq!(client.ask("again").await, "guest 2: AGAIN");
    client.send(Message::binary(&b"abc"[..])).await;
    assert_eq!(client.next().await.unwrap(), Message::binary(&b"cba"[..]));
    let forged = "POST /events HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\
                  moorline-secret: a fälse one\r\n\r\n";
    let address = ([127, 0, 0, 1], port).into();
    assert_eq!(exchange(address, forged.as_bytes()).await, (403, String::new()));
    service.signal("TERM");
    service.ends().await;
    let _service = Process::start(command());
    assert_eq!(client.ask("still there").await, "guest 4: STILL THERE");
    assert_eq!(client.ask("bye").await, "BYE");
    assert_eq!(client.closed().await, Some((4000, "bye".to_owned())));
    let denied = ask("/ws?deny=1").await.err().expect("a refusal");
    assert_eq!(denied, (403, "denied".to_owned()));
    node.metric_becomes("moorline_disconnect_events_total", &["result=\"accepted\""], 1.0).await;
    for outcome in ["unknown", "unavailable", "overloaded"] {
        assert_eq!(outcomes(&node, outcome).await, 0.0, "{outcome}");
    }
}

#[tokio::test]
async fn events_come_in_order_with_the_clients_cookies_and_the_secret() {
    let service = Service::start(|asked| match (asked.header("ce-type"), &*asked.body) {
        ("moorline.connect", _) => Answer::ok(r#"{"user_id": "jürgen", "state": "s 0"}"#),
        ("moorline.message", "in") => Answer::ok("").header("moorline-join: a%20b"),
        ("moorline.message", "out") => Answer::ok("").header("moorline-leave: a%20b"),
        ("moorline.message", "end") => {
            Answer::ok("x").header("moorline-state: s1").header("Moorline-Close: 4000 bye")
        }
        _ => Answer::ok(""),
    })
    .await;
    let node = Node::with_variable(
        ("BACKEND_SECRET", "hunter2"),
        &format!(
            "routes:\n- {{path: '/ws/{{room}}', auth: connect, origins: ['https://a.example'], \
             events: [connect, connected, message, disconnected], \
             backend: {{http: '{}', secret_file: 'env:BACKEND_SECRET'}}}}",
            service.url()
        ),
    );
    let request = Request::new("/ws/a%20b?q=1").header("origin", "https://a.example");
    let request = request.header("cookie", "session=1").header("x-other", "no");
    let mut client = request.connect(node.ws()).await.expect("accepted");
    client.send("in").await;
    node.metric_becomes("moorline_groups", &[], 1.0).await;
    client.send("out").await;
    node.metric_becomes("moorline_groups", &[], 0.0).await;
    client.send("end").await;
    assert_eq!(client.next_text().await, "x");
    assert_eq!(client.closed().await, Some((4000, "bye".to_owned())));
    eventually("all events", async || (service.asked().len() == 6).then_some(())).await;

    let asked = service.asked();
    let of =
        |name: &str| asked.iter().map(|asked| asked.header(name).to_owned()).collect::<Vec<_>>();
    let kinds = ["connect", "connected", "message", "message", "message", "disconnected"];
    assert_eq!(of("ce-type"), kinds.map(|kind| format!("moorline.{kind}")));
    assert_eq!(of("ce-sequence"), ["1", "2", "3", "4", "5", "6"]);
    assert_eq!(of("ce-userid")[1..], ["j%C3%BCrgen"; 5]);
    assert_eq!(of("ce-state"), ["", "s%200", "s%200", "s%200", "s%200", "s1"]);
    assert_eq!(of("cookie"), ["session=1"; 6]);
    assert_eq!(of("moorline-secret"), ["hunter2"; 6]);
    assert_eq!(of("x-other"), [""; 6]);
    assert_eq!(of("ce-subject"), ["/ws/a%2520b"; 6]);
    let json: serde_json::Value = serde_json::from_str(&asked[5].body).unwrap();
    assert_eq!((&json["code"], &json["cause"]), (&4000.into(), &"backend-closed".into()));
    let log = node.whole_log();
    assert!(!log.contains("hunter2") && !log.contains("session=1"), "{log}");
}

#[tokio::test]
async fn two_hundred_clients_and_a_service_that_restarts() {
    let mut service = Service::start(|asked| echo(asked).after(Duration::from_millis(2))).await;
    let node = Node::start(&format!(
        "routes:\n- {{path: /ws, auth: none, hold: 30s, {FAILURE}, backend: {{http: '{}'}}}}",
        service.url()
    ));
    const CLIENTS: usize = 200;
    const EACH: usize = 30;
    let talks = talk(&node, CLIENTS, EACH);
    let restarts = async {
        for _ in 0..3 {
            service.is_asked(500).await;
            service.kill().await;
            eventually("messages wait", async || {
                (node.metric("moorline_backend_held", &[]).await >= 1.0).then_some(())
            })
            .await;
            service.resume().await;
        }
    };
    let (failed, ()) = tokio::join!(talks, restarts);
    for (text, said) in &failed {
        let (_, number) = text.split_once('/').unwrap();
        assert_eq!(*said, format!("unknown {}", number.parse::<usize>().unwrap() + 1));
    }
    let unknown: HashSet<_> = failed.into_iter().map(|(text, _)| text).collect();
    let bodies: Vec<_> = service.asked().into_iter().map(|asked| asked.body).collect();
    let once: HashSet<_> = bodies.iter().cloned().collect();
    assert_eq!(bodies.len(), once.len(), "nothing came twice");
    // What was certainly not processed was held, and came in the end.
    assert!(bodies.len() + unknown.difference(&once).count() == CLIENTS * EACH);
    assert_eq!(outcomes(&node, "unknown").await, unknown.len() as f64);
    assert_eq!(outcomes(&node, "unavailable").await + outcomes(&node, "overloaded").await, 0.0);
    assert_eq!(node.metric("moorline_backend_held", &[]).await, 0.0);
}

#[tokio::test]
async fn a_service_that_hangs_is_left_alone_and_nobody_else_notices() {
    let good = Service::start(echo).await;
    let bad = Service::start(|asked| match &*asked.body {
        "wake up" => Answer::ok("yes"),
        _ => Answer::Never,
    })
    .await;
    let node = Node::start(&format!(
        "routes:\n- {{path: /good, auth: none, backend: {{http: '{}'}}}}\n\
         - {{path: /bad, auth: none, hold: 0s, request_timeout: 200ms, {FAILURE}, \
         backend: {{http: '{}'}}}}",
        good.url(),
        bad.url()
    ));
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(Request::new("/bad").connect(node.ws()).await.expect("accepted"));
    }
    let answers = join_all(clients.iter_mut().map(|client| client.ask("x"))).await;
    assert_eq!(answers, ["unknown 1"; 5]);
    node.metric_becomes("moorline_backend_circuits_open", &["route=\"/bad\""], 1.0).await;
    node.wait_for("backend does not answer and is left alone", |_| true);
    assert_eq!(clients[0].ask("x").await, "unavailable 2");
    let mut other = Request::new("/good").connect(node.ws()).await.expect("accepted");
    for _ in 0..20 {
        assert_eq!(other.ask("hello").await, "hello");
    }
    eventually("it is asked again", async || {
        (clients[1].ask("wake up").await == "yes").then_some(())
    })
    .await;
    node.metric_becomes("moorline_backend_circuits_open", &["route=\"/bad\""], 0.0).await;
    node.wait_for("backend answers again", |_| true);
    assert_eq!(node.metric("moorline_backend_circuits_open", &["route=\"/good\""]).await, 0.0);
    let opened = ["route=\"/bad\""];
    assert_eq!(node.metric("moorline_backend_circuits_opened_total", &opened).await, 1.0);
}

#[tokio::test]
async fn a_reload_keeps_what_is_known_and_takes_a_new_secret() {
    let service = Service::start(echo).await;
    let node = Node::start(&format!(
        "routes:\n- {{path: /ws, auth: none, {FAILURE}, \
         backend: {{http: '{}', max_requests: 1, queue_timeout: 1s}}}}",
        service.url()
    ));
    let mut before = Request::new("/ws").connect(node.ws()).await.expect("accepted");
    assert_eq!(before.ask("a").await, "a");
    let secret = node.folder().join("secret");
    std::fs::write(&secret, "hunter2\n").unwrap();
    let with = format!("max_requests: 1, secret_file: '{}'", secret.display());
    node.rewrite(|text| text.replace("max_requests: 1", &with));
    node.metric_becomes("moorline_config_reloads_total", &["result=\"ok\""], 1.0).await;
    let mut after = Request::new("/ws").connect(node.ws()).await.expect("accepted");
    assert_eq!((before.ask("b").await, after.ask("c").await), ("b".to_owned(), "c".to_owned()));
    let secrets: Vec<_> =
        service.asked().iter().map(|asked| asked.header("moorline-secret").to_owned()).collect();
    assert_eq!(secrets, ["", "", "hunter2"]);
}

#[tokio::test]
async fn another_node_tells_the_service_of_the_end_of_a_dead_nodes_client() {
    let nats = NatsServer::start().await;
    let service = Service::start(echo).await;
    let config = format!(
        "nats: {{servers: ['{}']}}\nroutes:\n- {{path: /ws, auth: none, \
         events: [message, disconnected], backend: {{http: '{}'}}}}",
        nats.url(),
        service.url()
    );
    let (mut dies, lives) = (Node::start(&config), Node::start(&config));
    dies.reaches_nats().await;
    lives.reaches_nats().await;
    let mut client = Request::new("/ws").connect(dies.ws()).await.expect("accepted");
    assert_eq!(client.ask("hello").await, "hello");
    dies.signal("KILL");
    dies.ended();
    eventually("its end is told", async || (service.asked().len() == 2).then_some(())).await;
    let end = service.asked().remove(1);
    let id = service.asked()[0].header("ce-connectionid").to_owned();
    assert_eq!(end.header("ce-type"), "moorline.disconnected");
    assert_eq!(end.header("ce-id"), format!("{id}-end"));
    assert!(end.body.contains("node-lost"), "{}", end.body);
}

#[tokio::test]
async fn clients_do_not_reach_where_the_service_behind_them_takes_events() {
    let service = Service::start(echo).await;
    let node = Node::with_variable(
        ("BACKEND_SECRET", "hunter2"),
        &format!(
            "upstream: '{}'\nroutes:\n- {{path: /ws, auth: none, backend: {{http: '{}', \
             secret_file: 'env:BACKEND_SECRET'}}}}",
            service.url().trim_end_matches("/ws-events"),
            service.url()
        ),
    );
    let post = async |path: &str| {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nmoorline-secret: hunter2\r\n\
             ce-type: moorline.message\r\ncontent-length: 6\r\n\r\nforged"
        );
        exchange(node.ws(), request.as_bytes()).await.0
    };
    for path in ["/ws-events", "/ws-events/..", "/index.php/ws-events", "/a/..//WS%2Devents?x"] {
        assert_eq!(post(path).await, 404, "{path}");
    }
    assert_eq!(post("/other").await, 200);
    let asked = service.asked();
    assert_eq!((asked.len(), asked[0].header("ce-type")), (1, ""));
    assert_eq!(asked[0].header("moorline-secret"), "");
    let mut client = Request::new("/ws").connect(node.ws()).await.expect("accepted");
    assert_eq!(client.ask("hello").await, "hello");
    assert_eq!(service.asked()[1].header("moorline-secret"), "hunter2");
}
