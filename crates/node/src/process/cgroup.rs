//! Cgroups (version 2) that hold what a message started, so that all of it can be found and killed, also what
//! left its process group and its session.
//!
//! The node has one directory beneath its own cgroup, `mainstay-<key>`, and in it one for each execution. No
//! controller is used. Where the node may not make cgroups (not delegated, read-only, version 1 only) there
//! are none, and [`super::leftovers`] has to do.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long killed processes may take to be gone: one in an uninterruptible sleep is not worth waiting for.
pub(crate) const GONE_WITHIN: Duration = Duration::from_secs(5);

/// How often to look whether they are. Killing takes well below a millisecond as a rule.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Most emptied directories that one end looks after, so that no end pays for a long backlog.
const SWEEP_AT_ONCE: usize = 8;

/// The node's own directory of cgroups.
pub(super) struct Cgroups {
    base: PathBuf,
    /// Cgroups whose message ended while something it left deliberately still ran.
    lingering: Mutex<Vec<PathBuf>>,
}

/// Why there are no cgroups here, for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unavailable {
    #[error("no cgroup2 file system is mounted")]
    NotMounted,
    #[error("{path} cannot be used: {error}")]
    NotWritable { path: PathBuf, error: io::Error },
}

impl Cgroups {
    /// Finds this process's cgroup and makes the node's directory in it.
    pub(super) fn detect(node: &str) -> Result<Self, Unavailable> {
        let own = own_cgroup().ok_or(Unavailable::NotMounted)?;
        Self::beneath(&own, node)
    }

    fn beneath(own: &Path, node: &str) -> Result<Self, Unavailable> {
        let base = own.join(format!("mainstay-{node}"));
        let fail = |error| Unavailable::NotWritable { path: base.clone(), error };
        make_directory(&base).map_err(fail)?;
        // Making a directory is not enough: processes must be allowed to move.
        let probe = base.join("probe");
        make_directory(&probe).map_err(fail)?;
        let writable = OpenOptions::new().write(true).open(probe.join("cgroup.procs"));
        let _ = fs::remove_dir(&probe);
        writable.map_err(fail)?;
        let cgroups = Self { base, lingering: Mutex::default() };
        cgroups.adopt_lingering();
        Ok(cgroups)
    }

    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    /// Makes the cgroup of an execution. One of the same name holds what a crash left: it is emptied first.
    pub(super) fn make(&self, name: &str) -> io::Result<Cgroup> {
        let cgroup = Cgroup { path: self.base.join(name) };
        let mut made = fs::create_dir(&cgroup.path);
        if made.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            // Someone tidied up: an empty directory can be removed by whoever may make one.
            make_directory(&self.base)?;
            made = fs::create_dir(&cgroup.path);
        }
        match made {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                cgroup.kill_until_gone();
                Ok(cgroup)
            }
            made => made.map(|()| cgroup),
        }
    }

    /// Removes the cgroup of an execution that ended. If something still runs in it, that is left alone,
    /// and the cgroup is removed when it is empty at a later end.
    pub(super) fn release(&self, cgroup: Cgroup) {
        let mut lingering = self.lingering.lock().unwrap_or_else(PoisonError::into_inner);
        let looked_at = lingering.len().min(SWEEP_AT_ONCE);
        for path in lingering.drain(..looked_at).collect::<Vec<_>>() {
            if let Err(error) = fs::remove_dir(&path)
                && error.kind() != ErrorKind::NotFound
            {
                lingering.push(path);
            }
        }
        if let Err(error) = fs::remove_dir(&cgroup.path)
            && error.kind() != ErrorKind::NotFound
        {
            lingering.push(cgroup.path);
        }
    }

    /// Takes over what an earlier life of this node left.
    fn adopt_lingering(&self) {
        let Ok(entries) = fs::read_dir(&self.base) else {
            return;
        };
        let mut lingering = self.lingering.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && fs::remove_dir(entry.path()).is_err() {
                lingering.push(entry.path());
            }
        }
    }
}

impl Drop for Cgroups {
    /// Leaves no empty directory behind. What lingers keeps its own.
    fn drop(&mut self) {
        let lingering = self.lingering.get_mut().unwrap_or_else(PoisonError::into_inner);
        for path in lingering.drain(..) {
            let _ = fs::remove_dir(path);
        }
        let _ = fs::remove_dir(&self.base);
    }
}

