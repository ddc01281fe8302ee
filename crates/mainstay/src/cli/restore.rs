//! `mainstay restore`: a hub's state from a backup.

use std::path::PathBuf;

use clap::Args;
use mainstay_control::backup::{self, BackupError};
use mainstay_control::view::{Problem, ProblemKind};

use super::screen::Screen;
use super::{Done, status_of};
use crate::config::data_dir;
use mainstay_core::causes::with_causes;

/// Makes a hub on this machine from a backup
///
/// The data directory must not have a hub yet. Start the hub afterwards with `mainstay hub`.
#[derive(Args)]
#[command(after_help = "Example:\n  mainstay restore /backup/hub-2026-11-20 --data /var/lib/mainstay")]
pub(super) struct RestoreArgs {
    /// The backup
    file: PathBuf,
    /// The data directory to fill [default: /var/lib/mainstay for root, else ~/.local/share/mainstay]
    #[arg(long, value_name = "DIR", env = "MAINSTAY_DATA", hide_env_values = true)]
    data: Option<PathBuf>,
}

pub(super) fn run(args: &RestoreArgs, screen: &mut Screen) -> Done {
    let data = args.data.clone().unwrap_or_else(data_dir::default);
    // A name that was mistyped must not leave directories behind.
    std::fs::File::open(&args.file).map_err(|e| {
        Problem::new(ProblemKind::Invalid, format!("{} cannot be read: {e}", args.file.display()))
    })?;
    backup::restore(&args.file, &data).map_err(|error| problem(&error))?;
    if screen.json {
        screen.object(&serde_json::json!({"event": "restored", "data": data}))?;
    } else {
        screen.line(&format!("{} holds the hub of {} now.", data.display(), args.file.display()))?;
        screen.note("The hub that the backup is of must never run again: start this one in its place.")?;
    }
    Ok(status_of::WELL)
}

fn problem(error: &BackupError) -> Problem {
    let problem = Problem::new(ProblemKind::Invalid, with_causes(error));
    match error {
        BackupError::NotEmpty { .. } => {
            problem.hint("name another directory with --data, or move this one away")
        }
        _ => problem,
    }
}
