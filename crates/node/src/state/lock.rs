//! One apply at a time on a machine, whoever asks for it: agent, ssh or a terminal.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

/// What a holder says of itself; a file that somebody else wrote is not read whole.
const MAX_HOLDER: u64 = 512;

/// A holder has written who it is by then, unless it cannot.
const WRITTEN_WITHIN: Duration = Duration::from_millis(500);

/// How often it is looked in that time.
const LOOKS: u32 = 50;

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("another apply is under way on this machine: {holder}")]
    Held { holder: String },
    #[error("cannot lock {path}")]
    Io { path: PathBuf, source: io::Error },
}

/// Held until it is dropped, or the process ends however it ends.
#[derive(Debug)]
pub struct ApplyLock {
    _file: Flock<File>,
}

impl ApplyLock {
    /// `directory` is made if it is not there. `title` is for the one who finds the lock taken.
    pub fn take(directory: &Path, title: &str) -> Result<Self, LockError> {
        let path = directory.join("lock");
        let failed = |source: io::Error| LockError::Io { path: path.clone(), source };
        make(directory).map_err(failed)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
                let holder = holder(file, || thread::sleep(WRITTEN_WITHIN / LOOKS)).map_err(failed)?;
                return Err(LockError::Held { holder });
            }
            Err((_, errno)) => return Err(failed(errno.into())),
        };
        let title: String = title.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
        let holder = format!("process {} ({title})\n", std::process::id());
        file.set_len(0).and_then(|()| file.write_all(holder.as_bytes())).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// What the holder of the lock says of itself. It has the lock before it says so: while nothing is there, it is looked again
/// after a `pause`.
fn holder(mut file: File, mut pause: impl FnMut()) -> io::Result<String> {
    for _ in 0..LOOKS {
        let mut holder = Vec::new();
        file.rewind()?;
        (&file).take(MAX_HOLDER).read_to_end(&mut holder)?;
        // Its line is written at once.
        if let Some(holder) = String::from_utf8_lossy(&holder).lines().next() {
            return Ok(holder.trim().to_owned());
        }
        pause();
    }
    Ok("it does not say by whom".to_owned())
}

/// The machine's own directory: what is owed is nobody else's business.
pub(super) fn make(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_it_taken_is_told_by_whom() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("data/state");
        let held = ApplyLock::take(&state, "mainstay up\nsite.yaml").unwrap();
        let error = ApplyLock::take(&state, "mainstay agent").unwrap_err().to_string();
        let expected = format!(
            "another apply is under way on this machine: process {} (mainstay up site.yaml)",
            std::process::id()
        );
        assert_eq!(error, expected);
        drop(held);
        ApplyLock::take(&state, "mainstay agent").unwrap();

        // A holder that has the lock, and says who it is a moment later.
        let path = state.join("lock");
        fs::write(&path, "").unwrap();
        let mut pauses = 0;
        let found = holder(File::open(&path).unwrap(), || {
            pauses += 1;
            fs::write(&path, "process 7 (mainstay up)\n").unwrap();
        });
        assert_eq!((found.unwrap().as_str(), pauses), ("process 7 (mainstay up)", 1));
        fs::write(&path, "").unwrap();
        assert_eq!(holder(File::open(&path).unwrap(), || ()).unwrap(), "it does not say by whom");
    }
}
