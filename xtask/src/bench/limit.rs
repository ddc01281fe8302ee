//! What this machine allows at best, as far as it does not matter how this program itself is built: processes. Syncs and
//! signatures are measured by the simulated agents.

use std::process::{Command, Stdio};
use std::time::Instant;

/// Milliseconds to start so many `true` at once and wait for all.
pub fn forks(count: usize) -> anyhow::Result<f64> {
    let began = Instant::now();
    let children = (0..count)
        .map(|_| Command::new("true").stdin(Stdio::null()).stdout(Stdio::null()).spawn())
        .collect::<Result<Vec<_>, _>>()?;
    for mut child in children {
        child.wait()?;
    }
    Ok(began.elapsed().as_secs_f64() * 1e3)
}
