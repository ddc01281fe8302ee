//! Space kept back so that work which was accepted can end on a full disk.
//!
//! A reserve is a file of really allocated bytes beside the database. It grows before new work is accepted
//! and is cut when owed work needs the room. What is reserved for whom is not known here.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;

/// Something that can hold space and give it back.
pub(crate) trait Reserve: Send {
    /// Bytes held now.
    fn held(&self) -> u64;

    /// Holds exactly this many. On an error it holds what it held before.
    fn hold(&mut self, bytes: u64) -> io::Result<()>;
}

/// Whether an error says that there is no room, rather than that something is broken.
pub(crate) fn says_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

pub(crate) struct FileReserve {
    file: File,
    held: u64,
}

impl FileReserve {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
        let meta = file.metadata()?;
        // A sparse file (restored by a copy, say) holds nothing.
        let held = if meta.blocks() * 512 >= meta.len() { meta.len() } else { 0 };
        if held == 0 {
            file.set_len(0)?;
        }
        Ok(Self { file, held })
    }

    fn allocate(&mut self, from: u64, to: u64) -> io::Result<()> {
        let too_large = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let offset = i64::try_from(from).map_err(too_large)?;
        let len = i64::try_from(to - from).map_err(too_large)?;
        match nix::fcntl::posix_fallocate(&self.file, offset, len) {
            Ok(()) => Ok(()),
            // File systems without the call: only written bytes are allocated ones.
            Err(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS) => {
                static CHUNK: [u8; 64 * 1024] = [0x5a; 64 * 1024];
                self.file.seek(SeekFrom::Start(from))?;
                let mut left = to - from;
                while left > 0 {
                    let part = left.min(CHUNK.len() as u64) as usize;
                    self.file.write_all(&CHUNK[..part])?;
                    left -= part as u64;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Reserve for FileReserve {
    fn held(&self) -> u64 {
        self.held
    }

    fn hold(&mut self, bytes: u64) -> io::Result<()> {
        if bytes > self.held
            && let Err(error) = self.allocate(self.held, bytes)
        {
            // What it got before it failed goes back.
            self.file.set_len(self.held)?;
            return Err(error);
        }
        if bytes < self.held {
            self.file.set_len(bytes)?;
        }
        self.held = bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_holds_is_allocated_and_survives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.reserve");
        let mut reserve = FileReserve::open(&path).unwrap();
        reserve.hold(3 << 20).unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        assert!(meta.blocks() * 512 >= 3 << 20, "{} blocks", meta.blocks());
        reserve.hold(1 << 20).unwrap();
        drop(reserve);
        assert_eq!(FileReserve::open(&path).unwrap().held(), 1 << 20);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 20);
    }

    #[test]
    fn a_sparse_file_holds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.reserve");
        File::create(&path).unwrap().set_len(1 << 20).unwrap();
        assert_eq!(FileReserve::open(&path).unwrap().held(), 0);
    }

    #[test]
    fn more_than_there_is_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut reserve = FileReserve::open(&dir.path().join("journal.reserve")).unwrap();
        reserve.hold(1 << 20).unwrap();
        let error = reserve.hold(1 << 62).unwrap_err();
        assert!(says_full(&error), "{error}");
        assert_eq!(reserve.held(), 1 << 20);
    }
}
