//! TLS for the hub's HTTP API, with the hub's own leaf: how to accept and how to dial. HTTP itself is not here.
//!
//! The same TLS as for links, but without client certificates: callers prove themselves by a token. Clients trust
//! the fleet's CA or its fingerprint, never the system's certificate store, and ask for
//! [`HUB_SERVER_NAME`](crate::certificate::HUB_SERVER_NAME) whatever the hub's address is.

use std::io;
use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::{TlsAcceptor, client, server};

use crate::chain::Trust;
use crate::dialer::{self, DialError};
use crate::limits::ADMISSION_LIMIT;
use crate::tls::{self, Credentials, TlsError};

/// Accepts HTTPS connections to the API. Cheap to clone.
#[derive(Clone)]
pub struct HttpsAcceptor(Arc<ServerConfig>);

impl HttpsAcceptor {
    /// `credentials` are the hub's, with a chain as [`chain`](crate::certificate::HubCertificates::chain) makes it.
    pub fn new(credentials: &Credentials) -> Result<Self, TlsError> {
        tls::https_server(credentials).map(Self)
    }

    /// Shakes hands, within [`ADMISSION_LIMIT`]. To be run in a task of the connection's own.
    pub async fn accept(&self, tcp: TcpStream) -> io::Result<server::TlsStream<TcpStream>> {
        tcp.set_nodelay(true)?;
        timeout(ADMISSION_LIMIT, TlsAcceptor::from(self.0.clone()).accept(tcp))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
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
    pub async fn dial(&self, address: &str) -> Result<client::TlsStream<TcpStream>, DialError> {
        let deadline = Instant::now() + ADMISSION_LIMIT;
        let (stream, _) = dialer::handshake(&self.0, address, deadline, ADMISSION_LIMIT, |tcp| tcp).await?;
        Ok(stream)
    }
}
