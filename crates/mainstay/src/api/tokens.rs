//! `/v1/tokens`: join tokens for nodes, access tokens for operators.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use mainstay_control::view::{NewToken, Problem, TokenSpec, TokenView};

use super::Api;
use super::failure::Failure;
use super::input::{Caller, Input, Segment};

/// All tokens that are not used up; never their text.
#[utoipa::path(get, path = "/v1/tokens", operation_id = "list_tokens",
    responses((status = 200, body = Vec<TokenView>), (status = "default", body = Problem)))]
pub(super) async fn list(
    State(api): State<Api>,
    Caller(by): Caller,
) -> Result<Json<Vec<TokenView>>, Failure> {
    Ok(Json(api.hub.tokens(&by).await?))
}

/// Makes a token. Its text is in this answer and nowhere else.
#[utoipa::path(post, path = "/v1/tokens", operation_id = "create_token", request_body = TokenSpec,
    responses((status = 201, body = NewToken), (status = "default", body = Problem)))]
pub(super) async fn create(
    State(api): State<Api>,
    Caller(by): Caller,
    Input(spec): Input<TokenSpec>,
) -> Result<(StatusCode, Json<NewToken>), Failure> {
    Ok((StatusCode::CREATED, Json(api.hub.create_token(&by, spec).await?)))
}

/// Ends a token. What joined with it stays.
#[utoipa::path(delete, path = "/v1/tokens/{token}", operation_id = "revoke_token", params(("token" = String, Path)),
    responses((status = 204), (status = "default", body = Problem)))]
pub(super) async fn revoke(
    State(api): State<Api>,
    Segment(token): Segment,
    Caller(by): Caller,
) -> Result<StatusCode, Failure> {
    api.hub.revoke_token(&by, &token).await?;
    Ok(StatusCode::NO_CONTENT)
}
