//! Dialling a hub over TLS. When to dial again, and which of several hubs, is the courier's.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::chain::{ChainError, FleetCa, Trust};
use crate::limits::{Limits, LinkCounters, MAX_HANDSHAKE, count};
use crate::link::{Door, Link, Peer};
use crate::stall::Guarded;
use crate::tls::{self, Credentials, TlsError};

/// Dials hubs with one set of credentials. Cheap to clone.
#[derive(Clone)]
pub struct TlsDialer {
    config: Arc<ClientConfig>,
    trust: Trust,
    limits: Limits,
    counters: Arc<LinkCounters>,
}

/// A link to a hub, and the fleet's CA that it was judged by: a node that joins learns it here.
pub struct Dialled {
    pub link: Link,
    pub ca: FleetCa,
}

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("{address} cannot be reached")]
    Unreachable {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("{address} did not answer within {} s", .limit.as_secs_f32())]
    Timeout { address: String, limit: Duration },
    #[error("{address} is not a hub of this fleet")]
    Untrusted {
        address: String,
        #[source]
        source: ChainError,
    },
    #[error("{address} speaks TLS but takes no links: is it the address of the hub's API?")]
    NotALink { address: String },
    #[error("the TLS handshake with {address} failed")]
    Handshake {
        address: String,
        #[source]
        source: io::Error,
    },
}

impl DialError {
    /// Whether it may be otherwise in a moment without anyone doing something about it.
    pub fn is_transient(&self) -> bool {
        !matches!(self, Self::Untrusted { .. })
    }
}

impl TlsDialer {
    pub fn new(
        credentials: &Credentials,
        trust: Trust,
        limits: Limits,
        counters: Arc<LinkCounters>,
    ) -> Result<Self, TlsError> {
        Ok(Self { config: tls::link_client(credentials, trust.clone())?, trust, limits, counters })
    }

    /// Connects to `host:port` and proves both ends. All of a name's addresses are tried in turn.
    ///
    /// The hub has until the admission limit, counted from here, to say hello; then the caller must have
    /// called [`admit`](crate::link::LinkReceiver::admit).
    pub async fn dial(&self, address: &str) -> Result<Dialled, DialError> {
        let deadline = Instant::now() + self.limits.admission;
        // On the heap, since the task that awaits this lives as long as the link and would keep the room for it.
        let result = Box::pin(self.connect(address, deadline)).await;
        match &result {
            Ok(_) => count(&self.counters.handshakes),
            Err(DialError::Untrusted { .. } | DialError::NotALink { .. } | DialError::Handshake { .. }) => {
                count(&self.counters.handshake_failed);
            }
            Err(DialError::Unreachable { .. } | DialError::Timeout { .. }) => {}
        }
        result
    }

    async fn connect(&self, address: &str, deadline: Instant) -> Result<Dialled, DialError> {
        let (mut stream, socket) = handshake(&self.config, address, deadline, self.limits.admission, |tcp| {
            Guarded::new(tcp, self.limits.stall, Some(MAX_HANDSHAKE))
        })
        .await?;
        if stream.get_ref().1.alpn_protocol() != Some(tls::ALPN_LINK) {
            return Err(DialError::NotALink { address: address.to_owned() });
        }
        stream.get_mut().0.lift_budget();
        let chain: Vec<Bytes> = stream
            .get_ref()
            .1
            .peer_certificates()
            .unwrap_or_default()
            .iter()
            .map(|der| Bytes::copy_from_slice(der))
            .collect();
        // Judged during the handshake already; this takes the verdict's content.
        let (ca, identity) = self
            .trust
            .ca(&chain)
            .and_then(|ca| ca.verify_hub(&chain).map(|identity| (ca, identity)))
            .map_err(|source| DialError::Untrusted { address: address.to_owned(), source })?;
        let peer = Peer { key: identity.key, identity: Some(identity), chain, address: socket };
        // A hub of the fleet is no stranger: it may begin with the trust log, which can be large.
        let door = Door { deadline, frame: self.limits.frame, _place: None };
        let link = Link::over(stream, peer, door, &self.limits, self.counters.clone());
        Ok(Dialled { link, ca })
    }
}

/// Connects and shakes hands, naming the address in each error.
pub(crate) async fn handshake<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    config: &Arc<ClientConfig>,
    address: &str,
    deadline: Instant,
    limit: Duration,
    wrap: impl FnOnce(TcpStream) -> T,
) -> Result<(TlsStream<T>, Option<std::net::SocketAddr>), DialError> {
    let attempt = async {
        let unreachable = |source| DialError::Unreachable { address: address.to_owned(), source };
        let tcp = TcpStream::connect(address).await.map_err(unreachable)?;
        // Frames are flushed as a whole; waiting for more would only delay them.
        tcp.set_nodelay(true).map_err(unreachable)?;
        let socket = tcp.peer_addr().ok();
        let stream = TlsConnector::from(config.clone())
            .connect_with(tls::hub_name(), wrap(tcp), |connection| {
                connection.set_buffer_limit(Some(tls::TLS_BUFFER));
            })
            .await
            .map_err(|source| match tls::refusal(&source) {
                Some(source) => DialError::Untrusted { address: address.to_owned(), source },
                None => DialError::Handshake { address: address.to_owned(), source },
            })?;
        Ok((stream, socket))
    };
    timeout_at(deadline, attempt)
        .await
        .unwrap_or_else(|_| Err(DialError::Timeout { address: address.to_owned(), limit }))
}
