//! `mainstay audit`: who did what.

use clap::Args;
use serde_json::Value;

use super::screen::Screen;
use super::{Done, moment, status_of, table};
use crate::client::Client;

/// Shows who did what, the newest first
///
/// Each entry of the audit log carries the hash of the one before it.
#[derive(Args)]
#[command(after_help = "Example:\n  mainstay audit --limit 10 --json")]
pub(super) struct AuditArgs {
    /// How many entries
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

pub(super) async fn run(client: &Client, args: &AuditArgs, screen: &mut Screen) -> Done {
    let entries: Vec<Value> = client.get(&format!("/v1/audit?limit={}", args.limit)).await?;
    if screen.json {
        for entry in &entries {
            screen.object(entry)?;
        }
        return Ok(status_of::WELL);
    }
    let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
    table::show(screen, &["WHEN", "WHO", "WHAT", "DETAILS"], &rows)?;
    Ok(status_of::WELL)
}

/// The known fields in columns of their own, all others behind them: entries of every kind are shown.
fn row(entry: &Value) -> Vec<String> {
    let at = entry["at"].as_i64().map(moment::absolute).unwrap_or_default();
    let rest: Vec<String> = [Some(entry), entry.get("detail")]
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .flatten()
        .filter(|(key, value)| {
            !matches!(key.as_str(), "at" | "operator" | "act" | "detail" | "hash" | "previous" | "position")
                && !value.is_null()
        })
        .map(|(key, value)| format!("{key}={}", plain(value)))
        .collect();
    vec![at, plain(&entry["operator"]), plain(&entry["act"]), rest.join(" ")]
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
