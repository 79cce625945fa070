//! Another config under a running node: what is taken over, what is refused, and that nobody who is
//! connected notices.

use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use serde_json::Map;
use tokio::io::AsyncWriteExt;

use crate::harness::{
    Certificates, Client, DEADLINE, Node, Request, connect_tls, eventually, free_port, replace,
};

const ECHO: &str = "routes:\n- {path: /ws, auth: none, backend: {echo: true}}\n";

/// How often a config was taken over or refused.
async fn reloads(node: &Node, result: &str) -> f64 {
    node.metric("moorline_config_reloads_total", &[&format!("result=\"{result}\"")]).await
}

/// Sends SIGHUP and waits until it had the result.
async fn reload(node: &Node, result: &str) {
    let before = reloads(node, result).await;
    node.signal("HUP");
    // The watch over the file may have come first, with the same result.
    eventually(&format!("another {result}"), async || {
        (reloads(node, result).await > before).then_some(())
    })
    .await;
}

async fn status(node: &Node, path: &str) -> u16 {
    match Request::new(path).connect(node.ws()).await {
        Ok(client) => {
            client.close().await;
            101
        }
        Err((status, _)) => status,
    }
}

#[tokio::test]
async fn routes_come_go_and_change_and_an_open_connection_keeps_its_own() {
    let node = Node::start(ECHO);
    let mut open = Client::connect(node.ws()).await;
    let small = "- {path: /ws, auth: none, max_message: 10, backend: {echo: true}}\n";
    node.rewrite(|text| {
        let (before, _) = text.split_once("- {path").unwrap();
        format!(
            "{before}{small}- {{path: '/more/{{room}}', auth: none, backend: {{echo: true}}}}\n"
        )
    });
    reload(&node, "ok").await;
    let line = node.wait_for("config reloaded; all files were read again", |_| true);
    assert_eq!((line["changed"].as_str(), line["routes"].as_u64()), (Some("routes"), Some(2)));
    assert_eq!(open.ask("longer than ten bytes").await, "longer than ten bytes");
    assert_eq!(status(&node, "/more/7").await, 101);
    let mut new = Client::connect(node.ws()).await;
    new.send("longer than ten bytes").await;
    assert_eq!(new.closed().await, Some((1009, "too-big".to_owned())));

    node.rewrite(|text| text.replace(small, ""));
    reload(&node, "ok").await;
    assert_eq!(status(&node, "/ws").await, 404);
    assert_eq!(open.ask("its route is gone").await, "its route is gone");
    open.close().await;
    assert_eq!(node.metric("moorline_panics_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_changed_file_is_taken_over_and_a_touched_one_is_not() {
    let node = Node::start(ECHO);
    let mut open = Client::connect(node.ws()).await;
    node.rewrite(|text| format!("# nothing but a remark\n{text}"));
    node.rewrite(|text| text.replace("/ws", "/other"));
    eventually("the new route", async || (status(&node, "/other").await == 101).then_some(()))
        .await;
    assert_eq!(status(&node, "/ws").await, 404);
    assert_eq!(open.ask("still here").await, "still here");
    assert_eq!((reloads(&node, "ok").await, reloads(&node, "failed").await), (1.0, 0.0));

    node.rewrite(|text| format!("{text}routs: []\n"));
    let refused = node.wait_for("config not reloaded; the old one stays", |_| true);
    let said = refused["error"].as_str().unwrap();
    assert!(said.contains("routs: unknown key; did you mean `routes`?"), "{said}");
    node.rewrite(|text| text.replace("routs: []\n", "# mended\n"));
    node.wait_for("the config file is again as the config in force", |_| true);
    assert_eq!((reloads(&node, "ok").await, reloads(&node, "failed").await), (1.0, 1.0));
    assert_eq!(status(&node, "/other").await, 101);
}

/// Kubernetes mounts a config map as a link to a link to a folder, and swaps the second.
#[tokio::test]
async fn a_swapped_link_is_followed() {
    let node = Node::start(ECHO);
    let path = node.folder().join("moorline.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let mount = |version: &str, text: &str| {
        let folder = node.folder().join(version);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("moorline.yaml"), text).unwrap();
        let next = node.folder().join("..next");
        std::os::unix::fs::symlink(version, &next).unwrap();
        std::fs::rename(next, node.folder().join("..data")).unwrap();
    };
    mount("..1", &text);
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(Path::new("..data/moorline.yaml"), &path).unwrap();
    mount("..2", &text.replace("/ws", "/second"));
    eventually("the second", async || (status(&node, "/second").await == 101).then_some(())).await;
    mount("..3", &text.replace("/ws", "/third"));
    eventually("the third", async || (status(&node, "/third").await == 101).then_some(())).await;
}

#[tokio::test]
async fn limits_heartbeat_and_log_level_change() {
    let node = Node::with_log("info", ECHO);
    let mut first = Client::connect(node.ws()).await;
    assert!(node.lines("connection accepted").is_empty(), "a debug line");
    node.rewrite(|text| {
        let text = text.replace("level: 'info'", "level: 'debug'");
        format!(
            "{text}limits: {{max_connections: 1}}\n\
             heartbeat: {{ping_interval: 1s, pong_timeout: 1s}}\n"
        )
    });
    reload(&node, "ok").await;
    assert_eq!(status(&node, "/ws").await, 503, "one is there already, and stays");
    assert_eq!(first.ask("still here").await, "still here");
    first.close().await;
    let mut mute =
        eventually("a place", async || Request::new("/ws").connect(node.ws()).await.ok()).await;
    node.wait_for("connection accepted", |line| line["level"] == "DEBUG");
    node.wait_for("connection ended", |line| line["cause"] == "pong-timeout");
    assert_eq!(mute.closed().await, Some((4408, "pong-timeout".to_owned())));
    node.rewrite(|text| {
        text.replace("level: 'debug'", "level: 'off'")
            .replace("max_connections: 1", "max_connections: 9")
    });
    reload(&node, "ok").await;
    let lines = node.whole_log().lines().count();
    let several = (Client::connect(node.ws()).await, Client::connect(node.ws()).await);
    drop(several);
    node.metric_becomes("moorline_connections", &[], 0.0).await;
    assert!(node.whole_log().lines().count() <= lines + 1, "{}", node.whole_log());
}

#[tokio::test]
async fn keys_change_in_place_and_by_the_config() {
    let folder = tempfile::tempdir().unwrap();
    let secret = |name: &str, byte: u8| {
        let path = folder.path().join(name);
        std::fs::write(&path, [byte; 32]).unwrap();
        path.display().to_string()
    };
    let (a, b) = (secret("a", 1), secret("b", 2));
    let token = |byte: u8| {
        let claims = serde_json::json!({"sub": "alice", "exp": 4_000_000_000_u64});
        let claims: Map<_, _> = claims.as_object().unwrap().clone();
        let algorithm = moorline::config::JwtAlgorithm::HS256;
        moorline::auth::mint(algorithm, &[byte; 32], None, &claims).unwrap()
    };
    let node = Node::start(&format!(
        "jwt: {{keys: [{{algorithms: [HS256], secret: '{a}'}}]}}\n\
         routes:\n- {{path: /ws, auth: jwt, backend: {{echo: true}}}}\n"
    ));
    let is_let_in =
        async |byte: u8| Request::new("/ws").bearer(&token(byte)).connect(node.ws()).await.is_ok();
    assert!(is_let_in(1).await && !is_let_in(2).await);
    node.rewrite(|text| text.replace(&a, &b));
    reload(&node, "ok").await;
    assert!(!is_let_in(1).await && is_let_in(2).await);
    secret("b", 3);
    reload(&node, "ok").await;
    assert!(!is_let_in(2).await && is_let_in(3).await, "the file behind the same name");
    std::fs::write(&b, "too short").unwrap();
    reload(&node, "failed").await;
    node.rewrite(|text| text.replace(&b, "/nowhere/secret"));
    reload(&node, "failed").await;
    node.wait_for("config not reloaded; the old one stays", |line| {
        line["error"].as_str().unwrap().contains("jwt.keys[0].secret")
    });
    assert!(is_let_in(3).await);
    // Kubernetes mounts configs and secrets each in its own time.
    let c = folder.path().join("c").display().to_string();
    node.rewrite(|text| text.replace("/nowhere/secret", &c));
    reload(&node, "failed").await;
    secret("c", 4);
    eventually("the key that came later", async || is_let_in(4).await.then_some(())).await;
    assert!(!is_let_in(3).await);
}

#[tokio::test]
async fn what_needs_a_restart_is_refused_by_name_with_all_else() {
    let node = Node::start(ECHO);
    let path = node.folder().join("moorline.yaml");
    let good = std::fs::read_to_string(&path).unwrap();
    let with_route = format!("{good}- {{path: /more, auth: none, backend: {{echo: true}}}}\n");
    for (changed, key) in [
        (with_route.replace("admin: {address: '127.0.0.1:0'}", ""), "listeners.admin"),
        (
            with_route
                .replace("plain: {address: '127.0.0.1:0'}", "plain: {address: '127.0.0.2:0'}"),
            "listeners.plain.address",
        ),
        (with_route.replace("  admin", "  console: true\n  admin"), "listeners.console"),
        (format!("nats: {{servers: ['nats://127.0.0.1:1']}}\n{with_route}"), "nats"),
        (with_route.replace("log: {", "log: {format: human, "), "log.format"),
    ] {
        replace(&path, &changed);
        reload(&node, "failed").await;
        let said = format!("{key}: it cannot change while the node runs; restart the node");
        node.wait_for("config not reloaded; the old one stays", |line| line["error"] == *said);
        assert_eq!(status(&node, "/more").await, 404, "nothing of it is in force: {key}");
    }
    assert_eq!(status(&node, "/ws").await, 101);
    replace(&path, &with_route);
    reload(&node, "ok").await;
    assert_eq!(status(&node, "/more").await, 101);
}

#[tokio::test]
async fn variables_stay_over_the_file() {
    let variable = ("MOORLINE_ROUTES__0__PATH", "/by-variable");
    let node = Node::with_variable(variable, ECHO);
    assert_eq!((status(&node, "/by-variable").await, status(&node, "/ws").await), (101, 404));
    node.rewrite(|text| format!("{text}- {{path: /more, auth: none, backend: {{echo: true}}}}\n"));
    reload(&node, "ok").await;
    for (path, expected) in [("/by-variable", 101), ("/more", 101), ("/ws", 404)] {
        assert_eq!(status(&node, path).await, expected, "{path}");
    }
}

#[tokio::test]
async fn without_a_config_file_the_files_it_would_name_are_read_again() {
    let node = Node::dev(&[]);
    let mut open = Client::connect(node.ws()).await;
    std::fs::write(node.folder().join("moorline/dev/secret"), "short").unwrap();
    reload(&node, "failed").await;
    std::fs::write(node.folder().join("moorline/dev/secret"), [7; 32]).unwrap();
    reload(&node, "ok").await;
    assert_eq!(open.ask("still here").await, "still here");
}

/// A key set that cannot be had would turn everybody away.
#[tokio::test]
async fn a_new_key_set_must_bring_its_keys() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, [1; 32]).unwrap();
    let key = format!("{{algorithms: [HS256], secret: '{}'}}", secret.display());
    let node = Node::start(&format!("jwt: {{keys: [{key}]}}\n{ECHO}"));
    let closed = free_port();
    node.rewrite(|text| {
        let set = format!("], jwks: {{location: 'http://127.0.0.1:{closed}/keys', timeout: 1s}}}}");
        text.replace(&format!("{key}]}}"), &format!("{key}{set}"))
    });
    reload(&node, "failed").await;
    node.wait_for("config not reloaded; the old one stays", |line| {
        line["error"].as_str().unwrap().starts_with("jwt.jwks: no keys came from the new location")
    });
}

