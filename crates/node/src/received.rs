//! Where answers are written: beneath `<data>/received/<node>/`, or beneath a directory that the node's own
//! configuration opens.
//!
//! [`mainstay_core::received_path`] decides on the words of a path. Here it meets the disk: each directory is
//! opened beneath the one before, never through a symlink (so nothing that lies in the tree can lead out of
//! it), and only plain files are opened. Directories are made for the owner alone, and synced to disk
//! with what holds them. What is written into the files is told in [`crate::reply`].

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, DirBuilder, DirBuilderExt as _, OpenOptions, OpenOptionsExt as _};
use mainstay_core::id::NodeName;
use mainstay_core::received_path::{self, PathError, Place, Roots};
use nix::libc;

/// Directories and files are for the node's own user.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The trees that answers may be written to.
pub struct Received {
    base: PathBuf,
    roots: Roots,
}

/// Where one answer goes: words that were checked, nothing opened yet. Two answers that go to one file have
/// equal spots.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Spot {
    /// The tree, which is opened as it is.
    root: PathBuf,
    /// Beneath the root; made where missing.
    directories: Vec<String>,
    file: String,
    /// The root is this node's own, and is made too.
    own: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ReceivedError {
    #[error(transparent)]
    Words(#[from] PathError),
    #[error("fileName: it is missing")]
    NoFile,
    #[error("{path}: it is a symbolic link, and answers follow none")]
    Symlink { path: PathBuf },
    #[error("{path}: it is a {kind}, not a {wanted}")]
    Kind { path: PathBuf, kind: &'static str, wanted: &'static str },
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
}

impl ReceivedError {
    /// Whether trying again later may help, without anybody changing what was asked.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Words(_) | Self::NoFile | Self::Symlink { .. } | Self::Kind { .. } => false,
            Self::Io { error, .. } => is_transient(error),
        }
    }
}

/// A full disk gets space again, a failing one may come back, and tables of open files empty.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ENOSPC
                | libc::EDQUOT
                | libc::EIO
                | libc::EMFILE
                | libc::ENFILE
                | libc::ENOMEM
                | libc::EINTR
                | libc::EAGAIN
                | libc::EBUSY
                | libc::EROFS
                | libc::ESTALE
        )
    )
}

impl Received {
    /// `data` is the node's data directory; `roots` are what its configuration opens.
    pub fn new(data: &Path, roots: Roots) -> Self {
        Self { base: data.join("received"), roots }
    }

    /// Where an answer of `from` to be written to this file of this directory goes.
    pub fn spot(&self, from: &NodeName, directory: &str, file: Option<&str>) -> Result<Spot, ReceivedError> {
        let file = file.ok_or(ReceivedError::NoFile)?;
        let (root, own, mut directories) = match received_path::place(directory, file, &self.roots)? {
            Place::Beneath(parts) => (self.base.join(from.as_str()), true, parts),
            Place::Root { root, components } => (root.into(), false, components),
        };
        let file = directories.pop().ok_or(ReceivedError::NoFile)?;
        Ok(Spot { root, directories, file, own })
    }
}

/// A directory that is open, and its path for errors.
pub struct Directory {
    handle: Dir,
    path: PathBuf,
}

impl Spot {
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The whole path, for people.
    pub fn path(&self) -> PathBuf {
        let mut path = self.root.clone();
        path.extend(&self.directories);
        path.join(&self.file)
    }

    /// Opens the directory, making what is missing. Blocks.
    pub fn directory(&self) -> Result<Directory, ReceivedError> {
        let (trusted, made) = if self.own {
            // `<data>`, then `received` and the node: the last two are made, and are part of the tree.
            let mut parts = self.root.components().rev();
            let made: Vec<_> = parts.by_ref().take(2).map(|part| part.as_os_str().to_owned()).collect();
            (parts.rev().collect::<PathBuf>(), made)
        } else {
            (self.root.clone(), Vec::new())
        };
        let trusted = if trusted.as_os_str().is_empty() { PathBuf::from(".") } else { trusted };
        let handle = Dir::open_ambient_dir(&trusted, ambient_authority())
            .map_err(|error| ReceivedError::Io { path: trusted.clone(), error })?;
        let mut directory = Directory { handle, path: trusted };
        for part in made.iter().rev() {
            directory = directory.enter(Path::new(part))?;
        }
        for part in &self.directories {
            directory = directory.enter(Path::new(part))?;
        }
        Ok(directory)
    }
}

