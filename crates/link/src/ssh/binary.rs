//! The programs that are copied to machines: this one, and others for other architectures.

use std::io;
use std::path::{Path, PathBuf};

use tokio::fs::File;

/// A program that can be copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Binary {
    /// As `uname -m` says it.
    arch: String,
    path: PathBuf,
    /// BLAKE3 in hexadecimal: its name on the other side.
    hash: String,
    size: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    #[error("the program {path} cannot be read", path = .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{0:?} is no name of an architecture, such as aarch64")]
    Architecture(String),
}

/// One program for each architecture.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Binaries(Vec<Binary>);

impl Binary {
    /// Reads the file once, for its hash. Blocks for some milliseconds.
    pub fn read(arch: &str, path: &Path) -> Result<Self, BinaryError> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if arch.is_empty() || !arch.chars().all(is_plain) {
            return Err(BinaryError::Architecture(arch.to_owned()));
        }
        let unreadable = |source| BinaryError::Unreadable { path: path.to_owned(), source };
        let mut hasher = blake3::Hasher::new();
        let mut file = std::fs::File::open(path).map_err(unreadable)?;
        hasher.update_reader(&mut file).map_err(unreadable)?;
        let size = hasher.count();
        let hash = hasher.finalize().to_hex().to_string();
        Ok(Self { arch: arch.to_owned(), path: path.to_owned(), hash, size })
    }

    pub fn arch(&self) -> &str {
        &self.arch
    }

    pub(super) fn hash(&self) -> &str {
        &self.hash
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) async fn open(&self) -> Result<File, BinaryError> {
        File::open(&self.path).await.map_err(|source| self.unreadable(source))
    }

    pub(super) fn unreadable(&self, source: io::Error) -> BinaryError {
        BinaryError::Unreadable { path: self.path.clone(), source }
    }
}

impl Binaries {
    /// Of two for one architecture the later counts.
    pub fn with(mut self, binary: Binary) -> Self {
        self.0.retain(|known| known.arch != binary.arch);
        self.0.push(binary);
        self
    }

    pub(super) fn of(&self, arch: &str) -> Option<&Binary> {
        self.0.iter().find(|binary| binary.arch == arch)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Binary> {
        self.0.iter()
    }
}
