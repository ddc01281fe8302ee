//! `/v1/messages`: messages as people write them, with this hub as their origin, and where they stand.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use mainstay_control::view::{MessageView, Problem};
use mainstay_core::id::MessageId;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::failure::Failure;
use super::input::{Caller, Params, Segment};

/// What was accepted, in the order of the file.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SentMessages {
    #[schema(value_type = Vec<String>)]
    pub messages: Vec<MessageId>,
}

/// Most messages listed at once; a hub keeps as many that have ended.
const MAX_LISTED: usize = 10_000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Listed {
    /// How many of the newest; 100 unless given, 10,000 at most.
    limit: Option<usize>,
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

/// Messages of this hub, and those that it holds for nodes that are away; newest first.
#[utoipa::path(get, path = "/v1/messages", operation_id = "list_messages", params(Listed),
    responses((status = 200, body = Vec<MessageView>), (status = "default", body = Problem)))]
pub(super) async fn list(
    State(api): State<Api>,
    Caller(by): Caller,
    Params(listed): Params<Listed>,
) -> Result<Json<Vec<MessageView>>, Failure> {
    let limit = listed.limit.unwrap_or(100).min(MAX_LISTED);
    Ok(Json(api.hub.messages(&by, limit).await?))
}

/// One message: where it stands, or how it ended.
#[utoipa::path(get, path = "/v1/messages/{message}", operation_id = "show_message", params(("message" = String, Path)),
    responses((status = 200, body = MessageView), (status = "default", body = Problem)))]
pub(super) async fn show(
    State(api): State<Api>,
    Segment(message): Segment,
    Caller(by): Caller,
) -> Result<Json<MessageView>, Failure> {
    let message = message.parse().map_err(|e| Failure::invalid(format!("{e}")))?;
    Ok(Json(api.hub.message(&by, message).await?))
}
