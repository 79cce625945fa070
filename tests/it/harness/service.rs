//! An HTTP service in this process, that a test can stop and start again on the same port.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{Node, Request, eventually, free_port};

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// The path and query.
    pub(crate) target: String,
    /// Names in lower case; values of a name that came twice are joined by `; `.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

/// What comes of a request.
pub(crate) enum Answer {
    /// Status line, header lines and body, after a while.
    Reply(&'static str, Vec<String>, Vec<u8>, Duration),
    /// No answer.
    Never,
}

impl Answer {
    /// With another status line.
    pub(crate) fn status(status: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self::Reply(status, Vec::new(), body.into(), Duration::ZERO)
    }

    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::Reply("200 OK", Vec::new(), body.into(), Duration::ZERO)
    }

    pub(crate) fn header(self, line: &str) -> Self {
        let Self::Reply(status, mut headers, body, delay) = self else { return self };
        headers.push(format!("{line}\r\n"));
        Self::Reply(status, headers, body, delay)
    }

    pub(crate) fn after(self, delay: Duration) -> Self {
        let Self::Reply(status, headers, body, _) = self else { return self };
        Self::Reply(status, headers, body, delay)
    }
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

type Answers = Arc<dyn Fn(&Asked) -> Answer + Send + Sync>;

pub(crate) struct Service {
    port: u16,
    answers: Answers,
    asked: Arc<Mutex<Vec<Asked>>>,
    running: Option<JoinSet<()>>,
}

impl Service {
    pub(crate) async fn start(answers: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let (answers, asked) = (Arc::new(answers), Arc::default());
        let mut service = Self { port: free_port(), answers, asked, running: None };
        service.resume().await;
        service
    }

    pub(crate) fn url(&self) -> String {
        format!("{}/ws-events", self.origin())
    }

    /// The same without a path.
    pub(crate) fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Waits until so many more requests have come.
    pub(crate) async fn is_asked(&self, more: usize) {
        let before = self.asked().len();
        eventually("more requests", async || (self.asked().len() >= before + more).then_some(()))
            .await;
    }

    /// Closes its port and every connection, in the middle of whatever is on it.
    pub(crate) async fn kill(&mut self) {
        self.running.take().unwrap().shutdown().await;
    }

    pub(crate) async fn resume(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let (answers, asked) = (Arc::clone(&self.answers), Arc::clone(&self.asked));
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&answers), Arc::clone(&asked)));
            }
        });
        self.running = Some(running);
    }
}

/// What a client hears of a message that failed, as a key of its route.
pub(crate) const FAILURE: &str = "on_failure: {message: '{outcome} {sequence}'}";

/// Gives each message back.
pub(crate) fn echo(asked: &Asked) -> Answer {
    match asked.header("ce-type") {
        "moorline.message" => Answer::ok(&*asked.body),
        _ => Answer::ok(""),
    }
}

/// Clients that each send so many messages one by one, and get each back, or hear that it failed: those.
pub(crate) fn talk(
    node: &Node,
    clients: usize,
    each: usize,
) -> impl Future<Output = Vec<(String, String)>> {
    let to = node.ws();
    let talks = (0..clients).map(move |client| {
        tokio::spawn(async move {
            let mut socket = Request::new("/ws").connect(to).await.expect("accepted");
            let mut failed = Vec::new();
            for n in 0..each {
                let text = format!("{client}/{n}");
                let said = socket.ask(&text).await;
                if said != text {
                    failed.push((text, said));
                }
            }
            failed
        })
    });
    let talks: Vec<_> = talks.collect();
    async move { join_all(talks).await.into_iter().flat_map(Result::unwrap).collect() }
}

async fn serve(stream: TcpStream, answers: Answers, asked: Arc<Mutex<Vec<Asked>>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap();
        let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = HashMap::<String, String>::new();
        for line in head.lines().skip(1).filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap();
            let known = headers.entry(name.to_lowercase()).or_default();
            *known = if known.is_empty() { value.to_owned() } else { format!("{known}; {value}") };
        }
        let mut body = vec![0; headers["content-length"].parse().unwrap()];
        stream.read_exact(&mut body).await.ok()?;
        let body = String::from_utf8_lossy(&body).into_owned();
        let request = Asked { target, headers, body };
        let answer = answers(&request);
        asked.lock().unwrap().push(request);
        match answer {
            Answer::Reply(status, headers, body, delay) => {
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                let (headers, length) = (headers.concat(), body.len());
                let head =
                    format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n");
                stream.write_all(&[head.as_bytes(), &body].concat()).await.ok()?;
            }
            // Ends when the other side closes.
            Answer::Never => return stream.read_u8().await.ok().map(drop),
        }
    }
}
