//! HTTP servers behind a node: one that behaves and remembers what it saw, and one that says the bytes
//! it is told to.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::harness::{Certificates, Io};

/// A request as a server sees it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) target: String,
    /// In the order of their names.
    pub(super) fields: Vec<(String, String)>,
}

impl Seen {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A server that behaves. `/status/<n>`, `/length/<n>` (that many bytes), `/say/<text>`, `/flood/<MiB>`, `/sink` (says
/// how much came), `/events` (server-sent events, as the test tells), everything else echoes.
pub(super) struct Upstream {
    url: String,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    /// Whether it is about to stop: it says so with each answer.
    is_stopping: AtomicBool,
    /// Its end, at which idle connections are closed.
    end: CancellationToken,
    events: Mutex<Option<mpsc::Sender<Bytes>>>,
}

type Events = StreamBody<BoxStream<'static, Result<Frame<Bytes>, hyper::Error>>>;
type Answer = Response<Either<Full<Bytes>, Either<Incoming, Events>>>;

impl Upstream {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        Self::serve(url, Listener::Tcp(listener))
    }

    pub(super) async fn tls(certificates: &Certificates, file: &str) -> Self {
        moorline::tls::install_provider();
        let pem = |name: String| certificates.path(&name);
        let chain = vec![CertificateDer::from_pem_file(pem(format!("{file}.pem"))).unwrap()];
        let key = PrivateKeyDer::from_pem_file(pem(format!("{file}-key.pem"))).unwrap();
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(chain, key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        Self::serve(url, Listener::Tls(listener, acceptor))
    }

    /// Takes the place of whoever listens on the socket.
    pub(super) async fn unix(path: &Path) -> Self {
        let next = path.with_extension("next");
        let listener = UnixListener::bind(&next).unwrap();
        std::fs::rename(&next, path).unwrap();
        let url = format!("unix:{}", path.display());
        Self::serve(url, Listener::Unix(listener))
    }

    fn serve(url: String, listener: Listener) -> Self {
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                if let Some(io) = listener.accept().await {
                    shared.connections.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(connection(io, Arc::clone(&shared)));
                }
            }
        });
        Self { url, state, task }
    }

    pub(super) fn url(&self) -> String {
        self.url.clone()
    }

    /// The request that came last.
    pub(super) fn last(&self) -> Seen {
        self.state.seen.lock().unwrap().last().cloned().expect("a request")
    }

    pub(super) fn all(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    pub(super) fn count(&self) -> usize {
        self.state.seen.lock().unwrap().len()
    }

    /// Connections so far.
    pub(super) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub(super) fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Sends an event to the reader of `/events`; whether there is one.
    pub(super) async fn event(&self, text: &str) -> bool {
        let events = self.state.events.lock().unwrap().clone();
        match events {
            Some(events) => events.send(Bytes::from(format!("data: {text}\n\n"))).await.is_ok(),
            None => false,
        }
    }

    /// Ends what the reader of `/events` reads.
    pub(super) fn end_events(&self) {
        *self.state.events.lock().unwrap() = None;
    }

    /// The end of a deploy: another server has its place already, and who is connected hears of it with
    /// the next answer.
    pub(super) fn retire(&self) {
        self.state.is_stopping.store(true, Ordering::SeqCst);
    }

    /// The same for one that closes what is idle at once.
    pub(super) fn retire_and_close(&self) {
        self.state.end.cancel();
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

enum Listener {
    Tcp(TcpListener),
    Tls(TcpListener, TlsAcceptor),
    Unix(UnixListener),
}

impl Listener {
    /// The next connection; none when it came to nothing.
    async fn accept(&self) -> Option<Box<dyn Io>> {
        Some(match self {
            Self::Tcp(listener) => {
                let (tcp, _) = listener.accept().await.unwrap();
                tcp.set_nodelay(true).unwrap();
                Box::new(tcp)
            }
            Self::Tls(listener, acceptor) => {
                let (tcp, _) = listener.accept().await.unwrap();
                Box::new(acceptor.accept(tcp).await.ok()?)
            }
            Self::Unix(listener) => Box::new(listener.accept().await.unwrap().0),
        })
    }
}

async fn connection(io: Box<dyn Io>, state: Arc<State>) {
    state.open.fetch_add(1, Ordering::SeqCst);
    let service = service_fn(|request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(answer(request, &state).await) }
    });
    let mut serving = pin!(http1::Builder::new().serve_connection(TokioIo::new(io), service));
    tokio::select! {
        _ = serving.as_mut() => {}
        () = state.end.cancelled() => {
            serving.as_mut().graceful_shutdown();
            let _ = serving.await;
        }
    }
    state.open.fetch_sub(1, Ordering::SeqCst);
}

