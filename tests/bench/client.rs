//! A WebSocket client that is as cheap as can be, for the load is made on the same machine.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

/// An open WebSocket.
pub(crate) struct Client {
    io: Stream,
    inbound: BytesMut,
}

/// TCP, or TLS over it.
pub(crate) type Stream = Box<dyn Io>;

pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A message that is masked and framed already, to be sent again and again.
#[derive(Debug, Clone)]
pub(crate) struct Framed {
    payload: Bytes,
    bytes: Bytes,
}

/// How long anything may take.
const TIMEOUT: Duration = Duration::from_secs(20);
/// What is read at once; an idle client keeps this much.
const READ: usize = 1024;
/// 1,500 bytes less the headers of IPv4 and TCP.
const ETHERNET_MSS: u32 = 1460;
const NARROW_BUFFER: u32 = 16 * 1024;

// RFC 6455 section 5.2.
const FIN: u8 = 0x80;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;
const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

impl Framed {
    /// A text message.
    pub(crate) fn text(payload: Bytes) -> Self {
        Self { bytes: frame(TEXT, &payload), payload }
    }

    /// The frame.
    pub(crate) fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }
}

/// How TCP gets there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// As the kernel does it: with segments of 64 KiB, and socket buffers of some MiB for them.
    Loopback,
    /// As a small device does it: over Ethernet, with small buffers.
    Narrow,
}

/// Opens TCP, and TLS over it if there is to be any.
pub(crate) async fn open(
    to: SocketAddr,
    way: Way,
    tls: Option<&TlsConnector>,
) -> anyhow::Result<Stream> {
    let opened = async {
        let socket = TcpSocket::new_v4()?;
        if way == Way::Narrow {
            SockRef::from(&socket).set_tcp_mss(ETHERNET_MSS)?;
            socket.set_recv_buffer_size(NARROW_BUFFER)?;
            socket.set_send_buffer_size(NARROW_BUFFER)?;
        }
        let tcp = socket.connect(to).await?;
        tcp.set_nodelay(true)?;
        Ok(match tls {
            Some(tls) => {
                let name = ServerName::try_from("localhost")?;
                Box::new(Box::pin(tls.connect(name, tcp)).await?) as Stream
            }
            None => Box::new(tcp),
        })
    };
    timeout(TIMEOUT, opened).await.context("no connection in time")?
}

impl Client {
    /// The opening handshake.
    pub(crate) async fn shake_hands(
        io: Stream,
        path: &str,
        token: Option<&str>,
    ) -> anyhow::Result<Self> {
        let mut client = Self { io, inbound: BytesMut::new() };
        timeout(TIMEOUT, client.upgrade(path, token)).await.context("no handshake in time")??;
        Ok(client)
    }

    /// The stream, for what no proper client does.
    pub(crate) fn into_stream(self) -> Stream {
        self.io
    }

    async fn upgrade(&mut self, path: &str, token: Option<&str>) -> anyhow::Result<()> {
        let authorization =
            token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
             {authorization}\r\n"
        );
        self.io.write_all(request.as_bytes()).await?;
        let end = loop {
            if let Some(end) = self.inbound.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            self.read().await?;
        };
        let head = self.inbound.split_to(end);
        let head = String::from_utf8_lossy(&head);
        ensure!(head.starts_with("HTTP/1.1 101 "), "refused: {head}");
        Ok(())
    }

    /// Sends a message and waits until it has come back.
    pub(crate) async fn echo(&mut self, message: &Framed) -> anyhow::Result<()> {
        let echoed = async {
            self.io.write_all(&message.bytes).await?;
            self.io.flush().await?;
            self.next().await
        };
        let echo = timeout(TIMEOUT, echoed).await.context("no echo in time")??;
        ensure!(echo == message.payload, "the echo is another message");
        Ok(())
    }

    /// Answers pings until `end`.
    pub(crate) async fn idle(&mut self, end: Instant) -> anyhow::Result<()> {
        loop {
            // Only the wait is given up at the end, never a half-written pong.
            if let Some((opcode, payload)) = self.frame()? {
                ensure!(opcode == PING, "a frame that nobody asked for: opcode {opcode}");
                self.send(PONG, &payload).await?;
                continue;
            }
            match timeout_at(end, self.read()).await {
                Ok(read) => read?,
                Err(_) => return Ok(()),
            }
        }
    }

    /// The closing handshake.
    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        let closed = async {
            self.send(CLOSE, &1000_u16.to_be_bytes()).await?;
            while self.frame()?.is_none_or(|(opcode, _)| opcode != CLOSE) {
                self.read().await?;
            }
            // The server ends the stream (RFC 6455 section 7.1.1), with close_notify or without.
            while self.read().await.is_ok() {}
            let _ = self.io.shutdown().await;
            Ok(())
        };
        timeout(TIMEOUT, closed).await.context("no end in time")?
    }

    /// The next message, whenever it comes; pings before it are answered.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Bytes> {
        loop {
            match self.frame()? {
                Some((TEXT | BINARY, payload)) => return Ok(payload),
                Some((PING, payload)) => self.send(PONG, &payload).await?,
                Some((opcode, payload)) => {
                    bail!("expected a message, not opcode {opcode} with {payload:?}")
                }
                None => self.read().await?,
            }
        }
    }

    async fn send(&mut self, opcode: u8, payload: &[u8]) -> anyhow::Result<()> {
        self.io.write_all(&frame(opcode, payload)).await?;
        self.io.flush().await?;
        Ok(())
    }

    /// Reads once. Cancel safe.
    async fn read(&mut self) -> anyhow::Result<()> {
        if self.inbound.is_empty() && self.inbound.capacity() != READ {
            self.inbound = BytesMut::with_capacity(READ);
        }
        ensure!(self.io.read_buf(&mut self.inbound).await? > 0, "the stream ended");
        Ok(())
    }

    /// Takes a whole frame that was read.
    fn frame(&mut self) -> anyhow::Result<Option<(u8, Bytes)>> {
        let mut head = self.inbound.as_ref();
        let (Ok(first), Ok(second)) = (head.try_get_u8(), head.try_get_u8()) else {
            return Ok(None);
        };
        ensure!(second & MASKED == 0, "a server's frame is masked");
        let len = match second {
            126 => head.try_get_u16().map(u64::from),
            127 => head.try_get_u64(),
            len => Ok(u64::from(len)),
        };
        let Ok(len) = len else { return Ok(None) };
        let opcode = first & OPCODE;
        ensure!(first & FIN != 0 && opcode != CONTINUATION, "the echo came in fragments");
        let (len, header) = (usize::try_from(len)?, self.inbound.len() - head.len());
        if head.len() < len {
            self.inbound.reserve(header + len - self.inbound.len());
            return Ok(None);
        }
        self.inbound.advance(header);
        Ok(Some((opcode, self.inbound.split_to(len).freeze())))
    }
}

/// A client's frame. Its mask is zero, which is one for the server as any other.
fn frame(opcode: u8, payload: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(payload.len() + 14);
    bytes.put_u8(FIN | opcode);
    match payload.len() {
        len @ 0..=125 => bytes.put_u8(MASKED | len as u8),
        len @ 126..=0xffff => {
            bytes.put_u8(MASKED | 126);
            bytes.put_u16(len as u16);
        }
        len => {
            bytes.put_u8(MASKED | 127);
            bytes.put_u64(len as u64);
        }
    }
    bytes.put_u32(0);
    bytes.put_slice(payload);
    bytes.freeze()
}
