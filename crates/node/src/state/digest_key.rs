//! The key that only this machine has: with it the digests in its plans tell secrets apart, and tell nobody else
//! anything.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::lock;

/// The machine's key. It is made at the first use; where it cannot be kept, one of this session serves: then only
/// plans of one session can be compared.
pub(super) fn of_machine(directory: &Path) -> [u8; 32] {
    match kept(directory) {
        Ok(key) => key,
        Err(error) => {
            tracing::debug!(%error, "the key of digests is not kept");
            fresh()
        }
    }
}

fn kept(directory: &Path) -> io::Result<[u8; 32]> {
    let path = directory.join("digest.key");
    if let Some(key) = read(&path)? {
        return Ok(key);
    }
    lock::make(directory)?;
    let key = fresh();
    let beside = directory.join(format!("digest.key.{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| file.write_all(&key).and_then(|()| file.sync_all()))
        // Another session may have made one meanwhile: the first stays.
        .and_then(|()| fs::hard_link(&beside, &path));
    let _ = fs::remove_file(&beside);
    match written {
        Ok(()) => Ok(key),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            read(&path)?.ok_or_else(|| io::Error::other("it is not a key"))
        }
        Err(error) => Err(error),
    }
}

/// Nothing if there is none, or a broken one, which is replaced.
fn read(path: &Path) -> io::Result<Option<[u8; 32]>> {
    match fs::read(path) {
        Ok(bytes) => match bytes.try_into() {
            Ok(key) => Ok(Some(key)),
            Err(_) => fs::remove_file(path).map(|()| None),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn fresh() -> [u8; 32] {
    let mut key = [0; 32];
    getrandom::fill(&mut key).expect("the kernel gives random bytes");
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_machine_has_one_key() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let key = of_machine(&state);
        assert_eq!(of_machine(&state), key);
        let path = state.join("digest.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
        fs::write(&path, b"cut off").unwrap();
        let new = of_machine(&state);
        assert_eq!(of_machine(&state), new);
        assert_ne!(new, key);
    }
}
