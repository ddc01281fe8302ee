//! What a command started, and what that started: its process group, and whoever left it for a session of its own.

use std::collections::{BTreeMap, BTreeSet};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::host::processes::processes;

/// The processes of one command, while its first is not reaped: until then the group's number is nobody else's.
#[derive(Debug)]
pub(super) struct Kin {
    group: Pid,
    /// Those outside of the group, with when they began: their numbers may be others' by and by. They are kept because they
    /// cannot be found again when whoever started them has ended.
    outside: BTreeMap<i32, u64>,
}

impl Kin {
    pub(super) fn of(group: Pid) -> Self {
        Self { group, outside: BTreeMap::new() }
    }

    pub(super) fn signal(&mut self, signal: Signal) {
        // Finds who has left the group by now.
        self.is_gone();
        // Nothing left to signal is what is wanted.
        let _ = killpg(self.group, signal);
        for pid in self.outside.keys() {
            let _ = kill(Pid::from_raw(*pid), signal);
        }
    }

    /// Finds those outside of the group. Whether all have ended, there and in it; what cannot be told is not so.
    pub(super) fn is_gone(&mut self) -> bool {
        let Some(all) = processes() else { return false };
        let group = self.group.as_raw();
        self.outside.retain(|pid, began| all.get(pid).is_some_and(|process| process.began == *began));
        let members = all.iter().filter(|(_, process)| process.group == group);
        let members: BTreeSet<i32> = members.map(|(pid, _)| *pid).collect();
        let mut below: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for (pid, process) in &all {
            below.entry(process.parent).or_default().push(*pid);
        }
        let mut parents: Vec<i32> =
            members.iter().chain(self.outside.keys()).copied().chain([group]).collect();
        while let Some(parent) = parents.pop() {
            for pid in below.remove(&parent).into_iter().flatten() {
                parents.push(pid);
                if !members.contains(&pid) {
                    self.outside.insert(pid, all[&pid].began);
                }
            }
        }
        let lives = |pid: &i32| all.get(pid).is_some_and(|process| process.lives);
        !members.iter().chain(self.outside.keys()).any(lives)
    }
}