/// As on a network file system that is away: a pipe is read until its writer ends it.
#[tokio::test]
async fn a_disk_that_hangs_holds_up_neither_clients_nor_the_stop() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, [1; 32]).unwrap();
    let key = format!("{{algorithms: [HS256], secret: '{}'}}", secret.display());
    let mut node = Node::start(&format!("jwt: {{keys: [{key}]}}\n{ECHO}"));
    let mut open = Client::connect(node.ws()).await;
    std::fs::remove_file(&secret).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&secret).status().unwrap();
    assert!(made.success());
    let being_read = async || {
        node.signal("HUP");
        let writer = tokio::fs::File::create(&secret);
        let writer = tokio::time::timeout(DEADLINE, writer).await;
        writer.expect("a reader in time").unwrap()
    };
    let mut writer = being_read().await;
    assert_eq!(open.ask("meanwhile").await, "meanwhile");
    assert_eq!((reloads(&node, "ok").await, reloads(&node, "failed").await), (0.0, 0.0));
    writer.write_all(&[2; 32]).await.unwrap();
    writer.flush().await.unwrap();
    drop(writer);
    node.metric_becomes("moorline_config_reloads_total", &["result=\"ok\""], 1.0).await;
    let _writer = being_read().await;
    node.signal("TERM");
    assert_eq!(open.closed().await, Some((1012, "drain".to_owned())));
    assert!(node.ended().success());
}

