//! The tools one would use instead, where their harness is set up: `--peers DIR`, a directory with a `bench` program
//! that prints a table and appends JSON lines to `$PEERS_DIR/results/`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::Value;

/// Milliseconds of one command on so many hosts, by peer. Nothing without a harness.
pub fn run(harness: Option<&Path>, hosts: usize) -> anyhow::Result<Vec<(String, f64)>> {
    let Some(harness) = harness else { return Ok(Vec::new()) };
    let rows = rows(harness, "run", &[&hosts.to_string()])?;
    let named = |row: &Value| {
        let name = row["name"].as_str().or(row["tool"].as_str())?;
        Some((name.to_owned(), milliseconds(row)?))
    };
    Ok(rows.iter().filter_map(named).collect())
}

/// What one tool took for one phase (`dry`, `first`, `noop`) of the harness' tree.
pub struct Phase {
    pub tool: String,
    pub phase: String,
    pub milliseconds: f64,
}

/// So many files on so many hosts, by peer and phase. Nothing without a harness.
pub fn state(harness: Option<&Path>, files: usize, hosts: usize) -> anyhow::Result<Vec<Phase>> {
    let Some(harness) = harness else { return Ok(Vec::new()) };
    let count = hosts.to_string();
    let up = Command::new(harness.join("hosts")).args(["up", &count]).status()?;
    ensure!(up.success(), "the peers' hosts ended with {up}");
    let rows = rows(harness, "state", &[&files.to_string(), &count]);
    let down = Command::new(harness.join("hosts")).arg("down").status()?;
    ensure!(down.success(), "the peers' hosts ended with {down}");
    let named = |row: &Value| {
        let (tool, phase) = (row["tool"].as_str()?.to_owned(), row["phase"].as_str()?.to_owned());
        Some(Phase { tool, phase, milliseconds: milliseconds(row)? })
    };
    Ok(rows?.iter().filter_map(named).collect())
}

fn milliseconds(row: &Value) -> Option<f64> {
    Some(row["wall_s"].as_f64().or(row["wall"].as_f64())? * 1e3)
}

/// What one part of the harness has appended to its results.
fn rows(harness: &Path, part: &str, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
    let work = std::env::var_os("PEERS_DIR").map_or_else(|| std::env::temp_dir().join("peers"), Into::into);
    let results = work.join("results").join(format!("{part}.jsonl"));
    let before = std::fs::read_to_string(&results).unwrap_or_default().lines().count();
    let status = Command::new(harness.join("bench"))
        .arg(part)
        .args(arguments)
        .status()
        .with_context(|| format!("{} cannot be started", harness.display()))?;
    ensure!(status.success(), "the peers' harness ended with {status}");
    let text = std::fs::read_to_string(&results)?;
    text.lines().skip(before).map(|line| Ok(serde_json::from_str(line)?)).collect()
}
