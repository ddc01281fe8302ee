//! A hub's whole state as one file, and back.
//!
//! ```text
//! mainstay-backup-1\n
//! for each part: length of its head (u32, big endian), its head (MessagePack: name, size, mode), its bytes, their blake3 hash
//! the word "end " and the blake3 hash of all before it
//! ```
//!
//! The store's copy is consistent in itself, and so is the journal's. They are not of the same instant, and need not be: runs are in the one,
//! messages in the other. The keys are in it in clear, so the file is 0600 and is to be kept like a key.
//!
//! # What a restored hub must expect
//!
//! Nodes have gone on since the backup. Each of these is met by something that holds without it:
//! - *Nodes that joined since* are not in the registry: they wait, and are accepted by hand.
//! - *Marks of journals* in the backup are lower than the nodes' own, which is no step back.
//! - *Revocations since* are in every node's trust log, and are taken from the first node that links. Until
//!   then this hub revokes nothing, since a second entry of the same epoch would fork the log for good.
//! - *Runs that were open* may have ended since, and their answers were released when the earlier hub had them: they will
//!   not come again, and sending an old order again helps nobody. At its first start a restored hub ends what was pending
//!   as `undeliverable`, provisionally: an answer that does come replaces it.
//! - *Runs and messages since* are gone; answers to them are acknowledged and dropped.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fleet::{FILES, ROOT_KEY};

const MAGIC: &[u8] = b"mainstay-backup-1\n";
const END: &[u8] = b"end ";

/// In the data directory of a hub that was restored, until it has met a node.
const MARK: &str = "restored";
/// The same, until it has ended the runs that were open.
const MARK_RUNS: &str = "restored-runs";

pub const STORE: &str = "store.db";
pub const JOURNAL: &str = "journal.db";
pub const CONFIG: &str = "mainstay.toml";

/// A head is a name and two numbers; a longer one is no head.
const MAX_HEAD: u32 = 1024;

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{path} is there already: a backup is never overwritten")]
    Exists { path: PathBuf },
    #[error("{path} is not empty: restore into a new directory")]
    NotEmpty { path: PathBuf },
    #[error("{path} is not a backup of a hub")]
    NotABackup { path: PathBuf },
    #[error("{path} is damaged: {what}. Nothing was restored")]
    Damaged { path: PathBuf, what: String },
    #[error("{path} cannot be read or written")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct Head {
    name: String,
    size: u64,
    mode: u32,
}

/// A file that goes into a backup, and under which name.
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) path: PathBuf,
}

/// Where copies of databases are made before they go into the backup. Removed when dropped; one that a kill left is
/// removed by the next.
pub(crate) struct WorkDir(PathBuf);

impl WorkDir {
    pub(crate) fn make(dir: &Path) -> Result<Self, BackupError> {
        let path = dir.join("backup.unfinished");
        fs::remove_dir_all(&path).ok();
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(failed(&path))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// The files of a hub's data directory that are its identity and its configuration.
pub(crate) fn identity_parts(dir: &Path) -> Vec<Part> {
    FILES
        .into_iter()
        .chain([CONFIG])
        .map(|name| Part { name, path: dir.join(name) })
        .filter(|part| part.path.exists())
        .collect()
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { path, source }
}

/// Writes the parts into a new file. It appears under its name whole and synced, or not at all.
pub(crate) fn write(destination: &Path, parts: &[Part]) -> Result<(), BackupError> {
    let exists = || BackupError::Exists { path: destination.to_owned() };
    if destination.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let mut unfinished = destination.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    let written = write_parts(&unfinished, parts).and_then(|()| {
        // A link fails if the name was taken meanwhile; a rename would not.
        fs::hard_link(&unfinished, destination).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => exists(),
            _ => failed(destination)(e),
        })?;
        sync_dir_of(destination)
    });
    fs::remove_file(&unfinished).ok();
    written
}

fn write_parts(path: &Path, parts: &[Part]) -> Result<(), BackupError> {
    // A leftover of a backup that was killed.
    fs::remove_file(path).ok();
    let file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed(path))?;
    let mut out = Hashing { inner: BufWriter::new(file), hasher: blake3::Hasher::new() };
    out.write_all(MAGIC).map_err(failed(path))?;
    for part in parts {
        write_part(&mut out, part).map_err(failed(&part.path))?;
    }
    let end = out.hasher.finalize();
    let finish = || {
        out.inner.write_all(END)?;
        out.inner.write_all(end.as_bytes())?;
        let file = out.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()
    };
    finish().map_err(failed(path))
}

fn write_part(out: &mut Hashing<BufWriter<File>>, part: &Part) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let file = File::open(&part.path)?;
    let about = file.metadata()?;
    let head =
        Head { name: part.name.to_owned(), size: about.len(), mode: about.permissions().mode() & 0o777 };
    let head = crate::run_record::encode(&head);
    out.write_all(&u32::try_from(head.len()).unwrap_or(MAX_HEAD).to_be_bytes())?;
    out.write_all(&head)?;
    let mut content = Hashing { inner: &mut *out, hasher: blake3::Hasher::new() };
    let copied = io::copy(&mut file.take(about.len()), &mut content)?;
    if copied != about.len() {
        return Err(io::Error::other("it changed while it was copied"));
    }
    let hash = content.hasher.finalize();
    out.write_all(hash.as_bytes())
}

