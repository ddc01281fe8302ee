//! `/v1/messages`: messages as people write them, with this hub as their origin.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use mainstay_control::view::Problem;
use mainstay_core::id::MessageId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::failure::Failure;
use super::input::Caller;

/// What was accepted, in the order of the file.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SentMessages {
    #[schema(value_type = Vec<String>)]
    pub messages: Vec<MessageId>,
}

/// Sends the messages of a message file: all, or none and an error that names field and line.
#[utoipa::path(post, path = "/v1/messages", operation_id = "send_messages", request_body(content = String, content_type = "text/plain"),
    responses((status = 201, body = SentMessages), (status = "default", body = Problem)))]
pub(super) async fn send(
    State(api): State<Api>,
    Caller(by): Caller,
    text: String,
) -> Result<(StatusCode, Json<SentMessages>), Failure> {
    let messages = api.hub.send(&by, &text).await?;
    Ok((StatusCode::CREATED, Json(SentMessages { messages })))
}
