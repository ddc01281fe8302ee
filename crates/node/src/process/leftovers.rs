//! Finding what an execution started without the help of a cgroup: by a mark in the environment, which
//! every process inherits unless it clears it, and by the session that it began.
//!
//! A process that does both (clears its environment and begins a session of its own) is found only by its
//! cgroup, and what a daemon started on request (a container, a timer) by neither.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::thread;
use std::time::Instant;

use mainstay_core::id::{KeyId, MessageId};
use nix::errno::Errno;
use nix::libc;
use nix::unistd::{getpid, getsid};

use super::cgroup::GONE_WITHIN;

/// The environment variable that every process started for a message has. Its value is the origin's key and
/// the message's id, so a program may use it too.
pub const MARK: &str = "MAINSTAY_MESSAGE";

/// Most of an environment that is searched: Linux allows a few MiB, and nobody sane needs a tenth.
const MAX_ENVIRON: u64 = 4 << 20;

/// How long to wait before looking again whether what was killed is gone.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(5);

/// Names one execution of a message on this node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Mark {
    pub origin: KeyId,
    pub id: MessageId,
}

impl Mark {
    /// `NAME=value`, as it stands in the environment.
    pub(super) fn variable(&self) -> String {
        format!("{MARK}={}:{}", self.origin, self.id)
    }

    /// The name of its cgroup: sorts by time, and is unique even if two origins chose one id.
    pub(super) fn cgroup_name(&self) -> String {
        format!("{}.{}", self.id, self.origin)
    }
}

/// A process that has not ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Found {
    pub(crate) pid: i32,
    /// When it started, in ticks since boot: with the pid it names one process.
    started: u64,
}

impl Found {
    /// The process of this line of the kernel's, if it leads a session and still lives.
    pub(crate) fn leader(line: &[u8]) -> Option<Self> {
        let pid = std::str::from_utf8(line).ok()?.split(' ').next()?.parse().ok()?;
        let (then, now) = (Stat::parse(line)?, Stat::of(pid)?);
        (then.session == pid && now == then).then_some(Self { pid, started: then.started })
    }

    /// The living processes of the sessions that have these numbers.
    pub(crate) fn members(sessions: &BTreeSet<i32>) -> BTreeSet<Self> {
        let of = |pid| {
            let stat = Stat::of(pid).filter(|stat| sessions.contains(&stat.session))?;
            Some(Self { pid, started: stat.started })
        };
        pids().filter_map(of).collect()
    }

    /// The program's name as the kernel has it, cut off at 15 bytes.
    pub(crate) fn name(self) -> String {
        let name = fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        name.trim_end().to_owned()
    }
}

/// The living processes that carry the mark, or live in the session of one that does, or in `session`.
pub(super) fn find(mark: &Mark, session: Option<i32>) -> Vec<Found> {
    let wanted = mark.variable();
    let me = getpid().as_raw();
    let mut sessions: BTreeSet<i32> = session.into_iter().collect();
    let mut found = BTreeSet::new();
    let mut others = Vec::new();
    for pid in pids().filter(|pid| *pid != me) {
        let Some(stat) = Stat::of(pid) else { continue };
        let process = Found { pid, started: stat.started };
        if sessions.contains(&stat.session) || carries(pid, &wanted) {
            sessions.insert(stat.session);
            found.insert(process);
        } else {
            others.push((process, stat.session));
        }
    }
    // If this node was itself started by a message, its own session is not a leftover.
    if session.is_none()
        && let Ok(own) = getsid(None)
    {
        sessions.remove(&own.as_raw());
    }
    found.extend(
        others.into_iter().filter(|(_, session)| sessions.contains(session)).map(|(process, _)| process),
    );
    found.into_iter().collect()
}

/// Kills what [`find`] finds until nothing is found, or for [`GONE_WITHIN`]. Returns how many processes it
/// found and how many were still there in the end. Blocks.
pub(super) fn kill_until_gone(mark: &Mark, session: Option<i32>) -> (usize, usize) {
    let give_up = Instant::now() + GONE_WITHIN;
    let mut all = BTreeSet::new();
    loop {
        let alive = find(mark, session);
        if alive.is_empty() || Instant::now() > give_up {
            return (all.len(), alive.len());
        }
        for process in alive {
            send(process, libc::SIGKILL);
            all.insert(process);
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// Sends a signal to exactly this process, not to one that got its number since.
pub(crate) fn send(process: Found, signal: libc::c_int) {
    // SAFETY: system calls without pointers but null.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, process.pid, 0);
        let same = Stat::of(process.pid).is_some_and(|stat| stat.started == process.started);
        if fd >= 0 {
            if same {
                libc::syscall(
                    libc::SYS_pidfd_send_signal,
                    fd,
                    signal,
                    std::ptr::null::<libc::siginfo_t>(),
                    0,
                );
            }
            libc::close(fd as libc::c_int);
        } else if same && Errno::last() != Errno::ESRCH {
            // Older than pidfds: what remains is the moment between looking and sending.
            libc::kill(process.pid, signal);
        }
    }
}

fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[derive(PartialEq, Eq)]
struct Stat {
    session: i32,
    started: u64,
}

impl Stat {
    /// `None` if it has ended, reaped or not.
    fn of(pid: i32) -> Option<Self> {
        let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(&text)
    }

    /// The second field is the program's name in brackets and may hold anything, brackets too.
    fn parse(text: &[u8]) -> Option<Self> {
        let name_end = text.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(text.get(name_end + 2..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        if matches!(*fields.first()?, "Z" | "X") {
            return None;
        }
        Some(Self { session: fields.get(3)?.parse().ok()?, started: fields.get(19)?.parse().ok()? })
    }
}

/// Whether a process was started with this in its environment. One that we may not look into is not ours.
fn carries(pid: i32, variable: &str) -> bool {
    let mut environ = Vec::new();
    let Ok(file) = File::open(format!("/proc/{pid}/environ")) else {
        return false;
    };
    if file.take(MAX_ENVIRON).read_to_end(&mut environ).is_err() {
        return false;
    }
    environ.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_program_name_does_not_confuse_the_fields() {
        let stat = b"77 (a) Z 1 2 3) S 1 70 69 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 1 1\n";
        let stat = Stat::parse(stat).unwrap();
        assert_eq!((stat.session, stat.started), (69, 4242));
        assert!(Stat::parse(b"77 (x) Z 1 70 69 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1\n").is_none());
        assert!(Stat::parse(b"77 (x").is_none());
        assert!(Stat::parse(b"").is_none());
    }
}