/// Restores a hub into a directory that is empty or does not exist. Everything is checked before anything appears there;
/// killed in between, the directory is as it was.
pub fn restore(file: &Path, dir: &Path) -> Result<(), BackupError> {
    if let Ok(mut entries) = fs::read_dir(dir)
        && entries.next().is_some()
    {
        return Err(BackupError::NotEmpty { path: dir.to_owned() });
    }
    let mut unfinished = dir.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    fs::remove_dir_all(&unfinished).ok();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&unfinished).map_err(failed(&unfinished))?;
    let restored = read_parts(file, &unfinished).and_then(|()| {
        for mark in [MARK, MARK_RUNS].map(|mark| unfinished.join(mark)) {
            File::create(&mark).and_then(|mark| mark.sync_all()).map_err(failed(&mark))?;
        }
        File::open(&unfinished).and_then(|dir| dir.sync_all()).map_err(failed(&unfinished))?;
        // Over an empty directory a rename is as atomic as over none.
        fs::rename(&unfinished, dir).map_err(failed(dir))?;
        sync_dir_of(dir)
    });
    if restored.is_err() {
        fs::remove_dir_all(&unfinished).ok();
    }
    restored
}

fn read_parts(path: &Path, dir: &Path) -> Result<(), BackupError> {
    let damaged = |what: &str| BackupError::Damaged { path: path.to_owned(), what: what.to_owned() };
    let file = File::open(path).map_err(failed(path))?;
    let mut input = Hashing { inner: BufReader::new(file), hasher: blake3::Hasher::new() };
    let mut magic = [0; MAGIC.len()];
    if input.read_exact(&mut magic).is_err() || magic != MAGIC {
        return Err(BackupError::NotABackup { path: path.to_owned() });
    }
    let allowed: BTreeSet<&str> = FILES.into_iter().chain([CONFIG, STORE, JOURNAL]).collect();
    let mut seen = BTreeSet::new();
    let cut = |_| damaged("it ends too early");
    loop {
        let before = input.hasher.finalize();
        let mut length = [0; 4];
        input.read_exact(&mut length).map_err(cut)?;
        if length == END {
            let mut hash = [0; 32];
            input.inner.read_exact(&mut hash).map_err(cut)?;
            if before != blake3::Hash::from_bytes(hash) {
                return Err(damaged("its checksum does not fit"));
            }
            break;
        }
        let length = u32::from_be_bytes(length);
        if length > MAX_HEAD {
            return Err(damaged("the head of a part is too long"));
        }
        let mut head = vec![0; length as usize];
        input.read_exact(&mut head).map_err(cut)?;
        let head: Head =
            rmp_serde::from_slice(&head).map_err(|_| damaged("the head of a part cannot be read"))?;
        // The names are ours: nothing in the file chooses a path.
        if !allowed.contains(head.name.as_str()) || !seen.insert(head.name.clone()) {
            return Err(damaged("it holds a part that no backup has"));
        }
        let to = dir.join(&head.name);
        let private = head.name.ends_with(".key") || head.name.ends_with(".db");
        let mode = if private { 0o600 } else { head.mode & 0o644 };
        let mut out =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&to).map_err(failed(&to))?;
        let mut content = Hashing { inner: &mut input, hasher: blake3::Hasher::new() };
        let copied = io::copy(&mut (&mut content).take(head.size), &mut out).map_err(failed(&to))?;
        let hash = content.hasher.finalize();
        out.sync_all().map_err(failed(&to))?;
        let mut stored = [0; 32];
        input.read_exact(&mut stored).map_err(cut)?;
        if copied != head.size || hash != blake3::Hash::from_bytes(stored) {
            return Err(damaged(&format!("the checksum of {} does not fit", head.name)));
        }
    }
    let needed = FILES.into_iter().filter(|name| *name != ROOT_KEY).chain([STORE]);
    match needed.into_iter().find(|name| !seen.contains(*name)) {
        Some(name) => Err(damaged(&format!("it lacks {name}"))),
        None => Ok(()),
    }
}

/// Whether this hub was restored and has met no node since.
pub(crate) fn is_unsettled(dir: &Path) -> bool {
    dir.join(MARK).exists()
}

pub(crate) fn settle(dir: &Path) {
    unmark(dir, MARK);
}

/// Whether the runs of a restored hub are still to be ended.
pub(crate) fn has_old_runs(dir: &Path) -> bool {
    dir.join(MARK_RUNS).exists()
}

pub(crate) fn ended_old_runs(dir: &Path) {
    unmark(dir, MARK_RUNS);
}

fn unmark(dir: &Path, mark: &str) {
    if let Err(e) = fs::remove_file(dir.join(mark)) {
        tracing::warn!("the mark {mark} of a restored hub could not be removed: {e}");
    }
}

fn sync_dir_of(path: &Path) -> Result<(), BackupError> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed(dir))
}

/// Passes bytes on and hashes them.
struct Hashing<T> {
    inner: T,
    hasher: blake3::Hasher,
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }
}
