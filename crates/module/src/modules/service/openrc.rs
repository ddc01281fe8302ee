//! OpenRC: its own directories say what is there and enabled, the exit status of `rc-service` what runs.

use std::path::Path;

use super::{Unit, Verb};
use crate::failure::Failure;
use crate::host::{Command, Host, View};

/// `rc-service NAME status` of a service that is stopped.
const STOPPED: i32 = 3;
/// Of one whose process is gone.
const CRASHED: i32 = 32;

pub(super) fn look(view: &View, name: &str, runlevel: &str) -> Result<Unit, Failure> {
    let script = ["/etc/init.d", "/usr/local/etc/init.d"].map(|directory| Path::new(directory).join(name));
    let mut found = false;
    for script in &script {
        found |= view.target(script)?.is_some();
    }
    if !found {
        return Ok(Unit::default());
    }
    let link = Path::new("/etc/runlevels").join(runlevel).join(name);
    let command = Command::new("rc-service").args([name, "status"]);
    let ran = view.run(&command)?;
    let running = match ran.code() {
        Some(0) => true,
        Some(1 | STOPPED | CRASHED) => false,
        _ => return Err(ran.failure(&command)),
    };
    let command = Command::new("rc-service").args([name, "describe"]);
    let ran = view.run(&command)?;
    // It tells people, and on standard error: ` * reload: no description`.
    let described = format!("{}\n{}", ran.text(), ran.error_text());
    let can_reload = described.lines().any(|line| line.trim_start_matches([' ', '*']).starts_with("reload:"));
    let enabled = view.entry(&link)?.is_some();
    Ok(Unit { found, running, enabled, can_reload, ..Unit::default() })
}

pub(super) fn act(host: &Host, name: &str, runlevel: &str, verb: Verb) -> Result<(), Failure> {
    let command = match verb {
        Verb::Start => Command::new("rc-service").args([name, "start"]),
        Verb::Stop => Command::new("rc-service").args([name, "stop"]),
        Verb::Restart => Command::new("rc-service").args([name, "restart"]),
        Verb::Reload => Command::new("rc-service").args([name, "reload"]),
        Verb::Enable => Command::new("rc-update").args(["add", name, runlevel]),
        Verb::Disable => Command::new("rc-update").args(["del", name, runlevel]),
        Verb::Mask | Verb::Unmask => {
            return Err(Failure::new(format!("mask service {name}"), "OpenRC has no such thing"));
        }
    };
    host.run(&command)?.or_failure(&command).map(drop)
}
