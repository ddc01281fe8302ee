//! The command line's client of the API: one request a connection, over a unix socket or TLS.
//!
//! A command makes one or two calls and exits, so there is no pool, and nothing of TLS is touched unless the
//! hub is elsewhere. Where the hub is found: [`endpoint`].

pub mod endpoint;
pub mod login;
pub mod run_stream;
mod sse;
mod tls;

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use mainstay_control::view::{Problem, ProblemKind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use crate::api::MAX_BODY;
pub use endpoint::Endpoint;

/// For reaching the hub at all.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// For the beginning of an answer. A hub answers once something is durable, which a busy disk may delay.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// Largest answer that is held as a whole: the details of a run on many nodes, with their output.
const MAX_ANSWER: usize = 1 << 30;

#[derive(Clone)]
pub struct Client {
    endpoint: Endpoint,
}

/// An answer whose head was good, and the connection that its body still comes from.
pub struct Reply {
    pub response: Response<Incoming>,
    /// Drives the connection; dropping it closes the connection.
    _connection: JoinSet<()>,
}

impl Client {
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Problem> {
        self.open(Method::GET, path, &[], Bytes::new()).await?.json().await
    }

    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        input: &impl Serialize,
    ) -> Result<T, Problem> {
        self.open(method, path, &[], encode(input)?).await?.json().await
    }

    /// Sends a request and waits for the head of its answer. An error status becomes the hub's [`Problem`].
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: Bytes,
    ) -> Result<Reply, Problem> {
        self.open_within(ANSWER_PATIENCE, method, path, headers, body).await
    }

    /// The same, for what takes the hub longer than usual.
    pub async fn open_within(
        &self,
        patience: Duration,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: Bytes,
    ) -> Result<Reply, Problem> {
        if body.len() > MAX_BODY {
            let limit = MAX_BODY >> 20;
            return Err(Problem::new(
                ProblemKind::Invalid,
                format!("this is {} bytes; a hub takes at most {limit} MiB at once", body.len()),
            ));
        }
        let mut connection = JoinSet::new();
        let reach = self.connect(&mut connection);
        let mut sender = tokio::time::timeout(CONNECT_PATIENCE, reach)
            .await
            .map_err(|_| self.unreachable("it does not answer"))??;
        let mut request = Request::builder().method(method).uri(path);
        match &self.endpoint {
            Endpoint::Unix(_) => request = request.header(header::HOST, "hub"),
            Endpoint::Https(hub) => {
                request = request
                    .header(header::HOST, &hub.authority)
                    .header(header::AUTHORIZATION, format!("Bearer {}", hub.token));
            }
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request
            .body(Full::new(body))
            .map_err(|e| Problem::new(ProblemKind::Invalid, format!("this cannot be asked of a hub: {e}")))?;
        let response = tokio::time::timeout(patience, sender.send_request(request))
            .await
            .map_err(|_| self.broken("it took too long to answer"))?
            .map_err(|e| self.broken(&e.to_string()))?;
        let reply = Reply { response, _connection: connection };
        reply.checked().await
    }

    async fn connect(&self, driver: &mut JoinSet<()>) -> Result<http1::SendRequest<Full<Bytes>>, Problem> {
        match &self.endpoint {
            Endpoint::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|e| self.refused(&e))?;
                self.handshake(stream, driver).await
            }
            Endpoint::Https(hub) => {
                let stream = tls::dial(hub).await.map_err(|why| self.unreachable(&why))?;
                self.handshake(stream, driver).await
            }
        }
    }

    async fn handshake<S>(
        &self,
        stream: S,
        driver: &mut JoinSet<()>,
    ) -> Result<http1::SendRequest<Full<Bytes>>, Problem>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.unreachable(&e.to_string()))?;
        driver.spawn(async move {
            // How it ended is seen by whoever reads the answer.
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn refused(&self, error: &std::io::Error) -> Problem {
        // The number of an error says nothing that its words do not.
        let text = error.to_string();
        let problem = self.unreachable(text.split(" (os error").next().unwrap_or(&text));
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                problem.hint("this socket is for root and the hub's own user; use sudo, or `mainstay login`")
            }
            _ => problem,
        }
    }

    fn unreachable(&self, why: &str) -> Problem {
        let message = format!("no hub can be reached at {}: {why}", self.endpoint);
        let problem = Problem::new(ProblemKind::Unreachable, message);
        match &self.endpoint {
            Endpoint::Unix(_) => problem
                .hint("start one on this machine with `mainstay dev`, or as a service with `mainstay hub`")
                .hint("name one elsewhere with --hub or MAINSTAY_HUB, after `mainstay login`"),
            Endpoint::Https(_) => problem
                .hint("the hub serves its API there only when told to: `mainstay hub --http IP:PORT`")
                .hint("`mainstay login` again if the fleet's CA is another now"),
        }
    }

    /// The request went out, so what was asked may have been done.
    fn broken(&self, why: &str) -> Problem {
        let message = format!("the hub at {} did not answer: {why}", self.endpoint);
        Problem::new(ProblemKind::Unreachable, message)
            .hint("it may have done what was asked: look, with `mainstay runs list` or `mainstay status`")
    }
}

impl Reply {
    async fn checked(self) -> Result<Self, Problem> {
        let status = self.response.status();
        if status.is_success() {
            return Ok(self);
        }
        let bytes = self.bytes().await?;
        Err(serde_json::from_slice(&bytes).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&bytes);
            Problem::new(kind_of(status), format!("the hub answered {status}: {}", text.trim()))
        }))
    }

    pub async fn bytes(self) -> Result<Bytes, Problem> {
        let body = Limited::new(self.response.into_body(), MAX_ANSWER);
        match body.collect().await {
            Ok(whole) => Ok(whole.to_bytes()),
            Err(e) => Err(Problem::new(ProblemKind::Unreachable, format!("the hub's answer broke off: {e}"))),
        }
    }

    pub async fn json<T: DeserializeOwned>(self) -> Result<T, Problem> {
        let mut bytes = self.bytes().await?;
        // What succeeds without saying anything says nothing.
        if bytes.is_empty() {
            bytes = Bytes::from_static(b"null");
        }
        serde_json::from_slice(&bytes).map_err(|e| {
            Problem::new(ProblemKind::Internal, format!("the hub's answer is not understood: {e}"))
                .hint("hub and command line are perhaps of different versions: compare `mainstay status`")
        })
    }
}

fn kind_of(status: StatusCode) -> ProblemKind {
    match status.as_u16() {
        401 => ProblemKind::Unauthorized,
        403 => ProblemKind::Forbidden,
        404 => ProblemKind::NotFound,
        400..=499 => ProblemKind::Invalid,
        _ => ProblemKind::Internal,
    }
}

pub fn encode(input: &impl Serialize) -> Result<Bytes, Problem> {
    serde_json::to_vec(input)
        .map(Bytes::from)
        .map_err(|e| Problem::new(ProblemKind::Invalid, format!("this cannot be written as JSON: {e}")))
}

/// One segment of a path, or one value of a query, whatever it holds.
pub fn segment(text: &str) -> String {
    use std::fmt::Write;
    let mut safe = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => safe.push(char::from(byte)),
            // A dot alone would be a step in the path.
            b'.' if text != "." && text != ".." => safe.push('.'),
            _ => write!(safe, "%{byte:02X}").expect("a string takes everything"),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_segment_can_leave_it() {
        assert_eq!(segment("web-01.example"), "web-01.example");
        assert_eq!(segment("../a?b#c é"), "..%2Fa%3Fb%23c%20%C3%A9");
        assert_eq!(segment(".."), "%2E%2E");
    }
}
