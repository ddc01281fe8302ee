//! TLS for the hub's HTTP API, with the hub's own leaf: how to accept and how to dial. HTTP itself is not here.
//!
//! The same TLS and the same entrance as for links, but without client certificates: callers prove themselves by a
//! token. Clients trust the fleet's CA or its fingerprint, never the system's certificate store, and ask for
//! [`HUB_SERVER_NAME`](crate::certificate::HUB_SERVER_NAME) whatever the hub's address is.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use crate::chain::Trust;
use crate::dialer::{self, DialError};
use crate::entrance::{Arrival, Entered, Entrance};
pub use crate::entrance::{HandshakeError, ListenError};
use crate::limits::{ADMISSION_LIMIT, Limits, LinkCounters};
use crate::tls::{self, Credentials, TlsError};

/// Most API connections at once. TLS does not tell callers from strangers here, so all of them
/// count for as long as they last: an open page with live output is one.
pub const MAX_API_CONNECTIONS: usize = 384;

/// Most of them from one address, loopback apart.
pub const MAX_API_CONNECTIONS_PER_SOURCE: usize = 64;

/// Accepts HTTPS connections to the API.
pub struct HttpsListener(Arc<Entrance>);

impl HttpsListener {
    /// `credentials` are the hub's, with a chain as [`chain`](crate::certificate::HubCertificates::chain) makes it.
    pub async fn bind(
        address: impl ToSocketAddrs,
        credentials: &Credentials,
        counters: Arc<LinkCounters>,
    ) -> Result<Self, ListenError> {
        let tcp = TcpListener::bind(address).await.map_err(ListenError::Bind)?;
        Ok(Self::over(tcp, credentials, counters)?)
    }

    /// Accepts on a socket that listens already.
    pub fn over(
        tcp: TcpListener,
        credentials: &Credentials,
        counters: Arc<LinkCounters>,
    ) -> Result<Self, TlsError> {
        let limits = Limits {
            strangers: MAX_API_CONNECTIONS,
            strangers_per_source: MAX_API_CONNECTIONS_PER_SOURCE,
            ..Limits::default()
        };
        let config = tls::https_server(credentials)?;
        let entrance = Entrance::over(tcp, config, limits, counters);
        Ok(Self(Arc::new(entrance)))
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// The next connection that there is a place for. May be dropped and called again.
    pub async fn accept(&self) -> HttpsIncoming {
        HttpsIncoming { arrival: self.0.accept().await, entrance: self.0.clone() }
    }
}

/// A connection that has said nothing yet.
pub struct HttpsIncoming {
    arrival: Arrival,
    entrance: Arc<Entrance>,
}

impl HttpsIncoming {
    pub fn address(&self) -> SocketAddr {
        self.arrival.address
    }

    /// To be run in a task of the connection's own. Takes a bounded time; the request that follows does not, so
    /// whoever reads it needs a limit of its own.
    pub async fn handshake(self) -> Result<HttpsStream, HandshakeError> {
        let Self { arrival, entrance } = self;
        let deadline = arrival.deadline;
        // On the heap, since the task that awaits this lives as long as the connection.
        let entered = Box::pin(arrival.enter(&entrance));
        entrance.within(deadline, entered).await.map(HttpsStream)
    }
}

/// The hub's end of a connection to its API. A write that makes no progress within
/// [`STALL_LIMIT`](crate::limits::STALL_LIMIT) fails.
pub struct HttpsStream(Entered);

impl AsyncRead for HttpsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for HttpsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.stream.is_write_vectored()
    }
}

/// Dials a hub's API. Cheap to clone.
#[derive(Clone)]
pub struct HttpsDialer(Arc<ClientConfig>);

impl HttpsDialer {
    pub fn new(trust: Trust) -> Result<Self, TlsError> {
        tls::https_client(trust).map(Self)
    }

    /// Connects to `host:port` and makes sure that it is a hub of the fleet, within [`ADMISSION_LIMIT`].
    pub async fn dial(&self, address: &str) -> Result<TlsStream<TcpStream>, DialError> {
        let deadline = Instant::now() + ADMISSION_LIMIT;
        let (stream, _) = dialer::handshake(&self.0, address, deadline, ADMISSION_LIMIT, |tcp| tcp).await?;
        Ok(stream)
    }
}
