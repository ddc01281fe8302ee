//! How files, directories and links come to stand where they should: at once, synced, and with nothing followed that
//! somebody else may have planted.
//!
//! A file is written under a temporary name beside its place and renamed over it. The temporary file is locked for as
//! long as its writer lives, so that what a crash left behind is told from what is being written, and is removed
//! by the next write in that directory.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{
    DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, lchown, symlink,
};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, Flock, FlockArg};
use nix::libc;
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};

use super::{Cancel, Hidden, Host, Register, View};
use crate::failure::Failure;

/// How temporary names end.
const ENDING: &[u8] = b".mainstay-new";

/// A name of this many random bits is taken only if somebody guesses it, again and again.
const ATTEMPTS: u32 = 8;

/// A temporary link lives for the moment until its rename; an older one was left behind.
const LINK_LIFE: Duration = Duration::from_secs(60);

/// Who owns a thing and what its mode is. What is not given is kept; for a new thing it is the process's own, and
/// 0644 for a file, 0755 for a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ownership {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mode: Option<u32>,
}

impl Ownership {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// When what was done to names is made durable.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    /// Nothing: at once.
    deferred: Option<Mutex<BTreeSet<PathBuf>>>,
    /// Directories in which leftovers were looked for.
    swept: Mutex<BTreeSet<PathBuf>>,
}

/// A whole new file whose content may not be on disk yet, so that it cannot be placed. Dropped, it is gone.
#[derive(Debug)]
pub struct Unsynced<'a> {
    staged: Staged<'a>,
    file: File,
    size: usize,
}

/// A whole new file that is not yet in its place. Dropped, it is gone.
#[derive(Debug)]
pub struct Staged<'a> {
    host: &'a Host,
    beside: PathBuf,
    place: PathBuf,
    /// What stood at the place when this was written.
    found: Option<Found>,
    /// Says that its writer lives.
    _lock: Option<Flock<File>>,
    placed: bool,
}

/// Tells one thing at a path, as it was at one time, from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Found {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Found {
    fn of(meta: &fs::Metadata) -> Self {
        let changed = (meta.ctime(), meta.ctime_nsec());
        Self { device: meta.dev(), inode: meta.ino(), size: meta.len(), changed }
    }
}

impl Host {
    #[expect(clippy::new_without_default, reason = "a host that may be changed is never made in passing")]
    pub fn new() -> Self {
        Self { view: View::new(None), syncs: Syncs::default() }
    }

    /// Makes names durable only when [`Host::settle`] is called, each directory once. A power cut before that may take back
    /// whole changes, and never leaves half of one: a file's content is always synced before it gets its name.
    pub fn deferring_syncs() -> Self {
        let deferred = Some(Mutex::default());
        Self { syncs: Syncs { deferred, ..Syncs::default() }, ..Self::new() }
    }

    /// See [`View::keyed`].
    pub fn keyed(self, key: [u8; 32]) -> Self {
        Self { view: self.view.keyed(key), ..self }
    }

    /// See [`View::cancelled_by`].
    pub fn cancelled_by(self, cancel: Cancel) -> Self {
        Self { view: self.view.cancelled_by(cancel), ..self }
    }

    /// See [`View::registered`].
    pub fn registered(self, register: Option<Arc<Register>>) -> Self {
        Self { view: self.view.registered(register), ..self }
    }

    /// See [`View::hiding`].
    pub fn hiding(self, hidden: Arc<Hidden>) -> Self {
        Self { view: self.view.hiding(hidden), ..self }
    }

    /// Makes durable whatever is not yet.
    pub fn settle(&self) -> Result<(), Failure> {
        let Some(deferred) = &self.syncs.deferred else { return Ok(()) };
        let paths = std::mem::take(&mut *lock(deferred));
        // One that cannot be synced is no reason to leave the others.
        let synced: Vec<_> = paths.iter().map(|path| sync_now(path)).collect();
        synced.into_iter().collect()
    }

