//! The machine as modules see it: a [`View`] that can only look, and a [`Host`] that can also change.
//!
//! Paths are the machine's own. Every failure says which call it was. Files are replaced atomically and synced:
//! a reader sees the old content or the new, also after a power cut.

pub mod command;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Deref;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::failure::Failure;
pub use command::{Cancel, Command, Ending, Ran};

/// Largest file that is read as a whole: what a module manages is configuration, not a disk image.
pub const MAX_FILE: u64 = 64 << 20;

/// A machine that is looked at.
#[derive(Debug)]
pub struct View {
    /// A private writable directory for what commands of the analyze phase need to scribble.
    scratch: Option<PathBuf>,
    /// Ends commands that run when the work is called off.
    cancel: Option<Cancel>,
}

/// A machine that may be changed.
#[derive(Debug)]
pub struct Host {
    view: View,
}

/// What there is at a path, a link itself rather than what it leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryKind {
    File,
    Directory,
    Link(PathBuf),
    /// A device, a socket, a pipe.
    Special,
}

impl View {
    pub fn new(scratch: Option<PathBuf>) -> Self {
        Self { scratch, cancel: None }
    }

    /// Commands are ended, and no further ones started, once `cancel` says so.
    pub fn cancelled_by(mut self, cancel: Cancel) -> Self {
        self.cancel = Some(cancel);
        self
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(Cancel::is_cancelled)
    }

    /// Waits this long; false if the work was called off before.
    pub fn sleep(&self, time: Duration) -> bool {
        match &self.cancel {
            Some(cancel) => cancel.sleep(time),
            None => {
                std::thread::sleep(time);
                true
            }
        }
    }

    pub fn entry(&self, path: &Path) -> Result<Option<Entry>, Failure> {
        let meta = match fs::symlink_metadata(path) {
            Ok(meta) => meta,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(Failure::on("look at", path, error)),
        };
        let kind = if meta.is_symlink() {
            EntryKind::Link(fs::read_link(path).map_err(|e| Failure::on("read link", path, e))?)
        } else if meta.is_dir() {
            EntryKind::Directory
        } else if meta.is_file() {
            EntryKind::File
        } else {
            EntryKind::Special
        };
        let (mode, uid, gid, size) = (meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.len());
        Ok(Some(Entry { kind, mode, uid, gid, size }))
    }

    /// A regular file's content; nothing if there is no file. Links are followed; a device or a pipe is refused unopened.
    pub fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Failure> {
        let failed = |error: io::Error| Failure::on("read", path, error);
        // A pipe would wait for its other end.
        let file = match OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path) {
            Ok(file) => file,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let meta = file.metadata().map_err(failed)?;
        if !meta.is_file() {
            return Err(Failure::on("read", path, "it is not a regular file"));
        }
        let mut bytes = Vec::with_capacity(meta.len().min(MAX_FILE) as usize);
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(Failure::on("read", path, format!("it is larger than {} MiB", MAX_FILE >> 20)));
        }
        Ok(Some(bytes))
    }

    /// The names in a directory, sorted; nothing if there is none.
    pub fn list(&self, path: &Path) -> Result<Option<Vec<std::ffi::OsString>>, Failure> {
        let failed = |error: io::Error| Failure::on("list", path, error);
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut names = entries
            .map(|entry| entry.map(|e| e.file_name()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?;
        names.sort();
        Ok(Some(names))
    }

    /// Runs a command that promises to change nothing. Its TMPDIR is private in the analyze phase.
    pub fn run(&self, command: &Command) -> Result<Ran, Failure> {
        command.run(self.scratch.as_deref(), self.cancel.as_ref())
    }

    pub fn scratch(&self) -> Option<&Path> {
        self.scratch.as_deref()
    }
}

impl Deref for Host {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

/// Who owns a new file and what its mode is; what is not given is kept, or is the process's own for a new file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ownership {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mode: Option<u32>,
}

impl Host {
    #[expect(clippy::new_without_default, reason = "a host that may be changed is never made in passing")]
    pub fn new() -> Self {
        Self { view: View::new(None) }
    }

    /// As [`View::cancelled_by`].
    pub fn cancelled_by(self, cancel: Cancel) -> Self {
        Self { view: self.view.cancelled_by(cancel) }
    }

    /// Puts `bytes` at `path` at once: a temporary file beside it is written, synced, given to its owner, renamed over it, and the
    /// directory synced.
    pub fn write(&self, path: &Path, bytes: &[u8], ownership: Ownership) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::on("write", path, error);
        let beside = temporary_beside(path);
        let place = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            file.write_all(bytes)?;
            if ownership.uid.is_some() || ownership.gid.is_some() {
                std::os::unix::fs::fchown(&file, ownership.uid, ownership.gid)?;
            }
            // After the owner: a change of owner clears setuid and setgid.
            file.set_permissions(fs::Permissions::from_mode(ownership.mode.unwrap_or(0o644)))?;
            file.sync_all()?;
            fs::rename(&beside, path)
        };
        place().map_err(|error| {
            let _ = fs::remove_file(&beside);
            failed(error)
        })?;
        self.sync_parent(path)
    }

    /// Makes what was done to names in the path's directory durable.
    pub fn sync_parent(&self, path: &Path) -> Result<(), Failure> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| Failure::on("sync", parent, error))
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A name in the same directory that nothing else uses; what a crash leaves of it is recognised by its ending.
fn temporary_beside(path: &Path) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Names have at most 255 bytes; the start of a long one is enough for people.
    let start: String = name.chars().take(40).collect();
    path.with_file_name(format!(".{start}.{}.{number}.mainstay-new", std::process::id()))
}
