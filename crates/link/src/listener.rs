//! Accepting links over TLS: what a connection's peer has proven.
//!
//! Tasks are the caller's: [`TlsListener::accept`] only takes a connection, and [`Incoming::handshake`] is what
//! the caller runs in a task of its own, so that no peer holds up another.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::{TcpListener, ToSocketAddrs};

use crate::chain::{ChainError, FleetCa, key_in};
use crate::entrance::{Arrival, Entered, Entrance};
pub use crate::entrance::{HandshakeError, ListenError};
use crate::limits::{Limits, LinkCounters};
use crate::link::{Door, Link, Peer};
use crate::tls::{self, Credentials, TlsError};

pub struct TlsListener(Arc<Shared>);

struct Shared {
    entrance: Entrance,
    ca: FleetCa,
}

impl TlsListener {
    pub async fn bind(
        address: impl ToSocketAddrs,
        credentials: &Credentials,
        ca: FleetCa,
        limits: Limits,
        counters: Arc<LinkCounters>,
    ) -> Result<Self, ListenError> {
        let tcp = TcpListener::bind(address).await.map_err(ListenError::Bind)?;
        Ok(Self::over(tcp, credentials, ca, limits, counters)?)
    }

    /// Accepts on a socket that listens already: a hub tells its address before it has anything to serve.
    pub fn over(
        tcp: TcpListener,
        credentials: &Credentials,
        ca: FleetCa,
        limits: Limits,
        counters: Arc<LinkCounters>,
    ) -> Result<Self, TlsError> {
        let entrance = Entrance::over(tcp, tls::link_server(credentials)?, limits, counters);
        Ok(Self(Arc::new(Shared { entrance, ca })))
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.entrance.local_addr()
    }

    /// The next connection that there is a place for. May be dropped and called again.
    pub async fn accept(&self) -> Incoming {
        Incoming { arrival: self.0.entrance.accept().await, shared: self.0.clone() }
    }
}

/// A connection that has proven nothing yet.
pub struct Incoming {
    arrival: Arrival,
    shared: Arc<Shared>,
}

impl Incoming {
    pub fn address(&self) -> SocketAddr {
        self.arrival.address
    }

    /// Proves both ends. The link is a stranger's until [`admit`](crate::link::LinkReceiver::admit), which must
    /// happen within the admission limit, counted from when the connection came.
    pub async fn handshake(self) -> Result<Link, HandshakeError> {
        let Self { arrival, shared } = self;
        let deadline = arrival.deadline;
        // On the heap, since the task that awaits this lives as long as the link and would keep the room for it.
        let proof = Box::pin(prove(arrival, &shared));
        shared.entrance.within(deadline, proof).await
    }
}

async fn prove(arrival: Arrival, shared: &Shared) -> Result<Link, HandshakeError> {
    let (address, deadline) = (arrival.address, arrival.deadline);
    let Shared { entrance, ca } = shared;
    let Entered { stream, place } = arrival.enter(entrance).await?;
    let tls = stream.get_ref().1;
    if tls.alpn_protocol() != Some(tls::ALPN_LINK) {
        return Err(HandshakeError::NotALink);
    }
    let chain: Vec<Bytes> =
        tls.peer_certificates().unwrap_or_default().iter().map(|der| Bytes::copy_from_slice(der)).collect();
    let leaf = chain.first().ok_or(HandshakeError::Certificate(ChainError::Length(0)))?;
    let peer = Peer {
        key: key_in(leaf).map_err(HandshakeError::Certificate)?,
        identity: ca.verify(&chain).ok(),
        chain,
        address: Some(address),
    };
    let door = Door { deadline, frame: entrance.limits.stranger_frame, _place: Some(place) };
    let (limits, counters) = (&entrance.limits, entrance.counters.clone());
    Ok(Link::over(stream, peer, door, limits, counters))
}