    /// Puts `bytes` at `path` at once.
    pub fn write(&self, path: &Path, bytes: &[u8], ownership: Ownership) -> Result<(), Failure> {
        self.stage(path, bytes, ownership)?.place()
    }

    /// Writes a file that [`Staged::place`] puts at `path`. What `ownership` leaves open is taken from the file that it
    /// will replace, as are its extended attributes.
    pub fn stage(&self, path: &Path, bytes: &[u8], ownership: Ownership) -> Result<Staged<'_>, Failure> {
        self.stage_unsynced(path, bytes, ownership)?.sync()
    }

    /// As [`Self::stage`], for one who syncs several at once.
    pub fn stage_unsynced(
        &self,
        path: &Path,
        bytes: &[u8],
        ownership: Ownership,
    ) -> Result<Unsynced<'_>, Failure> {
        self.sweep(parent(path));
        let failed = |error: io::Error| Failure::on("write", path, error);
        let (mut file, beside) = create_beside(path).map_err(failed)?;
        // From here on whatever goes wrong removes the temporary file.
        let place = path.to_owned();
        let mut staged = Staged { host: self, beside, place, found: None, _lock: None, placed: false };
        staged.fill(&mut file, bytes, ownership).map_err(failed)?;
        Ok(Unsynced { staged, file, size: bytes.len() })
    }

    /// A file without a name, on the file system of `path`: it is gone when it is closed.
    pub fn nameless(&self, path: &Path) -> Result<File, Failure> {
        let make = |beside: &Path| {
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(beside)
        };
        let claim = || {
            let (file, beside) = claim_beside(path, make)?;
            fs::remove_file(beside)?;
            Ok(file)
        };
        claim().map_err(|error: io::Error| Failure::on("write beside", path, error))
    }

    /// Writes into what is there already: a setting that the kernel shows as a file. Everything else is replaced.
    pub fn write_in_place(&self, path: &Path, bytes: &[u8]) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::on("write", path, error);
        OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(bytes)).map_err(failed)
    }

    /// Makes one directory; its parent has to be there.
    pub fn make_directory(&self, path: &Path, ownership: Ownership) -> Result<(), Failure> {
        let make = || -> io::Result<()> {
            fs::DirBuilder::new().mode(0o700).create(path)?;
            if ownership.uid.is_some() || ownership.gid.is_some() {
                lchown(path, ownership.uid, ownership.gid)?;
            }
            chmod(path, ownership.mode.unwrap_or(0o755))
        };
        make().map_err(|error| Failure::on("make directory", path, error))?;
        self.sync(path)?;
        self.sync_parent(path)
    }

    /// Puts a symbolic link at `path`, over a file or a link that may be there.
    pub fn make_link(&self, path: &Path, target: &Path) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::on("link", path, error);
        let beside = claim_beside(path, |beside| symlink(target, beside)).map_err(failed)?.1;
        fs::rename(&beside, path).map_err(|error| {
            let _ = fs::remove_file(&beside);
            failed(error)
        })?;
        self.sync_parent(path)
    }

    /// Changes owner, group and mode of what stands at `path`; of a link itself, only its owner and group.
    pub fn set_ownership(&self, path: &Path, ownership: Ownership) -> Result<(), Failure> {
        let meta = fs::symlink_metadata(path).map_err(|error| Failure::on("look at", path, error))?;
        let Ownership { uid, gid, mode } = ownership;
        let moves = uid.is_some_and(|uid| uid != meta.uid()) || gid.is_some_and(|gid| gid != meta.gid());
        if moves {
            lchown(path, uid, gid).map_err(|error| Failure::on("change owner of", path, error))?;
        }
        // After the owner: a change of owner clears setuid and setgid.
        let kept = meta.mode() & 0o7777;
        let mode = mode.unwrap_or(kept);
        let modes = !meta.is_symlink() && (mode != kept || (moves && kept & 0o6000 != 0));
        if modes {
            chmod(path, mode).map_err(|error| Failure::on("change mode of", path, error))?;
        }
        if (moves || modes) && (meta.is_file() || meta.is_dir()) { self.sync(path) } else { Ok(()) }
    }

    /// Removes a file, a link, or anything else that is not a directory.
    pub fn remove(&self, path: &Path) -> Result<(), Failure> {
        fs::remove_file(path).map_err(|error| Failure::on("remove", path, error))?;
        self.sync_parent(path)
    }

    /// Removes a directory in which nothing is.
    pub fn remove_directory(&self, path: &Path) -> Result<(), Failure> {
        fs::remove_dir(path).map_err(|error| Failure::on("remove", path, error))?;
        self.sync_parent(path)
    }

    /// Removes a directory with all that is in it. Links in it are removed, not followed.
    pub fn remove_tree(&self, path: &Path) -> Result<(), Failure> {
        fs::remove_dir_all(path).map_err(|error| Failure::on("remove", path, error))?;
        self.sync_parent(path)
    }

    /// Makes what was done to names in the path's directory durable.
    pub fn sync_parent(&self, path: &Path) -> Result<(), Failure> {
        self.sync(parent(path))
    }

    fn sync(&self, path: &Path) -> Result<(), Failure> {
        match &self.syncs.deferred {
            Some(deferred) => {
                let mut deferred = lock(deferred);
                if !deferred.contains(path) {
                    deferred.insert(path.to_owned());
                }
                Ok(())
            }
            None => sync_now(path),
        }
    }

    /// Removes what writers that live no more left in a directory, once for each host. What cannot be removed stays.
    fn sweep(&self, directory: &Path) {
        {
            let mut swept = lock(&self.syncs.swept);
            if swept.contains(directory) {
                return;
            }
            swept.insert(directory.to_owned());
        }
        let Ok(entries) = fs::read_dir(directory) else { return };
        for entry in entries.flatten() {
            if entry.file_name().as_bytes().ends_with(ENDING)
                && entry.file_name().as_bytes().starts_with(b".")
            {
                let _ = remove_leftover(&entry.path());
            }
        }
    }
}

