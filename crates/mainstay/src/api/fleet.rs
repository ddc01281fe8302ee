//! The hub itself: its status, metrics, audit log and backup.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use mainstay_control::view::{Problem, ProblemKind, StatusView};
use prometheus_client::registry::Registry;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Api;
use super::failure::Failure;
use super::guard::{self, Peer};
use super::input::{Caller, Params};

/// Most audit entries in one answer; each is a few hundred bytes.
const MAX_ENTRIES: usize = 100_000;

/// Begins the name of a backup that is being sent.
const SCRATCH: &str = ".backup-";

/// A piece of a backup on its way: large enough that reading is not what takes the time.
const PIECE: usize = 256 << 10;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Entries {
    /// How many of the newest; 100 unless given.
    limit: Option<usize>,
}

/// What this hub is and how it fares.
#[utoipa::path(get, path = "/v1/status", operation_id = "status",
    responses((status = 200, body = StatusView), (status = "default", body = Problem)))]
pub(super) async fn status(State(api): State<Api>) -> Result<Json<StatusView>, Failure> {
    Ok(Json(api.hub.status().await?))
}

/// The audit log's newest entries, each with its hash.
#[utoipa::path(get, path = "/v1/audit", operation_id = "audit", params(Entries),
    responses((status = 200, body = Vec<serde_json::Value>), (status = "default", body = Problem)))]
pub(super) async fn audit(
    State(api): State<Api>,
    Caller(by): Caller,
    Params(entries): Params<Entries>,
) -> Result<Json<Vec<serde_json::Value>>, Failure> {
    let limit = entries.limit.unwrap_or(100).min(MAX_ENTRIES);
    Ok(Json(api.hub.audit(&by, limit).await?))
}

/// What nodes reported last to have gone wrong with their own messages, newest first.
#[utoipa::path(get, path = "/v1/errors", operation_id = "errors", params(Entries),
    responses((status = 200, body = Vec<serde_json::Value>), (status = "default", body = Problem)))]
pub(super) async fn errors(
    State(api): State<Api>,
    Caller(by): Caller,
    Params(entries): Params<Entries>,
) -> Result<Json<Vec<serde_json::Value>>, Failure> {
    let limit = entries.limit.unwrap_or(100).min(MAX_ENTRIES);
    Ok(Json(api.hub.errors(&by, limit).await?))
}

/// A consistent copy of the hub's whole state, keys included: keep it as safe as the hub itself.
#[utoipa::path(post, path = "/v1/backup", operation_id = "backup",
    responses((status = 200, content_type = "application/octet-stream"), (status = "default", body = Problem)))]
pub(super) async fn backup(State(api): State<Api>, Caller(by): Caller) -> Result<Response, Failure> {
    let scratch = Scratch(api.scratch.join(format!("{SCRATCH}{}", random_name()?)));
    api.hub.backup(&by, &scratch.0).await?;
    let file = std::fs::File::open(&scratch.0).map_err(|e| unreadable(&e))?;
    // Once it is open it needs no name: whatever happens now, nothing is left behind.
    drop(scratch);
    let length = file.metadata().map_err(|e| unreadable(&e))?.len();
    let pieces = futures_util::stream::try_unfold(tokio::fs::File::from_std(file), async |mut file| {
        let mut piece = bytes::BytesMut::with_capacity(PIECE);
        let read = tokio::io::AsyncReadExt::read_buf(&mut file, &mut piece).await?;
        Ok::<_, std::io::Error>((read > 0).then(|| (piece.freeze(), file)))
    });
    let head = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        // So that whoever receives it knows whether it is whole.
        (header::CONTENT_LENGTH, length.to_string()),
    ];
    Ok((head, Body::from_stream(pieces)).into_response())
}

/// A file that is gone when this is: also when the caller hangs up in the middle.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, file = %self.0.display(), "a backup's copy is left behind");
        }
    }
}

fn random_name() -> Result<String, Problem> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|e| Problem::new(ProblemKind::Internal, format!("no randomness: {e}")))?;
    Ok(data_encoding::HEXLOWER.encode(&bytes))
}

fn unreadable(error: &std::io::Error) -> Problem {
    Problem::new(ProblemKind::Internal, format!("the backup cannot be read back: {error}"))
}

/// Removes what a hub that was killed in the middle of a backup left.
pub(super) fn sweep(data: &Path) {
    for entry in std::fs::read_dir(data).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(SCRATCH.as_bytes()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Metrics for Prometheus: freely on this machine's socket, elsewhere with a token.
pub(super) async fn metrics(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    if let Peer::Remote = peer {
        guard::authorise(&api, Some(peer), &headers).await?;
    }
    Ok(exposition(&api.metrics))
}

/// All metrics in the text format.
pub(super) fn exposition(metrics: &Mutex<Registry>) -> Response {
    let mut text = String::new();
    // A registry is only ever added to: whoever panicked in the middle of it left nothing half done.
    let registry = metrics.lock().unwrap_or_else(PoisonError::into_inner);
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(e) => Failure(Problem::new(ProblemKind::Internal, format!("metrics: {e}"))).into_response(),
    }
}
