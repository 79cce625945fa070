//! What JetStream says and hears: JSON of its API, headers of what it keeps. Pure.

use async_nats::HeaderMap;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::bucket::{Page, Record, Revision};
use crate::nats::Reply;

/// A write is only taken when the last one to its subject has this number.
pub(super) const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
/// What a write means when it is not a value.
pub(super) const OPERATION: &str = "KV-Operation";
/// How long a write is kept.
pub(super) const TTL: &str = "Nats-TTL";

/// JetStream's numbers for what we look at.
pub(super) const NO_STREAM: u64 = 10059;
pub(super) const NO_MESSAGE: u64 = 10037;
pub(super) const NAME_IN_USE: u64 = 10058;
const WRONG_LAST: [u64; 2] = [10071, 10164];
/// Not enabled on the servers, or not for the account. One that has no leader now is another matter.
const ABSENT: [u64; 2] = [10076, 10039];

/// What a bucket is.
#[derive(Debug, Deserialize)]
pub(super) struct Info {
    pub(super) config: Config,
    /// One that was made anew was made at another time.
    pub(super) created: String,
}

/// Some streams.
#[derive(Debug, Deserialize)]
pub(super) struct Names {
    pub(super) streams: Option<Vec<String>>,
}

/// One record, as JetStream's API gives it out.
#[derive(Debug, Deserialize)]
struct Stored {
    message: StoredMessage,
}

#[derive(Debug, Deserialize)]
struct StoredMessage {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
}

/// A bucket as we make it: only the last write to each key, on disk, read from any server.
pub(super) fn config(name: &str, replicas: usize) -> Config {
    Config {
        name: format!("KV_{name}"),
        description: Some("made by moorline".to_owned()),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: replicas,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        allow_message_ttl: true,
        max_bytes: -1,
        max_messages: -1,
        max_message_size: -1,
        max_consumers: -1,
        ..Config::default()
    }
}

/// Whether a bucket that is there does what is wanted of it.
pub(super) fn compare(wanted: &Config, found: &Config) -> Result<(), StoreError> {
    let differs = |what| Err(StoreError::Differs { bucket: found.name.clone(), what });
    if found.subjects != wanted.subjects {
        return differs("subjects");
    }
    if found.max_messages_per_subject != wanted.max_messages_per_subject {
        return differs("max_msgs_per_subject");
    }
    if !found.allow_direct {
        return differs("allow_direct");
    }
    if !found.allow_message_ttl {
        return differs("allow_msg_ttl");
    }
    if !found.max_age.is_zero() {
        return differs("max_age");
    }
    if (found.storage, found.num_replicas) != (wanted.storage, wanted.num_replicas) {
        let (stream, replicas, wanted) = (&*found.name, found.num_replicas, wanted.num_replicas);
        let storage = format!("{:?}", found.storage).to_lowercase();
        tracing::warn!(stream, storage, replicas, wanted, "stream differs from the config; kept");
    }
    Ok(())
}

pub(super) fn to_json(value: &impl Serialize) -> Bytes {
    // A config of plain fields has a JSON form.
    serde_json::to_vec(value).unwrap_or_default().into()
}

pub(super) fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(json).map_err(|_| StoreError::Answer("not the expected JSON"))
}

/// Refuses an answer that says that nothing was done.
pub(super) fn checked(json: &[u8]) -> Result<(), StoreError> {
    match parse::<Response<IgnoredAny>>(json)? {
        Response::Ok(_) => Ok(()),
        Response::Err { error } => {
            let code = error.error_code().0;
            let description = error.to_string();
            Err(match code {
                code if WRONG_LAST.contains(&code) => StoreError::Conflict,
                code if ABSENT.contains(&code) => StoreError::NoJetStream(description),
                code => StoreError::Refused { code, description },
            })
        }
    }
}

/// The number of a write that was taken.
pub(super) fn acknowledged(json: &[u8]) -> Result<Revision, StoreError> {
    checked(json)?;
    parse::<PublishAck>(json).map(|ack| Revision(ack.sequence))
}

/// A record that the leader gave out; `prefix` stands before its key.
pub(super) fn stored(json: &[u8], prefix: &str) -> Result<Record, StoreError> {
    let message = parse::<Stored>(json)?.message;
    let decode = |text: &str| {
        STANDARD.decode(text).map_err(|_| StoreError::Answer("a record is not in base64"))
    };
    let headers = decode(&message.hdrs)?;
    let is_forgotten = String::from_utf8_lossy(&headers)
        .lines()
        .any(|line| line.split_once(':').is_some_and(|(name, _)| name == OPERATION));
    let value = decode(&message.data)?;
    Ok(Record {
        key: message.subject.strip_prefix(prefix).unwrap_or_default().to_owned(),
        value: (!is_forgotten).then(|| value.into()),
        revision: Revision(message.seq),
    })
}

/// Whether a message is the last of the answers to a request for many.
pub(super) fn is_last(answer: &Reply) -> bool {
    // 204 after the last record, 404 when there is none, 408 for a request it does not understand.
    answer.status.is_some()
}

/// The records that were answered to a request for many.
pub(super) fn page(answers: Vec<Reply>, prefix: &str) -> Result<Page, StoreError> {
    let mut page = Page::default();
    for Reply { status, headers, payload } in answers {
        let number = |name| header(&headers, name).and_then(|text| text.parse::<u64>().ok());
        match status {
            None => {
                let revision = number("Nats-Sequence").map(Revision);
                let revision = revision.ok_or(StoreError::Answer("a record has no number"))?;
                let subject = header(&headers, "Nats-Subject").unwrap_or_default();
                let is_forgotten = headers.get(OPERATION).is_some();
                page.has_more = number("Nats-Num-Pending").unwrap_or_default() > 0;
                page.records.push(Record {
                    key: subject.strip_prefix(prefix).unwrap_or_default().to_owned(),
                    value: (!is_forgotten).then_some(payload),
                    revision,
                });
            }
            Some(204) | Some(404) => {}
            Some(code) => {
                let description = "the request for many records".to_owned();
                return Err(StoreError::Refused { code: code.into(), description });
            }
        }
    }
    Ok(page)
}

fn header<'a>(headers: &'a HeaderMap, name: &'static str) -> Option<&'a str> {
    headers.get(name).map(async_nats::HeaderValue::as_str)
}
