//! Errors on their way out: a [`Problem`] as JSON, with the status that the one table gives its kind.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use mainstay_control::view::{Problem, ProblemKind};

#[derive(Debug)]
pub(crate) struct Failure(pub(crate) Problem);

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl Failure {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self(Problem::new(ProblemKind::Invalid, message))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.kind.http_status()).expect("the table holds valid statuses");
        let unauthorized = self.0.kind == ProblemKind::Unauthorized;
        let mut response = (status, Json(self.0)).into_response();
        if unauthorized {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}
