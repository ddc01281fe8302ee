//! The fleet's root of trust as this hub holds it: keys, certificates, and the shared trust log.
//!
//! A first start makes, in this order, each file written whole and synced before the next: `root.key`, `identity.key`,
//! `ca.crt`, `issuer.crt`, `identity.crt`; then the trust log's first two entries in the Store. Killed anywhere in between, the next start makes what
//! is missing, from the keys that are there: everything after the keys is a pure function of them.
//! Once the hub has its grant, `root.key` may be taken away; what needs it says so.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use mainstay_core::envelope::Signer;
use mainstay_core::id::{KeyId, NodeName};
use mainstay_core::time::Timestamp;
use mainstay_core::trust::{Act, Grant, Role, TrustError, TrustLog};
use mainstay_link::certificate::{IssueError, issue_hub, issue_node, make_ca};
use mainstay_link::chain::Fingerprint;
use mainstay_link::keyfile::{KeyFileError, chain_from_pem, chain_to_pem, key_from_pem, key_to_pem};
use tokio::sync::watch;

use crate::shelf::{Shelf, ShelfError};

const LOG: &str = "trust";
const PAGE: usize = 1024;

pub const ROOT_KEY: &str = "root.key";
pub const IDENTITY_KEY: &str = "identity.key";
pub const CA: &str = "ca.crt";
pub const ISSUER: &str = "issuer.crt";
pub const IDENTITY: &str = "identity.crt";

/// The files that are the hub's identity, for a backup. `root.key` may be missing.
pub const FILES: [&str; 5] = [ROOT_KEY, IDENTITY_KEY, CA, ISSUER, IDENTITY];

#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error("{path}: {what}")]
    File {
        path: PathBuf,
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} can be read by others than its owner: its mode must be 0600")]
    Exposed { path: PathBuf },
    #[error("{path} is damaged")]
    Damaged {
        path: PathBuf,
        #[source]
        source: KeyFileError,
    },
    #[error(
        "{path} is missing, and it cannot be made without {ROOT_KEY}: bring that back, or restore a backup"
    )]
    Missing { path: PathBuf },
    #[error("{ROOT_KEY} is the key of another fleet than this hub's store")]
    OtherFleet,
    #[error(
        "the trust log in the store does not let this hub's key be a hub: {IDENTITY_KEY} and the store do not belong together"
    )]
    NotAHub,
    #[error("the stored trust log is damaged")]
    Trust(#[from] TrustError),
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error(transparent)]
    Store(#[from] ShelfError),
    #[error("no randomness can be had from the system")]
    Random,
}

pub struct Fleet {
    shelf: Shelf,
    signer: Signer,
    /// What this hub presents: its leaf and the CA.
    chain: Vec<Bytes>,
    issuer: Bytes,
    ca: Bytes,
    trust: Arc<RwLock<TrustLog>>,
    epoch: watch::Sender<u64>,
    /// Held across an append: entries follow one another.
    appending: tokio::sync::Mutex<()>,
}

impl Fleet {
    /// Opens the fleet that is there, or makes one.
    pub async fn open(dir: &Path, name: &NodeName, shelf: Shelf, now: Timestamp) -> Result<Self, FleetError> {
        make_dir(dir)?;
        let trust = read_trust(&shelf).await?;
        let fresh = trust.epoch() == 0;
        let root = match read_key(&dir.join(ROOT_KEY))? {
            Some(root) => Some(root),
            None if fresh && !dir.join(CA).exists() => Some(make_key(&dir.join(ROOT_KEY))?),
            None => None,
        };
        let missing = |file: &str| FleetError::Missing { path: dir.join(file) };
        let identity = match read_key(&dir.join(IDENTITY_KEY))? {
            Some(key) => key,
            // Another key would be another hub: only where no fleet hangs on the old one, or the root can say so.
            None if root.is_some() => make_key(&dir.join(IDENTITY_KEY))?,
            None => return Err(missing(IDENTITY_KEY)),
        };
        let signer = Signer::new(identity);
        let ca = match (read_chain(&dir.join(CA))?, &root) {
            (Some(chain), _) => chain[0].clone(),
            (None, Some(root)) => {
                let ca = make_ca(root)?;
                write_new(&dir.join(CA), chain_to_pem(&[&ca]).as_bytes(), 0o644)?;
                ca
            }
            (None, None) => return Err(missing(CA)),
        };
        let stored = (read_chain(&dir.join(ISSUER))?, read_chain(&dir.join(IDENTITY))?);
        let (issuer, chain) = match (stored, &root) {
            ((Some(issuer), Some(chain)), _) => (issuer[0].clone(), chain),
            (_, Some(root)) => {
                let made = issue_hub(root, signer.id(), name)?;
                let chain = made.chain(&ca);
                write_new(&dir.join(ISSUER), chain_to_pem(&[&made.issuer]).as_bytes(), 0o644)?;
                write_new(&dir.join(IDENTITY), chain_to_pem(&chain).as_bytes(), 0o644)?;
                (made.issuer, chain)
            }
            (_, None) => return Err(missing(IDENTITY)),
        };
        let fleet = Self {
            epoch: watch::channel(trust.epoch()).0,
            trust: Arc::new(RwLock::new(trust)),
            shelf,
            signer,
            chain,
            issuer,
            ca,
            appending: tokio::sync::Mutex::new(()),
        };
        fleet.be_granted(root.map(Signer::new), name, now).await?;
        Ok(fleet)
    }

