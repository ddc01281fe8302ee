//! The machine as modules see it: a [`View`] that can only look, and a [`Host`] that can also change.
//!
//! Paths are the machine's own. Every failure says which call it was. Files are replaced atomically and synced:
//! a reader sees the old content or the new, also after a power cut.

mod accounts;
pub mod command;
mod hidden;
mod placing;
pub mod processes;
mod real_path;

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::ops::Deref;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mainstay_core::state::plan::Datum;

use crate::failure::Failure;
use accounts::Accounts;
use placing::Syncs;

pub use command::register::Register;
pub use command::{Cancel, Command, Ending, Ran};
pub use hidden::Hidden;
pub use placing::{Ownership, Staged, Unsynced};
pub(crate) use real_path::real_path;

/// Largest file that is read as a whole: what a module manages is configuration, not a disk image.
pub const MAX_FILE: u64 = 64 << 20;

/// A machine that is looked at.
#[derive(Debug)]
pub struct View {
    /// A private writable directory for what commands of the analyze phase need to scribble.
    scratch: Option<PathBuf>,
    /// Makes digests of what nobody may see useless to those who guess.
    key: [u8; 32],
    accounts: Accounts,
    /// Ends commands that run when the work is called off.
    cancel: Option<Cancel>,
    /// Where commands that run are written down.
    register: Option<Arc<Register>>,
    hidden: Arc<Hidden>,
}

/// A machine that may be changed.
#[derive(Debug)]
pub struct Host {
    view: View,
    syncs: Syncs,
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
    /// How many names a file has.
    pub links: u64,
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
        Self {
            scratch,
            key: process_key(),
            accounts: Accounts::default(),
            cancel: None,
            register: None,
            hidden: Arc::default(),
        }
    }

    /// Commands are ended, and no further ones started, once `cancel` says so.
    pub fn cancelled_by(mut self, cancel: Cancel) -> Self {
        self.cancel = Some(cancel);
        self
    }

    /// Commands are written down while they run.
    pub fn registered(mut self, register: Option<Arc<Register>>) -> Self {
        self.register = register;
        self
    }

    /// What these places hold is not shown.
    pub fn hiding(mut self, hidden: Arc<Hidden>) -> Self {
        self.hidden = hidden;
        self
    }

    /// Whether nobody may see what is at this path. Asks the machine where the path leads.
    pub fn hides(&self, path: &Path) -> bool {
        self.hidden.holds(path)
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

    /// Gives the key under which secrets are told apart: the same for all plans that are to be compared, and known
    /// to this machine alone. Without it each process has its own.
    pub fn keyed(mut self, key: [u8; 32]) -> Self {
        self.key = key;
        self
    }

    /// Something that nobody may see.
    pub fn secret(&self, bytes: &[u8]) -> Datum {
        Datum::Secret { digest: blake3::keyed_hash(&self.key, bytes).to_hex()[..32].to_owned() }
    }

    /// A user's number.
    pub fn user(&self, name: &str) -> Result<Option<u32>, Failure> {
        self.accounts.user(name)
    }

    /// A group's number.
    pub fn group(&self, name: &str) -> Result<Option<u32>, Failure> {
        self.accounts.group(name)
    }

    /// A user's name, or the number where there is none.
    pub fn user_name(&self, uid: u32) -> String {
        self.accounts.user_name(uid)
    }

    /// A group's name, or the number where there is none.
    pub fn group_name(&self, gid: u32) -> String {
        self.accounts.group_name(gid)
    }

    /// What there is at a path, a link itself rather than what it leads to.
    pub fn entry(&self, path: &Path) -> Result<Option<Entry>, Failure> {
        Self::entry_of(path, fs::symlink_metadata(path))
    }

    /// What there is at a path, links followed.
    pub fn target(&self, path: &Path) -> Result<Option<Entry>, Failure> {
        Self::entry_of(path, fs::metadata(path))
    }

    fn entry_of(path: &Path, meta: io::Result<fs::Metadata>) -> Result<Option<Entry>, Failure> {
        let meta = match meta {
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
        Ok(Some(Entry { kind, mode, uid, gid, size, links: meta.nlink() }))
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
        command.run(self.scratch.as_deref(), self.cancel.as_ref(), self.register.as_ref())
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

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A key that lives as long as the process.
fn process_key() -> [u8; 32] {
    static KEY: OnceLock<[u8; 32]> = OnceLock::new();
    *KEY.get_or_init(|| {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the kernel gives random bytes");
        key
    })
}
