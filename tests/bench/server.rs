//! A plain HTTP server for what stands before it.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::ANY_PORT;
use crate::bare::spawn;
use crate::process::announce;

/// Answers each request, until it is killed.
pub(crate) async fn serve<A, F>(answer: A) -> anyhow::Result<()>
where
    A: Fn(Request<Incoming>) -> F + Copy + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send,
{
    let listener = TcpListener::bind(ANY_PORT).await?;
    announce("http", &listener.local_addr()?.to_string());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = service_fn(move |request| answer(request).map(Ok::<_, Infallible>));
        // Who leaves, leaves.
        let serving = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .map(drop);
        spawn(serving);
    }
}