    /// Writes what the trust log lacks to make this key a hub.
    async fn be_granted(
        &self,
        root: Option<Signer>,
        name: &NodeName,
        now: Timestamp,
    ) -> Result<(), FleetError> {
        let (known_root, is_hub) = {
            let trust = self.trust.read().expect("no holder panics");
            (trust.root(), trust.is_hub(&self.key(), now))
        };
        if let (Some(known), Some(root)) = (known_root, &root)
            && known != root.id()
        {
            return Err(FleetError::OtherFleet);
        }
        if is_hub {
            return Ok(());
        }
        let root = root.ok_or(FleetError::NotAHub)?;
        if known_root.is_none() {
            self.append(&root, now, Act::Root { key: root.id() }).await?;
        }
        let grant = Grant {
            key: self.key(),
            name: name.to_string(),
            role: Role::Hub,
            methods: vec!["*".into()],
            targets: "*".into(),
            expires: None,
        };
        self.append(&root, now, Act::Grant(grant)).await
    }

    /// Signs an entry, stores it, and only then acts by it.
    async fn append(&self, signer: &Signer, now: Timestamp, act: Act) -> Result<(), FleetError> {
        let _one = self.appending.lock().await;
        let (entry, mut next) = {
            let trust = self.trust.read().expect("no holder panics");
            (trust.next_entry(signer, now, act), trust.clone())
        };
        next.append(entry.clone())?;
        self.keep(vec![entry], next).await
    }

    async fn keep(&self, entries: Vec<Bytes>, next: TrustLog) -> Result<(), FleetError> {
        if let Err(e) = self.shelf.append(LOG, entries).await {
            // It may be in the log all the same, and another entry of the same epoch must never follow it.
            let stored = read_trust(&self.shelf).await?;
            if stored.head() != next.head() {
                return Err(e.into());
            }
        }
        let epoch = next.epoch();
        *self.trust.write().expect("no holder panics") = next;
        self.epoch.send_replace(epoch);
        Ok(())
    }

    /// Throws a node's or an operator's key out for good. Durable when this returns; done before, it is no error.
    pub async fn revoke(&self, key: KeyId, reason: &str, now: Timestamp) -> Result<(), FleetError> {
        if self.trust.read().expect("no holder panics").is_revoked(&key) {
            return Ok(());
        }
        let reason = reason.to_owned();
        self.append(&self.signer, now, Act::Revoke { key, reason }).await
    }

    /// Takes entries that a peer has beyond this hub's. Returns what they say.
    pub async fn learn(&self, entries: Vec<Bytes>) -> Result<Vec<Act>, FleetError> {
        let _one = self.appending.lock().await;
        let mut next = self.trust.read().expect("no holder panics").clone();
        let mut acts = Vec::new();
        for entry in &entries {
            acts.push(next.append(entry.clone())?);
        }
        if !entries.is_empty() {
            self.keep(entries, next).await?;
        }
        Ok(acts)
    }

    pub fn key(&self) -> KeyId {
        self.signer.id()
    }

    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// The certificates (DER) under which this hub is met: its leaf and the CA.
    pub fn chain(&self) -> &[Bytes] {
        &self.chain
    }

    /// The fleet's CA certificate (DER).
    pub fn ca(&self) -> &Bytes {
        &self.ca
    }

    pub fn ca_fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.ca)
    }

    /// The log that the courier reads too. Only this type changes it.
    pub fn trust(&self) -> Arc<RwLock<TrustLog>> {
        self.trust.clone()
    }

    /// The trust log's epoch, now and whenever it changes.
    pub fn epochs(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    /// The chain (DER, leaf first) that makes `node` a node of this fleet. The same every time.
    pub fn node_chain(&self, node: KeyId, name: &NodeName) -> Result<Vec<Bytes>, FleetError> {
        Ok(issue_node(self.signer.signing_key(), &self.issuer, node, name)?)
    }
}

async fn read_trust(shelf: &Shelf) -> Result<TrustLog, FleetError> {
    let mut log = TrustLog::default();
    let mut from = 0;
    loop {
        let page = shelf.read(LOG, from, PAGE).await?;
        let Some((last, _)) = page.last() else { return Ok(log) };
        from = *last;
        for (_, entry) in page {
            log.append(entry)?;
        }
    }
}

fn failed(path: &Path, what: &'static str) -> impl FnOnce(std::io::Error) -> FleetError {
    let path = path.to_owned();
    move |source| FleetError::File { path, what, source }
}

fn make_dir(dir: &Path) -> Result<(), FleetError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(failed(dir, "the data directory cannot be made"))
}

fn read_key(path: &Path) -> Result<Option<SigningKey>, FleetError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => zeroize::Zeroizing::new(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(path, "the key cannot be read")(e)),
    };
    let mode = fs::metadata(path).map_err(failed(path, "the key cannot be read"))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(FleetError::Exposed { path: path.to_owned() });
    }
    let damaged = |source| FleetError::Damaged { path: path.to_owned(), source };
    Ok(Some(key_from_pem(&text).map_err(damaged)?))
}

fn make_key(path: &Path) -> Result<SigningKey, FleetError> {
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(|_| FleetError::Random)?;
    let key = SigningKey::from_bytes(&seed);
    write_new(path, key_to_pem(&key).as_bytes(), 0o600)?;
    Ok(key)
}

fn read_chain(path: &Path) -> Result<Option<Vec<Bytes>>, FleetError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(path, "the certificate cannot be read")(e)),
    };
    let damaged = |source| FleetError::Damaged { path: path.to_owned(), source };
    Ok(Some(chain_from_pem(&text).map_err(damaged)?))
}

/// Writes a file whole or not at all, and syncs it and its directory.
pub(crate) fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), FleetError> {
    let unfinished = path.with_extension("new");
    let write = || {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&unfinished)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        fs::File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(failed(path, "the file cannot be written"))
}
