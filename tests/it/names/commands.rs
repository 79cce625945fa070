//! Names in commands, and in the subjects of commands.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{Stage, let_in};
use crate::harness::{eventually, is_name, token};

/// Names whose token is longer do not fit the line that begins a message, so the server ends the
/// connection of whoever sends them.
const SUBJECT_MAX: usize = 1000;
/// Of the users whose tokens were revoked, every how many is tried at the door.
const TRIED: usize = 50;

/// What a command for one name comes to: how many connections it meant and how many it changed.
fn done(answer: &Value) -> Option<(u64, u64)> {
    let is_done = answer["error"].is_null() && answer["refused"].is_null();
    is_done.then(|| (answer["connections"].as_u64().unwrap(), answer["changed"].as_u64().unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_names_in_commands_are_names_or_refused() {
    let stage = Stage::new().await;
    // Its connection may be cut.
    let rough = stage.nats.client().await;
    join_all(stage.parts().map(async |(id, names)| {
        for name in names {
            each(&stage, &id, name).await;
            for target in [name.clone(), token(name)] {
                for kind in ["user", "group"] {
                    let subject = format!("moorline.default.ctl.{kind}.{target}");
                    let _ = rough.publish(subject, r#"{"command":"count"}"#.into()).await;
                }
            }
        }
    }))
    .await;
    eventually("what is no name was refused", async || {
        let reason = ["reason=\"bad-request\""];
        (stage.node.metric("moorline_commands_refused_total", &reason).await > 10_000.0)
            .then_some(())
    })
    .await;
    for name in stage.names.iter().filter(|name| is_name(name)).step_by(TRIED) {
        assert_eq!(let_in(&stage.node, name).await.err(), Some(401), "{name:?}");
    }
    stage.found_unharmed().await;
}

/// Every command that carries the name or is addressed by it.
async fn each(stage: &Stage, id: &str, name: &str) {
    let (is_good, token) = (is_name(name), token(name));
    let (conn, group, user) =
        (format!("conn.{id}"), format!("group.{token}"), format!("user.{token}"));
    // Good names come to this, and all others are refused.
    let meant = async |target: &str, command: Value, good: (u64, u64)| {
        let answer = stage.command(target, &command).await;
        assert_eq!(done(&answer), is_good.then_some(good), "{command}: {answer}");
        assert!(is_good || answer["error"]["code"] == "bad-request", "{command}: {answer}");
    };
    meant(&conn, json!({"command": "join", "groups": [name]}), (1, 1)).await;
    if token.len() <= SUBJECT_MAX {
        meant(&group, json!({"command": "count"}), (1, 0)).await;
        meant(&user, json!({"command": "count"}), (0, 0)).await;
        meant(&user, json!({"command": "revoke"}), (0, 0)).await;
        meant(&group, json!({"command": "leave", "groups": ["another"]}), (1, 0)).await;
    }
    meant(&conn, json!({"command": "leave", "groups": [name]}), (1, 1)).await;
    meant(&conn, json!({"command": "refresh", "user": name, "expires": 1}), (1, 0)).await;
    // No name is that of a connection, and the id of a token may be any text.
    let exclude = json!({"command": "close", "exclude": [name]});
    let answer = stage.command(&conn, &exclude).await;
    assert_eq!(answer["error"]["code"], "bad-request", "{name:?}: {answer}");
    let answer = stage.command("all", &json!({"command": "revoke", "jti": name})).await;
    assert_eq!(done(&answer), Some((0, 0)), "{name:?}: {answer}");
}