/// Whatever is written over the config, the node serves by the last one that could be taken over.
#[tokio::test]
async fn two_hundred_mutated_configs_never_take_the_node_down() {
    let node = Node::start(&format!(
        "limits: {{max_connections: 100, head_timeout: 5s}}\nheartbeat: {{ping_interval: 20s}}\n\
         {ECHO}- {{path: '/rooms/{{room}}', auth: none, backend: {{echo: true}}, in_flight: 4}}\n"
    ));
    let path = node.folder().join("moorline.yaml");
    let good = std::fs::read_to_string(&path).unwrap();
    let mut open = Client::connect(node.ws()).await;
    let mut random = StdRng::seed_from_u64(11);
    let (mut taken, mut refused) = (0, 0);
    for round in 0..200 {
        let bytes = mutated(good.as_bytes(), &mut random);
        std::fs::write(&path, &bytes).unwrap();
        let (ok, failed) = (reloads(&node, "ok").await, reloads(&node, "failed").await);
        node.signal("HUP");
        let is_taken = eventually("the answer", async || {
            let is_ok = reloads(&node, "ok").await > ok;
            (is_ok || reloads(&node, "failed").await > failed).then_some(is_ok)
        })
        .await;
        taken += usize::from(is_taken);
        refused += usize::from(!is_taken);
        if round % 20 == 0 {
            let text = format!("after {round}");
            assert_eq!(open.ask(&text).await, text);
        }
        // Under a config that was taken, a handshake has an answer: 101, or a status that says why not.
        let answer = status(&node, "/ws").await;
        assert!(matches!(answer, 101 | 400..=599), "{answer}");
        if is_taken {
            replace(&path, &good);
            reload(&node, "ok").await;
        }
        assert_eq!(status(&node, "/ws").await, 101, "by the last good config");
    }
    assert_eq!(open.ask("the end").await, "the end");
    assert_eq!(node.metric("moorline_panics_total", &[]).await, 0.0);
    assert!(!node.whole_log().contains("panicked"));
    assert!(taken > 5 && refused > 50, "{taken} taken, {refused} refused");
}

