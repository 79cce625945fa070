//! The server SDKs of Azure Web PubSub, unmodified.

use std::process::Command;

use tokio_tungstenite::tungstenite::Message;

use super::{KEY, Stage};
use crate::harness::{Client, Tool, finish, have, node_program, python};

const USER: &str = "ann@example.com";
const GROUP: &str = "room 7/ü";

/// Whether a client got what was sent to all, then these, and was closed with this reason.
async fn saw(client: &mut Client, texts: &[&str], reason: &str) {
    let mut got = Vec::new();
    let closed = loop {
        match client.next().await {
            Ok(message) => got.push(message),
            Err(closed) => break closed,
        }
    };
    let (to_all, rest) = got.split_at(3);
    assert_eq!(to_all[0], Message::text("to all"));
    assert_eq!(to_all[1].to_text().unwrap().replace(' ', ""), r#"{"to":"all"}"#);
    assert_eq!(to_all[2], Message::binary(&b"\0\xff"[..]));
    let rest: Vec<&str> = rest.iter().map(|message| message.to_text().unwrap()).collect();
    assert_eq!(rest, texts);
    assert_eq!(closed, Some((1000, reason.to_owned())));
}

async fn works(mut sdk: Command) {
    let stage = Stage::new();
    let (mut ann, connection) = stage.client(USER).await;
    let (mut anns_other, _) = stage.client(USER).await;
    let (mut bob, other) = stage.client("bob").await;
    let endpoint = format!("http://{}", stage.node.management());
    sdk.arg(format!("Endpoint={endpoint};AccessKey={KEY};Version=1.0;"));
    sdk.args(["default", USER, GROUP, &connection, &other]);
    let (ok, text) = finish(sdk).await;
    assert!(ok, "{}", text.replace("\\n", "\n"));
    let texts = [
        "to the user",
        "to the connection",
        "to the group of one",
        "to the group",
        "to the group but one",
        "to all in the group",
    ];
    saw(&mut ann, &texts, "enough").await;
    let texts = [
        "to all but one",
        "to the user",
        "to the group",
        "to the group but one",
        "to all in the group",
    ];
    saw(&mut anns_other, &texts, "enough of you").await;
    let texts = ["to all but one", "to the group", "to all in the group", "still here"];
    saw(&mut bob, &texts, "enough of all").await;
}

#[tokio::test]
async fn the_sdk_for_javascript_works() {
    if have("the_sdk_for_javascript_works", &[Tool::Node]) {
        works(node_program("tests/clients/webpubsub.mjs")).await;
    }
}

#[tokio::test]
async fn the_sdk_for_python_works() {
    if have("the_sdk_for_python_works", &[Tool::Python]) {
        works(python("tests/clients/webpubsub.py")).await;
    }
}
