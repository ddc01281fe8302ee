//! `mainstay restore`: a hub's state from a backup.

use std::path::PathBuf;

use clap::Args;
use mainstay_control::view::{Problem, ProblemKind};

use super::Done;
use super::screen::Screen;
use crate::config::data_dir;

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

pub(super) fn run(args: &RestoreArgs, _screen: &mut Screen) -> Done {
    let data = args.data.clone().unwrap_or_else(data_dir::default);
    Err(Problem::new(ProblemKind::Internal, format!("{} to {}", args.file.display(), data.display())).into())
}
