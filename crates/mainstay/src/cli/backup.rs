//! `mainstay backup`: a hub's whole state in one file.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use http_body_util::BodyExt;
use hyper::{Method, header};
use mainstay_control::view::{Problem, ProblemKind};

use super::screen::Screen;
use super::{Done, Stop, status_of, table};
use crate::client::{Client, Reply};

/// The hub copies all its state before it sends the first byte of it: gigabytes, on a slow disk.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Writes the hub's whole state to a file, while the hub goes on
///
/// The copy is consistent. The file holds the fleet's keys: whoever has it can be the hub. It is readable by its owner alone.
#[derive(Args)]
#[command(after_help = "Example:\n  mainstay backup /backup/hub-$(date +%F)")]
pub(super) struct BackupArgs {
    /// The file to write; it must not exist
    file: PathBuf,
}

pub(super) async fn run(client: &Client, args: &BackupArgs, screen: &mut Screen) -> Done {
    let path = &args.file;
    if path.exists() {
        let message = format!("{} exists already", path.display());
        return Err(Problem::new(ProblemKind::Conflict, message).hint("name a new file").into());
    }
    // Under its own name it is there whole or not at all.
    let mut part = path.clone().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut file = create(&part)?;
    let reply = client.open_within(PATIENCE, Method::POST, "/v1/backup", &[], bytes::Bytes::new()).await;
    let received = match reply {
        Ok(reply) => receive(reply, &mut file).await,
        Err(problem) => Err(problem),
    };
    let size = match received.and_then(|size| place(&part, path).map(|()| size)) {
        Ok(size) => size,
        Err(problem) => {
            let _ = std::fs::remove_file(&part);
            return Err(problem.into());
        }
    };
    if screen.json {
        screen.object(&serde_json::json!({"event": "backup", "file": path, "bytes": size}))?;
    } else {
        screen.line(&format!("{} holds the hub's state, {}.", path.display(), table::bytes(size)))?;
    }
    Ok(status_of::WELL)
}

fn create(part: &Path) -> Result<File, Stop> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(part).map_err(|e| {
        Problem::new(ProblemKind::Invalid, format!("{} cannot be made: {e}", part.display()))
            .hint("a .part file is left over when a backup was killed; remove it")
            .into()
    })
}

async fn receive(reply: Reply, file: &mut File) -> Result<u64, Problem> {
    let broken = |why: String| Problem::new(ProblemKind::Unreachable, format!("the backup broke off: {why}"));
    let announced = reply.response.headers().get(header::CONTENT_LENGTH);
    let announced: Option<u64> = announced.and_then(|value| value.to_str().ok()?.parse().ok());
    let mut size = 0;
    let mut reply = reply;
    while let Some(frame) = reply.response.body_mut().frame().await {
        let piece = frame.map_err(|e| broken(e.to_string()))?.into_data().unwrap_or_default();
        size += piece.len() as u64;
        file.write_all(&piece)
            .map_err(|e| Problem::new(ProblemKind::Full, format!("the backup cannot be written: {e}")))?;
    }
    if announced.is_some_and(|announced| announced != size) {
        return Err(broken(format!("{size} bytes came")));
    }
    file.sync_all()
        .map_err(|e| Problem::new(ProblemKind::Full, format!("the backup cannot be written: {e}")))?;
    Ok(size)
}

fn place(part: &Path, path: &Path) -> Result<(), Problem> {
    std::fs::rename(part, path)
        .map_err(|e| Problem::new(ProblemKind::Invalid, format!("{} cannot be made: {e}", path.display())))
}
