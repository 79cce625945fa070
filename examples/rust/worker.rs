//! A moorline worker in Rust: `cargo run --example worker [HUB]`. See ../README.md.
use async_nats::{Error, HeaderName, HeaderValue, Message};
use futures_util::StreamExt;
use tokio::signal::unix::{SignalKind, signal};

/// The reply to one event: the payload, and a header where there is one to say.
fn answer(event: &Message) -> (Vec<u8>, Option<(HeaderName, HeaderValue)>) {
    let header = |name: &str| event.headers.as_ref()?.get(name).map(HeaderValue::as_str);
    let data = &event.payload[..];
    let user = decoded(header("ce-userid").unwrap_or("guest"));
    let count = header("ce-state").and_then(|state| state.parse().ok()).unwrap_or(0u64) + 1;
    let say = |name, value: &str| Some((HeaderName::from_static(name), HeaderValue::from(value)));
    let state = say("moorline-state", &count.to_string());
    let is_binary = header("ce-datacontenttype") == Some("application/octet-stream");
    let text = [format!("{user} {count}: ").as_bytes(), &data.to_ascii_uppercase()].concat();
    match (header("ce-type").unwrap_or(""), data) {
        ("moorline.connect", _) => {
            let offer: serde_json::Value = serde_json::from_slice(data).unwrap_or_default();
            let query = offer.get("query").and_then(|query| query.as_str()).unwrap_or("");
            let is_denied = query.split('&').any(|pair| pair == "deny=1");
            let yes = serde_json::json!({ "state": "0", "user_id": user }).to_string().into();
            if is_denied { (b"denied".into(), say("moorline-status", "403")) } else { (yes, None) }
        }
        ("moorline.message", _) if is_binary => (data.iter().rev().copied().collect(), state),
        ("moorline.message", b"refuse") => (b"refused".into(), say("moorline-status", "422")),
        ("moorline.message", b"bye") => (b"BYE".into(), say("moorline-close", "4000 bye")),
        ("moorline.message", _) => (text, state),
        _ => (vec![], None),
    }
}

fn decoded(value: &str) -> String {
    let (first, escapes) = value.split_once('%').unwrap_or((value, ""));
    let mut bytes = first.as_bytes().to_vec();
    for (hex, rest) in escapes.split('%').filter_map(|escape| escape.split_at_checked(2)) {
        bytes.extend(u8::from_str_radix(hex, 16).into_iter().chain(rest.bytes()));
    }
    String::from_utf8_lossy(&bytes).into()
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let subject = format!("moorline.{}.in.*", std::env::args().nth(1).unwrap_or("default".into()));
    let url = std::env::var("NATS_URL").unwrap_or("nats://127.0.0.1:4222".into());
    let client = Box::pin(async_nats::connect(url)).await?;
    let mut events = client.queue_subscribe(subject.clone(), "workers".into()).await?;
    client.flush().await?;
    eprintln!("ready: {subject}");
    let mut stop = signal(SignalKind::terminate())?;
    while let Some(event) = tokio::select! { biased; // What has come is answered before leaving.
        event = events.next() => event,
        _ = stop.recv() => { events.drain().await?; events.next().await }
    } {
        let Some(reply) = event.reply.clone() else { continue };
        let (payload, header) = answer(&event);
        client.publish_with_headers(reply, header.into_iter().collect(), payload.into()).await?;
    }
    Ok(client.flush().await?)
}
