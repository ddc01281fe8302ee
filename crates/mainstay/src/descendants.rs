//! Everything that this process started, and what that started: found and ended.
//!
//! Orphans come to us rather than to init ([`adopt`]), so a program that made itself a session of its own, or whose parent
//! has ended, is still found below us.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often to look whether they have ended.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long killed processes may take to be gone: more than any does that is not stuck in the kernel.
const KILLED_WITHIN: Duration = Duration::from_millis(500);

/// Has orphans among our descendants become our children.
pub fn adopt() {
    // Without it, what hides in a session of its own is missed; nothing else is lost.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_child_subreaper(true);
}

/// Asks all to end, and after `grace` makes them.
pub fn end_all(grace: Duration) {
    send(Signal::SIGTERM);
    if wait_until_gone(grace) {
        return;
    }
    let begun = Instant::now();
    while begun.elapsed() < KILLED_WITHIN {
        // Again and again: one that forked just then has left a child.
        send(Signal::SIGKILL);
        if wait_until_gone(LOOK_AGAIN) {
            return;
        }
    }
}

fn send(signal: Signal) {
    for pid in living() {
        // It may have ended meanwhile.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

fn wait_until_gone(most: Duration) -> bool {
    let begun = Instant::now();
    loop {
        if living().is_empty() {
            return true;
        }
        if begun.elapsed() >= most {
            return false;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// The processes below this one that have not ended.
fn living() -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<(i32, bool)>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        if let Some((parent, lives)) = parse(&stat) {
            children.entry(parent).or_default().push((pid, lives));
        }
    }
    let mut found = BTreeSet::new();
    let mut below = vec![std::process::id() as i32];
    while let Some(pid) = below.pop() {
        for (child, lives) in children.remove(&pid).into_iter().flatten() {
            below.push(child);
            if lives {
                found.insert(child);
            }
        }
    }
    found
}

/// `PID (name) STATE PARENT …`, where the name may hold anything.
fn parse(stat: &str) -> Option<(i32, bool)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    Some((parent, !matches!(state, "Z" | "X")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read_whatever_the_name() {
        assert_eq!(parse("7 (a) b) S 3 7 7 0"), Some((3, true)));
        assert_eq!(parse("7 (sh) Z 3 7"), Some((3, false)));
        assert_eq!(parse("7 (sh"), None);
        assert_eq!(parse("7 (sh) S"), None);
    }
}
