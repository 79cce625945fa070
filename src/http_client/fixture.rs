//! A server for tests that answers as badly as it is told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::Client;
use crate::task::Tasks;

/// What every request is answered with.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// These bytes, then the end of the connection.
    Raw(Vec<u8>),
    /// Nothing, and the connection stays open.
    Silence,
    /// A body without an end.
    Endless,
}

/// A server on a port of its own; ends when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// The certificate, when it speaks TLS.
    pub(crate) certificate: Option<rustls::pki_types::CertificateDer<'static>>,
    state: Arc<State>,
    tasks: Tasks,
}

#[derive(Debug)]
struct State {
    requests: AtomicUsize,
    answer: Mutex<Answer>,
}

impl Answer {
    pub(crate) fn ok(body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        Self::Raw([head.as_bytes(), body].concat())
    }

    pub(crate) fn status(line: &str) -> Self {
        Self::Raw(format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n").into_bytes())
    }
}

impl Server {
    pub(crate) async fn start(answer: Answer) -> Self {
        Self::listen(answer, None).await
    }

    /// For `https://localhost:<port>`.
    pub(crate) async fn start_tls(answer: Answer) -> Self {
        let names = vec!["localhost".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = rustls::crypto::aws_lc_rs::default_provider().into();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let mut server = Self::listen(answer, Some(TlsAcceptor::from(Arc::new(config)))).await;
        server.certificate = Some(certificate);
        server
    }

    async fn listen(answer: Answer, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { requests: AtomicUsize::new(0), answer: Mutex::new(answer) });
        let (tasks, shared) = (Tasks::new(), Arc::clone(&state));
        let each = tasks.clone();
        tasks.spawn("fixture", async move {
            while let Some(Ok((stream, _))) = tokio::select! {
                accepted = listener.accept() => Some(accepted),
                () = each.stopping() => None,
            } {
                let (shared, tls, until) = (Arc::clone(&shared), tls.clone(), each.clone());
                each.spawn("fixture connection", async move {
                    let served = async {
                        match tls {
                            None => serve(stream, &shared).await,
                            Some(tls) => match tls.accept(stream).await {
                                Ok(stream) => serve(Box::new(stream), &shared).await,
                                Err(_) => None,
                            },
                        }
                    };
                    tokio::select! {
                        _ = served => {}
                        () = until.stopping() => {}
                    }
                });
            }
        });
        Self { address, certificate: None, state, tasks }
    }

    pub(crate) fn url(&self) -> String {
        let port = self.address.port();
        match self.certificate {
            Some(_) => format!("https://localhost:{port}/keys?a=b"),
            None => format!("http://127.0.0.1:{port}/keys?a=b"),
        }
    }

    pub(crate) fn set(&self, answer: Answer) {
        *self.state.answer.lock().unwrap() = answer;
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// A client that trusts `server`, or nobody.
pub(crate) fn client(server: Option<&Server>) -> Client {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(certificate) = server.and_then(|server| server.certificate.clone()) {
        roots.add(certificate).unwrap();
    }
    let provider = rustls::crypto::aws_lc_rs::default_provider().into();
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Client::new(config)
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, state: &State) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let line = head.split(|b| *b == b'\r').next();
    assert!(line.is_some_and(|line| line.ends_with(b" /keys?a=b HTTP/1.1")));
    state.requests.fetch_add(1, Ordering::SeqCst);
    let answer = state.answer.lock().unwrap().clone();
    match answer {
        Answer::Raw(bytes) => stream.write_all(&bytes).await.ok()?,
        Answer::Silence => std::future::pending().await,
        Answer::Endless => {
            let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head).await.ok()?;
            let chunk = [b"400\r\n".as_slice(), &[b' '; 0x400], b"\r\n"].concat();
            loop {
                stream.write_all(&chunk).await.ok()?;
            }
        }
    }
    stream.shutdown().await.ok()
}
