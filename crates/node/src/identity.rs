//! Who this node is, on disk: its key, the certificates under which it joined, and the fleet's CA.
//!
//! | File | Holds |
//! | --- | --- |
//! | `identity.key` | the Ed25519 key (PKCS #8, 0600); made here, never leaves |
//! | `identity.crt` | the certificate chain, leaf first |
//! | `ca.crt` | the CA certificate of the fleet that the node joined |

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use mainstay_link::chain::{ChainError, FleetCa, PeerIdentity};
use mainstay_link::keyfile::{self, KeyFileError};

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{path} cannot be read or written")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} does not hold what it should")]
    Content {
        path: PathBuf,
        #[source]
        source: KeyFileError,
    },
    #[error("the certificates in {path} cannot be used")]
    Chain {
        path: PathBuf,
        #[source]
        source: ChainError,
    },
    #[error("{path} is of another key than identity.key")]
    OtherKey { path: PathBuf },
    #[error("the system gives no randomness")]
    Randomness,
}

/// A node's place in a fleet.
#[derive(Clone, Debug)]
pub struct Membership {
    pub identity: PeerIdentity,
    pub chain: Vec<Bytes>,
    pub ca: FleetCa,
}

/// Makes the data directory (0700) if it is not there.
pub fn make_data_dir(data: &Path) -> Result<(), IdentityError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(io_error(data))
}

/// The node's key; made if there is none.
pub fn load_or_make_key(data: &Path) -> Result<SigningKey, IdentityError> {
    let path = data.join("identity.key");
    match fs::read_to_string(&path) {
        Ok(text) => keyfile::key_from_pem(&text).map_err(|source| IdentityError::Content { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).map_err(|_| IdentityError::Randomness)?;
            let key = SigningKey::from_bytes(&seed);
            write_atomically(&path, keyfile::key_to_pem(&key).as_bytes(), 0o600)?;
            Ok(key)
        }
        Err(source) => Err(IdentityError::Io { path, source }),
    }
}

/// The fleet that this key has joined, if it has.
pub fn load_membership(data: &Path, key: &SigningKey) -> Result<Option<Membership>, IdentityError> {
    let (chain_path, ca_path) = (data.join("identity.crt"), data.join("ca.crt"));
    let (Some(chain), Some(ca)) = (read_chain(&chain_path)?, read_chain(&ca_path)?) else { return Ok(None) };
    let chain_error = |path: &Path| {
        let path = path.to_owned();
        move |source| IdentityError::Chain { path, source }
    };
    let ca = ca
        .into_iter()
        .next()
        .ok_or(ChainError::Length(0))
        .and_then(FleetCa::from_der)
        .map_err(chain_error(&ca_path))?;
    let identity = ca.verify(&chain).map_err(chain_error(&chain_path))?;
    if identity.key.as_bytes() != key.verifying_key().as_bytes() {
        return Err(IdentityError::OtherKey { path: chain_path });
    }
    Ok(Some(Membership { identity, chain, ca }))
}

/// Keeps what a hub gave. The chain is written last: it alone makes the node a member.
pub fn save_membership(data: &Path, chain: &[Bytes], ca: &Bytes) -> Result<(), IdentityError> {
    write_atomically(&data.join("ca.crt"), keyfile::chain_to_pem(&[ca]).as_bytes(), 0o644)?;
    write_atomically(&data.join("identity.crt"), keyfile::chain_to_pem(chain).as_bytes(), 0o644)
}

fn read_chain(path: &Path) -> Result<Option<Vec<Bytes>>, IdentityError> {
    let mut text = String::new();
    match File::open(path).and_then(|mut file| file.read_to_string(&mut text)) {
        Ok(_) => keyfile::chain_from_pem(&text)
            .map(Some)
            .map_err(|source| IdentityError::Content { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(IdentityError::Io { path: path.to_owned(), source }),
    }
}

/// Writes a file whole or not at all, and makes it durable under its name.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<(), IdentityError> {
    let temporary = path.with_extension("new");
    let write = || {
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        if let Some(directory) = path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(io_error(path))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Io { path, source }
}
