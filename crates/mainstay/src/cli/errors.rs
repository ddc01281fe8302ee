//! `mainstay errors`: what nodes reported to have gone wrong.

use clap::Args;
use serde_json::Value;

use super::screen::Screen;
use super::{Done, moment, status_of, table};
use crate::client::Client;

/// Shows what went wrong with messages anywhere in the fleet, the newest first
///
/// Each node reports the ends of its own messages that were not what their sender hoped for. Runs are shown by
/// `mainstay runs`.
#[derive(Args)]
#[command(after_help = "Example:\n  mainstay errors --limit 10 --json")]
pub(super) struct ErrorsArgs {
    /// How many entries
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

pub(super) async fn run(client: &Client, args: &ErrorsArgs, screen: &mut Screen) -> Done {
    let entries: Vec<Value> = client.get(&format!("/v1/errors?limit={}", args.limit)).await?;
    if screen.json {
        for entry in &entries {
            screen.object(entry)?;
        }
        return Ok(status_of::WELL);
    }
    let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
    table::show(screen, &["WHEN", "NODE", "WHAT"], &rows)?;
    Ok(status_of::WELL)
}

fn row(entry: &Value) -> Vec<String> {
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    vec![entry["at"].as_i64().map(moment::absolute).unwrap_or_default(), text("node"), text("text")]
}
