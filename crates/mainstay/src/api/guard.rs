//! The guard before every call: who asks, and is the body small enough and here in time.
//!
//! What an operator may do is decided behind the facade; here it is only established who it is.

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use mainstay_control::view::{Operator, Problem, ProblemKind};
use std::time::Duration;

use super::Api;
use super::failure::Failure;
use super::input::Caller;

/// Largest body taken. A frame to a node is at most 1 MiB, so a run's script and (base64) stdin fit twice
/// over; the rest is room for long lists of messages.
pub const MAX_BODY: usize = 4 << 20;

/// How long a body may take to arrive as a whole: 4 MiB in this time is a slow modem's pace.
const BODY_PATIENCE: Duration = Duration::from_secs(30);

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peer {
    /// The unix socket, with the peer's user id as the kernel tells it.
    Local { uid: u32 },
    /// TLS: whoever it is has to show a token.
    Remote,
}

pub(crate) async fn guard(State(api): State<Api>, request: Request, next: Next) -> Response {
    match check(&api, request).await {
        Ok(request) => next.run(request).await,
        Err(failure) => failure.into_response(),
    }
}

/// The caller comes first: nobody unknown makes the hub hold a body.
async fn check(api: &Api, request: Request) -> Result<Request, Failure> {
    let (mut parts, body) = request.into_parts();
    let caller = authorise(api, parts.extensions.get().copied(), &parts.headers).await?;
    parts.extensions.insert(Caller(caller));
    let too_large = || {
        let limit = MAX_BODY >> 20;
        Failure::invalid(format!("the request's body is larger than the {limit} MiB allowed"))
    };
    let announced = parts.headers.get(header::CONTENT_LENGTH);
    if let Some(length) = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok())
        && length > MAX_BODY as u64
    {
        return Err(too_large());
    }
    let body = tokio::time::timeout(BODY_PATIENCE, to_bytes(body, MAX_BODY))
        .await
        .map_err(|_| Failure::invalid("the request's body took too long to arrive"))?
        .map_err(|_| too_large())?;
    Ok(Request::from_parts(parts, Body::from(body)))
}

pub(super) async fn authorise(
    api: &Api,
    peer: Option<Peer>,
    headers: &HeaderMap,
) -> Result<Operator, Problem> {
    match peer {
        Some(Peer::Local { uid }) => api.hub.operator_by_uid(uid),
        Some(Peer::Remote) => {
            let header = headers.get(header::AUTHORIZATION);
            let token = header
                .and_then(|value| value.to_str().ok())
                .and_then(|value| value.split_once(' '))
                .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
                .map(|(_, token)| token.trim());
            // No token at all takes the same way as a wrong one, so that both cost and tell the same.
            api.hub.operator_by_token(token.unwrap_or_default()).await
        }
        None => Err(Problem::new(ProblemKind::Internal, "a request without a peer")),
    }
}
