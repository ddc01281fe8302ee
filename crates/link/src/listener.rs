//! Accepting links over TLS: a place at the gate, the handshake, and what the peer has proven.
//!
//! Tasks are the caller's: [`TlsListener::accept`] only takes a connection, and [`Incoming::handshake`] is what
//! the caller runs in a task of its own, so that no peer holds up another.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, sleep, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::chain::{FleetCa, key_in};
use crate::gate::{Gate, Place};
use crate::limits::{Limits, LinkCounters, MAX_HANDSHAKE, count};
use crate::link::{Door, Link, Peer};
use crate::stall::{Guarded, OverBudget};
use crate::tls::{self, Credentials, TlsError};

/// How long `accept` rests when it fails, which it does for want of file descriptors: they
/// come back only with time, and trying at once would burn a core.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// The first byte of every TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

pub struct TlsListener {
    tcp: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    config: Arc<ServerConfig>,
    ca: FleetCa,
    limits: Limits,
    counters: Arc<LinkCounters>,
    gate: Arc<Gate>,
}

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen there")]
    Bind(#[source] io::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Why a connection did not become a link. Already counted.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("the peer does not speak TLS")]
    NotTls,
    #[error("the peer was not through the handshake in time")]
    Timeout,
    #[error("the peer was silent while others waited")]
    CrowdedOut,
    #[error("the peer's handshake was too large")]
    Oversize,
    #[error("the peer closed the connection")]
    Gone,
    #[error("the TLS handshake failed")]
    Failed(#[source] io::Error),
}

impl TlsListener {
    pub async fn bind(
        address: impl ToSocketAddrs,
        credentials: &Credentials,
        ca: FleetCa,
        limits: Limits,
        counters: Arc<LinkCounters>,
    ) -> Result<Self, ListenError> {
        let config = tls::link_server(credentials)?;
        let tcp = TcpListener::bind(address).await.map_err(ListenError::Bind)?;
        let gate = Gate::new(&limits, counters.clone());
        let shared = Shared {
            config,
            ca,
            limits,
            counters,
            gate,
        };
        Ok(Self {
            tcp,
            shared: Arc::new(shared),
        })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// The next connection that there is a place for. May be dropped and called again.
    pub async fn accept(&self) -> Incoming {
        let Shared { gate, counters, .. } = &*self.shared;
        loop {
            gate.room().await;
            let (tcp, address) = match self.tcp.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    count(&counters.accept_failed);
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_REST).await;
                    continue;
                }
            };
            count(&counters.accepted);
            let Some((place, leave)) = gate.enter(address.ip()) else {
                continue;
            };
            return Incoming {
                tcp,
                address,
                place,
                leave,
                deadline: Instant::now() + self.shared.limits.admission,
                shared: self.shared.clone(),
            };
        }
    }
}

/// A connection that has proven nothing yet.
pub struct Incoming {
    tcp: TcpStream,
    address: SocketAddr,
    place: Place,
    leave: oneshot::Receiver<()>,
    deadline: Instant,
    shared: Arc<Shared>,
}

impl Incoming {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Proves both ends. The link is a stranger's until [`admit`](crate::link::LinkReceiver::admit), which must
    /// happen within the admission limit, counted from when the connection came.
    pub async fn handshake(self) -> Result<Link, HandshakeError> {
        let (shared, deadline) = (self.shared.clone(), self.deadline);
        let result = timeout_at(deadline, self.prove())
            .await
            .unwrap_or(Err(HandshakeError::Timeout));
        let counters = &shared.counters;
        match &result {
            Ok(_) => count(&counters.handshakes),
            Err(HandshakeError::Timeout) => count(&counters.admission_timeout),
            Err(HandshakeError::Oversize) => count(&counters.handshake_oversize),
            Err(HandshakeError::NotTls | HandshakeError::Failed(_)) => count(&counters.handshake_failed),
            // The gate counts those it sends away; a port scan is nobody's failure.
            Err(HandshakeError::CrowdedOut | HandshakeError::Gone) => {}
        }
        result
    }

    async fn prove(mut self) -> Result<Link, HandshakeError> {
        self.first_byte().await?;
        let Self {
            tcp,
            address,
            place,
            shared,
            ..
        } = self;
        // Frames are flushed as a whole; waiting for more would only delay them.
        tcp.set_nodelay(true).map_err(HandshakeError::Failed)?;
        let guarded = Guarded::new(tcp, shared.limits.stall, Some(MAX_HANDSHAKE));
        let mut stream = TlsAcceptor::from(shared.config.clone())
            .accept_with(guarded, |connection| {
                connection.set_buffer_limit(Some(tls::TLS_BUFFER));
            })
            .await
            .map_err(|error| {
                let over = error.get_ref().is_some_and(|inner| inner.is::<OverBudget>());
                if over {
                    HandshakeError::Oversize
                } else {
                    HandshakeError::Failed(error)
                }
            })?;
        stream.get_mut().0.lift_budget();
        let chain: Vec<Bytes> = stream
            .get_ref()
            .1
            .peer_certificates()
            .unwrap_or_default()
            .iter()
            .map(|der| Bytes::copy_from_slice(der))
            .collect();
        let key = chain
            .first()
            .and_then(|leaf| key_in(leaf).ok())
            .ok_or_else(|| HandshakeError::Failed(io::ErrorKind::InvalidData.into()))?;
        let peer = Peer {
            key,
            identity: shared.ca.verify(&chain).ok(),
            chain,
            address: Some(address),
        };
        let door = Door {
            deadline: self.deadline,
            frame: shared.limits.stranger_frame,
            _place: Some(place),
        };
        Ok(Link::over(
            stream,
            peer,
            door,
            &shared.limits,
            shared.counters.clone(),
        ))
    }

    /// Waits for the peer to speak, holding nothing for it but its socket.
    async fn first_byte(&mut self) -> Result<(), HandshakeError> {
        let mut byte = [0];
        let seen = tokio::select! {
            seen = self.tcp.peek(&mut byte) => seen,
            Ok(()) = &mut self.leave => return Err(HandshakeError::CrowdedOut),
        };
        match (seen, byte) {
            (Ok(1), [TLS_HANDSHAKE]) => {
                self.place.spoke();
                Ok(())
            }
            (Ok(1), _) => Err(HandshakeError::NotTls),
            _ => Err(HandshakeError::Gone),
        }
    }
}
