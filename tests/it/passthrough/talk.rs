//! A client that speaks HTTP by hand, one request after the other on one stream.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{DEADLINE, Io};

/// One stream to a node.
pub(super) struct Talk {
    stream: Box<dyn Io>,
    /// Read and not used yet.
    rest: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Whether the body came to its end.
    pub(super) is_whole: bool,
}

impl Answer {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Talk {
    pub(super) async fn open(to: SocketAddr) -> Self {
        Self::over(TcpStream::connect(to).await.unwrap())
    }

    pub(super) fn over(stream: impl Io + 'static) -> Self {
        Self { stream: Box::new(stream), rest: Vec::new() }
    }

    pub(super) fn into_inner(self) -> Box<dyn Io> {
        assert!(self.rest.is_empty(), "{}", self.rest.escape_ascii());
        self.stream
    }

    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Sends as far as the node takes it.
    pub(super) async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// The next answer, to anything but HEAD.
    pub(super) async fn answer(&mut self) -> Answer {
        let mut answer = self.answer_to_head().await;
        let reading = self.body(&mut answer);
        timeout(2 * DEADLINE, reading).await.expect("a body in time");
        answer
    }

    /// The head of the next answer.
    pub(super) async fn answer_to_head(&mut self) -> Answer {
        let head = timeout(DEADLINE, self.until(b"\r\n\r\n")).await.expect("an answer in time");
        let head = String::from_utf8(head.expect("an answer")).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().strip_prefix("HTTP/1.1 ").expect("HTTP/1.1");
        let field = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_ascii_lowercase(), value.to_owned())
        };
        Answer {
            status: status.get(..3).unwrap().parse().unwrap(),
            fields: lines.map(field).collect(),
            body: Vec::new(),
            is_whole: true,
        }
    }

    /// Some more of a chunked body; none at its end.
    pub(super) async fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = self.until(b"\r\n").await?;
        let size = String::from_utf8(size).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut chunk = self.exactly(size + 2).await?;
        chunk.truncate(size);
        Some(chunk)
    }

    /// The stream ends, and nothing more comes.
    pub(super) async fn ended(mut self) {
        let mut rest = std::mem::take(&mut self.rest);
        let ended = timeout(DEADLINE, self.stream.read_to_end(&mut rest)).await;
        let _ = ended.expect("the end of the stream");
        assert!(rest.is_empty(), "{}", rest.escape_ascii());
    }

    async fn body(&mut self, answer: &mut Answer) {
        if answer.field("transfer-encoding").is_some() {
            loop {
                match self.chunk().await {
                    None => return answer.is_whole = false,
                    Some(chunk) if chunk.is_empty() => return,
                    Some(chunk) => answer.body.extend(chunk),
                }
            }
        }
        let Some(length) = answer.field("content-length") else { return };
        let length = length.parse().unwrap();
        match self.exactly(length).await {
            Some(body) => answer.body = body,
            None => {
                answer.body = std::mem::take(&mut self.rest);
                answer.is_whole = false;
            }
        }
    }

    /// All up to and with this; none when the stream ended before.
    async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.rest.windows(end.len()).position(|part| part == end) {
                return Some(self.rest.drain(..at + end.len()).collect());
            }
            self.more().await?;
        }
    }

    /// So many bytes more; none when the stream ends before.
    pub(super) async fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.rest.len() < length {
            self.more().await?;
        }
        Some(self.rest.drain(..length).collect())
    }

    async fn more(&mut self) -> Option<()> {
        let mut piece = [0; 16 * 1024];
        let read = self.stream.read(&mut piece).await.unwrap_or(0);
        self.rest.extend_from_slice(&piece[..read]);
        (read > 0).then_some(())
    }
}