impl Directory {
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn enter(&self, name: &Path) -> Result<Self, ReceivedError> {
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW);
        let open = || self.handle.open_with(name, &options);
        let opened = match open() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let mut builder = DirBuilder::new();
                builder.mode(DIRECTORY_MODE);
                match self.handle.create_dir_with(name, &builder) {
                    // Another answer made it in between.
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(ReceivedError::Io { path, error }),
                    Ok(()) => self.sync()?,
                }
                open()
            }
            other => other,
        };
        match opened {
            Ok(handle) => Ok(Self { handle: Dir::from_std_file(handle.into_std()), path }),
            Err(error) => Err(self.why_not(name, "directory", error)),
        }
    }

    /// Opens a plain file for reading and writing, making it if it is missing. Whether it was made.
    pub fn open(&self, name: &str) -> Result<(File, bool), ReceivedError> {
        // Without O_NONBLOCK, opening a FIFO would wait for its other end.
        let open = |create_new| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(create_new).mode(FILE_MODE);
            options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
            self.handle.open_with(name, &options).map(cap_std::fs::File::into_std)
        };
        let (opened, made) = match open(false) {
            Err(error) if error.kind() == ErrorKind::NotFound => match open(true) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => (open(false), false),
                made => (made, true),
            },
            other => (other, false),
        };
        let file = opened.map_err(|error| self.why_not(Path::new(name), "plain file", error))?;
        let path = || self.path.join(name);
        let metadata = file.metadata().map_err(|error| ReceivedError::Io { path: path(), error })?;
        if !metadata.is_file() {
            let kind = kind(metadata.file_type());
            return Err(ReceivedError::Kind { path: path(), kind, wanted: "plain file" });
        }
        if made {
            self.sync()?;
        }
        Ok((file, made))
    }

    /// Puts a file of this directory in place of another, and syncs the directory. What is replaced is a
    /// plain file or nothing: a directory or a device in its place is not touched.
    pub fn replace(&self, fresh: &str, name: &str) -> Result<(), ReceivedError> {
        let io = |error| ReceivedError::Io { path: self.path.join(name), error };
        match self.handle.symlink_metadata(name) {
            Ok(metadata) if !metadata.is_file() => {
                return Err(self.why_not(
                    Path::new(name),
                    "plain file",
                    io::Error::from_raw_os_error(libc::EEXIST),
                ));
            }
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        self.handle.rename(fresh, &self.handle, name).map_err(io)?;
        self.sync()
    }

    /// Removes a file of this directory, if it is there.
    pub fn remove(&self, name: &str) -> Result<(), ReceivedError> {
        match self.handle.remove_file(name) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(ReceivedError::Io { path: self.path.join(name), error })
            }
            _ => Ok(()),
        }
    }

    fn sync(&self) -> Result<(), ReceivedError> {
        // The handle itself may be one that only names the directory, which cannot be synced.
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_DIRECTORY);
        let synced = self.handle.open_with(".", &options).and_then(|directory| directory.sync_all());
        synced.map_err(|error| ReceivedError::Io { path: self.path.clone(), error })
    }

    /// What stands in the way, in better words than the system's if it is the wrong kind of thing.
    fn why_not(&self, name: &Path, wanted: &'static str, error: io::Error) -> ReceivedError {
        let path = self.path.join(name);
        match self.handle.symlink_metadata(name) {
            Ok(metadata) if metadata.is_symlink() => ReceivedError::Symlink { path },
            Ok(metadata) if metadata.is_dir() != (wanted == "directory") => {
                let kind = if metadata.is_dir() { "directory" } else { special(&metadata) };
                ReceivedError::Kind { path, kind, wanted }
            }
            Ok(metadata) if !metadata.is_dir() && !metadata.is_file() => {
                ReceivedError::Kind { path, kind: special(&metadata), wanted }
            }
            _ => ReceivedError::Io { path, error },
        }
    }
}

fn special(metadata: &cap_std::fs::Metadata) -> &'static str {
    use cap_std::fs::FileTypeExt as _;
    let kind = metadata.file_type();
    if kind.is_fifo() {
        "FIFO"
    } else if kind.is_socket() {
        "socket"
    } else if kind.is_block_device() || kind.is_char_device() {
        "device"
    } else {
        "plain file"
    }
}