/// `text` with one mistake, or none that matters.
fn mutated(text: &[u8], random: &mut impl Rng) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> =
        text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let (one, other) = (random.random_range(0..lines.len()), random.random_range(0..lines.len()));
    match random.random_range(0..7) {
        0 => {
            let mut bytes = text.to_vec();
            let at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
            return bytes;
        }
        1 => return text[..random.random_range(0..text.len())].to_vec(),
        2 => drop(lines.remove(one)),
        3 => lines.insert(one, lines[other].clone()),
        4 => lines.swap(one, other),
        5 => {
            let mut line = String::from_utf8_lossy(&lines[one]).into_owned();
            if let Some(at) = line.find(|c: char| c.is_ascii_digit()) {
                line.insert_str(at, "99999999999999999999");
            }
            lines[one] = line.into_bytes();
        }
        _ => {
            let line = String::from_utf8_lossy(&lines[one]).into_owned();
            let words = ["true", "[]", "{}", "~", "-1", "'", "\"", "&a *a", "!!binary", "\u{feff}"];
            let word = words[random.random_range(0..words.len())];
            lines[one] = match line.split_once(": ") {
                Some((key, _)) => format!("{key}: {word}\n").into_bytes(),
                None => word.as_bytes().to_vec(),
            };
        }
    }
    lines.concat()
}

