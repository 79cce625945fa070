//! What a node answers to a push or a command, as JSON.

use serde::{Deserialize, Serialize};

use super::command::Done;
use crate::id::NodeId;

/// One node's answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) node: NodeId,
    /// How many nodes there are, as far as it knows.
    pub(super) nodes: Option<usize>,
    pub(super) result: Result<Done, Failure>,
}

/// Why a node has not obeyed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    /// A word from a closed set.
    pub(super) code: String,
    pub(super) message: String,
}

/// All that any answer has.
#[derive(Deserialize)]
struct Fields {
    node: NodeId,
    nodes: Option<usize>,
    deliveries: Option<usize>,
    error: Option<Failure>,
    #[serde(flatten)]
    done: Done,
}

impl Failure {
    /// Whether the one connection that was meant is not there.
    pub(super) fn is_gone(&self) -> bool {
        self.code == "gone"
    }
}

impl Answer {
    /// The answer to a push.
    pub(super) fn push_json(node: NodeId, deliveries: usize) -> String {
        format!("{{\"node\":\"{node}\",\"deliveries\":{deliveries}}}")
    }

    /// The answer to a command. What is too large is told without some of the connections.
    pub(super) fn into_json(mut self, most: usize) -> Vec<u8> {
        loop {
            let json = self.to_json();
            match &mut self.result {
                Ok(done) if json.len() > most && !done.info.is_empty() => {
                    done.info.truncate(done.info.len() / 2);
                }
                _ => return json,
            }
        }
    }

    /// Reads an answer; none when it is not one.
    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        let Fields { node, nodes, deliveries, error, mut done } =
            serde_json::from_slice(json).ok()?;
        done.connections = deliveries.unwrap_or(done.connections);
        Some(Self { node, nodes, result: error.map_or(Ok(done), Err) })
    }

    fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Obeyed<'a> {
            node: NodeId,
            nodes: Option<usize>,
            #[serde(flatten)]
            done: &'a Done,
        }
        #[derive(Serialize)]
        struct Failed<'a> {
            node: NodeId,
            error: &'a Failure,
        }
        let (node, nodes) = (self.node, self.nodes);
        let json = match &self.result {
            Ok(done) => serde_json::to_vec(&Obeyed { node, nodes, done }),
            Err(error) => serde_json::to_vec(&Failed { node, error }),
        };
        // Strings and numbers always are JSON.
        json.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Info;
    use crate::id::{ConnectionId, GroupName, UserId};

    fn done(connections: usize, infos: usize) -> Done {
        let info = Info {
            id: ConnectionId::random(NodeId::random()),
            user: Some(UserId::new("ann").unwrap()),
            groups: vec![GroupName::new("red").unwrap()],
            route: "/ws".into(),
            remote: "127.0.0.1:1".into(),
            subprotocol: None,
            since: 1,
            outbox_bytes: 2,
        };
        Done { connections, info: vec![info; infos], ..Done::default() }
    }

    #[test]
    fn what_is_written_is_what_the_contract_says_and_is_read_again() {
        let node = NodeId::random();
        let answer = Answer::push_json(node, 3);
        assert_eq!(answer, format!("{{\"node\":\"{node}\",\"deliveries\":3}}"));
        let read = Answer { node, nodes: None, result: Ok(done(3, 0)) };
        assert_eq!(Answer::parse(answer.as_bytes()), Some(read));

        let answer = || Answer { node, nodes: Some(3), result: Ok(done(1, 0)) };
        let json = answer().into_json(1024);
        let expected = format!(
            "{{\"node\":\"{node}\",\"nodes\":3,\"connections\":1,\"changed\":0,\"info\":[],\
             \"refused\":null}}"
        );
        assert_eq!(String::from_utf8_lossy(&json), expected);
        assert_eq!(Answer::parse(&json), Some(answer()));

        let failure = Failure { code: "gone".into(), message: "it is gone".into() };
        let answer = || Answer { node, nodes: None, result: Err(failure.clone()) };
        let json = answer().into_json(1024);
        let expected = format!(
            "{{\"node\":\"{node}\",\"error\":{{\"code\":\"gone\",\"message\":\"it is gone\"}}}}"
        );
        assert_eq!(String::from_utf8_lossy(&json), expected);
        assert_eq!(Answer::parse(&json), Some(answer()));
        for bad in ["", "{}", "[]", "{\"deliveries\":1}", "{\"node\":\"x\"}", "\u{0}"] {
            assert_eq!(Answer::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn an_answer_that_is_too_large_describes_fewer() {
        let node = NodeId::random();
        let answer = || Answer { node, nodes: None, result: Ok(done(1000, 1000)) };
        let json = answer().into_json(64 * 1024);
        assert!(json.len() <= 64 * 1024);
        let read = Answer::parse(&json).unwrap().result.unwrap();
        assert!(read.connections == 1000 && (1..1000).contains(&read.info.len()));
        assert!(!answer().into_json(0).is_empty());
    }
}
