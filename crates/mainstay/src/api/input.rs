//! What comes in: JSON bodies, query parameters and run ids, each refused with a [`Problem`] that says why.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use mainstay_control::view::{Operator, Problem, ProblemKind};
use mainstay_core::id::RunId;
use serde::de::DeserializeOwned;

use super::failure::Failure;

/// Whoever asked; put into every request by the guard.
#[derive(Clone, Debug)]
pub(crate) struct Caller(pub(crate) Operator);

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| {
            Problem::new(ProblemKind::Unauthorized, "this request did not pass the guard").into()
        })
    }
}

/// A JSON body. Its media type is not looked at: nothing else is taken here.
pub(crate) struct Input<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Input<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let body = Bytes::from_request(request, state).await.map_err(|e| Failure::invalid(e.to_string()))?;
        serde_json::from_slice(&body)
            .map(Self)
            .map_err(|e| Failure::invalid(format!("the request's body: {e}")))
    }
}

/// The one variable segment of a call's path.
pub(crate) struct Segment(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        Path::<String>::from_request_parts(parts, state)
            .await
            .map(|Path(segment)| Self(segment))
            .map_err(|e| Failure::invalid(format!("the path: {}", e.body_text())))
    }
}

pub(crate) struct Params<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(params)| Self(params))
            .map_err(|e| Failure::invalid(format!("the query: {}", e.body_text())))
    }
}

pub(crate) fn run_id(text: &str) -> Result<RunId, Failure> {
    text.parse().map_err(|e| {
        Problem::new(ProblemKind::Invalid, format!("{e}"))
            .hint("the API takes whole run ids; the command line finds abbreviated ones")
            .into()
    })
}