/// While clients come all the time, certificates change under them a hundred times, and every third time
/// to something that cannot be served.
#[tokio::test]
async fn a_hundred_rotations_under_handshakes_fail_none() {
    let certificates = Certificates::new();
    certificates.issue("server", "localhost");
    // Only SIGHUP looks at the files, so that each look is counted.
    let listener = certificates.listener("server", ", reload_interval: 1h");
    let unlimited = "limits: {handshakes_per_ip: {per_second: 0}}";
    let node = Node::with_listeners(&listener, &format!("{unlimited}\n{ECHO}"));
    let address = node.wss();
    let config = certificates.client(None);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (config, stopped) = (config.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut ticks = tokio::time::interval(Duration::from_millis(20));
                let mut done = 0_u32;
                while !*stopped.borrow() {
                    ticks.tick().await;
                    let tls = connect_tls(address, "localhost", config.clone());
                    let tls = tokio::time::timeout(DEADLINE, tls).await.expect("an end in time");
                    let client =
                        Request::new("/ws").over(Box::new(tls.expect("a handshake"))).await;
                    client.expect("a connection").vanish();
                    done += 1;
                }
                done
            })
        })
        .collect();
    let start = std::time::Instant::now();
    let (certificate, key) = (certificates.path("server.pem"), certificates.path("server-key.pem"));
    let mut failures = 0.0;
    for round in 0..100 {
        let bad = round % 3 == 2;
        if bad {
            let (good, good_key) =
                (std::fs::read(&certificate).unwrap(), std::fs::read(&key).unwrap());
            match round / 3 % 3 {
                0 => drop(certificates.issue_until("server", "localhost", 2021)),
                1 => std::fs::write(&certificate, &good[..good.len() / 2]).unwrap(),
                _ => {
                    let (_, other) = certificates.issue("other", "localhost");
                    std::fs::rename(other, &key).unwrap();
                }
            }
            reload(&node, "failed").await;
            failures += 1.0;
            std::fs::write(&certificate, good).unwrap();
            std::fs::write(&key, good_key).unwrap();
        } else {
            certificates.issue("server", "localhost");
            reload(&node, "ok").await;
        }
    }
    stop.send(true).unwrap();
    let mut handshakes = 0;
    for task in load {
        handshakes += task.await.expect("no handshake failed");
    }
    let rate = f64::from(handshakes) / start.elapsed().as_secs_f64();
    eprintln!("{handshakes} handshakes during 100 rotations, {rate:.0} a second");
    assert!(handshakes >= 100, "{handshakes}");
    assert_eq!(reloads(&node, "failed").await, failures);
    assert_eq!(node.metric("moorline_tls_handshakes_total", &["result=\"failed\""]).await, 0.0);
}
