//! Everything that this process started, and what that started: found and ended.
//!
//! Orphans come to us rather than to init ([`adopt`]), so a program that made itself a session of its own, or whose parent
//! has ended, is still found below us.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use mainstay_module::host::processes::processes;
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
    let all = processes().unwrap_or_default();
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (pid, process) in &all {
        children.entry(process.parent).or_default().push(*pid);
    }
    let mut found = BTreeSet::new();
    let mut parents = vec![std::process::id() as i32];
    while let Some(parent) = parents.pop() {
        let below = children.remove(&parent).unwrap_or_default();
        parents.extend(&below);
        found.extend(below.into_iter().filter(|pid| all[pid].lives));
    }
    found
}
