//! `/v1/nodes` and `/v1/targets`: the registry, and what target expressions mean.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use mainstay_control::view::{NodeView, Problem};
use mainstay_core::id::NodeName;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::failure::Failure;
use super::input::{Caller, Input, Params, Segment};

type Answer<T> = Result<Json<T>, Failure>;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// A target expression; all nodes without one.
    target: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptNode {
    /// Another name than the one it asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub name: Option<NodeName>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelNode {
    /// Labels to set; `null` removes one.
    pub labels: BTreeMap<String, Option<String>>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeNode {
    #[serde(default)]
    pub reason: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Targets {
    pub(crate) targets: Vec<String>,
}

/// All nodes, or those that a target expression means.
#[utoipa::path(get, path = "/v1/nodes", operation_id = "list_nodes", params(Which),
    responses((status = 200, body = Vec<NodeView>), (status = "default", body = Problem)))]
pub(super) async fn list(State(api): State<Api>, Params(which): Params<Which>) -> Answer<Vec<NodeView>> {
    Ok(Json(api.hub.nodes(which.target.as_deref()).await?))
}

/// One node, by name, by key or by the first characters of its key.
#[utoipa::path(get, path = "/v1/nodes/{node}", operation_id = "show_node", params(("node" = String, Path)),
    responses((status = 200, body = NodeView), (status = "default", body = Problem)))]
pub(super) async fn show(State(api): State<Api>, Segment(node): Segment) -> Answer<NodeView> {
    Ok(Json(api.hub.node(&node).await?))
}

/// Accepts a waiting or quarantined node.
#[utoipa::path(post, path = "/v1/nodes/{node}/accept", operation_id = "accept_node", params(("node" = String, Path)),
    request_body = AcceptNode, responses((status = 200, body = NodeView), (status = "default", body = Problem)))]
pub(super) async fn accept(
    State(api): State<Api>,
    Segment(node): Segment,
    Caller(by): Caller,
    Input(input): Input<AcceptNode>,
) -> Answer<NodeView> {
    Ok(Json(api.hub.accept_node(&by, &node, input.name).await?))
}

/// Sets and removes labels.
#[utoipa::path(patch, path = "/v1/nodes/{node}/labels", operation_id = "label_node", params(("node" = String, Path)),
    request_body = LabelNode, responses((status = 200, body = NodeView), (status = "default", body = Problem)))]
pub(super) async fn label(
    State(api): State<Api>,
    Segment(node): Segment,
    Caller(by): Caller,
    Input(input): Input<LabelNode>,
) -> Answer<NodeView> {
    Ok(Json(api.hub.label_node(&by, &node, input.labels).await?))
}

/// Revokes a node's key for good and cuts its link.
#[utoipa::path(post, path = "/v1/nodes/{node}/revoke", operation_id = "revoke_node", params(("node" = String, Path)),
    request_body = RevokeNode, responses((status = 200, body = NodeView), (status = "default", body = Problem)))]
pub(super) async fn revoke(
    State(api): State<Api>,
    Segment(node): Segment,
    Caller(by): Caller,
    Input(input): Input<RevokeNode>,
) -> Answer<NodeView> {
    Ok(Json(api.hub.revoke_node(&by, &node, &input.reason).await?))
}

/// Revokes a node, ends what it still owes, and frees its name.
#[utoipa::path(delete, path = "/v1/nodes/{node}", operation_id = "remove_node", params(("node" = String, Path)),
    responses((status = 204), (status = "default", body = Problem)))]
pub(super) async fn remove(
    State(api): State<Api>,
    Segment(node): Segment,
    Caller(by): Caller,
) -> Result<StatusCode, Failure> {
    api.hub.remove_node(&by, &node).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The nodes that target expressions mean now and that the caller may reach.
#[utoipa::path(post, path = "/v1/targets/preview", operation_id = "preview_targets", request_body = Targets,
    responses((status = 200, body = Vec<NodeView>), (status = "default", body = Problem)))]
pub(super) async fn preview(
    State(api): State<Api>,
    Caller(by): Caller,
    Input(input): Input<Targets>,
) -> Answer<Vec<NodeView>> {
    Ok(Json(api.hub.preview(&by, &input.targets).await?))
}
