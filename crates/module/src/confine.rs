//! Holds a thread, and every process it starts, to looking: the kernel denies it to create, write, rename and remove files.
//!
//! Modules cannot change anything in the analyze phase by their types. Guards and probes are programs, and an
//! extension is anybody's: for them there is Landlock, where the kernel has it. It does not know modes, owners and times,
//! and a process may still ask another one (systemd, a database) to do something.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use landlock::{
    ABI, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus,
};
use nix::fcntl::{Flock, FlockArg};
use nix::libc;

/// Where programs write without keeping anything.
const SINKS: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/pts"];

/// Kinds of access up to version 3: all that makes, changes or removes a file. Later versions add devices and sockets, which
/// a program that only looks may need.
const VERSION: ABI = ABI::V3;

/// Which version of Landlock the kernel has; 0 is none.
pub fn offered() -> u32 {
    const VERSION_ONLY: libc::c_ulong = 1;
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the kernel takes no memory and answers with a number.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0usize, VERSION_ONLY) };
    u32::try_from(version).unwrap_or(0)
}

/// From now on the calling thread, and what it starts, writes only beneath `scratch`, or nowhere. It is never taken back. Tells
/// whether the kernel does it.
pub fn confine(scratch: Option<&Path>) -> io::Result<bool> {
    // A program that may change its user could be asked to do what this one cannot; without the right to look
    // after that, the kernel wants that door shut.
    let privileged = nix::unistd::geteuid().is_root();
    let first = restrict(scratch, !privileged);
    if privileged && first.is_err() { restrict(scratch, true) } else { first }
}

fn restrict(scratch: Option<&Path>, no_new_privs: bool) -> Result<bool, io::Error> {
    let failed = |error: &dyn std::fmt::Display| io::Error::other(format!("Landlock: {error}"));
    let writes = AccessFs::from_write(VERSION);
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(writes)
        .and_then(|rules| rules.create())
        .map_err(|error| failed(&error))?
        .no_new_privs(no_new_privs);
    if let Some(scratch) = scratch {
        let scratch = PathFd::new(scratch).map_err(|error| failed(&error))?;
        rules = rules.add_rule(PathBeneath::new(scratch, writes)).map_err(|error| failed(&error))?;
    }
    for sink in SINKS {
        // A container need not have every one.
        let Ok(sink) = PathFd::new(sink) else { continue };
        let access = AccessFs::WriteFile | AccessFs::Truncate;
        rules = rules.add_rule(PathBeneath::new(sink, access)).map_err(|error| failed(&error))?;
    }
    let status = rules.restrict_self().map_err(|error| failed(&error))?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// How the names of scratch directories begin.
const PREFIX: &str = "mainstay-analyze-";

/// Each is lost only to somebody who looks for abandoned directories in the moment in which it is made.
const ATTEMPTS: u32 = 8;

/// A private directory for what programs of the analyze phase scribble; removed with all in it when dropped. Its lock is
/// held for as long, so that one whose owner was killed is told from the others.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    _held: Flock<File>,
}

impl Scratch {
    /// Removes the directories of owners that were killed.
    pub fn clear_abandoned() {
        Self::clear_abandoned_in(&std::env::temp_dir());
    }