impl<'a> Unsynced<'a> {
    /// How many bytes it holds.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Puts the content on disk.
    pub fn sync(self) -> Result<Staged<'a>, Failure> {
        let Self { staged, file, .. } = self;
        file.sync_all().map_err(|error| Failure::on("write", &staged.place, error))?;
        Ok(staged)
    }
}

impl Staged<'_> {
    /// At its place stands what stood there when this was written, and it can be put there.
    pub fn is_current(&self) -> bool {
        match fs::symlink_metadata(&self.place) {
            Ok(meta) => Some(Found::of(&meta)) == self.found,
            // The way there may be another by now, and lead nowhere.
            Err(_) => self.found.is_none() && fs::symlink_metadata(&self.beside).is_ok(),
        }
    }

    /// Where the new file is until it is placed.
    pub fn path(&self) -> &Path {
        &self.beside
    }

    /// Puts it in its place. A reader sees the old content or the new, also after a power cut.
    pub fn place(mut self) -> Result<(), Failure> {
        fs::rename(&self.beside, &self.place).map_err(|error| {
            let busy = error.raw_os_error() == Some(libc::EBUSY);
            let failure = Failure::on("replace", &self.place, error);
            if busy { failure.hint("it is a mount point, which cannot be replaced") } else { failure }
        })?;
        self.placed = true;
        self.host.sync_parent(&self.place)
    }

    fn fill(&mut self, file: &mut File, bytes: &[u8], ownership: Ownership) -> io::Result<()> {
        let reader = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&self.beside)?;
        // A file system without locks leaves leftovers that nobody can tell, and no more.
        self._lock = Flock::lock(reader, FlockArg::LockExclusiveNonblock).ok();
        file.write_all(bytes)?;
        let old = fs::symlink_metadata(&self.place).ok();
        self.found = old.as_ref().map(Found::of);
        let old = old.filter(fs::Metadata::is_file);
        let new = file.metadata()?;
        let wanted = |given: Option<u32>, old: Option<u32>, new: u32| given.or(old).filter(|id| *id != new);
        let uid = wanted(ownership.uid, old.as_ref().map(MetadataExt::uid), new.uid());
        let gid = wanted(ownership.gid, old.as_ref().map(MetadataExt::gid), new.gid());
        if uid.is_some() || gid.is_some() {
            fchown(&*file, uid, gid)?;
        }
        if old.is_some() {
            copy_attributes(&self.place, file)?;
        }
        // After owner and access lists: both change bits of the mode.
        let kept = old.map(|old| old.mode() & 0o7777);
        file.set_permissions(Permissions::from_mode(ownership.mode.or(kept).unwrap_or(0o644)))
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if !self.placed {
            let _ = fs::remove_file(&self.beside);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn chmod(path: &Path, mode: u32) -> io::Result<()> {
    // The caller saw that it is not a link; if it became one meanwhile, this fails.
    let mode = Mode::from_bits_truncate(mode);
    Ok(fchmodat(AT_FDCWD, path, mode, FchmodatFlags::NoFollowSymlink)?)
}

fn sync_now(path: &Path) -> Result<(), Failure> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        // Gone again, or the way to it, or the process may write and not read it: the journal of its file system has to do.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied
            ) =>
        {
            return Ok(());
        }
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Ok(()),
        Err(error) => return Err(Failure::on("sync", path, error)),
    };
    match file.sync_all() {
        // What some file systems say of directories.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        synced => synced.map_err(|error| Failure::on("sync", path, error)),
    }
}

