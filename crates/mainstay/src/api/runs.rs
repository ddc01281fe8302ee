//! `/v1/runs`: one operator request over a set of nodes, its events and its history.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use mainstay_control::view::{Approve, Problem, RunEvent, RunNodeView, RunSpec, RunView};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::events;
use super::failure::Failure;
use super::input::{Caller, Input, Params, Segment, run_id};

type Answer<T> = Result<Json<T>, Failure>;

/// Most runs listed at once; each is a few hundred bytes.
const MAX_LISTED: usize = 10_000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    /// Answer with the run's events at once, as server-sent events: one round trip less.
    #[serde(default)]
    watch: bool,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Listed {
    /// How many of the newest; 100 unless given, 10,000 at most.
    limit: Option<usize>,
    /// Count the plans that nobody has approved, too.
    #[serde(default)]
    plans: bool,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct From {
    /// Continue from this position (0 for all); `Last-Event-ID` wins over it.
    #[serde(default)]
    from: u64,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Shown {
    /// Only the nodes that have not ended, so without any output.
    #[serde(default)]
    pending: bool,
}

/// A run and where it stands on each node.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RunDetail {
    pub run: RunView,
    pub nodes: Vec<RunNodeView>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryRun {
    /// Only the nodes that failed.
    #[serde(default)]
    pub failed_only: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PruneRuns {
    /// Ended runs created before this are forgotten: milliseconds since 1970.
    pub before_ms: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Pruned {
    pub pruned: u64,
}

/// Accepts a run: durable, and its targets frozen, when this answers.
#[utoipa::path(post, path = "/v1/runs", operation_id = "create_run", params(Create), request_body = RunSpec,
    responses((status = 201, body = RunView, description = "With `watch`: `RunEvent`s as server-sent events. `Location` names the run."),
        (status = "default", body = Problem)))]
pub(super) async fn create(
    State(api): State<Api>,
    Params(how): Params<Create>,
    Caller(by): Caller,
    Input(spec): Input<RunSpec>,
) -> Result<Response, Failure> {
    let view = api.hub.start_run(&by, spec).await?;
    let location = [(header::LOCATION, format!("/v1/runs/{}", view.run))];
    if !how.watch {
        return Ok((StatusCode::CREATED, location, Json(view)).into_response());
    }
    // The run is accepted whatever becomes of the watching: a failure to watch is told inside the stream.
    let events = match api.hub.watch_run(&by, view.run, 0).await {
        Ok(events) => events,
        Err(problem) => Box::pin(futures_util::stream::iter([Err(problem)])),
    };
    Ok((StatusCode::CREATED, location, events::stream(events, api.ending)).into_response())
}

/// The newest runs first: those of the caller, or all if it is bound to no nodes.
#[utoipa::path(get, path = "/v1/runs", operation_id = "list_runs", params(Listed),
    responses((status = 200, body = Vec<RunView>), (status = "default", body = Problem)))]
pub(super) async fn list(
    State(api): State<Api>,
    Params(listed): Params<Listed>,
    Caller(by): Caller,
) -> Answer<Vec<RunView>> {
    let limit = listed.limit.unwrap_or(100).min(MAX_LISTED);
    let runs =
        if listed.plans { api.hub.runs_with_plans(&by, limit).await } else { api.hub.runs(&by, limit).await };
    Ok(Json(runs?))
}

/// One run, and for each node its result or why there is none yet.
#[utoipa::path(get, path = "/v1/runs/{run}", operation_id = "show_run", params(("run" = String, Path), Shown),
    responses((status = 200, body = RunDetail), (status = "default", body = Problem)))]
pub(super) async fn show(
    State(api): State<Api>,
    Segment(run): Segment,
    Params(shown): Params<Shown>,
    Caller(by): Caller,
) -> Answer<RunDetail> {
    let (run, mut nodes) = api.hub.run(&by, run_id(&run)?).await?;
    if shown.pending {
        nodes.retain(|node| node.result.is_none());
    }
    Ok(Json(RunDetail { run, nodes }))
}

/// A run's events from a position on, those to come included, until its summary.
#[utoipa::path(get, path = "/v1/runs/{run}/events", operation_id = "watch_run", params(("run" = String, Path), From),
    responses((status = 200, body = RunEvent, content_type = "text/event-stream"), (status = "default", body = Problem)))]
pub(super) async fn events(
    State(api): State<Api>,
    Segment(run): Segment,
    Params(from): Params<From>,
    Caller(by): Caller,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let run = run_id(&run)?;
    let position = match headers.get("last-event-id") {
        None => from.from,
        Some(value) => {
            let number = value.to_str().ok().and_then(|text| text.parse().ok());
            number.ok_or_else(|| Failure::invalid("Last-Event-ID is not a position of a run"))?
        }
    };
    let events = api.hub.watch_run(&by, run, position).await?;
    Ok(events::stream(events, api.ending).into_response())
}

/// Takes back what is queued and kills what runs.
#[utoipa::path(post, path = "/v1/runs/{run}/cancel", operation_id = "cancel_run", params(("run" = String, Path)),
    responses((status = 200, body = RunView), (status = "default", body = Problem)))]
pub(super) async fn cancel(
    State(api): State<Api>,
    Segment(run): Segment,
    Caller(by): Caller,
) -> Answer<RunView> {
    Ok(Json(api.hub.cancel_run(&by, run_id(&run)?).await?))
}

/// A new run of the same order.
#[utoipa::path(post, path = "/v1/runs/{run}/retry", operation_id = "retry_run", params(("run" = String, Path)),
    request_body = RetryRun, responses((status = 201, body = RunView), (status = "default", body = Problem)))]
pub(super) async fn retry(
    State(api): State<Api>,
    Segment(run): Segment,
    Caller(by): Caller,
    Input(input): Input<RetryRun>,
) -> Result<(StatusCode, Json<RunView>), Failure> {
    let view = api.hub.retry_run(&by, run_id(&run)?, input.failed_only).await?;
    Ok((StatusCode::CREATED, Json(view)))
}

/// A new run that applies the plans which the nodes of this one made.
#[utoipa::path(post, path = "/v1/runs/{run}/approve", operation_id = "approve_run", params(("run" = String, Path)),
    request_body = Approve, responses((status = 201, body = RunView), (status = "default", body = Problem)))]
pub(super) async fn approve(
    State(api): State<Api>,
    Segment(run): Segment,
    Caller(by): Caller,
    Input(input): Input<Approve>,
) -> Result<(StatusCode, Json<RunView>), Failure> {
    let view = api.hub.approve_run(&by, run_id(&run)?, input).await?;
    Ok((StatusCode::CREATED, Json(view)))
}

/// Forgets old runs.
#[utoipa::path(post, path = "/v1/runs/prune", operation_id = "prune_runs", request_body = PruneRuns,
    responses((status = 200, body = Pruned), (status = "default", body = Problem)))]
pub(super) async fn prune(
    State(api): State<Api>,
    Caller(by): Caller,
    Input(input): Input<PruneRuns>,
) -> Answer<Pruned> {
    let pruned = api.hub.prune_runs(&by, input.before_ms).await?;
    Ok(Json(Pruned { pruned }))
}