/// The cgroup of one execution.
#[derive(Clone)]
pub(super) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// One made earlier, if it is still there.
    pub(super) fn existing(base: &Path, name: &str) -> Option<Self> {
        let path = base.join(name);
        path.is_dir().then_some(Self { path })
    }

    /// Where a process writes `0` to join.
    pub(super) fn entrance(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.path.join("cgroup.procs"))
    }

    /// Whether no process lives in it; what has ended but was not reaped does not count.
    pub(super) fn is_empty(&self) -> bool {
        match fs::read_to_string(self.path.join("cgroup.events")) {
            Ok(events) => events.lines().any(|line| line == "populated 0"),
            // Removed: then it was empty.
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
    }

    /// Kills everything in it, once. A process that is just being forked may escape where the kernel is
    /// older than 5.14; so look whether it [`Cgroup::is_empty`].
    pub(super) fn kill(&self) {
        if own_cgroup().is_some_and(|own| own.starts_with(&self.path)) {
            // The message started this very node. It is not a leftover, and its companions go one by one.
            self.kill_each();
            return;
        }
        let all = OpenOptions::new()
            .write(true)
            .open(self.path.join("cgroup.kill"))
            .and_then(|mut file| file.write_all(b"1"));
        if all.is_err() {
            // What is frozen forks no more, but dies.
            let _ = fs::write(self.path.join("cgroup.freeze"), "1");
            self.kill_each();
            let _ = fs::write(self.path.join("cgroup.freeze"), "0");
        }
    }

    fn kill_each(&self) {
        for pid in self.members() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// The processes in it, but for this one.
    fn members(&self) -> Vec<i32> {
        fs::read_to_string(self.path.join("cgroup.procs"))
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.parse().ok())
            .filter(|pid| *pid > 0 && *pid != std::process::id().cast_signed())
            .collect()
    }

    /// Kills until nothing is left, or for [`GONE_WITHIN`]. Returns how many processes it found, and how
    /// many were still there in the end. Blocks.
    pub(super) fn kill_until_gone(&self) -> (usize, usize) {
        let found = self.members().len();
        let give_up = Instant::now() + GONE_WITHIN;
        while !self.members().is_empty() {
            self.kill();
            if Instant::now() > give_up {
                break;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        (found, self.members().len())
    }

    /// Removes it, which the kernel allows only if it is empty.
    pub(super) fn remove(&self) -> io::Result<()> {
        fs::remove_dir(&self.path)
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// The directory of this process's own cgroup of version 2.
fn own_cgroup() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    locate(&mounts, &own)
}

/// Puts together where cgroup2 is mounted and which of its cgroups is ours.
fn locate(mountinfo: &str, cgroups: &str) -> Option<PathBuf> {
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        if kind.next() != Some("cgroup2") {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        // What is mounted may be a part of the tree that does not hold us, as in a container.
        let beneath = Path::new(own).strip_prefix(root).ok()?;
        let escapes = beneath.components().any(|part| part.as_os_str() == "..");
        (!escapes).then(|| Path::new(&point.replace("\\040", " ")).join(beneath))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_found_in_every_layout() {
        let unified = "24 1 0:22 / /proc rw - proc proc rw\n\
                       30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        let own = "0::/system.slice/mainstay-agent.service\n";
        assert_eq!(
            locate(unified, own).unwrap(),
            Path::new("/sys/fs/cgroup/system.slice/mainstay-agent.service")
        );
        let hybrid = "31 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      32 24 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(locate(hybrid, "2:cpu:/x\n0::/\n").unwrap(), Path::new("/sys/fs/cgroup/unified"));
        let container = "30 24 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n";
        assert_eq!(locate(container, "0::/docker/abc/x\n").unwrap(), Path::new("/sys/fs/cgroup/x"));
        assert_eq!(locate(container, "0::/elsewhere\n"), None);
        let namespaced = "30 24 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n";
        assert_eq!(locate(namespaced, "0::/../outside\n"), None);
        assert_eq!(locate("", "0::/\n"), None);
        assert_eq!(locate(unified, "3:cpu:/x\n"), None);
    }

    #[test]
    fn a_home_that_was_tidied_away_is_made_again() {
        // An ordinary directory will do for this: a tree is made and removed alike.
        let own = tempfile::tempdir().unwrap();
        let cgroups = Cgroups { base: own.path().join("mainstay-x"), lingering: Mutex::default() };
        let cgroup = cgroups.make("message").unwrap();
        assert!(cgroup.path.is_dir());
        cgroups.release(cgroup);
        let base = cgroups.base().to_owned();
        drop(cgroups);
        assert!(!base.exists(), "an empty home was left behind");
    }

    #[test]
    fn an_unwritable_place_is_no_place_for_cgroups() {
        // On procfs nobody can make a directory, not even root.
        assert!(matches!(Cgroups::beneath(Path::new("/proc"), "x"), Err(Unavailable::NotWritable { .. })));
    }
}
