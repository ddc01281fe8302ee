//! The entrance: TCP connections are taken at the gate's pace, and become TLS or go away in time.
//!
//! Links and the API share it. What a connection is for, and who may stay, is decided by its users.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, sleep, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::chain::ChainError;
use crate::gate::{Entry, Gate, Place};
use crate::limits::{Limits, LinkCounters, MAX_HANDSHAKE, count};
use crate::stall::{Guarded, OverBudget};
use crate::tls::{self, TlsError};

/// How long `accept` rests when it fails, which it does for want of file descriptors: they
/// come back only with time, and trying at once would burn a core.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// The first byte of every TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen there")]
    Bind(#[source] io::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Why a connection came to nothing. Already counted.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("the peer does not speak TLS")]
    NotTls,
    #[error("the peer speaks TLS but does not ask for a link")]
    NotALink,
    #[error("the peer was not through the handshake in time")]
    Timeout,
    #[error("the peer was silent while others waited")]
    CrowdedOut,
    #[error("the peer's handshake was too large")]
    Oversize,
    #[error("the peer closed the connection")]
    Gone,
    #[error("the peer's certificate cannot be used")]
    Certificate(#[source] ChainError),
    #[error("the TLS handshake failed")]
    Failed(#[source] io::Error),
}

pub(crate) struct Entrance {
    tcp: TcpListener,
    config: Arc<ServerConfig>,
    pub(crate) limits: Limits,
    pub(crate) counters: Arc<LinkCounters>,
    gate: Arc<Gate>,
    /// Taken from the kernel's queue for a place that was gone by then: the first to be let in.
    waiting: Mutex<VecDeque<(TcpStream, SocketAddr)>>,
}

/// A connection that has proven nothing yet.
pub(crate) struct Arrival {
    tcp: TcpStream,
    pub(crate) address: SocketAddr,
    place: Place,
    leave: oneshot::Receiver<()>,
    pub(crate) deadline: Instant,
}

/// A connection after its handshake. Its place is given back when this is dropped.
pub(crate) struct Entered {
    pub(crate) stream: TlsStream<Guarded<TcpStream>>,
    pub(crate) place: Place,
}

impl Entrance {
    pub(crate) fn over(
        tcp: TcpListener,
        config: Arc<ServerConfig>,
        limits: Limits,
        counters: Arc<LinkCounters>,
    ) -> Self {
        let gate = Gate::new(&limits, counters.clone());
        Self { tcp, config, gate, limits, counters, waiting: Mutex::default() }
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// The next connection that there is a place for. May be dropped and called again.
    pub(crate) async fn accept(&self) -> Arrival {
        loop {
            self.gate.room().await;
            let before = self.waiting().pop_front();
            let (tcp, address) = match before {
                Some(waiting) => waiting,
                None => match self.tcp.accept().await {
                    Ok(accepted) => {
                        count(&self.counters.accepted);
                        accepted
                    }
                    Err(error) => {
                        count(&self.counters.accept_failed);
                        tracing::warn!(%error, "cannot accept a connection");
                        sleep(ACCEPT_REST).await;
                        continue;
                    }
                },
            };
            match self.gate.enter(address.ip()) {
                Entry::In { place, leave } => {
                    let deadline = Instant::now() + self.limits.admission;
                    return Arrival { tcp, address, place, leave, deadline };
                }
                // Whoever was to make room for it has spoken meanwhile.
                Entry::Full => self.waiting().push_back((tcp, address)),
                Entry::TooMany => {}
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<(TcpStream, SocketAddr)>> {
        // No code that can panic runs under this lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `prove`, which begins with [`Arrival::enter`], within the arrival's time, and counts what came of it.
    pub(crate) async fn within<T>(
        &self,
        deadline: Instant,
        prove: impl Future<Output = Result<T, HandshakeError>>,
    ) -> Result<T, HandshakeError> {
        let result = timeout_at(deadline, prove).await.unwrap_or(Err(HandshakeError::Timeout));
        let counters = &self.counters;
        match &result {
            Ok(_) => count(&counters.handshakes),
            Err(HandshakeError::Timeout) => count(&counters.admission_timeout),
            Err(HandshakeError::Oversize) => count(&counters.handshake_oversize),
            Err(
                HandshakeError::NotTls
                | HandshakeError::NotALink
                | HandshakeError::Certificate(_)
                | HandshakeError::Failed(_),
            ) => count(&counters.handshake_failed),
            // The gate counts those it sends away; a port scan is nobody's failure.
            Err(HandshakeError::CrowdedOut | HandshakeError::Gone) => {}
        }
        result
    }
}

impl Arrival {
    /// The TLS handshake, once the peer has spoken.
    pub(crate) async fn enter(mut self, entrance: &Entrance) -> Result<Entered, HandshakeError> {
        self.first_byte().await?;
        let Self { tcp, place, .. } = self;
        // What is sent is flushed as a whole; waiting for more would only delay it.
        tcp.set_nodelay(true).map_err(HandshakeError::Failed)?;
        let guarded = Guarded::new(tcp, entrance.limits.stall, Some(MAX_HANDSHAKE));
        let mut stream = TlsAcceptor::from(entrance.config.clone())
            .accept_with(guarded, |connection| {
                connection.set_buffer_limit(Some(tls::TLS_BUFFER));
            })
            .await
            .map_err(|error| {
                if error.get_ref().is_some_and(|inner| inner.is::<OverBudget>()) {
                    return HandshakeError::Oversize;
                }
                match tls::refusal(&error) {
                    Some(refusal) => HandshakeError::Certificate(refusal),
                    None => HandshakeError::Failed(error),
                }
            })?;
        stream.get_mut().0.lift_budget();
        Ok(Entered { stream, place })
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

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use mainstay_core::id::KeyId;
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::certificate::{issue_hub, make_ca};
    use crate::chain::FleetCa;
    use crate::tls::Credentials;

    fn config() -> Arc<ServerConfig> {
        let [root, hub] = [1, 2].map(|seed| SigningKey::from_bytes(&[seed; 32]));
        let ca = FleetCa::from_der(make_ca(&root).unwrap()).unwrap();
        let id = KeyId::from_bytes(hub.verifying_key().to_bytes());
        let made = issue_hub(&root, id, &"hub1".parse().unwrap()).unwrap();
        tls::link_server(&Credentials::new(hub, made.chain(ca.der())).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn who_came_for_a_place_that_was_gone_by_then_waits_for_the_next() {
        let limits = Limits { strangers: 1, ..Limits::default() };
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let entrance = Entrance::over(tcp, config(), limits, Arc::default());
        let address = entrance.local_addr().unwrap();
        let mut first = TcpStream::connect(address).await.unwrap();
        let mut inside = entrance.accept().await;
        // As long as it is silent there is room for another.
        let mut next = Box::pin(entrance.accept());
        assert!(futures_util::poll!(&mut next).is_pending());
        first.write_all(&[TLS_HANDSHAKE]).await.unwrap();
        inside.first_byte().await.unwrap();
        let second = TcpStream::connect(address).await.unwrap();
        let taken = async {
            while entrance.counters.accepted.load(std::sync::atomic::Ordering::Relaxed) < 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = &mut next => panic!("there is no place for it"),
            () = taken => {}
        }
        // Whoever waits for it may stop and begin again.
        drop(next);
        drop(inside);
        let next = tokio::time::timeout(Duration::from_secs(20), entrance.accept()).await;
        assert_eq!(next.expect("it has waited").address, second.local_addr().unwrap());
    }
}
