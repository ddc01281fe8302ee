//! The two listeners of the API: a unix socket for this machine's operators, TLS for the others.
//!
//! Every connection has an owner that waits for it, bounds on how many there are and how slow each may be,
//! and an end when the hub stops. What is answered is the router's affair.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::routing::get;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mainstay_link::https::{HttpsListener, MAX_API_CONNECTIONS};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::Api;
use super::fleet::exposition;
use super::guard::Peer;
use super::slow_peer::Impatient;

/// Connections at a time on each listener; more wait in the kernel's queue. Operators are people and a few
/// programs; over TLS the listener is stricter with whoever comes from one address.
const MAX_CONNECTIONS: usize = MAX_API_CONNECTIONS;

/// For a request's head; the same that any peer has to authenticate (DESIGN §5).
const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// A request's head is small; this bounds what an unknown peer can make the hub hold.
const MAX_HEAD: usize = 64 << 10;

/// How long calls in progress may still take when the hub stops.
const LAST_CALLS: Duration = Duration::from_secs(5);

/// How long to pause after `accept` failed for want of file descriptors, rather than spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("another hub is serving at {}", .0.display())]
    InUse(PathBuf),
    #[error("cannot listen at {}", path.display())]
    Listen { path: PathBuf, source: io::Error },
}

/// Serves this machine's operators at a unix socket until `shutdown`. The socket is 0600 from its first
/// moment, and whoever connects is known by the kernel's word.
pub async fn serve_unix(path: &Path, api: Api, shutdown: CancellationToken) -> Result<(), ServeError> {
    let listener = bind(path).await?;
    let connections = Connections::new(api.router_until(&shutdown), shutdown);
    while let Some(permit) = connections.admit().await {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(peer) => connections.serve(stream, Peer::Local { uid: peer.uid() }, permit),
                    Err(error) => tracing::warn!(%error, "a peer without credentials was refused"),
                },
                Err(error) => connections.pause(&error).await,
            },
            () = connections.shutdown.cancelled() => break,
        }
    }
    // Only our own socket: another hub may have put its own there meanwhile.
    drop(listener);
    if !answers(path).await {
        let _ = std::fs::remove_file(path);
    }
    connections.finish().await;
    Ok(())
}

/// Serves operators elsewhere, who show a token, until `shutdown`. How many there may be, and how long a handshake may
/// take, is the listener's to bound.
pub async fn serve_tls(listener: HttpsListener, api: Api, shutdown: CancellationToken) {
    let connections = Connections::new(api.router_until(&shutdown), shutdown);
    while let Some(permit) = connections.admit().await {
        let incoming = tokio::select! {
            incoming = listener.accept() => incoming,
            () = connections.shutdown.cancelled() => break,
        };
        let serving = connections.clone();
        connections.tasks.spawn(async move {
            let address = incoming.address();
            match incoming.handshake().await {
                Ok(stream) => serving.connection(stream, Peer::Remote, permit).await,
                Err(error) => tracing::debug!(%address, %error, "no TLS"),
            }
        });
    }
    drop(listener);
    connections.finish().await;
}

/// Serves the metrics alone, in clear and to whoever comes: for an agent, where its configuration says so.
pub async fn serve_metrics(
    listener: TcpListener,
    metrics: Arc<Mutex<Registry>>,
    shutdown: CancellationToken,
) {
    let router = axum::Router::new().route("/metrics", get(async move || exposition(&metrics)));
    let connections = Connections::new(router, shutdown);
    while let Some(permit) = connections.admit().await {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => connections.serve(stream, Peer::Remote, permit),
                Err(error) => connections.pause(&error).await,
            },
            () = connections.shutdown.cancelled() => break,
        }
    }
    drop(listener);
    connections.finish().await;
}

/// Binds under another name first: at its own name the socket is never open to others, and never absent
/// while a hub that answers is replaced by nobody.
async fn bind(path: &Path) -> Result<UnixListener, ServeError> {
    if answers(path).await {
        return Err(ServeError::InUse(path.to_owned()));
    }
    let wrong = |source| ServeError::Listen { path: path.to_owned(), source };
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh).map_err(wrong)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&fresh, path))
        .map_err(wrong)?;
    Ok(listener)
}

async fn answers(path: &Path) -> bool {
    tokio::net::UnixStream::connect(path).await.is_ok()
}

#[derive(Clone)]
struct Connections {
    router: axum::Router,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    room: Arc<Semaphore>,
}

impl Connections {
    fn new(router: axum::Router, shutdown: CancellationToken) -> Self {
        Self { router, shutdown, tasks: TaskTracker::new(), room: Arc::new(Semaphore::new(MAX_CONNECTIONS)) }
    }

    /// Waits until one more connection may be; `None` at shutdown.
    async fn admit(&self) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            permit = self.room.clone().acquire_owned() => permit.ok(),
            () = self.shutdown.cancelled() => None,
        }
    }

    async fn pause(&self, error: &io::Error) {
        tracing::warn!(%error, "the API cannot accept a connection");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }

    fn serve<S>(&self, stream: S, peer: Peer, permit: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let serving = self.clone();
        self.tasks.spawn(async move { serving.connection(stream, peer, permit).await });
    }

    async fn connection<S>(&self, stream: S, peer: Peer, permit: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = self.router.clone();
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            router.clone().oneshot(request)
        });
        let serving = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_PATIENCE)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(Impatient::new(stream)), service);
        let mut serving = std::pin::pin!(serving);
        let result = tokio::select! {
            result = serving.as_mut() => result,
            () = self.shutdown.cancelled() => {
                serving.as_mut().graceful_shutdown();
                match tokio::time::timeout(LAST_CALLS, serving).await {
                    Ok(result) => result,
                    Err(_) => Ok(()),
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "an API connection ended early");
        }
        drop(permit);
    }

    async fn finish(self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