fn kind(kind: std::fs::FileType) -> &'static str {
    if kind.is_fifo() {
        "FIFO"
    } else if kind.is_socket() {
        "socket"
    } else if kind.is_block_device() || kind.is_char_device() {
        "device"
    } else {
        "directory"
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn ship() -> NodeName {
        "ship1".parse().unwrap()
    }

    fn received(roots: &[&str]) -> (tempfile::TempDir, Received) {
        let data = tempfile::tempdir().unwrap();
        let received = Received::new(data.path(), Roots::new(roots.iter().copied()).unwrap());
        (data, received)
    }

    fn open(received: &Received, directory: &str, file: &str) -> Result<File, ReceivedError> {
        let spot = received.spot(&ship(), directory, Some(file))?;
        spot.directory()?.open(spot.file()).map(|(file, _)| file)
    }

    #[test]
    fn files_and_directories_are_made_for_the_owner_alone() {
        let (data, received) = received(&[]);
        let file = open(&received, "/var/cli/command_result/", "some.result").unwrap();
        let path = data.path().join("received/ship1/var/cli/command_result/some.result");
        assert!(path.is_file());
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        for made in ["received", "received/ship1", "received/ship1/var/cli"] {
            let mode = fs::metadata(data.path().join(made)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{made}");
        }
        assert!(open(&received, "var/cli/command_result", "some.result").is_ok(), "it is opened again");
    }

    #[test]
    fn symlinks_are_not_followed_wherever_they_lie_and_lead() {
        let (data, received) = received(&[]);
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "before").unwrap();
        let tree = data.path().join("received/ship1");
        fs::create_dir_all(tree.join("real")).unwrap();
        symlink(outside.path(), tree.join("out")).unwrap();
        symlink("real", tree.join("inside")).unwrap();
        symlink(outside.path().join("secret"), tree.join("real/file")).unwrap();
        symlink(outside.path().join("fresh"), tree.join("real/dangling")).unwrap();
        for (directory, file) in [("out", "secret"), ("inside", "x"), ("real", "file"), ("real", "dangling")]
        {
            let error = open(&received, directory, file).unwrap_err();
            assert!(matches!(error, ReceivedError::Symlink { .. }), "{directory}/{file}: {error}");
            assert!(!error.is_transient());
        }
        assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "before");
        assert!(!outside.path().join("fresh").exists());
        // Not even as the node's own directory.
        fs::remove_dir_all(&tree).unwrap();
        symlink(outside.path(), &tree).unwrap();
        assert!(matches!(open(&received, "", "x").unwrap_err(), ReceivedError::Symlink { .. }));
        assert!(!outside.path().join("x").exists());
    }

    #[test]
    fn only_plain_files_are_opened() {
        let (data, received) = received(&[]);
        let tree = data.path().join("received/ship1");
        fs::create_dir_all(tree.join("dir")).unwrap();
        fs::write(tree.join("plain"), "").unwrap();
        nix::unistd::mkfifo(&tree.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
        for (directory, file, kind) in [
            ("", "fifo", "FIFO"),
            ("", "socket", "socket"),
            ("", "dir", "directory"),
            ("plain", "x", "plain file"),
            ("fifo", "x", "FIFO"),
        ] {
            let error = open(&received, directory, file).unwrap_err();
            assert!(error.to_string().contains(&format!("it is a {kind}, not a")), "{error}");
        }
        let spot = received.spot(&ship(), "", Some("dir")).unwrap();
        let directory = spot.directory().unwrap();
        directory.open("fresh").unwrap();
        for name in ["dir", "fifo"] {
            assert!(directory.replace("fresh", name).is_err(), "{name} was replaced");
        }
        directory.replace("fresh", "plain").unwrap();
    }

    #[test]
    fn an_absolute_directory_is_one_only_where_it_was_opened() {
        let root = tempfile::tempdir().unwrap();
        let (data, received) = received(&[root.path().to_str().unwrap()]);
        let wanted = root.path().join("logs");
        open(&received, wanted.to_str().unwrap(), "a").unwrap();
        assert!(wanted.join("a").is_file());
        open(&received, "/etc", "a").unwrap();
        assert!(data.path().join("received/ship1/etc/a").is_file());
        assert!(received.spot(&ship(), "../x", Some("a")).is_err());
        assert!(received.spot(&ship(), "x", None).is_err());
    }

    #[test]
    fn a_root_that_is_not_there_is_not_made() {
        let root = tempfile::tempdir().unwrap();
        let missing = root.path().join("not-mounted");
        let (_data, received) = received(&[missing.to_str().unwrap()]);
        assert!(open(&received, missing.to_str().unwrap(), "a").is_err());
        assert!(!missing.exists());
    }
}
