//! What killed sessions left running on this machine: ended before anything new is begun.
//!
//! A command that still runs is found by what it wrote down of itself ([`mainstay_module::host::command::register`]): number
//! and time of start of its first process, in this life of the machine. While that process lives, the number
//! of its process session is nobody else's, and all in it is the command. Once it has ended, so has the command: what it sent
//! to the background goes on, as it does when nobody was killed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use mainstay_module::host::command::register::Abandoned;
use nix::libc;
use tracing::warn;

use crate::process::leftovers::{Found, send};
use crate::process::{GONE_WITHIN, GRACE};

/// How often to look whether they have ended.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// More would hide the first, which is the command itself.
const NAMED: usize = 6;

/// Ends it, and says what it was. The error names what cannot be ended: beside it nothing should be begun.
pub(super) fn end_all(directory: &Path) -> Result<Vec<String>, String> {
    let abandoned = match Abandoned::find(directory) {
        Ok(Some(abandoned)) => abandoned,
        Ok(None) => return Ok(Vec::new()),
        Err(error) => {
            let place = directory.display();
            return Ok(vec![format!("cannot look in {place} for what a killed run left running: {error}")]);
        }
    };
    let (mut notes, mut problems) = (Vec::new(), Vec::new());
    for session in abandoned.sessions {
        let commands: BTreeSet<i32> =
            session.lines.iter().filter_map(|line| Found::leader(line)).map(|found| found.pid).collect();
        let title = &session.title;
        let (found, left) = if commands.is_empty() { Default::default() } else { end(&commands) };
        if !left.is_empty() {
            problems.push(format!(
                "what a killed run ({title}) had left running cannot be ended, and nothing is begun beside it: {}",
                named(&left)
            ));
            continue;
        }
        if !found.is_empty() {
            let note = format!("ended what a killed run ({title}) had left running: {}", named(&found));
            warn!("{note}");
            notes.push(note);
        }
        session.forget();
    }
    if problems.is_empty() { Ok(notes) } else { Err(problems.join("; ")) }
}

type Names = BTreeMap<Found, String>;

/// Asks all processes of these sessions to end, and makes those that do not. All that were found, and those that are left.
fn end(sessions: &BTreeSet<i32>) -> (Names, Names) {
    let begun = Instant::now();
    let mut all = Names::new();
    loop {
        let alive = Found::members(sessions);
        let elapsed = begun.elapsed();
        if alive.is_empty() || elapsed > GRACE + GONE_WITHIN {
            let left = all.iter().filter(|(found, _)| alive.contains(found));
            let left = left.map(|(found, name)| (*found, name.clone())).collect();
            return (all, left);
        }
        for process in alive {
            if elapsed > GRACE {
                send(process, libc::SIGKILL);
            }
            all.entry(process).or_insert_with(|| {
                let name = process.name();
                send(process, libc::SIGTERM);
                // What is stopped does not hear it.
                send(process, libc::SIGCONT);
                name
            });
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// `sh (process 41), sleep (process 42) and 3 more`. Only names: arguments may hold secrets.
fn named(found: &Names) -> String {
    let names = found.iter().take(NAMED).map(|(found, name)| {
        let name: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        format!("{name} (process {})", found.pid)
    });
    let names = names.collect::<Vec<_>>().join(", ");
    match found.len().saturating_sub(NAMED) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::process::CommandExt as _;
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that leads a session of its own, and what a killed run wrote of it.
    struct Left {
        directory: tempfile::TempDir,
        child: Child,
    }

    const BOOT: &str = "/proc/sys/kernel/random/boot_id";

    impl Left {
        fn new() -> Self {
            let mut command = Command::new("sleep");
            command.arg("3000").stdin(Stdio::null());
            // SAFETY: one system call.
            unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into)) };
            Self { directory: tempfile::tempdir().unwrap(), child: command.spawn().unwrap() }
        }

        fn pid(&self) -> u32 {
            self.child.id()
        }

        fn line(&self) -> String {
            fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap()
        }

        fn write(&self, boot: &str, line: &str) -> PathBuf {
            let mut bytes = format!("{}\na run\n", boot.trim()).into_bytes();
            bytes.resize(512, 0);
            bytes.extend(line.as_bytes());
            bytes.resize(1024, 0);
            let path = self.directory.path().join("file");
            fs::write(&path, bytes).unwrap();
            path
        }

        fn end_all(&self) -> Vec<String> {
            end_all(self.directory.path()).unwrap()
        }

        fn is_alive(&mut self) -> bool {
            self.child.try_wait().unwrap().is_none()
        }
    }

    impl Drop for Left {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    #[test]
    fn what_is_left_is_ended_and_named() {
        let mut left = Left::new();
        let path = left.write(&fs::read_to_string(BOOT).unwrap(), &left.line());
        let expected =
            format!("ended what a killed run (a run) had left running: sleep (process {})", left.pid());
        assert_eq!(left.end_all(), [expected]);
        assert!(!left.is_alive());
        assert_eq!(fs::read(path).unwrap()[0], 0, "the next session's");
        assert_eq!(left.end_all(), [""; 0]);
    }

    #[test]
    fn a_number_that_is_another_process_now_is_left_alone() {
        let mut left = Left::new();
        let boot = fs::read_to_string(BOOT).unwrap();
        let line = left.line();
        // The 22nd field is the time of the start.
        let (start, rest) = line.rsplit_once(')').unwrap();
        let mut fields: Vec<String> = rest.split(' ').map(str::to_owned).collect();
        fields[20] = (fields[20].parse::<u64>().unwrap() - 1).to_string();
        let earlier = format!("{start}){}", fields.join(" "));
        for (boot, line) in [
            (boot.as_str(), earlier.as_str()),
            ("00000000-0000-0000-0000-000000000000", line.as_str()),
            (&boot, &line[..30]),
            (&boot, "\u{fffd}"),
        ] {
            let path = left.write(boot, line);
            assert_eq!(left.end_all(), [""; 0]);
            assert!(left.is_alive(), "{line}");
            assert_eq!(fs::read(path).unwrap()[0], 0, "the next session's");
        }
    }

    #[test]
    fn what_a_living_session_has_at_work_is_left_alone() {
        let mut left = Left::new();
        let path = left.write(&fs::read_to_string(BOOT).unwrap(), &left.line());
        let lock = nix::fcntl::FlockArg::LockExclusiveNonblock;
        let held = nix::fcntl::Flock::lock(fs::File::open(&path).unwrap(), lock).unwrap();
        assert_eq!(left.end_all(), [""; 0]);
        assert!(left.is_alive() && path.exists());
        drop(held);
        assert_eq!(left.end_all().len(), 1);
        assert!(!left.is_alive());
    }
}