fn create_beside(path: &Path) -> io::Result<(File, PathBuf)> {
    // `create_new` follows no link, wherever it leads.
    claim_beside(path, |beside| OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside))
}

/// Makes something under a new name in the path's directory.
fn claim_beside<T>(path: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(T, PathBuf)> {
    let name = path.file_name().ok_or_else(|| io::Error::other("the path names no file"))?;
    let mut attempt = 0;
    loop {
        let beside = parent(path).join(temporary(name));
        match make(&beside) {
            Ok(made) => return Ok((made, beside)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

/// A name that nobody foresees. It starts as the file's own, for people; names have at most 255 bytes.
fn temporary(name: &OsStr) -> OsString {
    let start = String::from_utf8_lossy(name.as_bytes()).chars().take(40).collect::<String>();
    let random = RandomState::new().hash_one(std::process::id());
    let mut temporary = format!(".{start}.{random:016x}").into_bytes();
    temporary.extend_from_slice(ENDING);
    OsString::from_vec(temporary)
}

fn remove_leftover(path: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_symlink() {
        // There is nothing to lock: its age has to tell.
        let old = meta.modified()?.elapsed().is_ok_and(|age| age > LINK_LIFE);
        return if old { fs::remove_file(path) } else { Ok(()) };
    }
    if !meta.is_file() {
        return Ok(());
    }
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(_held) => fs::remove_file(path),
        Err((_, error)) => Err(error.into()),
    }
}

/// Labels and access lists stay with the name, as they would if the file were written in place. So would not what
/// the kernel takes from a file that is written to, or what is bound to its content.
fn copy_attributes(from: &Path, to: &File) -> io::Result<()> {
    use xattr::FileExt;
    // A file system without extended attributes has none to copy.
    let Ok(names) = xattr::list(from) else { return Ok(()) };
    for name in names {
        let bytes = name.as_bytes();
        if matches!(bytes, b"security.capability" | b"security.ima" | b"security.evm") {
            continue;
        }
        let Some(value) = xattr::get(from, &name)? else { continue };
        match to.set_xattr(&name, &value) {
            Ok(()) => {}
            // Only an access list says who may read: losing it would open the file or close it.
            Err(error) if bytes == b"system.posix_acl_access" => return Err(error),
            Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