    fn clear_abandoned_in(place: &Path) {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().as_bytes().starts_with(PREFIX.as_bytes())) {
            // What cannot be removed is in nobody's way.
            if let Ok(_held) = hold(&entry.path()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    pub fn make() -> io::Result<Self> {
        Self::make_in(&std::env::temp_dir())
    }

    fn make_in(place: &Path) -> io::Result<Self> {
        let of = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", place.display()));
        let make = || {
            let path = nix::unistd::mkdtemp(&place.join(format!("{PREFIX}XXXXXX")))?;
            let held = hold(&path)?;
            // Nobody removes it from here on.
            fs::symlink_metadata(&path)?;
            Ok(Self { path, _held: held })
        };
        (1..ATTEMPTS).find_map(|_| make().ok()).map_or_else(make, Ok).map_err(of)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One for another user. Others may pass through to it, and see nothing.
    pub fn of_user(&self, uid: nix::unistd::Uid, gid: nix::unistd::Gid) -> io::Result<PathBuf> {
        let path = self.path.join(uid.to_string());
        if !path.exists() {
            fs::set_permissions(&self.path, fs::Permissions::from_mode(0o711))?;
            fs::create_dir(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
            std::os::unix::fs::chown(&path, Some(uid.as_raw()), Some(gid.as_raw()))?;
        }
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Takes the lock of a directory of our own; a link to one is none.
fn hold(path: &Path) -> io::Result<Flock<File>> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if opened.metadata()?.uid() != nix::unistd::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Flock::lock(opened, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn what_the_killed_left_is_removed_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        let alive = Scratch::make_in(place.path()).unwrap();
        let killed = at("mainstay-analyze-killed");
        fs::create_dir_all(killed.join("some/thing")).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("kept"), "").unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), at("mainstay-analyze-link")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), killed.join("link")).unwrap();
        fs::write(at("mainstay-analyze-file"), "").unwrap();
        fs::create_dir(at("mainstay-other")).unwrap();
        let mut left = vec!["mainstay-analyze-file", "mainstay-analyze-link", "mainstay-other"];
        left.extend(alive.path().file_name().unwrap().to_str());
        if nix::unistd::geteuid().is_root() {
            fs::create_dir(at("mainstay-analyze-others")).unwrap();
            std::os::unix::fs::chown(at("mainstay-analyze-others"), Some(1), None).unwrap();
            left.push("mainstay-analyze-others");
        }
        left.sort_unstable();
        Scratch::clear_abandoned_in(place.path());
        let found = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut found: Vec<_> = found.map(|name| name.into_string().unwrap()).collect();
        found.sort();
        assert_eq!(found, left);
        assert!(elsewhere.path().join("kept").exists());
    }

    #[test]
    fn where_there_is_no_room_for_scribbles_is_said() {
        let error = Scratch::make_in(Path::new("/no/such/place")).unwrap_err();
        assert!(error.to_string().starts_with("/no/such/place: No such file"), "{error}");
    }

    /// Whatever makes, changes or removes a file, by this process or a program that it starts.
    #[test]
    fn what_is_confined_can_look_and_not_touch() {
        if offered() == 0 {
            eprintln!(
                "skipped: what_is_confined_can_look_and_not_touch: the kernel offers Landlock ABI {}",
                offered()
            );
            return;
        }
        let outside = tempfile::tempdir().unwrap();
        let kept = outside.path().join("kept");
        fs::write(&kept, "as it was").unwrap();
        let scratch = Scratch::make().unwrap();
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    assert!(confine(Some(scratch.path())).unwrap());
                    let denied = |result: io::Result<()>| {
                        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
                    };
                    denied(fs::write(outside.path().join("new"), "x"));
                    denied(fs::write(&kept, "x"));
                    denied(fs::remove_file(&kept));
                    denied(fs::create_dir(outside.path().join("directory")));
                    denied(fs::rename(&kept, outside.path().join("moved")));
                    denied(std::os::unix::fs::symlink("a", outside.path().join("link")));
                    fs::write(scratch.path().join("scribble"), "x").unwrap();
                    assert_eq!(fs::read_to_string(&kept).unwrap(), "as it was");

                    let shell = |line: &str| {
                        let status = Command::new("/bin/sh")
                            .args(["-c", line, "sh"])
                            .args([outside.path(), scratch.path()])
                            .status();
                        status.unwrap().success()
                    };
                    for line in [
                        "echo x >\"$1/new\" 2>/dev/null",
                        "echo x >>\"$1/kept\"",
                        "rm -f \"$1/kept\"",
                        "mkdir \"$1/directory\"",
                        "mv \"$1/kept\" \"$2/kept\"",
                        "ln \"$1/kept\" \"$2/linked\"",
                    ] {
                        assert!(!shell(&format!("{line} 2>/dev/null")), "{line}");
                    }
                    assert!(shell("cat \"$1/kept\" >/dev/null && echo x >\"$2/more\" && rm \"$2/more\""));
                })
                .join()
                .unwrap();
        });
        assert_eq!(fs::read_to_string(&kept).unwrap(), "as it was");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
        // Only that thread was confined.
        fs::write(&kept, "changed").unwrap();
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(!path.exists());
    }
}
