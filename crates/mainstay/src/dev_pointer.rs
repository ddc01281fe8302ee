//! How a command in another terminal finds the hub that `mainstay dev` started: a small file that names its
//! socket, in a directory which only this user can write.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The file holds a path and a number.
const MAX_SIZE: u64 = 8 << 10;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DevPointer {
    /// The API socket of the hub.
    pub socket: PathBuf,
    /// The process that wrote this.
    pub pid: u32,
}

impl DevPointer {
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, pid: std::process::id() }
    }

    /// Makes this the hub that commands without `--hub` go to. The newest wins.
    pub fn write(&self) -> io::Result<()> {
        self.write_in(&directory())
    }

    /// The pointer, if there is one that this user wrote.
    pub fn read() -> Option<Self> {
        Self::read_in(&directory())
    }

    /// Takes the pointer away, unless another `dev` has put its own there since.
    pub fn remove(&self) {
        self.remove_in(&directory());
    }

    /// Whether its hub answers; a `dev` that was killed leaves its pointer behind.
    pub fn is_alive(&self) -> bool {
        UnixStream::connect(&self.socket).is_ok()
    }

    fn write_in(&self, directory: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        if !is_ours(directory) {
            let message = format!("{} belongs to someone else, or others may write it", directory.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        let fresh = directory.join(format!("dev.{}", self.pid));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(&serde_json::to_vec(self)?)?;
        std::fs::rename(&fresh, directory.join("dev"))
    }

    fn read_in(directory: &Path) -> Option<Self> {
        if !is_ours(directory) {
            return None;
        }
        let mut bytes = Vec::new();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
            .open(directory.join("dev"))
            .ok()?;
        if file.metadata().ok()?.uid() != own_uid() {
            return None;
        }
        file.take(MAX_SIZE).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    fn remove_in(&self, directory: &Path) {
        if Self::read_in(directory).as_ref() == Some(self) {
            let _ = std::fs::remove_file(directory.join("dev"));
        }
    }
}

fn directory() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty()) {
        Some(runtime) => PathBuf::from(runtime).join("mainstay"),
        None => std::env::temp_dir().join(format!("mainstay-{}", own_uid())),
    }
}

fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// A directory in /tmp may have been made by anyone, to send our commands to their hub.
fn is_ours(directory: &Path) -> bool {
    std::fs::symlink_metadata(directory)
        .is_ok_and(|meta| meta.is_dir() && meta.uid() == own_uid() && meta.mode() & 0o022 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(pid: u32) -> DevPointer {
        DevPointer { socket: PathBuf::from("/nowhere/api.sock"), pid }
    }

    #[test]
    fn the_newest_dev_is_found_and_only_its_own_pointer_is_removed() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("mainstay");
        assert_eq!(DevPointer::read_in(&directory), None);
        pointer(1).write_in(&directory).unwrap();
        pointer(2).write_in(&directory).unwrap();
        pointer(1).remove_in(&directory);
        assert_eq!(DevPointer::read_in(&directory), Some(pointer(2)));
        assert!(!pointer(2).is_alive());
        pointer(2).remove_in(&directory);
        assert_eq!(DevPointer::read_in(&directory), None);
    }

    #[test]
    fn a_directory_that_others_may_write_or_a_link_is_not_believed() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("mainstay");
        pointer(1).write_in(&directory).unwrap();
        let link = base.path().join("link");
        std::os::unix::fs::symlink(&directory, &link).unwrap();
        assert_eq!(DevPointer::read_in(&link), None);
        std::fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
        assert_eq!(DevPointer::read_in(&directory), None);
        assert!(pointer(2).write_in(&directory).is_err());
    }

    #[test]
    fn a_pointer_that_is_a_link_or_rubbish_is_none() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("mainstay");
        pointer(1).write_in(&directory).unwrap();
        std::fs::rename(directory.join("dev"), directory.join("real")).unwrap();
        std::os::unix::fs::symlink(directory.join("real"), directory.join("dev")).unwrap();
        assert_eq!(DevPointer::read_in(&directory), None);
        std::fs::remove_file(directory.join("dev")).unwrap();
        std::fs::write(directory.join("dev"), b"{").unwrap();
        assert_eq!(DevPointer::read_in(&directory), None);
    }
}
