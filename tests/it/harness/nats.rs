//! A nats-server process, and workers in this process.

use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message};
use bytes::Bytes;
use futures_util::StreamExt;
use tempfile::{NamedTempFile, TempDir};
use tokio::task::JoinHandle;

use super::node::signal;
use super::{Tool, eventually, root, tool};

/// A nats-server that the test can kill and start again on the same port.
pub(crate) struct NatsServer {
    child: Option<Child>,
    port: u16,
    arguments: Vec<String>,
    folder: TempDir,
}

impl NatsServer {
    pub(crate) async fn start() -> Self {
        Self::with_config("").await
    }

    /// Starts a server with more config of its own.
    pub(crate) async fn with_config(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let streams = folder.path().join("streams");
        let jetstream = format!("jetstream {{store_dir: {streams:?}}}\n");
        Self::run(folder, &(jetstream + config)).await
    }

    /// Starts a server with the users of the contract, all with one password; and the file that has it.
    pub(crate) async fn with_users_of_the_contract(password: &str) -> (Self, NamedTempFile) {
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), password).unwrap();
        let contract = std::fs::read_to_string(root().join("examples/CONTRACT.md")).unwrap();
        let (_, block) = contract.split_once("```text\nauthorization {").unwrap();
        let (users, _) = block.split_once("```").unwrap();
        let word = |word: &str| match word.starts_with('$') && word.ends_with("_PASSWORD,") {
            true => format!("{password},"),
            false => word.to_owned(),
        };
        let users: Vec<_> = users.split(' ').map(word).collect();
        (Self::with_config(&format!("authorization {{{}", users.join(" "))).await, file)
    }

    /// Starts a server that has no JetStream.
    pub(crate) async fn without_jetstream() -> Self {
        Self::run(tempfile::tempdir().unwrap(), "").await
    }

    async fn run(folder: TempDir, config: &str) -> Self {
        let path = folder.path().join("nats.conf");
        std::fs::write(&path, config).unwrap();
        let port = super::free_port();
        let arguments = vec![
            "-a".into(),
            "127.0.0.1".into(),
            "-p".into(),
            port.to_string(),
            "-c".into(),
            path.display().to_string(),
        ];
        let mut server = Self { child: None, port, arguments, folder };
        server.resume().await;
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts the server again after a kill.
    pub(crate) async fn resume(&mut self) {
        let mut command = Command::new(tool(Tool::NatsServer));
        command.args(&self.arguments).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        let port = self.port;
        eventually("nats-server listening", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok().map(drop)
        })
        .await;
    }

    /// Stops or continues the process.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.as_ref().expect("a running nats-server").id(), name);
    }

    /// Has the running server read its config again, with `from` in it replaced by `to`.
    pub(crate) fn change(&self, from: &str, to: &str) {
        let path = self.folder.path().join("nats.conf");
        let config = std::fs::read_to_string(&path).unwrap();
        assert!(config.contains(from), "{config}");
        std::fs::write(&path, config.replace(from, to)).unwrap();
        self.signal("HUP");
    }

    /// A client of the test's own.
    pub(crate) async fn client(&self) -> Client {
        async_nats::ConnectOptions::new()
            .retry_on_initial_connect()
            .reconnect_delay_callback(|_| Duration::from_millis(50))
            .connect(self.url())
            .await
            .unwrap()
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A worker in the queue group `workers`, and what it was asked.
pub(crate) struct Worker {
    task: JoinHandle<()>,
    requests: Arc<Mutex<Vec<Message>>>,
}

/// What a worker answers, and when.
pub(crate) struct Answer {
    headers: HeaderMap,
    payload: Bytes,
    delay: Option<Duration>,
}

impl Answer {
    pub(crate) fn payload(payload: impl Into<Bytes>) -> Self {
        Self { headers: HeaderMap::new(), payload: payload.into(), delay: Some(Duration::ZERO) }
    }

    /// No answer at all, as from a worker that died.
    pub(crate) fn never() -> Self {
        Self { delay: None, ..Self::payload("") }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.append(name, value);
        self
    }

    pub(crate) fn after(self, delay: Duration) -> Self {
        Self { delay: Some(delay), ..self }
    }
}

impl Worker {
    /// A worker on `subject`. Its requests are answered one by one, as a simple worker does.
    pub(crate) async fn start(
        nats: &NatsServer,
        subject: &str,
        answer: impl Fn(&Message) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let client = nats.client().await;
        let subject = subject.to_owned();
        let mut asked = client.queue_subscribe(subject, "workers".to_owned()).await.unwrap();
        client.flush().await.unwrap();
        // A round trip: the server has the subscription before a test goes on.
        let _ = client.request("harness.nobody", Bytes::new()).await;
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            while let Some(message) = asked.next().await {
                let answer = answer(&message);
                let reply = message.reply.clone();
                seen.lock().unwrap().push(message);
                let (Some(delay), Some(reply)) = (answer.delay, reply) else { continue };
                tokio::time::sleep(delay).await;
                let (headers, payload) = (answer.headers, answer.payload);
                client.publish_with_headers(reply, headers, payload).await.unwrap();
            }
        });
        Self { task, requests }
    }

    /// A worker that sends every message back.
    pub(crate) async fn echo(nats: &NatsServer, subject: &str) -> Self {
        Self::start(nats, subject, |message| Answer::payload(message.payload.clone())).await
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<Message> {
        self.requests.lock().unwrap().clone()
    }

    /// The payloads of the requests so far, as text.
    pub(crate) fn texts(&self) -> Vec<String> {
        let text = |m: &Message| String::from_utf8_lossy(&m.payload).into_owned();
        self.requests.lock().unwrap().iter().map(text).collect()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A request's header.
pub(crate) fn header(message: &Message, name: &str) -> Option<String> {
    message.headers.as_ref()?.get(name).map(|value| value.as_str().to_owned())
}