async fn answer(request: Request<Incoming>, state: &State) -> Answer {
    let mut fields: Vec<_> = request
        .headers()
        .iter()
        .map(|(name, value)| {
            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect();
    fields.sort();
    state.seen.lock().unwrap().push(Seen {
        method: request.method().to_string(),
        target: request.uri().to_string(),
        fields,
    });
    let path = request.uri().path().to_owned();
    let (what, number) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
    let own = |bytes: Vec<u8>| Response::new(Either::Left(Full::new(Bytes::from(bytes))));
    let streamed = |stream: BoxStream<'static, _>| {
        Response::new(Either::Right(Either::Right(StreamBody::new(stream))))
    };
    let mut response = match (what, number.parse::<usize>()) {
        ("status", Ok(status)) => {
            let mut response = own(Vec::new());
            *response.status_mut() = http::StatusCode::from_u16(status as u16).unwrap();
            response
        }
        ("say", _) => own(number.as_bytes().to_vec()),
        ("length", Ok(length)) => own(vec![b'x'; length]),
        ("flood", Ok(mib)) => {
            let piece = Bytes::from(vec![b'x'; 64 * 1024]);
            let pieces = (0..mib * 16).map(move |_| Ok(Frame::data(piece.clone())));
            streamed(Box::pin(futures_util::stream::iter(pieces)))
        }
        ("sink", _) => {
            let mut body = request.into_body();
            let mut bytes = 0;
            while let Some(Ok(frame)) = body.frame().await {
                bytes += frame.data_ref().map_or(0, Bytes::len);
            }
            own(bytes.to_string().into_bytes())
        }
        ("events", _) => {
            let (sender, mut receiver) = mpsc::channel::<Bytes>(4);
            *state.events.lock().unwrap() = Some(sender);
            streamed(Box::pin(futures_util::stream::poll_fn(move |cx| {
                receiver.poll_recv(cx).map(|event| event.map(|event| Ok(Frame::data(event))))
            })))
        }
        _ => Response::new(Either::Right(Either::Left(request.into_body()))),
    };
    if state.is_stopping.load(Ordering::SeqCst) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// What a server does with each of its connections, once a request head is there.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// Says this and keeps the connection.
    Say(Vec<u8>),
    /// Says this and ends the connection.
    SayAndEnd(Vec<u8>),
    /// Says this once, and ends the connection at the next request.
    SayOnce(Vec<u8>),
    /// Says this, and from then on neither hears nor leaves.
    SayAndStall(Vec<u8>),
    /// Resets the connection.
    Reset,
}

impl Act {
    pub(super) fn say(text: &str) -> Self {
        Self::Say(text.as_bytes().to_vec())
    }

    pub(super) fn say_and_end(text: &str) -> Self {
        Self::SayAndEnd(text.as_bytes().to_vec())
    }
}

/// A server that says the bytes it is told to, and remembers all that it hears.
pub(super) struct Raw {
    pub(super) address: SocketAddr,
    act: Arc<Mutex<Act>>,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    task: JoinHandle<()>,
}

impl Raw {
    pub(super) async fn start(act: Act) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (act, heard) = (Arc::new(Mutex::new(act)), Arc::<Mutex<Vec<Vec<u8>>>>::default());
        let (acts, all) = (Arc::clone(&act), Arc::clone(&heard));
        let task = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let place = {
                    let mut all = all.lock().unwrap();
                    all.push(Vec::new());
                    all.len() - 1
                };
                tokio::spawn(perform(tcp, Arc::clone(&acts), Arc::clone(&all), place));
            }
        });
        Self { address, act, heard, task }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn set(&self, act: Act) {
        *self.act.lock().unwrap() = act;
    }

    /// All that was heard, by connection.
    pub(super) fn heard(&self) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        heard.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn perform(
    mut tcp: TcpStream,
    act: Arc<Mutex<Act>>,
    all: Arc<Mutex<Vec<Vec<u8>>>>,
    place: usize,
) {
    let mut piece = [0; 4096];
    let (mut head, mut has_said) = (Vec::new(), false);
    loop {
        let read = tcp.read(&mut piece).await.unwrap_or(0);
        if read == 0 {
            return;
        }
        all.lock().unwrap()[place].extend_from_slice(&piece[..read]);
        head.extend_from_slice(&piece[..read]);
        if !head.windows(4).any(|end| end == b"\r\n\r\n") {
            continue;
        }
        head.clear();
        let act = act.lock().unwrap().clone();
        let bytes = match &act {
            Act::SayOnce(_) if std::mem::replace(&mut has_said, true) => return,
            Act::Say(bytes)
            | Act::SayAndEnd(bytes)
            | Act::SayOnce(bytes)
            | Act::SayAndStall(bytes) => bytes,
            Act::Reset => {
                let _ = tcp.set_zero_linger();
                return;
            }
        };
        let _ = tcp.write_all(bytes).await;
        match act {
            Act::Say(_) | Act::SayOnce(_) => {}
            Act::SayAndStall(_) => std::future::pending().await,
            Act::SayAndEnd(_) | Act::Reset => return,
        }
    }
}
